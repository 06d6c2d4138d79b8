"""Deformations of the 189 landmarks in the face frame: origin between the pupils, distance 1, y down."""

import json
from functools import cache
from importlib import resources

import numpy as np

from acfun.synthetic.data import NUM_LANDMARKS, PUPILS
from acfun.synthetic.renderers.base import Array

LEFT_EYE = (*range(2, 10), *range(18, 23), *range(28, 31), *range(34, 39))
RIGHT_EYE = (*range(10, 18), *range(23, 28), *range(31, 34), *range(39, 44))
_EYE_CORNERS = (18, 22, 23, 27, 34, 38, 39, 43)
UNDER_EYES = tuple(range(44, 50))
NOSE = (*range(50, 71), 170, 172, *range(179, 183))
BROWS = (*range(71, 87),)
MOUTH = tuple(range(87, 109))
JAW = tuple(range(125, 134))
HAIRLINE = tuple(range(134, 145))
HEAD_CONTOUR = tuple(range(145, 158))
EARS = tuple(range(115, 125))
NECK = (145, 157, 183, 184)
_ALIGNING = (*PUPILS, *range(18, 115), *range(125, 134))


def mean_shape() -> Array:
    """The mean of 124 neutral frontal faces, (189, 2) in the face frame."""
    return _read_mean_shape().copy()


@cache
def _read_mean_shape() -> Array:
    text = resources.files("acfun.synthetic").joinpath("mean_face.json").read_text(encoding="utf-8")
    return np.asarray(json.loads(text)["points"], np.float32)


def fit_similarity(points: Array, target: Array) -> Array:
    """The (3, 2) matrix M of the similarity with [points, 1] @ M nearest to `target` in least squares.

    Args:
        points: (N, 2).
        target: (N, 2).
    """
    centre, target_centre = points.mean(0), target.mean(0)
    moved, goal = points - centre, target - target_centre
    norm = float((moved**2).sum())
    cosine = float((moved * goal).sum()) / norm
    sine = float((moved[:, 0] * goal[:, 1] - moved[:, 1] * goal[:, 0]).sum()) / norm
    linear = np.asarray([[cosine, sine], [-sine, cosine]], np.float32)
    return np.vstack([linear, target_centre - centre @ linear]).astype(np.float32)


def to_face_frame(landmarks: Array) -> tuple[Array, Array]:
    """Return ((189, 2) in the face frame, (3, 2) matrix M with [frame points, 1] @ M = pixels)."""
    pupils = landmarks[list(PUPILS)]
    to_pixels = fit_similarity(np.asarray([[-0.5, 0], [0.5, 0]], np.float32), pupils)
    points = (landmarks - to_pixels[2]) @ np.linalg.inv(to_pixels[:2])
    return points.astype(np.float32), to_pixels


def to_pixels(points: Array, matrix: Array) -> Array:
    """Apply a (3, 2) matrix of `fit_similarity` or `to_face_frame` to (N, 2) points."""
    return np.asarray(points @ matrix[:2] + matrix[2], dtype=np.float32)


def difference_from_mean(points: Array) -> tuple[Array, Array]:
    """(189, 2) in the face frame less the mean shape after the best similarity, and that mean shape."""
    mean = _read_mean_shape()
    index = list(_ALIGNING)
    aligned = to_pixels(mean, fit_similarity(mean[index], points[index]))
    return points - aligned, aligned


def exaggerate(points: Array, strength: float, generator: np.random.Generator) -> Array:
    """A caricature: what differs from the mean face differs more, and two features swell.

    Args:
        points: (189, 2) in the face frame.
        strength: aimed-at root mean square move of the inner face, in pupil distances; 0.1 is strong.
        generator: draws which features swell, and how much.
    """
    difference, _ = difference_from_mean(points)
    spread = float(np.sqrt((difference[list(_ALIGNING)] ** 2).sum(-1).mean()))
    gain = np.full((NUM_LANDMARKS, 1), np.clip(strength / max(spread, 1e-3), 0.8, 2.5), np.float32)
    gain[list(HEAD_CONTOUR)] *= 0.3
    # A slanted or torn eye is no likeness: eyes keep most of their shape.
    gain[[*PUPILS, *LEFT_EYE, *RIGHT_EYE]] *= 0.5
    moved = points + np.clip(gain * difference, -0.35, 0.35)
    for features in ((_swell_nose, _swell_mouth), (_swell_jaw, _swell_forehead, _swell_ears)):
        moved = features[generator.integers(len(features))](moved, float(generator.uniform(0.12, 0.32)))
    neck = list(NECK)
    moved[neck, 0] *= generator.uniform(0.75, 0.95)
    return np.asarray(moved, dtype=np.float32)


