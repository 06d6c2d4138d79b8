"""Backgrounds to set a person before: plain, graded, mottled, or blurred shapes."""

from typing import Any

import numpy as np
from scipy import ndimage

from acfun.synthetic.data import FloatArray


def sample_background(size: int, generator: np.random.Generator) -> FloatArray:
    """Draw a (size, size, 3) float32 background in [0, 1]."""
    draw = (_plain, _graded, _mottled, _shapes)[generator.integers(4)]
    background: FloatArray = np.clip(draw(size, generator), 0, 1).astype(np.float32)
    return background


def _colour(generator: np.random.Generator) -> FloatArray:
    grey = generator.uniform(0.05, 0.95)
    colour: FloatArray = (grey + generator.uniform(0, 0.6) * (generator.random(3) - 0.5)).astype(np.float32)
    return colour


def _plain(size: int, generator: np.random.Generator) -> Any:
    return np.broadcast_to(_colour(generator), (size, size, 3)) + generator.normal(0, 0.008, (size, size, 1))


def _graded(size: int, generator: np.random.Generator) -> Any:
    ticks = np.linspace(-1, 1, size)
    angle = generator.uniform(0, 2 * np.pi)
    if generator.random() < 0.5:
        position = np.cos(angle) * ticks[None, :] + np.sin(angle) * ticks[:, None]
    else:
        position = np.hypot(ticks[None, :], ticks[:, None] - generator.uniform(-0.5, 0.5)) * 2 - 1
    weight = (1 / (1 + np.exp(-2 * position)))[..., None]
    return weight * _colour(generator) + (1 - weight) * _colour(generator)


def _mottled(size: int, generator: np.random.Generator) -> Any:
    noise = sum(
        ndimage.gaussian_filter(generator.normal(size=(size, size, 3)), (size / scale, size / scale, 0)) * size / scale
        for scale in (4, 9, 20)
    )
    return _colour(generator) + 0.06 * noise


def _shapes(size: int, generator: np.random.Generator) -> Any:
    canvas = np.broadcast_to(_colour(generator), (size, size, 3)).copy()
    for _ in range(int(generator.integers(3, 10))):
        left, top = generator.integers(-size // 3, size, 2)
        width, height = generator.integers(size // 8, size, 2)
        canvas[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)] = _colour(generator)
    blur = size * generator.uniform(0.01, 0.08)
    return ndimage.gaussian_filter(canvas, (blur, blur, 0))
