"""Where the figure and its skin lie, judged by the landmarks and the colours together."""

import numpy as np
from numpy.typing import NDArray

from acfun.synthetic.renderers import tools
from acfun.synthetic.renderers.base import Array
from acfun.synthetic.renderers.colours import to_lab


def figure_mask(image: Array, landmarks: Array) -> Array:
    """(H,W) soft mask of the figure: certain inside head and neck, by colour along their outline and below.

    By colour means unlike the ground that the picture's border shows. Where the border is as varied as a
    figure, colour says nothing and the outline alone decides.
    """
    shape, scale = (image.shape[0], image.shape[1]), tools.resolution_scale(image)
    near = tools.region_mask("figure", landmarks, shape, 6 * scale)
    lab = to_lab(tools.blur(image, 0.5 * scale))
    background, deviation = _extend_border(lab, near < 0.05)
    distance = np.sqrt(np.square((lab - background) / (deviation + np.array([6, 3, 3]))).sum(-1))
    by_colour = tools.smoothstep(distance, 1.4, 3.0) * tools.smoothstep(near, 0.05, 0.4)
    outline = tools.region_mask("figure", landmarks, shape, 1.5 * scale)
    trust = float(np.clip((16 - deviation.mean()) / 8, 0, 1))
    core = tools.blur(_head_and_neck(landmarks, shape), scale)
    return np.asarray(np.maximum(core, outline + trust * (by_colour - outline)), dtype=np.float32)


def _head_and_neck(landmarks: Array, shape: tuple[int, int]) -> Array:
    """(H,W) hard mask of what surely is figure: face, ears, neck and most of the head above the ears."""
    centre = landmarks[list(tools.HEAD_OUTLINE)].mean(0)
    head = centre + 0.93 * (landmarks[148:155] - centre)
    left, right = landmarks[183] * 0.9 + landmarks[184] * 0.1, landmarks[184] * 0.9 + landmarks[183] * 0.1
    below = np.array([0, shape[0]], dtype=np.float32)
    neck = np.stack([landmarks[127], landmarks[131], right, right + below, left + below, left])
    outlines = [head, neck, landmarks[[*range(115, 120), 111, 109]], landmarks[[*range(120, 125), 114, 112]]]
    masks = [tools.polygon_mask(points.astype(np.float32), shape, 0) for points in outlines]
    return np.asarray(np.max([*masks, tools.region_mask("face", landmarks, shape, 0)], axis=0))


def _extend_border(lab: Array, is_free: NDArray[np.bool_]) -> tuple[Array, Array]:
    """The ground (H,W,3) continued from the free outer fifth of the picture, and its residual deviation (3,).

    The continuation is a plane plus a vignette; its coefficients are the least-squares fit.
    """
    height, width = lab.shape[:2]
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    basis = np.stack([np.ones_like(rows), rows, columns, rows**2 + columns**2], -1)
    is_ground = is_free & (np.maximum(np.abs(columns), -rows) > 0.8)
    if is_ground.sum() < lab.shape[1]:
        return np.zeros_like(lab), np.full(3, 100, np.float32)
    fit, *_ = np.linalg.lstsq(basis[is_ground], lab[is_ground].astype(np.float64), rcond=None)
    fitted = (basis @ fit).astype(np.float32)
    return fitted, np.asarray((lab - fitted)[is_ground].std(0), dtype=np.float32)


def skin_mask(image: Array, landmarks: Array) -> Array:
    """(H,W) in [0,1]: how much a pixel has the colour of the face; at least 0.9 well inside the face."""
    shape, scale = (image.shape[0], image.shape[1]), tools.resolution_scale(image)
    centre = landmarks.mean(0)
    inner = (centre + 0.93 * (landmarks - centre)).astype(np.float32)
    face = tools.region_mask("face", inner, shape, 1.5 * scale)
    lab = to_lab(tools.blur(image, scale))
    core = lab[face > 0.8]
    deviation = core.std(0) + np.array([8, 3, 3], dtype=np.float32)
    distance = np.square((lab - np.median(core, axis=0)) / deviation).sum(-1)
    return np.asarray(np.maximum(0.9 * face, tools.smoothstep(-distance, -9, -3)))
