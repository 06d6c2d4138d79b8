"""What most of a region's colours are like."""

import torch
from torch import Tensor

# Colours are usual up to this far from their median, in [-1,1] or in median distances.
USUAL_REACH, USUAL_DISTANCES, NUM_ROUNDS = 1.0, 2.0, 2


def find_usual(colours: Tensor, num_distances: float = USUAL_DISTANCES) -> tuple[Tensor, float]:
    """What most of the colours (N,3), N ≥ 1, are like: a colour (3,), and how far from it they reach."""
    for _ in range(NUM_ROUNDS):
        middle, limit, distances = _measure(colours, num_distances)
        colours = colours[distances <= limit]
    middle, limit, _ = _measure(colours, num_distances)
    return middle, limit


def _measure(colours: Tensor, num_distances: float) -> tuple[Tensor, float, Tensor]:
    middle = colours.median(0).values
    distances = (colours - middle).norm(dim=1)
    return middle, max(USUAL_REACH, num_distances * float(distances.median())), distances


def find_odd(image: Tensor, part: Tensor, num_distances: float = USUAL_DISTANCES) -> Tensor:
    """Where the colours of an image (1,3,H,W) are not like most of those where `part` (1,1,H,W) is more than a half.

    Returns:
        (1,1,H,W) of bool; nowhere, where there is no such part.
    """
    colours, is_there = image[0].flatten(1).T, part.flatten() > 0.5
    if not is_there.any():
        return torch.zeros_like(part, dtype=torch.bool)
    middle, limit = find_usual(colours[is_there], num_distances)
    is_odd: Tensor = ((colours - middle).norm(dim=1) > limit).view(part.shape)
    return is_odd
