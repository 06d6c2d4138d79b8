"""Brush strokes and pen lines: traced along a field of directions and laid over each other without a loop."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from acfun.synthetic.renderers.base import Array


class StrokeMap(NamedTuple):
    """Which stroke lies on top at each pixel.

    stroke: (H,W) number of the stroke, -1 where none.
    across: (H,W) in [-1,1], 0 on the stroke's axis. along: (H,W) in [0,1] from its start to its end.
    """

    stroke: NDArray[np.intp]
    across: Array
    along: Array


def scatter_points(
    shape: tuple[int, int],
    spacing: float,
    generator: np.random.Generator,
    jitter: float = 0.6,
) -> Array:
    """(N,2) grid of (x, y) points `spacing` pixels apart, moved by at most `jitter` spacings, shuffled."""
    rows, columns = np.mgrid[0 : shape[0] + spacing : spacing, 0 : shape[1] + spacing : spacing]
    points = np.stack([columns, rows], -1).reshape(-1, 2)
    points = points + generator.uniform(-jitter, jitter, points.shape) * spacing
    limit = np.array([shape[1] - 1, shape[0] - 1])
    return np.asarray(generator.permutation(np.clip(points, 0, limit)), dtype=np.float32)


def trace_paths(starts: Array, angles: Array, lengths: Array, num_steps: int) -> Array:
    """(N,num_steps,2) paths with middles `starts` (N,2) along `angles` (H,W), `lengths` (N,) pixels long."""
    height, width = angles.shape
    step = (lengths / max(num_steps - 1, 1)).astype(np.float32)
    half = num_steps // 2
    sides = []
    for sign, number in ((-1.0, half), (1.0, num_steps - half - 1)):
        position: Array = starts.astype(np.float32)
        previous: Array | None = None
        side: list[Array] = []
        for _ in range(number):
            columns = np.clip(position[:, 0], 0, width - 1).astype(np.intp)
            rows = np.clip(position[:, 1], 0, height - 1).astype(np.intp)
            angle = angles[rows, columns]
            direction = np.stack([np.cos(angle), np.sin(angle)], -1)
            if previous is None:
                direction = direction * sign
            else:
                # An angle has no sense of direction; keep walking the way the path already goes.
                direction = np.where((direction * previous).sum(-1, keepdims=True) < 0, -direction, direction)
            previous = direction.astype(np.float32)
            position = position + previous * step[:, None]
            side.append(position)
        sides.append(side)
    return np.stack([*sides[0][::-1], starts, *sides[1]], axis=1).astype(np.float32)


def stamp_paths(shape: tuple[int, int], paths: Array, widths: Array) -> StrokeMap:
    """Lay strokes along `paths` (N,K,2) with `widths` (N,) pixels over each other, the last on top.

    Every stroke is filled by samples less than a pixel apart and has round ends. The samples of all strokes
    are written in one assignment, of which numpy keeps the last.
    """
    height, width = shape
    length = float(np.linalg.norm(np.diff(paths, axis=1), axis=-1).sum(1).max())
    num_along = max(paths.shape[1], int(length / 0.8) + 2)
    thickest = float(widths.max())
    num_across = 1 if thickest <= 1 else int(thickest / 0.8) + 2
    at = np.linspace(0, paths.shape[1] - 1, num_along)
    lower = np.minimum(at.astype(int), paths.shape[1] - 2)
    part = (at - lower).astype(np.float32)[None, :, None]
    axis = paths[:, lower] * (1 - part) + paths[:, lower + 1] * part
    tangent = paths[:, lower + 1] - paths[:, lower]
    normal = np.stack([-tangent[..., 1], tangent[..., 0]], -1)
    normal = normal / (np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-6)
    along = np.linspace(0, 1, num_along, dtype=np.float32)
    across = np.linspace(-1, 1, num_across, dtype=np.float32) if num_across > 1 else np.zeros(1, np.float32)
    taper = np.sqrt(np.clip(1 - np.abs(2 * along - 1) ** 6, 0.02, 1)).astype(np.float32)
    offset = (0.5 * widths[:, None] * taper[None])[:, :, None] * across
    x = axis[:, :, None, 0] + normal[:, :, None, 0] * offset
    y = axis[:, :, None, 1] + normal[:, :, None, 1] * offset
    inside = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
    flat = ((y + 0.5).astype(np.int32) * width + (x + 0.5).astype(np.int32))[inside]
    sample = np.full(height * width, -1, np.int32)
    sample[flat] = np.flatnonzero(inside)
    hit = sample.reshape(shape)
    index = np.where(hit < 0, -1, hit // (num_along * num_across))
    return StrokeMap(index.astype(np.intp), across[hit % num_across], along[hit // num_across % num_along])


def sample_at(image: Array, points: Array) -> Array:
    """Values (N,) or (N,C) of `image` (H,W) or (H,W,C) at the pixels nearest to `points` (N,2)."""
    columns = np.clip(points[:, 0] + 0.5, 0, image.shape[1] - 1).astype(np.intp)
    rows = np.clip(points[:, 1] + 0.5, 0, image.shape[0] - 1).astype(np.intp)
    return np.asarray(image[rows, columns])
