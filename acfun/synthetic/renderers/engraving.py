"""Line and print: ink hatching, woodcut, etching (held out)."""

import numpy as np
from scipy import ndimage

from acfun.synthetic.renderers import strokes, tools
from acfun.synthetic.renderers.base import Array, Renderer, Rendering
from acfun.synthetic.renderers.colours import INKS, LIGHT_PAPERS, VIVID_COLOURS, as_array, choose_colour
from acfun.synthetic.renderers.sketching import (
    form_angles,
    grain_along,
    leave_background,
    modelled_tone,
    supersampling,
)

ACHROMATIC_INKS = INKS[:2]


def render_ink(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """Pen and ink: layers of hatching that swell with the tone and bend with the form, and a contour."""
    fine = supersampling(image)
    shape = (image.shape[0] * fine, image.shape[1] * fine)
    scale = tools.resolution_scale(image) * fine
    paper, ink = choose_colour(LIGHT_PAPERS, generator, 0.012), choose_colour(INKS, generator)
    tone = leave_background(tools.resize(modelled_tone(image), shape), image, landmarks, generator, 1.0, 0.6)
    tone = tools.blur(tone, 0.5 * scale)
    bend = tools.blur(tone, 4 * scale) * generator.uniform(2, 7) * scale
    wobble = 3 * scale * tools.fractal_noise(shape, generator, 25 * scale, 2)
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    spacing, first = generator.uniform(2.4, 3.4) * scale, generator.uniform(0, np.pi)
    coverage = np.zeros(shape, np.float32)
    num_layers = int(generator.integers(1, 4))
    for layer in range(num_layers):
        angle = first + layer * generator.uniform(0.6, 1.1)
        phase = (columns * np.cos(angle) + rows * np.sin(angle) + bend + wobble) / spacing
        ridge = np.abs(2 * (phase - np.floor(phase)) - 1)
        limit = (0.92, 0.5, 0.28)[layer] if num_layers > 1 else 0.95
        thickness = np.clip((limit - tone) / limit, 0, 1) * (1.15 if num_layers == 1 else 0.75)
        coverage = np.maximum(coverage, tools.smoothstep(thickness - ridge, -0.12, 0.22) * (thickness > 0.04))
    contour = 1 - tools.edge_lines(tone, generator.uniform(0.6, 0.9) * scale, 14, 0.1, 0.25)
    solid = tools.smoothstep(0.16 - tone, -0.05, 0.05)
    coverage = np.maximum(np.maximum(coverage, contour), solid)
    picture = tools.resize(tools.mix(as_array(paper), as_array(ink), np.clip(coverage, 0, 1)), image.shape[:2])
    name = "cross-hatching" if num_layers > 1 else "parallel hatching"
    return Rendering(np.clip(picture, 0, 1), landmarks, ("ink drawing", name, f"{ink.name} ink", f"{paper.name} paper"))


def render_woodcut(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """Woodcut: areas and carved lines that follow the form; sometimes a second block with a flat colour."""
    fine = supersampling(image)
    shape = (image.shape[0] * fine, image.shape[1] * fine)
    scale = tools.resolution_scale(image) * fine
    paper, ink = choose_colour(LIGHT_PAPERS, generator, 0.012), choose_colour(INKS, generator, 0.02)
    tone = tools.blur(tools.stretch(tools.resize(modelled_tone(image, 1.1), shape), 0.04, 0.92), 0.7 * scale)
    angles = form_angles(image, landmarks, fine, 1.3)
    tone = leave_background(tone, image, landmarks, generator, float(generator.choice([0.05, 0.97, 0.5])), 0.7)
    gouges = grain_along(angles, generator, generator.uniform(12, 20) * scale, generator.uniform(1.8, 2.6) * scale)
    depth = generator.uniform(0.5, 0.8) * tools.resize(1 - _care(image, landmarks), shape)
    printed = tools.smoothstep(tone + depth * (gouges - 0.5), 0.42, 0.54)
    contour = tools.edge_lines(tone, 1.0 * scale, 12, 0.15, 0.2)
    light = printed * contour
    words: tuple[str, ...] = ("woodcut print", f"{ink.name} ink", f"{paper.name} paper")
    ground: Array = np.broadcast_to(as_array(paper), (*shape, 3))
    if generator.random() < 0.5:
        block = choose_colour(VIVID_COLOURS, generator)
        shifted = ndimage.shift(
            tools.blur(tone, 2 * scale), generator.uniform(-1, 1, 2) * scale, order=1, mode="nearest"
        )
        tint = tools.smoothstep(0.62 - shifted, -0.03, 0.03) * 0.85
        ground, words = tools.mix(ground, as_array(block), tint), (*words, f"{block.name} tint")
    wear = tools.smoothstep(tools.fractal_noise(shape, generator, 6 * scale, 3, 0.8), 0.22, 0.36)
    picture = tools.mix(np.broadcast_to(as_array(ink), (*shape, 3)), ground, 1 - (1 - light) * (0.75 + 0.25 * wear))
    return Rendering(np.clip(tools.resize(picture, image.shape[:2]), 0, 1), landmarks, words)


def _care(image: Array, landmarks: Array) -> Array:
    """(H,W) in [0,1]: how carefully a carver works, least on the ground, most at the eyes and the mouth."""
    shape, scale = (image.shape[0], image.shape[1]), tools.resolution_scale(image)
    features = [tools.region_mask(name, landmarks, shape, 2 * scale) for name in ("eyes", "brows", "mouth")]
    face = 0.45 * tools.region_mask("face", landmarks, shape, 3 * scale)
    return np.asarray(np.clip(face + 0.9 * np.max(features, axis=0), 0, 0.9), dtype=np.float32)


def render_etching(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """Etching: thousands of fine short lines, crossing in the shadows, over an unevenly wiped plate tone."""
    fine = 2
    shape = (image.shape[0] * fine, image.shape[1] * fine)
    scale = tools.resolution_scale(image) * fine
    paper, ink = (
        choose_colour(LIGHT_PAPERS[:5], generator, 0.012),
        choose_colour(ACHROMATIC_INKS, generator, 0.02),
    )
    tone = tools.stretch(tools.resize(modelled_tone(image, 0.9), shape), 0.02, 0.95)
    tone = leave_background(tone, image, landmarks, generator, float(generator.choice([0.35, 0.75, 0.95])), 0.6)
    angles = form_angles(image, landmarks, fine, 1.0)
    hand = generator.uniform(-0.6, 0.6)
    coverage = np.zeros(shape, np.float32)
    for limit, turn in ((0.95, 0.0), (0.68, 1.0), (0.42, -0.9), (0.25, 1.6)):
        starts = strokes.scatter_points(shape, 1.7 * scale, generator)
        wanted = np.clip(1.25 * (limit - strokes.sample_at(tone, starts)) / limit, 0, 1)
        starts = starts[generator.random(len(starts)) < wanted]
        if not len(starts):
            continue
        lengths = generator.uniform(2.5, 6.5, len(starts)).astype(np.float32) * scale
        paths = strokes.trace_paths(starts, angles + np.float32(turn + hand), lengths, 4)
        stamped = strokes.stamp_paths(shape, paths, np.full(len(starts), 0.45 * scale, np.float32))
        coverage = 1 - (1 - coverage) * (1 - 0.8 * (stamped.stroke >= 0))
    burr = tools.blur(coverage, 1.2 * scale)
    contour = 1 - tools.edge_lines(tone, 0.6 * scale, 12, 0.1, 0.35)
    film = generator.uniform(0.04, 0.2) * tools.fractal_noise(shape, generator, 50 * scale, 2)
    coverage = np.clip(np.maximum(coverage, contour) * 0.8 + 0.35 * burr**2 + film, 0, 0.97)
    picture = tools.resize(tools.mix(as_array(paper), as_array(ink), coverage.astype(np.float32)), image.shape[:2])
    return Rendering(np.clip(picture, 0, 1), landmarks, ("etching", f"{ink.name} ink", f"{paper.name} paper"))


RENDERERS = (
    Renderer("ink", render_ink, ("ink drawing",)),
    Renderer("woodcut", render_woodcut, ("woodcut print",)),
    Renderer("etching", render_etching, ("etching",), is_held_out=True),
)
