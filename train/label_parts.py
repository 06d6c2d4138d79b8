"""Label the parts of photographs, face, hair, body and background, for the training of the segmenter.

`python -m train.label_parts --output LABELS.npz --portrait-landmarks LANDMARKS.npz [--segmenter SEGMENTER]`

The labels are what `acfun.face.segmentation` makes of landmarks and colours and, from the second round on, of a
segmenter of the first. They are right where a photograph's ground is plain, and what they are wrong by elsewhere has no
rule; a network that sees the same people before other grounds learns the rule.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from acfun.face.align import invert_transform, scale_points, transform_points, warp
from acfun.face.segmentation import segment_people
from acfun.face.segmenter import PARTS, PortraitSegmenter, frame_portrait
from acfun.images import compute_luma, load_image, pil_to_tensor, resize
from acfun.patches import merge_face
from acfun.paths import atomic_write
from acfun.synthetic.data import list_faces, list_portraits, require_data_dir
from acfun.synthetic.samples import load_landmark_table
from train import pretraining

SIZE = 160  # of the crops, pixels
LABELLED_SIDE = 300  # of the shorter side, pixels, at which parts are told apart
SURE_GROUND = 0.9


def label_photo(photo: Tensor, landmarks: Tensor, segmenter: PortraitSegmenter | None) -> tuple[Tensor, float]:
    """A crop, where the photograph goes on, and its parts, (8,S,S) uint8; deviation of the ground's luma, in [0,2].

    Args:
        photo: (1,3,H,W) in [-1,1].
        landmarks: (1,189,2) pixels.
        segmenter: of the round before, if there was one.
    """
    whole = (photo.shape[-2], photo.shape[-1])
    factor = min(1.0, LABELLED_SIDE / min(whole))
    size = (round(whole[0] * factor), round(whole[1] * factor))
    image, points = resize(photo, size), scale_points(landmarks, whole, size)
    regions = segment_people(image, points, segmenter=segmenter)
    parts = merge_face(regions)
    transform = frame_portrait(points, SIZE)
    layers = warp(torch.cat([image, parts], 1), transform, (SIZE, SIZE))
    ticks = torch.arange(SIZE, dtype=torch.float32)
    pixels = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1).reshape(1, -1, 2)
    source = transform_points(pixels, invert_transform(transform)).reshape(SIZE, SIZE, 2)
    is_inside = ((source >= 0) & (source <= source.new_tensor([size[1] - 1, size[0] - 1]))).all(-1)
    stacked = torch.cat([(layers[0, :3].clamp(-1, 1) + 1) / 2, is_inside[None].float(), layers[0, 3:].clamp(0, 1)])
    ground = compute_luma(image)[0][parts[0, PARTS.index("background")] > SURE_GROUND]
    spread = float(ground.std()) if len(ground) > 1 else float("inf")
    return (stacked * 255).round().byte(), spread


def main() -> None:
    """Parse the command line, label, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--portrait-landmarks", type=Path, required=True, help=".npz of `train.annotate_portraits`")
    parser.add_argument("--segmenter", type=Path, help="folder of the segmenter of the round before")
    args = parser.parse_args()
    pretraining.prepare_process(num_threads=1)
    segmenter = None if args.segmenter is None else PortraitSegmenter.from_pretrained(args.segmenter)
    data_dir = require_data_dir()
    landmarks = load_landmark_table(args.portrait_landmarks)
    photos = [photo for photo in (*list_faces(data_dir), *list_portraits(data_dir)) if photo.key in landmarks]
    rows: list[tuple[Any, float]] = []
    for photo in photos:
        layers, spread = label_photo(
            pil_to_tensor(load_image(photo.path)), torch.from_numpy(landmarks[photo.key])[None], segmenter
        )
        rows.append((layers.permute(1, 2, 0).numpy(), spread))
    with atomic_write(args.output) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            layers=np.stack([layers for layers, _ in rows]),
            spreads=np.asarray([spread for _, spread in rows], np.float32),
            keys=[photo.key for photo in photos],
            identities=[photo.identity for photo in photos],
        )
    print(f"{len(photos)} photographs are labelled")


if __name__ == "__main__":
    main()