def elongate(points: Array, generator: np.random.Generator) -> Array:
    """A long narrow head on a long neck, small mouth, long nose, narrow almond eyes (189, 2)."""
    moved = points.copy()
    narrow = generator.uniform(0.66, 0.78)
    moved[:, 0] *= narrow
    moved[:, 1] = np.where(moved[:, 1] > 0, moved[:, 1] * generator.uniform(1.0, 1.1), moved[:, 1] * 0.98)
    for eye in (LEFT_EYE, RIGHT_EYE):
        moved = _scale_about(moved, eye, 1.2, generator.uniform(0.8, 0.95))
    moved = _scale_about(moved, MOUTH, generator.uniform(0.75, 0.9), 1.0)
    moved = _scale_about(moved, NOSE, 0.85, generator.uniform(1.05, 1.15))
    neck = list(NECK)
    moved[neck, 0] *= generator.uniform(0.7, 0.85)
    moved[:, 1] -= generator.uniform(0.2, 0.35)
    moved[[183, 184]] = points[[183, 184]] * (0.6, 1.0)
    tilt = generator.uniform(-0.16, 0.16)
    weight = np.clip((2.1 - moved[:, 1:]) / 1.2, 0, 1)
    rotated = (moved - (0, 1.6)) @ np.asarray([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]]) + (0, 1.6)
    return np.asarray(moved + weight * (rotated - moved), dtype=np.float32)


def enlarge_eyes(points: Array, generator: np.random.Generator) -> Array:
    """Large eyes with high brows over a small nose, mouth and pointed chin (189, 2)."""
    moved = points.copy()
    size, tall = generator.uniform(1.45, 1.8), generator.uniform(1.3, 1.6)
    jaw = list(JAW)
    depth = np.clip(moved[jaw, 1:] / 1.8, 0, 1)
    moved[jaw] *= np.concatenate([1 - generator.uniform(0.15, 0.3) * depth, 1 - 0.1 * depth], axis=1)
    moved = _scale_about(moved, MOUTH, generator.uniform(0.55, 0.75), 0.75)
    moved[list(MOUTH), 1] -= 0.04
    moved = _scale_about(moved, NOSE, 0.72, 0.8)
    moved[list(BROWS), 1] -= 0.12 + 0.3 * (size - 1)
    for eye, pupil, side in ((LEFT_EYE, 0, -1), (RIGHT_EYE, 1, 1)):
        members = [pupil, *eye]
        moved[members] = (points[members] - points[pupil]) * (size, size * tall) + points[pupil] + (side * 0.06, 0.06)
    for corner in _EYE_CORNERS:
        pupil = 0 if points[corner, 0] < 0 else 1
        # Corners keep their height, or else tall eyes would look cross.
        moved[corner, 1] = points[corner, 1] * 0.8 + 0.06 + 0.2 * points[pupil, 1]
    moved[list(UNDER_EYES), 1] += 0.2 * (size - 1)
    return moved.astype(np.float32)


def hollow_oval(points: Array, generator: np.random.Generator) -> Array:
    """An oval head that narrows towards the chin, with hollow cheeks and a long open mouth (189, 2)."""
    moved = points.copy()
    taper = generator.uniform(0.14, 0.26)
    is_head = moved[:, 1:] < 2.1
    height = np.clip((moved[:, 1:] + 0.3) / 2.0, 0, 1)
    narrow = generator.uniform(0.86, 0.96) - taper * height
    moved = np.where(is_head, moved * np.concatenate([narrow, np.ones_like(narrow)], axis=1), moved)
    hollow = [126, 127, 131, 132, 111, 114, 186, 188, 110, 113]
    moved[hollow, 0] *= generator.uniform(0.88, 0.96)
    lower = (moved[:, 1] > 0.6) & (moved[:, 1] < 2.1)
    moved[lower, 1] = 0.6 + (moved[lower, 1] - 0.6) * generator.uniform(1.05, 1.15)
    moved = _scale_about(moved, MOUTH, generator.uniform(0.6, 0.75), generator.uniform(1.4, 1.8))
    for eye in (LEFT_EYE, RIGHT_EYE):
        moved = _scale_about(moved, eye, 1.0, generator.uniform(1.15, 1.35))
    moved[:, 1] -= 0.1
    return moved.astype(np.float32)


def _scale_about(points: Array, members: tuple[int, ...], across: float, down: float) -> Array:
    index = list(members)
    scaled = points.copy()
    centre = points[index].mean(0)
    scaled[index] = (points[index] - centre) * (across, down) + centre
    return scaled


def _swell_nose(points: Array, amount: float) -> Array:
    swollen = _scale_about(points, NOSE, 1 + amount, 1 + 0.6 * amount)
    swollen[list(NOSE), 1] += 0.12 * amount
    return swollen


def _swell_jaw(points: Array, amount: float) -> Array:
    swollen = points.copy()
    swollen[list(JAW)] *= (1 + 0.6 * amount, 1 + 0.4 * amount)
    return swollen


def _swell_forehead(points: Array, amount: float) -> Array:
    swollen = points.copy()
    swollen[list(HAIRLINE)] *= (1 + 0.6 * amount, 1 + 0.35 * amount)
    return swollen


def _swell_ears(points: Array, amount: float) -> Array:
    swollen = points.copy()
    swollen[list(EARS), 0] *= 1 + 0.6 * amount
    return swollen


def _swell_mouth(points: Array, amount: float) -> Array:
    return _scale_about(points, MOUTH, 1 + amount, 1 + 0.8 * amount)
