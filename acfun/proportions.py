"""Proportions: how a painted face departs from the average one, and how a photographed face takes that on.

Frame: origin between the pupils, their distance 1, y down, as in `acfun.synthetic.renderers.shapes`.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from acfun.synthetic.renderers import shapes
from acfun.synthetic.renderers.warp import fit_displacement, move_landmarks, warp_pixels

Array = NDArray[np.float32]

BOX_SIDE = 4.4  # of the square that is warped, in pupil distances: head and shoulders
BOX_CENTRE = 0.4  # of its centre below the pupils
MAX_DEPARTURE = 0.3
# How much of a departure is taken on: hair, ears and neck are the sitter's own rather than the painter's.
_SHARES = ((shapes.HAIRLINE, 0.5), (shapes.HEAD_CONTOUR, 0.25), (shapes.EARS, 0.5), (shapes.NECK, 0.25))


def measure_departure(landmarks: Array) -> Array:
    """How a painted face departs from the average one: (189,2) in pupil distances, the same on both sides.

    A head that is turned or tilted departs on its two sides in opposite ways, which the mean of the sides leaves out.

    Args:
        landmarks: (189,2) pixels of the painted face.
    """
    difference, _ = shapes.difference_from_mean(shapes.to_face_frame(landmarks)[0])
    mirrored = difference[_mirror_indices()] * (-1, 1)
    departure = np.clip((difference + mirrored) / 2, -MAX_DEPARTURE, MAX_DEPARTURE)
    for members, share in _SHARES:
        departure[list(members)] *= share
    return np.asarray(departure, dtype=np.float32)


def take_on(image: Array, landmarks: Array, departure: Array) -> tuple[Array, Array]:
    """Warp a photographed face by a departure, smoothly; what lies further off stays as it is.

    Args:
        image: (H,W,3) in [0,1].
        landmarks: (189,2) pixels.
        departure: (189,2) in pupil distances, times how much of it is wanted.

    Returns:
        The picture, and the landmarks (189,2) where they are in it.
    """
    frame, matrix = shapes.to_face_frame(landmarks)
    wanted = shapes.to_pixels(frame + departure, matrix)
    unit = float(np.linalg.norm(matrix[0]))
    centre = shapes.to_pixels(np.asarray([[0, BOX_CENTRE]], np.float32), matrix)[0]
    height, width = image.shape[:2]
    low = np.maximum(np.floor(centre - BOX_SIDE / 2 * unit), 0).astype(int)
    high = np.minimum(np.ceil(centre + BOX_SIDE / 2 * unit), (width, height)).astype(int)
    box = image[low[1] : high[1], low[0] : high[0]]
    if min(box.shape[:2]) < 2:
        return image, landmarks
    displacement = fit_displacement(landmarks - low, wanted - low, (box.shape[0], box.shape[1]))

    def fade(points: Array) -> Array:
        """The displacement, brought down to none at the edge of the box."""
        away = np.abs(points + low - centre) / (BOX_SIDE / 2 * unit)
        window = np.clip((1 - away.max(-1, keepdims=True)) / 0.25, 0, 1)
        return np.asarray(displacement(points) * window, dtype=np.float32)

    warped = image.copy()
    warped[low[1] : high[1], low[0] : high[0]] = warp_pixels(box, fade)
    return warped, move_landmarks(landmarks - low, fade, wanted - low) + low


@cache
def _mirror_indices() -> Array:
    """For each landmark that on the other side of the face, or itself in the middle."""
    mean = shapes.mean_shape()
    distances = np.linalg.norm(mean[:, None] - (mean * (-1, 1))[None], axis=-1)
    indices: Array = linear_sum_assignment(distances)[1]
    return indices
