"""Landmark-driven smooth warps: a thin-plate spline through a few landmarks, anchored around the border.

Notation: controls c_j, displacement d(p) = a₀ + A p + Σ_j w_j U(|p − c_j|), U(r) = r² log r (Bookstein 1989,
doi 10.1109/34.24792). Warps are backward maps: the output pixel p shows the input at p + d(p).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from acfun.synthetic.data import NUM_LANDMARKS
from acfun.synthetic.renderers.base import Array

Floats = NDArray[np.floating]
Displacement = Callable[[Array], Array]

_LIDS = (18, 20, 22, 29, 23, 25, 27, 32)
_BROWS = (71, 74, 76, 77, 79, 82)
_NOSE = (55, 64, 69)
_MOUTH = (87, 88, 90, 92, 93, 105, 106, 107)
_OUTLINE = (117, 122, 125, 127, 129, 131, 133, 135, 139, 143, 148, 151, 154, 183, 184)
CONTROLS = _LIDS + _BROWS + _NOSE + _MOUTH + _OUTLINE
_ANCHOR_MARGIN = 0.12
_GRID_CELLS = 36
_STIFFNESS = 1e-4
_INVERSION_STEPS = 10


def warp_image(image: Array, source_landmarks: Array, target_landmarks: Array) -> Array:
    """Move what lies at the source landmarks to the target landmarks, smoothly; the border stays in place.

    Args:
        image: (H, W, 3) in [0, 1].
        source_landmarks: (189, 2) pixels, where the features are.
        target_landmarks: (189, 2) pixels, where they shall be.

    Returns:
        (H, W, 3) float32 in [0, 1]; equal to `image` where source and target landmarks are equal.

    Raises:
        ValueError: the landmarks are not (189, 2).
    """
    height, width = image.shape[:2]
    return warp_pixels(image, fit_displacement(source_landmarks, target_landmarks, (height, width)))


def warp_face(image: Array, source_landmarks: Array, target_landmarks: Array) -> tuple[Array, Array]:
    """As `warp_image`, and returns (image, (189, 2) landmarks of the warped image)."""
    height, width = image.shape[:2]
    displacement = fit_displacement(source_landmarks, target_landmarks, (height, width))
    moved = move_landmarks(source_landmarks, displacement, target_landmarks)
    return warp_pixels(image, displacement), moved


def fit_displacement(source_landmarks: Array, target_landmarks: Array, shape: tuple[int, int]) -> Displacement:
    """Fit the spline d with target + d(target) = source at the control landmarks and d = 0 around the border.

    Args:
        source_landmarks: (189, 2) pixels.
        target_landmarks: (189, 2) pixels.
        shape: (height, width) of the image.

    Raises:
        ValueError: the landmarks are not (189, 2).
    """
    for name, landmarks in (("source", source_landmarks), ("target", target_landmarks)):
        if landmarks.shape != (NUM_LANDMARKS, 2):
            raise ValueError(f"{name} landmarks have shape {landmarks.shape}; pass ({NUM_LANDMARKS}, 2) pixels")
    unit = float(max(shape))
    index = list(CONTROLS)
    anchors = _border_anchors(shape)
    controls = np.concatenate([target_landmarks[index], anchors]).astype(np.float64) / unit
    offsets = (source_landmarks - target_landmarks)[index].astype(np.float64)
    values = np.concatenate([offsets, np.zeros_like(anchors)])
    count = len(controls)
    affine = np.concatenate([np.ones((count, 1)), controls], axis=1)
    kernel = _radial_basis(controls, controls) + _STIFFNESS * np.eye(count)
    system = np.block([[kernel, affine], [affine.T, np.zeros((3, 3))]])
    weights = np.linalg.solve(system, np.concatenate([values, np.zeros((3, 2))]))

    def displacement(points: Array) -> Array:
        scaled = points.reshape(-1, 2) / unit
        moved = _radial_basis(scaled, controls) @ weights[:count] + weights[count] + scaled @ weights[count + 1 :]
        return np.asarray(moved.reshape(points.shape), dtype=np.float32)

    return displacement


def warp_pixels(image: Array, displacement: Displacement) -> Array:
    """Sample (H, W, 3) at p + d(p); the smooth d is evaluated on a coarse grid and interpolated linearly."""
    height, width = image.shape[:2]
    rows = np.linspace(0, height - 1, _GRID_CELLS + 1, dtype=np.float32)
    columns = np.linspace(0, width - 1, _GRID_CELLS + 1, dtype=np.float32)
    coarse = displacement(np.stack(np.meshgrid(columns, rows), axis=-1))
    down, across = _interpolation(height), _interpolation(width)
    offset_x = down @ coarse[..., 0] @ across.T
    offset_y = down @ coarse[..., 1] @ across.T
    grid_y, grid_x = np.mgrid[:height, :width].astype(np.float32)
    return sample_pixels(image, grid_x + offset_x, grid_y + offset_y)


def sample_pixels(image: Array, x: Array, y: Array) -> Array:
    """Read (H, W, C) bilinearly at pixel positions x, y of equal shape; outside, the image is mirrored."""
    channels = [ndimage.map_coordinates(image[..., c], [y, x], order=1, mode="mirror") for c in range(image.shape[2])]
    return np.stack(channels, axis=-1).astype(np.float32)


def move_landmarks(landmarks: Array, displacement: Displacement, guess: Array) -> Array:
    """Solve y + d(y) = landmark for y by fixed-point iteration from `guess`; all (189, 2) pixels."""
    moved = guess.astype(np.float32)
    for _ in range(_INVERSION_STEPS):
        moved = moved + 0.8 * (landmarks - moved - displacement(moved))
    return moved.astype(np.float32)


def _border_anchors(shape: tuple[int, int]) -> Array:
    height, width = shape
    ticks = np.linspace(-_ANCHOR_MARGIN, 1 + _ANCHOR_MARGIN, 4)
    x, y = (axis.ravel() for axis in np.meshgrid(ticks, ticks))
    is_border = (np.abs(x - 0.5) > 0.5) | (np.abs(y - 0.5) > 0.5)
    return (np.stack([x, y], axis=-1)[is_border] * (width, height)).astype(np.float32)


def _radial_basis(points: Floats, controls: Floats) -> Floats:
    squares = (points**2).sum(-1)[:, None] + (controls**2).sum(-1)[None, :]
    squared = np.maximum(squares - 2 * (points @ controls.T), 0)
    return np.asarray(squared * np.log(squared + 1e-12))


def _interpolation(length: int) -> Array:
    position = np.linspace(0, _GRID_CELLS, length)
    distance = np.abs(position[:, None] - np.arange(_GRID_CELLS + 1)[None, :])
    return np.asarray(np.clip(1 - distance, 0, 1), dtype=np.float32)
