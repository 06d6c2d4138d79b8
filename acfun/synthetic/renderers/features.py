"""Eyes, brows, nose and mouth redrawn from the landmarks, for styles too coarse to keep them."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from acfun.synthetic.renderers.base import Array
from acfun.synthetic.renderers.colours import INKS, NamedColour, as_array, choose_colour
from acfun.synthetic.renderers.figure import figure_mask
from acfun.synthetic.renderers.tools import (
    LEFT_BROW,
    LEFT_EYE,
    MOUTH,
    PUPILS,
    RIGHT_BROW,
    RIGHT_EYE,
    blur,
    edge_lines,
    luminance,
    mix,
    region_mask,
    resolution_scale,
    smoothstep,
)

UPPER_LIDS = ((18, 19, 20, 21, 22), (23, 24, 25, 26, 27))
LOWER_LIDS = ((18, 28, 29, 30, 22), (23, 31, 32, 33, 27))
NOSE_LINE = ((62, 63, 64, 180, 55, 181, 69, 68, 67),)
MOUTH_LINE = ((87, 94, 95, 96, 97, 98, 93),)
JAW_LINE = ((109, 110, 111, *range(125, 134), 114, 113, 112),)
_SURELY_FIGURE = (tuple(range(115, 120)), tuple(range(120, 125)), (125, 127, 129, 131, 133, 184, 183))
_SUPERSAMPLING = 3
_IRIS_RADIUS = 0.085
_LIP_COLOURS = (
    NamedColour("red", (0.78, 0.16, 0.2)),
    NamedColour("rose", (0.85, 0.42, 0.45)),
    NamedColour("brown", (0.6, 0.3, 0.25)),
)
_IRIS_COLOURS = (
    NamedColour("blue", (0.2, 0.45, 0.75)),
    NamedColour("green", (0.25, 0.55, 0.35)),
    NamedColour("brown", (0.42, 0.25, 0.12)),
    NamedColour("grey", (0.4, 0.45, 0.5)),
)


def smooth_curve(points: Array, rounds: int = 2, is_closed: bool = False) -> Array:
    """Round the corners of a polyline (N,2) by Chaikin's corner cutting; the ends of an open one stay."""
    for _ in range(rounds):
        following = np.roll(points, -1, axis=0) if is_closed else points[1:]
        leading = points if is_closed else points[:-1]
        cut = np.stack([0.75 * leading + 0.25 * following, 0.25 * leading + 0.75 * following], axis=1).reshape(-1, 2)
        points = cut if is_closed else np.concatenate([points[:1], cut, points[-1:]])
    return np.asarray(points, dtype=np.float32)


