"""Munch swirl: an oval hollow head in a wavering picture of long flowing strokes in orange and blue."""

import numpy as np

from acfun.synthetic.renderers.base import Array, Rendering
from acfun.synthetic.renderers.colours import NamedColour, as_array, choose_colour
from acfun.synthetic.renderers.features import (
    JAW_LINE,
    LOWER_LIDS,
    MOUTH_LINE,
    NOSE_LINE,
    UPPER_LIDS,
    cut_out_figure,
    landmark_lines,
    landmark_shapes,
)
from acfun.synthetic.renderers.figure import skin_mask
from acfun.synthetic.renderers.shapes import hollow_oval, to_face_frame, to_pixels
from acfun.synthetic.renderers.surfaces import brush_grain, colour_ramp
from acfun.synthetic.renderers.tools import (
    FACE_OUTLINE,
    MOUTH,
    blur,
    flow_blur,
    form_angles,
    luminance,
    mix,
    polygon_mask,
    resolution_scale,
    smoothstep,
    stretch,
)
from acfun.synthetic.renderers.warp import Displacement, fit_displacement, move_landmarks, warp_pixels

_SKIES = (
    (
        NamedColour("orange", (0.9, 0.45, 0.12)),
        ((0.62, 0.12, 0.08), (0.9, 0.4, 0.1), (0.97, 0.72, 0.25), (0.5, 0.62, 0.66)),
    ),
    (
        NamedColour("red", (0.8, 0.2, 0.1)),
        ((0.5, 0.05, 0.08), (0.83, 0.2, 0.1), (0.96, 0.55, 0.15), (0.93, 0.8, 0.45)),
    ),
    (
        NamedColour("yellow", (0.95, 0.75, 0.25)),
        ((0.8, 0.35, 0.08), (0.95, 0.7, 0.2), (0.98, 0.88, 0.55), (0.55, 0.68, 0.7)),
    ),
)
_WATERS = (
    (
        NamedColour("blue", (0.15, 0.25, 0.5)),
        ((0.05, 0.08, 0.2), (0.12, 0.22, 0.5), (0.3, 0.5, 0.68), (0.72, 0.68, 0.4)),
    ),
    (
        NamedColour("green", (0.15, 0.35, 0.3)),
        ((0.04, 0.12, 0.12), (0.12, 0.32, 0.28), (0.35, 0.55, 0.4), (0.8, 0.7, 0.35)),
    ),
    (
        NamedColour("violet", (0.3, 0.2, 0.45)),
        ((0.1, 0.06, 0.18), (0.25, 0.18, 0.42), (0.5, 0.4, 0.6), (0.85, 0.6, 0.4)),
    ),
)
_FLESHES = (
    NamedColour("ochre", (0.82, 0.68, 0.42)),
    NamedColour("greenish", (0.68, 0.7, 0.45)),
    NamedColour("pale", (0.88, 0.78, 0.6)),
)
_DARK = np.asarray([0.1, 0.08, 0.12], np.float32)


