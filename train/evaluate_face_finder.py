"""Landmark errors of a whole face finder, detector and regressor together, on people not trained on.

`python -m train.evaluate_face_finder --held-out SHARDS [SHARDS …]`

Prints one Markdown line a folder: pictures, faces missed, and the mean distance of found landmarks to the true ones as
a fraction of the distance of the true pupils. A face that is missed counts as missed, not as an error.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from acfun.face.finder import MIN_SCORE, FaceFinder, find_faces, load_face_finder
from acfun.synthetic.data import PUPILS
from train import pretraining
from train.face_scenes import FaceShards, open_face_shards, to_tensor
from train.pretrain_face_finder import LOOSE_INDICES

IMAGE_SIZE = 256


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


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finder", type=Path, help="folder of a face finder; the embedded one when left out")
    parser.add_argument("--held-out", type=Path, nargs="+", required=True)
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


if __name__ == "__main__":
    main()
