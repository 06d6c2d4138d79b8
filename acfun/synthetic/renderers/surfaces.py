"""Surfaces for the deforming styles: flat ink, oil, line and wash; colour ramps and brush grain."""

import numpy as np

from acfun.synthetic.renderers.base import Array
from acfun.synthetic.renderers.colours import (
    INKS,
    LIGHT_PAPERS,
    VIVID_COLOURS,
    as_array,
    choose_colour,
)
from acfun.synthetic.renderers.features import (
    JAW_LINE,
    LOWER_LIDS,
    MOUTH_LINE,
    NOSE_LINE,
    UPPER_LIDS,
    cut_out_figure,
    ink_features,
    landmark_lines,
    outlines,
)
from acfun.synthetic.renderers.flat import flatten_colours
from acfun.synthetic.renderers.tools import (
    anisotropic_kuwahara,
    blur,
    flow_blur,
    form_angles,
    fractal_noise,
    luminance,
    mix,
    resolution_scale,
    smoothstep,
)

Surface = tuple[Array, tuple[str, ...]]


def paint_surface(image: Array, landmarks: Array, generator: np.random.Generator) -> Surface:
    """Draw one of the surfaces at random; returns the picture (H,W,3) and the words for it."""
    surfaces = (flat_ink, oil, line_and_wash)
    return surfaces[int(generator.integers(len(surfaces)))](image, landmarks, generator)


def flat_ink(image: Array, landmarks: Array, generator: np.random.Generator) -> Surface:
    """Flat colours under ink lines, before a flat named ground."""
    picture = flatten_colours(image, int(generator.integers(6, 10)), generator.uniform(1.2, 1.7), generator)
    ground = choose_colour(VIVID_COLOURS + LIGHT_PAPERS, generator)
    figure = cut_out_figure(image, landmarks, 0.6 * resolution_scale(image))
    picture = mix(as_array(ground), picture, figure)
    return ink_features(image, picture, landmarks, figure, generator), (
        "flat colours",
        f"{ground.name} background",
    )


def oil(image: Array, landmarks: Array, generator: np.random.Generator) -> Surface:
    """Brushed oil paint with warm, rich colour before a toned ground."""
    scale, shape = resolution_scale(image), image.shape[:2]
    ground = choose_colour(VIVID_COLOURS, generator)
    figure = cut_out_figure(image, landmarks, scale)
    back = as_array(ground) * (0.55 + 0.5 * fractal_noise(shape, generator, 16 * scale, 3))[..., None]
    crisp = _rich(image + 0.7 * (image - blur(image, 3 * scale)), generator.uniform(1.2, 1.7))
    painted = anisotropic_kuwahara(mix(back, crisp, figure), 1.9 * scale)
    painted = np.clip(0.5 + 1.12 * (painted - 0.5), 0, 1).astype(np.float32)
    angles = form_angles(painted, landmarks, 2.5 * scale)
    bristles = brush_grain(shape, angles, generator, 6 * scale, 1.3 * scale)
    picture = (painted * (1 + generator.uniform(0.06, 0.14) * bristles[..., None])).astype(np.float32)
    picture = mix(picture, 0.25 * picture, 0.75 * (1 - outlines(image, 0.9 * scale, 13)))
    return np.clip(picture, 0, 1), ("oil painting", f"{ground.name} background")


def line_and_wash(image: Array, landmarks: Array, generator: np.random.Generator) -> Surface:
    """Ink lines on paper with a thin wash of the natural colours."""
    scale, shape = resolution_scale(image), image.shape[:2]
    ink, paper = choose_colour(INKS, generator), choose_colour(LIGHT_PAPERS, generator)
    wash = anisotropic_kuwahara(_rich(image, generator.uniform(1.3, 2.0)), 2.4 * scale)
    strength = generator.uniform(0.6, 1.0)
    figure = blur(cut_out_figure(image, landmarks, 1.5 * scale), 1.5 * scale)
    glaze = 1 - strength * (1 - np.clip(0.12 + 0.98 * wash, 0, 1)) * figure[..., None]
    picture = as_array(paper) * glaze
    lines = 1 - outlines(image, generator.uniform(0.8, 1.1) * scale, generator.uniform(16, 24))
    lines = lines * smoothstep(figure, 0.05, 0.35)
    parts = (*UPPER_LIDS, *LOWER_LIDS, *NOSE_LINE, *MOUTH_LINE, *JAW_LINE)
    lines = np.maximum(lines, 0.75 * landmark_lines(landmarks, parts, shape, 0.8 * scale))
    return np.clip(mix(picture, as_array(ink), lines), 0, 1), (f"{ink.name} ink and wash",)


def colour_ramp(level: Array, colours: list[Array]) -> Array:
    """(H,W) in [0,1] → (H,W,3): from the first colour (3,) at 0 to the last at 1, linear in between."""
    stops = np.linspace(0, 1, len(colours))
    table = np.stack(colours)
    return np.stack([np.interp(level, stops, table[:, c]) for c in range(3)], axis=-1).astype(np.float32)


def brush_grain(
    shape: tuple[int, int],
    angles: Array,
    generator: np.random.Generator,
    length: float,
    width: float,
) -> Array:
    """(H,W) streaks `length` pixels long and `width` wide along `angles`; mean 0, deviation 0.4."""
    noise = blur(generator.normal(0, 1, shape).astype(np.float32), 0.5 * width)
    streaks = flow_blur(noise, angles, length)
    return np.asarray(np.clip(0.4 * streaks / (streaks.std() + 1e-6), -1, 1), dtype=np.float32)


def _rich(image: Array, saturation: float) -> Array:
    gray = luminance(image)[..., None]
    return np.clip(gray + saturation * (image - gray) + (0.02, 0.005, -0.02), 0, 1).astype(np.float32)