def line_mask(paths: Sequence[Array], shape: tuple[int, int], width: float) -> Array:
    """(H,W) in [0,1]: antialiased polylines, each (N,2) of (x, y), `width` pixels wide."""
    canvas = Image.new("L", (shape[1] * _SUPERSAMPLING, shape[0] * _SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    for path in paths:
        draw.line(_to_canvas(path), fill=255, width=max(1, round(width * _SUPERSAMPLING)), joint="curve")
    return _reduce(canvas)


def shape_mask(polygons: Sequence[Array], shape: tuple[int, int]) -> Array:
    """(H,W) in [0,1]: antialiased filled polygons, each (N,2) of (x, y)."""
    canvas = Image.new("L", (shape[1] * _SUPERSAMPLING, shape[0] * _SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        draw.polygon(_to_canvas(polygon), fill=255)
    return _reduce(canvas)


def landmark_lines(landmarks: Array, groups: Sequence[Sequence[int]], shape: tuple[int, int], width: float) -> Array:
    """(H,W) in [0,1]: smooth lines of `width` pixels through groups of landmarks."""
    return line_mask([smooth_curve(landmarks[list(group)]) for group in groups], shape, width)


def landmark_shapes(landmarks: Array, groups: Sequence[Sequence[int]], shape: tuple[int, int]) -> Array:
    """(H,W) in [0,1]: the smooth closed shapes around groups of landmarks, filled."""
    return shape_mask([smooth_curve(landmarks[list(group)], is_closed=True) for group in groups], shape)


def eye_mask(landmarks: Array, shape: tuple[int, int]) -> Array:
    """(H,W) in [0,1]: what shows between the lids."""
    return landmark_shapes(landmarks, (LEFT_EYE, RIGHT_EYE), shape)


def draw_eyes(
    image: Array,
    landmarks: Array,
    iris: Array,
    white: Array,
    line: Array,
    width: float,
    iris_size: float = 1.0,
) -> Array:
    """Paint flat eyes: white, iris, pupil, glint and lid lines.

    `iris`, `white` and `line` are (3,) colours; `width` of the lid line in pixels; `iris_size` multiplies the
    natural radius for the distance between the pupils.
    """
    shape = image.shape[:2]
    open_eye = eye_mask(landmarks, shape)
    radius = _IRIS_RADIUS * iris_size * float(np.linalg.norm(landmarks[1] - landmarks[0]))
    painted = mix(image, white, open_eye)
    painted = mix(painted, iris, open_eye * _discs(landmarks, shape, radius))
    painted = mix(painted, line, open_eye * _discs(landmarks, shape, 0.5 * radius))
    glint = landmarks + np.asarray([-0.4, -0.4], np.float32) * radius
    painted = mix(painted, np.ones(3, np.float32), open_eye * _discs(glint, shape, 0.3 * radius))
    painted = mix(painted, line, 0.6 * landmark_lines(landmarks, LOWER_LIDS, shape, 0.5 * width))
    return mix(painted, line, landmark_lines(landmarks, UPPER_LIDS, shape, width))


def draw_brows_and_mouth(image: Array, landmarks: Array, brow: Array, lip: Array, line: Array, width: float) -> Array:
    """Paint brows, lips and the base of the nose; colours (3,), `width` of the lines in pixels."""
    shape = image.shape[:2]
    painted = mix(image, brow, landmark_shapes(landmarks, (LEFT_BROW, RIGHT_BROW), shape))
    painted = mix(painted, lip, landmark_shapes(landmarks, (MOUTH,), shape))
    painted = mix(painted, line, 0.7 * landmark_lines(landmarks, NOSE_LINE, shape, 0.7 * width))
    return mix(painted, line, landmark_lines(landmarks, MOUTH_LINE, shape, 0.8 * width))


def ink_features(
    image: Array, picture: Array, landmarks: Array, figure: Array, generator: np.random.Generator
) -> Array:
    """Draw the outlines of the photograph `image`, eyes, brows and mouth in ink over the flat `picture`.

    `figure` (H,W) in [0,1] is where outlines may lie.
    """
    scale, shape = resolution_scale(image), image.shape[:2]
    ink = as_array(choose_colour(INKS, generator)) * 0.7
    width = generator.uniform(1.0, 1.5) * scale
    lines = 1 - outlines(image, generator.uniform(0.8, 1.1) * scale, generator.uniform(14, 22))
    lines = lines * smoothstep(figure, 0.02, 0.3)
    lines = np.maximum(lines, 0.8 * landmark_lines(landmarks, JAW_LINE, shape, 0.8 * width))
    painted = mix(picture, ink, lines)
    lip = np.asarray(choose_colour(_LIP_COLOURS, generator).rgb, np.float32)
    brow = 0.5 * ink + 0.5 * median_colour(image, landmarks, (*LEFT_BROW, *RIGHT_BROW))
    painted = draw_brows_and_mouth(
        painted, landmarks, brow, 0.5 * lip + 0.5 * median_colour(image, landmarks, MOUTH), ink, width
    )
    iris = as_array(choose_colour(_IRIS_COLOURS, generator))
    white = np.asarray([0.96, 0.95, 0.92], np.float32)
    return np.clip(draw_eyes(painted, landmarks, iris, white, ink, 1.2 * width), 0, 1)


def outlines(image: Array, sigma: float, strength: float) -> Array:
    """(H,W) in [0,1], 0 on the dark lines of the photograph."""
    return edge_lines(luminance(image), sigma, strength, 0.5, 0.35)


def median_colour(image: Array, landmarks: Array, members: tuple[int, ...]) -> Array:
    points = np.round(landmarks[list(members)]).astype(int)
    columns, rows = points[:, 0].clip(0, image.shape[1] - 1), points[:, 1].clip(0, image.shape[0] - 1)
    return np.asarray(np.median(image[rows, columns], axis=0), dtype=np.float32)


def cut_out_figure(image: Array, landmarks: Array, softness: float) -> Array:
    """(H,W) in [0,1]: the figure as scissors would cut it; its edge is `softness` pixels wide."""
    scale, shape = resolution_scale(image), image.shape[:2]
    inside = blur(region_mask("figure", landmarks, shape, 0), 7 * scale)
    is_above_chin = np.arange(shape[0])[:, None] < landmarks[129, 1]
    deep = (inside > np.where(is_above_chin, 0.9, 0.7)).astype(np.float32)
    deep = np.maximum(deep, landmark_shapes(landmarks, _SURELY_FIGURE, shape))
    rounded = smoothstep(blur(figure_mask(image, landmarks), 1.3 * scale), 0.35, 0.65)
    return blur(np.maximum(rounded, deep), softness)


def _discs(landmarks: Array, shape: tuple[int, int], radius: float) -> Array:
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    nearest = np.minimum(*(np.hypot(x - landmarks[i, 0], y - landmarks[i, 1]) for i in PUPILS))
    return np.asarray(np.clip(radius - nearest + 0.5, 0, 1), dtype=np.float32)


def _to_canvas(points: Array) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (points + 0.5) * _SUPERSAMPLING - 0.5]


def _reduce(canvas: Image.Image) -> Array:
    return np.asarray(canvas.reduce(_SUPERSAMPLING), dtype=np.float32) / np.float32(255)
