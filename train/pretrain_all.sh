#!/usr/bin/env bash
# Trains the embedded base from the photographs alone, and puts it together:
#
#     train/pretrain_all.sh cpu RUN 110              # two cores
#     train/pretrain_all.sh gpu RUN 24 40000         # one GPU, 16 cores
#     PRETRAIN_STEPS=2 train/pretrain_all.sh cpu RUN 1 40    # a rehearsal: two steps a part
#
# KIND chooses train/configs/*_KIND.toml, MINUTES is the time for training alone, COUNT the number of pictures. Parts that do
# not need each other train side by side: VAE and CLIP pair, then UNet, face finder, segmenter and identity encoder; the identity adapter,
# which needs UNet and encoder, comes last. A second start with the same RUN goes on from the checkpoints. The base is RUN/mini;
# the figures are in RUN/*/log.jsonl and RUN/report. The base in the package was made by the single commands of docs/RESULTS.md,
# from shards that were not aligned.
set -euo pipefail
kind=$1 run=$2 minutes=$3 count=${4:-11000}
workers=$(nproc)
first=$(awk "BEGIN { print 0.25 * $minutes }") second=$(awk "BEGIN { print 0.65 * $minutes }") third=$(awk "BEGIN { print 0.1 * $minutes }")
shards=$run/shards
steps=(--max-steps "${PRETRAIN_STEPS:-0}")
mkdir -p "$run"
if [ "$kind" = cpu ]; then export OMP_NUM_THREADS=1 GOMP_SPINCOUNT=0; fi # a part per core: threads that share one stall each other

write() { # folder, options of make_shards; an unfinished folder has no labels
  [ -f "$shards/$1/labels.json" ] || python -m train.make_shards --output "$shards/$1" --workers "$workers" --size 256 "${@:2}"
}

train_part() { # part, minutes, options; its log is RUN/PART.txt
  python -m "train.pretrain_$1" --config "train/configs/$1_$kind.toml" --output "$run/$1" --minutes "$2" --resume "${steps[@]}" "${@:3}" \
    >"$run/$1.txt" 2>&1 || { tail -n 20 "$run/$1.txt" >&2; return 1; }
}

join() { # wait for all background parts; fail if one failed
  local status=0
  for job in $(jobs -p); do wait "$job" || status=1; done
  return $status
}

found=$run/portraits.npz
[ -f "$found" ] || python -m train.annotate_portraits --output "$found" --sheet "$run/portraits.png"
write aligned --count $((count * 5 / 11)) --rendered 0.5 --seed 12 --aligned --portrait-landmarks "$found"
write wild --count $((count * 6 / 11)) --rendered 0.5 --seed 13 --portrait-landmarks "$found"
write held_out --count 84 --rendered 0.5 --seed 7 --held-out
write held_photos --count 21 --rendered 0 --seed 7 --held-out
write held_renderings --count 42 --rendered 1 --seed 8 --held-out
write held_families --count 42 --rendered 1 --seed 9 --held-out --held-out-renderers
[ -f "$shards/people/labels.json" ] || python -m train.identity_bank --output "$shards/people" --portrait-landmarks "$found" \
  --num-morphs $((count / 6)) --workers "$workers"
[ -f "$shards/held_people/labels.json" ] || python -m train.identity_bank --output "$shards/held_people" \
  --portrait-landmarks "$found" --held-out --workers "$workers"

[ -f "$run/labels.npz" ] || python -m train.label_parts --output "$run/labels.npz" --portrait-landmarks "$found"

data=(--data "$shards/aligned" "$shards/wild")
train_part vae "$first" "${data[@]}" --held-out "$shards/held_out" &
train_part clip "$first" "${data[@]}" --held-out "$shards/held_out" &
join
mkdir -p "$run/base"
cp -r "$run/vae/vae" "$run/clip/text_encoder" "$run/clip/tokenizer" "$run/base/"
train_part unet "$second" "${data[@]}" --held-out "$shards/held_out" --base "$run/base" &
held_faces=(--held-out "$shards/held_photos" "$shards/held_renderings" "$shards/held_families")
{
  train_part face_finder "$(awk "BEGIN { print 0.25 * $second }")" "${data[@]}" "${held_faces[@]}" &&
    train_part landmark_refiner "$(awk "BEGIN { print 0.15 * $second }")" --finder "$run/face_finder/face_finder" "${data[@]}" "${held_faces[@]}"
} &
train_part segmenter "$(awk "BEGIN { print 0.2 * $second }")" --labels "$run/labels.npz" &
train_part identity "$(awk "BEGIN { print 0.4 * $second }")" --data "$shards/people" --held-out "$shards/held_people" --fit-head &
join
python -m train.assemble_mini --vae "$run/vae/vae" --unet "$run/unet/unet" --scheduler "$run/unet/scheduler" --clip "$run/clip" \
  --face-finder "$run/landmark_refiner/face_finder" --segmenter "$run/segmenter/segmenter" \
  --identity-encoder "$run/identity/identity_encoder" --output "$run/mini"
train_part identity_adapter "$third" "${data[@]}" --held-out "$shards/held_out" --base "$run/mini"
python -m train.assemble_mini --identity-adapter "$run/identity_adapter/identity_adapter" --output "$run/mini"
python -m train.evaluate_mini --base "$run/mini" "${data[@]}" --held-out "$shards/held_out" --output "$run/report"
