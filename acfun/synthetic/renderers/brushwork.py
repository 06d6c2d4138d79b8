"""Painting in visible strokes: impasto, fauvist painting (held out)."""

import numpy as np
from scipy import ndimage

from acfun.synthetic.renderers import strokes, tools
from acfun.synthetic.renderers.base import Array, Renderer, Rendering
from acfun.synthetic.renderers.colours import (
    VIVID_COLOURS,
    NamedColour,
    as_array,
    choose_colour,
    choose_colours,
)
from acfun.synthetic.renderers.figure import figure_mask, skin_mask
from acfun.synthetic.renderers.grading import choose_grade, colour_ramp, paint_ground

SKY_GROUNDS = (
    NamedColour("blue", (0.20, 0.38, 0.66)),
    NamedColour("turquoise", (0.35, 0.66, 0.66)),
    NamedColour("green", (0.36, 0.52, 0.30)),
    NamedColour("yellow", (0.90, 0.74, 0.28)),
    NamedColour("violet", (0.42, 0.36, 0.62)),
    NamedColour("orange", (0.86, 0.50, 0.20)),
)


def _brush_layers(
    image: Array,
    angles: Array,
    generator: np.random.Generator,
    layers: tuple[tuple[float, float, float], ...],
    jitter: float,
    detail: Array,
) -> tuple[Array, Array]:
    """Cover `image` with layers of strokes (spacing, length, width); returns picture and height of the paint.

    `detail` (H,W) in [0,1] is the chance of a stroke in every layer but the first.
    """
    scale, shape = tools.resolution_scale(image), (image.shape[0], image.shape[1])
    picture, height = image.copy(), np.zeros(shape, np.float32)
    for number, (spacing, length, width) in enumerate(layers):
        starts = strokes.scatter_points(shape, spacing * scale, generator)
        if number > 0:
            starts = starts[generator.random(len(starts)) < strokes.sample_at(detail, starts) ** number + 0.04]
        if not len(starts):
            continue
        lengths = generator.uniform(0.6, 1.3, len(starts)).astype(np.float32) * length * scale
        widths = generator.uniform(0.8, 1.2, len(starts)).astype(np.float32) * width * scale
        stamped = strokes.stamp_paths(shape, strokes.trace_paths(starts, angles, lengths, 6), widths)
        spread = jitter / (1 + number)
        deviations = generator.normal(0, spread, (len(starts), 3)) + generator.normal(0, spread, (len(starts), 1))
        colours = strokes.sample_at(tools.blur(image, 0.25 * width * scale), starts) + deviations.astype(np.float32)
        # Bristles: each stroke has its own sine pattern across.
        phases = generator.uniform(0, 6.28, len(starts)).astype(np.float32)
        ridges = 0.75 + 0.25 * np.sin(phases[stamped.stroke] + 4.5 * stamped.across)
        profile = ridges * (1 - 0.6 * stamped.across**4) * (0.6 + 0.4 * stamped.along)
        covered = stamped.stroke >= 0
        picture = np.where(covered[..., None], colours[stamped.stroke], picture)
        height = np.where(covered, profile * width, height)
    return picture.astype(np.float32), height.astype(np.float32)


