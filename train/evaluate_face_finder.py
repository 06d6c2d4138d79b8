"""Landmark errors of a whole face finder, detector and regressor together, on people not trained on.

`python -m train.evaluate_face_finder --held-out SHARDS [SHARDS …] [--paintings FOLDER]`

Prints one Markdown line a folder: pictures, faces missed, and the mean distance of found landmarks to the true ones as
a fraction of the distance of the true pupils. A face that is missed counts as missed, not as an error.

With `--paintings`, a folder with pictures named as in `FACELESS_PARTS`, it prints the score of the face in each of them
(`FACES` says where), of the surest one elsewhere, and of the surest ones in parts of them that have none.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from acfun.errors import DataError
from acfun.face.finder import MIN_SCORE, Face, FaceFinder, find_faces, load_face_finder
from acfun.face.painted import find_painted_faces
from acfun.images import load_image, pil_to_tensor
from acfun.synthetic.data import PUPILS
from train import pretraining
from train.face_scenes import FaceShards, open_face_shards, to_tensor
from train.pretrain_face_finder import LOOSE_INDICES

IMAGE_SIZE = 256
WHOLE = (0.0, 0.0, 1.0, 1.0)
# What shows no face, as (left, top, right, bottom) shares of the painting's sides.
FACELESS_PARTS = {
    "botticelli_dante": ((0.0, 0.5, 1.0, 1.0),),
    "botticelli_young_woman": ((0.0, 0.5, 1.0, 1.0),),
    "durer_self": ((0.0, 0.42, 1.0, 1.0), (0.75, 0.0, 1.0, 0.5)),
    "holbein_anne": ((0.0, 0.33, 1.0, 1.0),),
    "matisse_hat": ((0.0, 0.57, 1.0, 1.0), (0.0, 0.0, 1.0, 0.3)),
    "mona_lisa": ((0.0, 0.35, 1.0, 1.0), (0.0, 0.0, 0.3, 0.5)),
    "raphael_maddalena": ((0.0, 0.42, 1.0, 1.0), (0.0, 0.0, 0.35, 0.5)),
    "starry_night": (WHOLE, *((x, y, x + 0.5, y + 0.7) for x in (0.0, 0.17, 0.33, 0.5) for y in (0.0, 0.3))),
    "the_scream": ((0.0, 0.0, 1.0, 0.42),),
    "vangogh_self": ((0.0, 0.52, 1.0, 1.0),),
}
# The middle of the painted face, in the same shares.
FACES = {
    "botticelli_dante": (0.40, 0.29),
    "botticelli_young_woman": (0.72, 0.29),
    "durer_self": (0.50, 0.24),
    "holbein_anne": (0.49, 0.22),
    "matisse_hat": (0.51, 0.45),
    "mona_lisa": (0.44, 0.23),
    "raphael_maddalena": (0.48, 0.20),
    "the_scream": (0.54, 0.56),
    "vangogh_self": (0.54, 0.33),
}
SMALLEST_SCORE = 0.05  # that is printed


def measure(finder: FaceFinder, shards: FaceShards, min_score: float) -> tuple[int, dict[str, float]]:
    """(faces missed, errors by set of landmarks) of pictures with one face each."""
    firm = [index for index in range(shards.landmarks.shape[1]) if index not in LOOSE_INDICES]
    errors: dict[str, list[float]] = {"all": [], "median": [], "firm": [], "pupils": []}
    missed = 0
    for pixels, truth in zip(shards.images, shards.landmarks, strict=True):
        faces = find_faces(to_tensor(pixels[None]), finder, max_faces=1, min_score=min_score)
        if not faces:
            missed += 1
            continue
        unit = (truth[PUPILS[1]] - truth[PUPILS[0]]).norm()
        distances = (faces[0].landmarks - truth).norm(dim=-1) / unit
        errors["all"].append(float(distances.mean()))
        errors["firm"].append(float(distances[firm].mean()))
        errors["pupils"].append(float(distances[list(PUPILS)].mean()))
    errors["median"] = [float(np.median(errors["all"]))]
    return missed, {name: float(np.mean(values)) for name, values in errors.items()}


def score_paintings(finder: FaceFinder, folder: Path) -> dict[str, tuple[list[float], list[float]]]:
    """By name of painting: the score of its face, where it has one; those of the surest face elsewhere, by part.

    Raises:
        DataError: a painting is missing.
    """
    scores = {}
    for name, parts in FACELESS_PARTS.items():
        path = next(folder.glob(f"{name}.*"), None)
        if path is None:
            raise DataError(f"{folder} has no picture named {name}: give the folder of the ten paintings")
        picture = load_image(path)
        own, others = [], []
        if name in FACES:
            x, y = FACES[name][0] * picture.width, FACES[name][1] * picture.height
            faces = find_painted_faces(pil_to_tensor(picture), finder, min_score=SMALLEST_SCORE)
            there = [face for face in faces if face.box[0] < x < face.box[2] and face.box[1] < y < face.box[3]]
            own.append(_find_surest(there))
            others.append(_find_surest([face for face in faces if all(face is not other for other in there)]))
        for box in parts:
            sides = (picture.width, picture.height, picture.width, picture.height)
            left, top, right, bottom = (round(share * side) for share, side in zip(box, sides, strict=True))
            part = pil_to_tensor(picture.crop((left, top, right, bottom)))
            others.append(_find_surest(find_painted_faces(part, finder, min_score=SMALLEST_SCORE)))
        scores[name] = own, others
    return scores


def _find_surest(faces: Sequence[Face]) -> float:
    """The highest score, 0 of none."""
    return max((face.score for face in faces), default=0.0)


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finder", type=Path, help="folder of a face finder; the embedded one when left out")
    parser.add_argument("--held-out", type=Path, nargs="+", required=True)
    parser.add_argument("--paintings", type=Path, help="folder of the ten paintings")
    parser.add_argument("--min-score", type=float, default=MIN_SCORE)
    args = parser.parse_args()
    pretraining.prepare_process(num_threads=1)
    finder = load_face_finder() if args.finder is None else FaceFinder.from_pretrained(args.finder)
    print("| set | n | missed | all 189 | median | without hair and ears | pupils |\n|---|---|---|---|---|---|---|")
    for folder in args.held_out:
        shards = open_face_shards(folder, IMAGE_SIZE)
        with torch.no_grad():
            missed, errors = measure(finder, shards, args.min_score)
        cells = (f"{errors[name]:.1%}" for name in ("all", "median", "firm", "pupils"))
        print(f"| {folder.name} | {len(shards.images)} | {missed} | {' | '.join(cells)} |")
    if args.paintings is not None:
        print("\n| painting | its face | elsewhere, and in parts without one |\n|---|---|---|")
        for name, columns in score_paintings(finder, args.paintings).items():
            print(f"| {name} | {' | '.join(' '.join(f'{score:.2f}' for score in scores) for scores in columns)} |")


if __name__ == "__main__":
    main()
