"""Write shards of captioned portraits from the licensed photographs.

`python train/make_shards.py --output SHARDS --count 24000 --size 128 --rendered 0.6 --workers 2`
"""

import argparse
from functools import partial
from pathlib import Path

from acfun.synthetic.data import require_data_dir
from acfun.synthetic.samples import build_sampler
from acfun.synthetic.shards import write_shards


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rendered", type=float, default=0.6, help="share of samples in a procedural style")
    people = parser.add_mutually_exclusive_group()
    people.add_argument("--held-out", action="store_true", help="people kept out of training, as they are")
    people.add_argument(
        "--aligned", action="store_true", help="upright colour portraits, women as often as men, no morphs between them"
    )
    parser.add_argument("--held-out-renderers", action="store_true", help="style families kept out of training")
    parser.add_argument(
        "--portrait-landmarks", type=Path, help=".npz of found landmarks; the portraits in the wild join"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    build = partial(
        build_sampler,
        require_data_dir(),
        args.size,
        is_held_out=args.held_out,
        rendering_probability=args.rendered,
        seed=args.seed,
        portrait_landmarks=args.portrait_landmarks,
        held_out_renderers=args.held_out_renderers,
        is_aligned=args.aligned,
    )
    write_shards(args.output, build, count=args.count, size=args.size, workers=args.workers)


if __name__ == "__main__":
    main()
