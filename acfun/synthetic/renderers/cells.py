"""Jittered grids of seeds and the cells around them: dots, tesserae and panes are made of these."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acfun.synthetic.renderers.base import Array

Metric = Callable[[Array, Array, NDArray[np.intp]], Array]


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The pixels of an image shared out among seeds.

    Attributes:
        index: (H, W) which seed is nearest.
        nearest: (H, W) distance to it in the metric's unit.
        second: (H, W) distance to the second nearest; second − nearest is 0 between two cells.
        seeds: (rows, columns, 2) positions (x, y) in pixels.
    """

    index: NDArray[np.intp]
    nearest: Array
    second: Array
    seeds: Array

    def mean_of(self, image: Array) -> Array:
        """Average (H, W, C) over each cell; returns (num_seeds, C), zeros for empty cells."""
        flat = self.index.ravel()
        count = self.seeds.shape[0] * self.seeds.shape[1]
        area = np.maximum(np.bincount(flat, minlength=count), 1)
        sums = [np.bincount(flat, image[..., c].ravel(), minlength=count) for c in range(image.shape[2])]
        return (np.stack(sums, axis=-1) / area[:, None]).astype(np.float32)


def jittered_seeds(shape: tuple[int, int], pitch: float, jitter: float, generator: np.random.Generator) -> Array:
    """Seeds on a square grid of `pitch` pixels that covers (height, width) with a ring to spare.

    Args:
        shape: (height, width).
        pitch: distance between neighbours, pixels.
        jitter: largest move along each axis, in pitches.
        generator: source of the moves.
    """
    rows, columns = (int(np.ceil(length / pitch)) + 2 for length in shape)
    row, column = np.mgrid[:rows, :columns]
    seeds = np.stack([column - 0.5, row - 0.5], axis=-1) + generator.uniform(-jitter, jitter, (rows, columns, 2))
    return (seeds * pitch - 0.5).astype(np.float32)


def euclidean(dx: Array, dy: Array, _: NDArray[np.intp]) -> Array:
    """The distance in pixels."""
    return np.sqrt(dx * dx + dy * dy)


def assign_cells(shape: tuple[int, int], pitch: float, seeds: Array, metric: Metric = euclidean) -> Cells:
    """Give each pixel to the nearest of the 3 × 3 seeds around its grid square.

    Args:
        shape: (height, width).
        pitch: grid spacing that `seeds` were made with, pixels.
        seeds: (rows, columns, 2) from `jittered_seeds`, possibly moved since.
        metric: distance from the offsets dx, dy (H, W) to the seeds and their flat indices (H, W).
    """
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    row = ((y + 0.5) / pitch).astype(np.intp) + 1
    column = ((x + 0.5) / pitch).astype(np.intp) + 1
    flat = seeds.reshape(-1, 2)
    seed_x, seed_y = np.ascontiguousarray(flat[:, 0]), np.ascontiguousarray(flat[:, 1])
    nearest = np.full(shape, np.inf, np.float32)
    second = nearest.copy()
    index = np.zeros(shape, np.intp)
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            candidate = (row + down).clip(0, seeds.shape[0] - 1) * seeds.shape[1]
            candidate += (column + across).clip(0, seeds.shape[1] - 1)
            distance = metric(x - seed_x[candidate], y - seed_y[candidate], candidate)
            is_nearer = distance < nearest
            is_other = candidate != index
            second = np.where(is_nearer, nearest, np.where(is_other, np.minimum(second, distance), second))
            index = np.where(is_nearer, candidate, index)
            nearest = np.where(is_nearer, distance, nearest)
    return Cells(index=index, nearest=nearest, second=second, seeds=seeds)


def relax_seeds(cells: Cells) -> Array:
    """Move each seed to the centroid of its cell (one step of Lloyd's algorithm); empty cells keep theirs."""
    height, width = cells.index.shape
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
    count = cells.seeds.shape[0] * cells.seeds.shape[1]
    is_used = np.bincount(cells.index.ravel(), minlength=count) > 0
    moved = np.where(is_used[:, None], cells.mean_of(grid), cells.seeds.reshape(-1, 2))
    return moved.reshape(cells.seeds.shape).astype(np.float32)
