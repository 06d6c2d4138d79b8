"""A face painted from ellipses at the mean positions of the landmarks, so that no photograph is needed."""

import json
from importlib import resources

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Array = NDArray[np.float32]

BACKGROUND, SKIN, HAIR, LIPS = (0.72, 0.76, 0.8), (0.84, 0.66, 0.56), (0.28, 0.19, 0.13), (0.72, 0.32, 0.34)
WHITE, IRIS, SHIRT, SHADE = (0.93, 0.92, 0.9), (0.24, 0.3, 0.36), (0.3, 0.36, 0.52), (0.68, 0.48, 0.4)


def mean_landmarks(size: int) -> Array:
    """(189,2) mean landmarks in the canonical framing: pupils 0.23 of the width apart about (0.5, 0.47)."""
    text = resources.files("acfun.synthetic").joinpath("mean_face.json").read_text(encoding="utf-8")
    points = np.asarray(json.loads(text)["points"], dtype=np.float32)
    return (points * 0.23 * size + np.array([0.5, 0.47], dtype=np.float32) * size).astype(np.float32)


def _ellipse(image: Array, points: Array, colour: tuple[float, float, float], grow: float = 1.0) -> None:
    """Paint the ellipse in the bounding box of `points` (N,2), `grow` times as large, into `image`."""
    centre, radii = (points.max(0) + points.min(0)) / 2, np.maximum(np.ptp(points, axis=0) / 2 * grow, 0.7)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    distance = ((columns - centre[0]) / radii[0]) ** 2 + ((rows - centre[1]) / radii[1]) ** 2
    image[distance <= 1] = colour


def paint_face(size: int) -> tuple[Array, Array]:
    """An image (size,size,3) float32 in [0,1] of a lit face before a wall, and its landmarks (189,2)."""
    landmarks = mean_landmarks(size)
    image = np.broadcast_to(np.array(BACKGROUND, np.float32), (size, size, 3)).copy()
    shoulders = np.array([[-0.1, 0.84], [1.1, 1.3]], np.float32) * size
    _ellipse(image, shoulders, SHIRT)
    _ellipse(image, landmarks[145:158], HAIR, 1.02)
    _ellipse(image, landmarks[[111, 114, 129, 183, 184]] + np.array([0, 0.08 * size], np.float32), SHADE, 0.8)
    _ellipse(image, landmarks[[*range(125, 145)]], SKIN)
    for eye, iris, brow in ((range(18, 23), 2, range(71, 77)), (range(23, 28), 10, range(77, 83))):
        lids = landmarks[[*eye, *(range(28, 31) if iris == 2 else range(31, 34))]]
        _ellipse(image, lids, WHITE)
        _ellipse(image, landmarks[iris : iris + 8], IRIS, 0.9)
        _ellipse(image, landmarks[[*brow]], HAIR, 0.9)
    _ellipse(image, landmarks[61:71], SHADE)
    _ellipse(image, landmarks[87:109], LIPS)
    light = np.linspace(1.08, 0.85, size, dtype=np.float32)[None, :, None]
    smooth = gaussian_filter(image * light, (size / 160, size / 160, 0))
    return np.clip(smooth, 0, 1).astype(np.float32), landmarks


@pytest.fixture(scope="session")
def face() -> tuple[Array, Array]:
    """`paint_face` at 96 px."""
    return paint_face(96)
