"""Smoothly painted media: watercolour, oil, tempera with craquelure."""

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from acfun.synthetic.renderers import strokes, tools
from acfun.synthetic.renderers.base import Array, Renderer, Rendering
from acfun.synthetic.renderers.colours import (
    LIGHT_PAPERS,
    VIVID_COLOURS,
    NamedColour,
    as_array,
    choose_colour,
    from_lab,
    to_lab,
)
from acfun.synthetic.renderers.figure import figure_mask
from acfun.synthetic.renderers.grading import choose_grade, distance_to_border, paint_ground

GROUNDS = (
    NamedColour("dark brown", (0.16, 0.11, 0.07)),
    NamedColour("dark green", (0.10, 0.16, 0.12)),
    NamedColour("dark blue", (0.09, 0.13, 0.22)),
    NamedColour("dark red", (0.27, 0.08, 0.07)),
    NamedColour("ochre", (0.58, 0.43, 0.22)),
    NamedColour("grey-blue", (0.45, 0.52, 0.58)),
    NamedColour("olive", (0.38, 0.38, 0.22)),
)

ICON_GROUNDS = (
    NamedColour("gold", (0.80, 0.62, 0.24)),
    NamedColour("gold", (0.86, 0.68, 0.30)),
    NamedColour("red", (0.60, 0.16, 0.12)),
    NamedColour("green", (0.15, 0.32, 0.24)),
    NamedColour("blue", (0.20, 0.36, 0.55)),
    NamedColour("black", (0.08, 0.08, 0.09)),
)