def render_impasto(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """Impasto: thick curved strokes whose relief catches the light, swirling behind the head."""
    scale, shape = tools.resolution_scale(image), (image.shape[0], image.shape[1])
    graded, mood = choose_grade(image, generator)
    words: tuple[str, ...] = ("impasto painting", mood)
    if generator.random() < 0.7:
        ground = choose_colour(SKY_GROUNDS, generator, 0.05)
        graded, words = (
            paint_ground(graded, landmarks, ground, generator),
            (*words, f"{ground.name} background"),
        )
    angles = tools.form_angles(graded, landmarks, 2.5 * scale)
    swirl = 2.2 * np.pi * tools.fractal_noise(shape, generator, 45 * scale, 1)
    near = tools.region_mask("figure", landmarks, shape, 7 * scale)
    angles = np.where(near > 0.05, angles, swirl).astype(np.float32)
    busy = tools.blur(ndimage.gaussian_gradient_magnitude(tools.luminance(graded), scale), scale)
    face = tools.region_mask("face", landmarks, shape, 2 * scale)
    detail = np.clip(0.75 * tools.stretch(busy, 0.3, 0.95) + 0.55 * face, 0, 1).astype(np.float32)
    size = generator.uniform(0.85, 1.2)
    layers = ((3.0 * size, 12 * size, 3.2 * size), (1.9, 6.5, 1.9), (1.3, 3.6, 1.2))
    picture, height = _brush_layers(graded, angles, generator, layers, generator.uniform(0.02, 0.05), detail)
    light = tools.relief_light(tools.blur(height, 0.35 * scale) * scale, 0.35, generator.uniform(np.pi, 1.5 * np.pi))
    picture = picture * (1 + generator.uniform(0.45, 0.8) * (light - 1))[..., None]
    return Rendering(np.clip(picture, 0, 1).astype(np.float32), landmarks, words)


def render_fauvist(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """Fauvist: broad strokes in colours that deny nature, chosen by light and shadow for skin and hair."""
    scale, shape = tools.resolution_scale(image), (image.shape[0], image.shape[1])
    light = tools.stretch(tools.luminance(tools.anisotropic_kuwahara(image, 2.5 * scale)), 0.02, 0.97)
    figure = figure_mask(image, landmarks)
    skin = skin_mask(image, landmarks) * figure
    shadow, middle = choose_colours(_named("green", "violet", "blue", "teal", "red"), 2, generator, 0.05)
    bright, pale = choose_colours(_named("orange", "pink", "yellow", "lime"), 2, generator, 0.04)
    hair_dark, hair_light = choose_colours(_named("navy", "violet", "red", "blue", "green", "magenta"), 2, generator)
    ramp = [
        0.35 * as_array(shadow),
        as_array(shadow),
        0.45 * as_array(middle) + 0.55 * as_array(bright),
        0.75 * as_array(bright) + 0.25,
        0.4 * as_array(pale) + 0.6,
    ]
    skin_colour = colour_ramp(light + 0.2 * (tools.fractal_noise(shape, generator, 14 * scale, 1) - 0.5), ramp)
    hair = [
        0.3 * as_array(hair_dark),
        as_array(hair_dark),
        as_array(hair_light),
        0.5 + 0.5 * as_array(hair_light),
    ]
    grounds = choose_colours(_named("teal", "pink", "yellow", "lime", "violet", "blue", "orange"), 3, generator, 0.05)
    patches = tools.fractal_noise(shape, generator, 40 * scale, 2)
    ground = colour_ramp(tools.smoothstep(patches, 0.25, 0.75), [0.8 * as_array(c) + 0.2 for c in grounds])
    picture = tools.mix(colour_ramp(light, hair), skin_colour, skin)
    picture = tools.mix(ground, picture, figure)
    mouth = tools.region_mask("mouth", landmarks, shape, 0.7 * scale)
    picture = tools.mix(picture, np.array([0.82, 0.12, 0.2], np.float32) * (0.5 + 0.6 * light[..., None]), 0.8 * mouth)
    angles = tools.form_angles(image, landmarks, 3 * scale)
    busy = tools.blur(ndimage.gaussian_gradient_magnitude(light, scale), scale)
    face = tools.region_mask("face", landmarks, shape, 2 * scale)
    detail = np.clip(0.7 * tools.stretch(busy, 0.3, 0.95) + 0.45 * face, 0, 1).astype(np.float32)
    painted, height = _brush_layers(
        picture,
        angles,
        generator,
        ((4.5, 11, 5.5), (2.4, 6.5, 2.6), (1.4, 3.6, 1.5)),
        0.045,
        detail,
    )
    relief = tools.relief_light(tools.blur(height, 0.5 * scale) * scale, 0.12, 4.0)
    lines = tools.edge_lines(tools.blur(light, 0.5 * scale), 1.2 * scale, 9, 0.2, 0.4)
    outline = 0.5 * as_array(hair_dark) * np.array([0.5, 0.5, 0.9], np.float32)
    painted = tools.mix(outline, painted * relief[..., None], 0.15 + 0.85 * lines)
    words = ("fauvist painting", f"{shadow.name} and {bright.name} skin", f"{grounds[1].name} background")
    return Rendering(np.clip(painted, 0, 1).astype(np.float32), landmarks, words)


def _named(*names: str) -> tuple[NamedColour, ...]:
    return tuple(colour for colour in VIVID_COLOURS if colour.name in names)


RENDERERS = (
    Renderer("impasto", render_impasto, ("impasto painting",)),
    Renderer("fauvist", render_fauvist, ("fauvist painting",), is_held_out=True),
)
