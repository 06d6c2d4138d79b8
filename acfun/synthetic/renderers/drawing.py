"""Dry media: pencil, charcoal, pastel, chalk on dark paper."""

import numpy as np

from acfun.synthetic.renderers import strokes, tools
from acfun.synthetic.renderers.base import Array, Renderer, Rendering
from acfun.synthetic.renderers.colours import (
    DARK_PAPERS,
    INKS,
    LIGHT_PAPERS,
    NamedColour,
    as_array,
    choose_colour,
    choose_colours,
    from_lab,
    to_lab,
)
from acfun.synthetic.renderers.figure import figure_mask
from acfun.synthetic.renderers.sketching import (
    grain_along,
    hatch_angles,
    leave_background,
    modelled_tone,
)

GREY_PENCIL = NamedColour("graphite", (0.22, 0.22, 0.24))

CHALKS = (
    NamedColour("white", (0.95, 0.94, 0.90)),
    NamedColour("white", (0.95, 0.94, 0.90)),
    NamedColour("yellow", (0.96, 0.87, 0.55)),
    NamedColour("pink", (0.96, 0.70, 0.72)),
    NamedColour("light blue", (0.66, 0.83, 0.95)),
    NamedColour("light green", (0.73, 0.93, 0.72)),
)


def render_pencil(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """Graphite, a single coloured pencil, or a box of coloured pencils on toothed paper."""
    scale, shape = tools.resolution_scale(image), image.shape[:2]
    paper = choose_colour(LIGHT_PAPERS[:3], generator, 0.01)
    is_coloured = generator.random() < 0.35
    pencil = GREY_PENCIL if generator.random() < 0.5 else choose_colour(INKS, generator)
    tone = leave_background(modelled_tone(image), image, landmarks, generator, 1.0, 0.7)
    angles = hatch_angles(image, landmarks, generator, generator.uniform(0.15, 0.6))
    streaks = grain_along(angles, generator, generator.uniform(9, 16) * scale, 1.1 * scale)
    tooth = tools.paper_texture(shape, generator, 0.8 * scale)
    pressure = (1 - tone) * generator.uniform(0.8, 1.1)
    coverage = pressure * (0.35 + 0.95 * streaks) * (0.75 + 0.5 * tooth) + 0.12 * pressure**2
    lines = 1 - tools.edge_lines(tools.blur(tone, 0.6 * scale), 0.8 * scale, 12, 0.06, 0.5)
    coverage = np.clip(coverage + 0.75 * lines * (0.6 + 0.6 * streaks), 0, 0.95)
    ink: Array = as_array(pencil)
    words = (f"{pencil.name} pencil", f"{paper.name} paper")
    if is_coloured:
        lab = to_lab(tools.blur(image, 0.7 * scale))
        lab = np.stack([0.55 * lab[..., 0] + 8, 1.7 * lab[..., 1], 1.7 * lab[..., 2]], -1)
        ink, words = from_lab(lab), ("coloured pencils", f"{paper.name} paper")
    return Rendering(tools.mix(as_array(paper), ink, coverage), landmarks, ("pencil sketch", *words))


def render_charcoal(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """Charcoal: broad smudged darks, grainy strokes, heavy contours, lights lifted out with an eraser."""
    scale, shape = tools.resolution_scale(image), image.shape[:2]
    paper = choose_colour(LIGHT_PAPERS, generator, 0.012)
    charcoal = choose_colour((INKS[0], INKS[0], INKS[4]), generator, 0.02)
    tone = tools.stretch(modelled_tone(image, 1.0), 0.03, 0.93, generator.uniform(1.0, 1.5))
    tone = leave_background(tone, image, landmarks, generator, float(generator.choice([1.0, 0.25, 0.5])), 0.75)
    angles = hatch_angles(image, landmarks, generator, generator.uniform(0.2, 0.7))
    smudged = tools.flow_blur(tools.blur(tone, 1.0 * scale), angles, 5 * scale)
    streaks = grain_along(angles, generator, generator.uniform(7, 14) * scale, 2.6 * scale)
    tooth = tools.paper_texture(shape, generator, 0.6 * scale)
    dark = 1 - (0.45 * smudged + 0.55 * tone)
    grain = dark + 0.5 * (streaks - 0.5) * (0.1 + dark) - 0.6 * (tooth - 0.5)
    contour = 1 - tools.edge_lines(tone, 1.5 * scale, 6, 0.12, 0.4)
    coverage = 0.35 * dark + 0.65 * tools.smoothstep(grain, 0.2, 0.9)
    coverage = np.clip(np.maximum(coverage, 0.9 * contour * (1.15 - 0.6 * tooth)), 0, 0.97)
    words = (
        "charcoal drawing",
        "red chalk" if charcoal.name == "sanguine" else "black charcoal",
        f"{paper.name} paper",
    )
    return Rendering(tools.mix(as_array(paper), as_array(charcoal), coverage), landmarks, words)


def render_pastel(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """Soft pastel: chalky strokes of pure colour on coloured paper, which stays bare in places."""
    scale, shape = tools.resolution_scale(image), (image.shape[0], image.shape[1])
    paper = choose_colour((*LIGHT_PAPERS[3:], *DARK_PAPERS[1:5]), generator, 0.04)
    colours = _pastel_colours(image, generator)
    angles = hatch_angles(image, landmarks, generator, generator.uniform(0.3, 0.7))
    tooth = tools.paper_texture(shape, generator, 0.7 * scale)
    figure = figure_mask(image, landmarks)
    rest = float(generator.choice([0.12, 0.35, 1.0]))
    drawn = rest + (1 - rest) * figure
    busy = tools.stretch(
        tools.blur(1 - tools.edge_lines(tools.luminance(image), scale, 10, 0.0, 0.6), scale), 0.3, 0.97
    )
    rub = (0.35 + 0.4 * tooth) * drawn
    picture = tools.mix(as_array(paper), tools.flow_blur(tools.blur(colours, 0.8 * scale), angles, 5 * scale), rub)
    jitter = np.concatenate([0.02 * np.eye(3), np.full((1, 3), 0.05)]).astype(np.float32)
    for spacing, length, width, calm in ((4.4, 14, 3.0, 1.0), (2.3, 8.0, 1.7, 0.45), (1.3, 3.2, 1.0, 0.0)):
        starts = strokes.scatter_points(shape, spacing * scale, generator)
        chance = np.minimum(calm + strokes.sample_at(busy, starts), 1) * strokes.sample_at(drawn, starts)
        starts = starts[generator.random(len(starts)) < chance]
        if not len(starts):
            continue
        lengths = generator.uniform(0.6, 1.2, len(starts)).astype(np.float32) * length * scale
        paths = strokes.trace_paths(starts, angles, lengths, 5)
        stamped = strokes.stamp_paths(shape, paths, np.full(len(starts), width * scale, np.float32))
        chalk = strokes.sample_at(colours, starts)
        chalk = chalk + generator.normal(0, 1, (len(starts), 4)).astype(np.float32) @ jitter
        ridge = np.asarray(tooth + 0.4 - 0.4 * np.abs(stamped.across), dtype=np.float32)
        grain = 0.35 + 0.65 * tools.smoothstep(ridge, 0.2, 0.85)
        picture = tools.mix(picture, chalk[stamped.stroke], 0.9 * grain * (stamped.stroke >= 0))
    contour = 1 - tools.edge_lines(tools.luminance(image), 0.75 * scale, 12, 0.1, 0.4)
    picture = tools.mix(picture, 0.35 * colours, contour * (0.45 + 0.4 * tooth))
    return Rendering(np.clip(picture, 0, 1), landmarks, ("pastel drawing", f"{paper.name} paper"))


def _pastel_colours(image: Array, generator: np.random.Generator) -> Array:
    """The colours of `image` as sticks of pastel have them: light, full and never quite black."""
    lab = to_lab(tools.anisotropic_kuwahara(image, 1.5 * tools.resolution_scale(image)))
    lab[..., 0] = 12 + 83 * tools.stretch(lab[..., 0], 0.01, 0.97)
    return from_lab(lab * np.array([1, *generator.uniform(1.2, 1.8, 2)], dtype=np.float32))


def render_chalk(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """Chalk on dark paper or a blackboard: the lights are drawn, the paper is the shadow."""
    scale, shape = tools.resolution_scale(image), image.shape[:2]
    paper = choose_colour(DARK_PAPERS, generator, 0.02)
    first, second = choose_colours(CHALKS, 2, generator, 0.01)
    tone = leave_background(modelled_tone(image, 0.9), image, landmarks, generator, 0.0, 0.93)
    tone = tools.smoothstep(tone, generator.uniform(0.1, 0.3), 1.05)
    angles = hatch_angles(image, landmarks, generator, generator.uniform(0.2, 0.8))
    streaks = grain_along(angles, generator, generator.uniform(8, 15) * scale, generator.uniform(1.2, 2.0) * scale)
    tooth = tools.paper_texture(shape, generator, 0.6 * scale)
    drawn = tone * (0.25 + 1.1 * streaks) * tools.smoothstep(tooth + 0.6 * tone, 0.3, 0.9)
    outline = 1 - tools.edge_lines(-tools.blur(tools.luminance(image), 0.5 * scale), 1.0 * scale, 14, 0.1, 0.4)
    coverage = np.clip(drawn + 0.55 * outline * tools.smoothstep(tooth, 0.2, 0.6), 0, 0.97)
    use_two = generator.random() < 0.4
    chalk = (
        tools.mix(as_array(second), as_array(first), tools.smoothstep(tone, 0.3, 0.7)) if use_two else as_array(first)
    )
    dust = 0.05 * tools.fractal_noise((shape[0], shape[1]), generator, 20 * scale, 3)
    picture = tools.mix(np.clip(as_array(paper) + dust[..., None], 0, 1), chalk, coverage)
    names = f"{first.name} and {second.name} chalk" if use_two and first.name != second.name else f"{first.name} chalk"
    return Rendering(picture, landmarks, ("chalk drawing", names, f"{paper.name} paper"))


RENDERERS = (
    Renderer("pencil", render_pencil, ("pencil sketch",)),
    Renderer("charcoal", render_charcoal, ("charcoal drawing",)),
    Renderer("pastel", render_pastel, ("pastel drawing",)),
    Renderer("chalk", render_chalk, ("chalk drawing",)),
)