def render_watercolour(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """Watercolour: transparent washes with wandering dark rims, granulation and white paper.

    Pigment density d acts on a colour C as C − (C − C²)(d − 1): Bousseau, Kaplan, Thollot and Sillion 2006.
    """
    scale, shape = tools.resolution_scale(image), (image.shape[0], image.shape[1])
    graded, mood = choose_grade(image, generator)
    graded = 1 - (1 - graded) * generator.uniform(0.75, 0.95)
    paper, words = choose_colour(LIGHT_PAPERS[:3], generator, 0.01), ["watercolour painting", mood]
    figure = figure_mask(image, landmarks)
    painted = np.ones(shape, np.float32)
    if generator.random() < 0.75:
        wash = choose_colour(VIVID_COLOURS, generator, 0.05)
        flow = tools.fractal_noise(shape, generator, 28 * scale, 4, 0.6)
        backdrop = 1 - (1 - as_array(wash)) * (1.5 * tools.smoothstep(flow, 0.15, 0.9) * 0.6)[..., None]
        graded, words = tools.mix(backdrop, graded, figure), [*words, f"{wash.name} wash"]
        painted = tools.smoothstep(distance_to_border(shape) / scale + 26 * (flow - 0.5), 3, 5)
    wander = [(tools.fractal_noise(shape, generator, 9 * scale, 3) - 0.5) * 5 * scale for _ in range(2)]
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    hold = 1 - 0.75 * tools.region_mask("face", landmarks, shape, 4 * scale)
    at = [rows + wander[0] * hold, columns + wander[1] * hold]
    flat = tools.anisotropic_kuwahara(graded, 2.6 * scale)
    flat = np.stack([ndimage.map_coordinates(flat[..., c], at, order=1, mode="nearest") for c in range(3)], -1)
    gray = tools.luminance(flat)
    levels = tools.blur(np.asarray(np.round(gray * 6) / 6, np.float32), 0.5 * scale)
    rims = np.clip(tools.blur(levels, 1.6 * scale) - levels, 0, 0.1)
    density = 1 + 4.5 * rims + 0.9 * (tools.fractal_noise(shape, generator, 20 * scale, 4, 0.6) - 0.5)
    density = density + 0.5 * (tools.paper_texture(shape, generator, 0.8 * scale) - 0.5) + 1.2 * (gray - levels)
    colour = flat - (flat - flat**2) * (density - 1)[..., None]
    colour = tools.mix(np.ones(3, np.float32), colour, painted)
    if generator.random() < 0.35:
        lines = tools.edge_lines(tools.luminance(image), 0.7 * scale, 12, 0.12, 0.3)
        colour, words = colour * (0.25 + 0.75 * lines)[..., None], [*words, "ink lines"]
    return Rendering(np.clip(colour * as_array(paper), 0, 1).astype(np.float32), landmarks, tuple(words))


def render_oil(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """Oil: areas smoothed along the form, brush grain and canvas under a soft light, often a dark ground."""
    scale, shape = tools.resolution_scale(image), (image.shape[0], image.shape[1])
    graded, mood = choose_grade(image, generator)
    words: tuple[str, ...] = ("oil painting", mood)
    if generator.random() < 0.65:
        ground = choose_colour(GROUNDS, generator, 0.03)
        graded, words = (
            paint_ground(graded, landmarks, ground, generator),
            (*words, f"{ground.name} background"),
        )
    flat = tools.anisotropic_kuwahara(graded, generator.uniform(1.8, 3.2) * scale, 6)
    angles = tools.form_angles(flat, landmarks, 2 * scale) + 1.6 * (
        tools.fractal_noise(shape, generator, 16 * scale, 2) - 0.5
    )
    flat = tools.mix(flat, graded, 0.6 * tools.region_mask("eyes", landmarks, shape, scale))
    pulled = tools.flow_blur(flat, angles, 3.5 * scale)
    crisp = tools.region_mask("face", landmarks, shape, 2 * scale) * 0.5
    flat = tools.mix(pulled, flat, crisp) + 0.5 * (flat - tools.blur(flat, 1.2 * scale))
    noise = tools.blur(generator.normal(0, 1, shape).astype(np.float32), 0.55 * scale)
    bristles = tools.flow_blur(noise, angles, generator.uniform(6, 11) * scale)
    bristles = bristles / (bristles.std() + 1e-6)
    rough = generator.uniform(0.25, 0.8)
    shade = tools.relief_light(bristles * scale, 0.12 * rough, generator.uniform(0, 2 * np.pi))
    picture = flat * (shade + 0.025 * rough * bristles)[..., None]
    if generator.random() < 0.5:
        rows, columns = np.mgrid[: shape[0], : shape[1]]
        weave = np.sin(columns * np.pi / scale / 0.9) * np.sin(rows * np.pi / scale / 0.9)
        picture = picture * (1 + 0.035 * weave)[..., None]
    corner = 1 - generator.uniform(0, 0.3) * np.exp(-distance_to_border(shape) / (18 * scale))
    return Rendering(np.clip(picture * corner[..., None], 0, 1).astype(np.float32), landmarks, words)


def render_tempera(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """Tempera on panel: flat earthy modelling with green shadows, a plain or golden ground, cracks."""
    scale, shape = tools.resolution_scale(image), (image.shape[0], image.shape[1])
    flat = tools.anisotropic_kuwahara(image, 2.4 * scale)
    lab = to_lab(tools.mix(flat, image, 0.7 * tools.region_mask("eyes", landmarks, shape, scale)))
    light = tools.stretch(lab[..., 0], 0.01, 0.98)
    lab[..., 0] = 18 + 70 * (0.6 * light + 0.4 * np.round(light * 5) / 5)
    lab[..., 1:] = 0.95 * lab[..., 1:] + generator.uniform(0.5, 1.3) * np.stack([5 * light - 4, 6 + 8 * light], -1)
    ground = choose_colour(ICON_GROUNDS, generator, 0.03)
    picture = from_lab(lab)
    mottled = as_array(ground) * (0.85 + 0.3 * tools.fractal_noise(shape, generator, 12 * scale, 4, 0.7))[..., None]
    picture = tools.mix(mottled, picture, figure_mask(image, landmarks))
    lines = tools.edge_lines(tools.luminance(picture), 0.8 * scale, 10, 0.12, 0.4)
    picture = picture * (0.45 + 0.55 * lines)[..., None]
    cracks = _craquelure(shape, generator, generator.uniform(5, 11) * scale, scale)
    age = generator.uniform(0.15, 0.6)
    dirt = 1 - 0.35 * age * tools.fractal_noise(shape, generator, 25 * scale, 4, 0.7)
    picture = picture * (dirt * (1 - age * cracks))[..., None] * np.array([1, 0.98, 1 - 0.12 * age], np.float32)
    words = ("tempera panel", f"{ground.name} background", "craquelure")
    return Rendering(np.clip(picture, 0, 1).astype(np.float32), landmarks, words)


def _craquelure(shape: tuple[int, int], generator: np.random.Generator, cell: float, scale: float) -> Array:
    """(H,W) in [0,1], 1 on cracks: borders of Voronoi cells of `cell` pixels, bent by noise."""
    seeds = strokes.scatter_points(shape, cell, generator, 0.38)
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    bend = [4 * scale * (tools.fractal_noise(shape, generator, 6 * scale, 3) - 0.5) for _ in range(2)]
    pixels = np.stack([columns + bend[0], rows + bend[1]], -1).reshape(-1, 2)
    distances, _ = cKDTree(seeds).query(pixels, k=2)
    gap = (distances[:, 1] - distances[:, 0]).reshape(shape).astype(np.float32)
    depth = tools.smoothstep(tools.fractal_noise(shape, generator, 40 * scale, 2), 0.2, 0.7)
    return (1 - tools.smoothstep(gap, 0.0, 0.9 * scale)) * depth


RENDERERS = (
    Renderer("watercolour", render_watercolour, ("watercolour painting",)),
    Renderer("oil", render_oil, ("oil painting",)),
    Renderer("tempera", render_tempera, ("tempera panel",)),
)