def render_munch_swirl(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """An oval head with hollow cheeks in wavering bands of sky and water; strokes follow the contours."""
    scale, shape = resolution_scale(image), (image.shape[0], image.shape[1])
    points, matrix = to_face_frame(landmarks)
    target = to_pixels(hollow_oval(points, generator), matrix)
    displacement = add_waves(fit_displacement(landmarks, target, shape), shape[1], generator)
    warped, moved = warp_pixels(image, displacement), move_landmarks(landmarks, displacement, target)
    sky, water = (options[int(generator.integers(len(options)))] for options in (_SKIES, _WATERS))
    flesh = choose_colour(_FLESHES, generator)
    figure = cut_out_figure(warped, moved, 0.8 * scale)
    bands, wave_angles = _wavy_bands(figure, scale, generator)
    rows = np.arange(shape[0], dtype=np.float32)[:, None] + 8 * scale * (bands - 0.5)
    horizon = generator.uniform(0.42, 0.6) * shape[0]
    ground = mix(_ramp_of(bands, sky[1]), _ramp_of(bands, water[1]), smoothstep(rows, horizon - 2, horizon + 2))
    picture = mix(ground, _paint_figure(warped, moved, as_array(flesh), water[1]), figure)
    contour_angles = form_angles(warped, moved, 3 * scale)
    angles = np.where(figure > 0.5, contour_angles, wave_angles).astype(np.float32)
    picture = flow_blur(picture, angles, 5 * scale)
    grain = brush_grain(shape, angles, generator, 12 * scale, 1.5 * scale)
    relief = 1 + generator.uniform(0.25, 0.4) * grain * (1 - 0.35 * figure)
    picture = np.asarray(picture * relief[..., None], dtype=np.float32)
    picture = _draw_contours(picture, moved, scale)
    words = (
        "swirling expressionist painting",
        f"{sky[0].name} sky",
        f"{water[0].name} swirls",
        f"{flesh.name} skin",
    )
    return Rendering(np.clip(picture, 0, 1), moved, words)


def add_waves(displacement: Displacement, width: int, generator: np.random.Generator) -> Displacement:
    """Let a backward map waver: p first moves by two crossed sine waves, then by `displacement`."""
    amplitude = generator.uniform(0.008, 0.015, 2) * width
    frequency = 2 * np.pi / (generator.uniform(0.24, 0.36, 2) * width)
    phase = generator.uniform(0, 2 * np.pi, 2)

    def wavering(points: Array) -> Array:
        wave = (amplitude * np.sin(points[..., ::-1] * frequency + phase)).astype(np.float32)
        return wave + displacement(points + wave)

    return wavering


def _wavy_bands(figure: Array, scale: float, generator: np.random.Generator) -> tuple[Array, Array]:
    """Bands (H,W) in [0,1] that roll across the ground, and their direction (H,W) in radians."""
    y, x = np.mgrid[: figure.shape[0], : figure.shape[1]].astype(np.float32) / scale
    phases = generator.uniform(0, 2 * np.pi, 4)
    lean = generator.uniform(-0.5, 0.5)
    height = y + lean * x + 5 * np.sin(x / 13 + phases[0]) + 3 * np.sin(x / 7 + y / 23 + phases[1])
    height = height + 26 * blur(figure, 9 * scale)
    period = generator.uniform(2.6, 3.6)
    bands = 0.5 + 0.3 * np.sin(height / period + phases[2]) + 0.2 * np.sin(height / (2.3 * period) + phases[3])
    slope_y, slope_x = np.gradient(height)
    angles = np.arctan2(slope_x, -slope_y)
    return np.clip(bands, 0, 1).astype(np.float32), angles.astype(np.float32)


def _ramp_of(level: Array, colours: tuple[tuple[float, float, float], ...]) -> Array:
    return colour_ramp(level, [np.asarray(colour, np.float32) for colour in colours])


def _paint_figure(
    image: Array,
    landmarks: Array,
    flesh: Array,
    darks: tuple[tuple[float, float, float], ...],
) -> Array:
    scale = resolution_scale(image)
    gray = luminance(blur(image, 0.7 * scale))
    level = stretch(gray + 0.5 * (gray - blur(gray, 7 * scale)), 0.02, 0.98)
    # Flesh is as light on everybody: the figure is a mask, no likeness of a complexion.
    face = polygon_mask(landmarks[list(FACE_OUTLINE)], gray.shape, 0) > 0.5
    flesh_level = np.clip(level + 0.62 - np.median(level[face]), 0, 1) if face.any() else level
    shadow = 0.5 * np.asarray(darks[1], np.float32) + 0.25 * flesh
    light = (0.6 * flesh + 0.4).astype(np.float32)
    skin = colour_ramp(flesh_level, [(0.5 * shadow).astype(np.float32), shadow, 0.8 * flesh, flesh, light])
    clothes = _ramp_of(0.75 * level, darks)
    return mix(clothes, skin, blur(skin_mask(image, landmarks), 0.6 * scale))


def _draw_contours(picture: Array, landmarks: Array, scale: float) -> Array:
    shape = (picture.shape[0], picture.shape[1])
    strong = landmark_lines(landmarks, (*UPPER_LIDS, *MOUTH_LINE, *NOSE_LINE), shape, 1.2 * scale)
    weak = landmark_lines(landmarks, (*LOWER_LIDS, *JAW_LINE), shape, 1.4 * scale)
    mouth = landmark_shapes(landmarks, (MOUTH,), shape)
    picture = mix(picture, np.asarray([0.45, 0.16, 0.12], np.float32), 0.6 * mouth)
    return mix(picture, _DARK, np.maximum(0.85 * strong, 0.6 * weak))
