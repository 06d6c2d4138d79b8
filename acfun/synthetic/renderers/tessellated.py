"""Pictures made of pieces: pointillist dots, mosaic tesserae, low-poly triangles, stained-glass panes."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.spatial import Delaunay

from acfun.synthetic.renderers.base import Array, Rendering
from acfun.synthetic.renderers.cells import Cells, Metric, assign_cells, jittered_seeds, relax_seeds
from acfun.synthetic.renderers.colours import (
    DARK_PAPERS,
    LIGHT_PAPERS,
    VIVID_COLOURS,
    NamedColour,
    as_array,
    choose_colour,
    choose_colours,
    from_lab,
    to_lab,
)
from acfun.synthetic.renderers.features import (
    cut_out_figure,
    draw_brows_and_mouth,
    draw_eyes,
    landmark_shapes,
)
from acfun.synthetic.renderers.tools import (
    LEFT_EYE,
    MOUTH,
    RIGHT_EYE,
    blur,
    form_angles,
    fractal_noise,
    luminance,
    mix,
    region_mask,
    resolution_scale,
    smoothstep,
)

_GROUTS = (
    NamedColour("dark grout", (0.2, 0.18, 0.17)),
    NamedColour("grey grout", (0.5, 0.48, 0.45)),
    NamedColour("pale grout", (0.86, 0.83, 0.76)),
)
_GLASS_COLOURS = tuple(colour for colour in VIVID_COLOURS if colour.name not in ("navy", "brown", "pink", "lime"))
_POLY_LANDMARKS = (
    *range(44),
    *range(50, 61),
    62,
    64,
    69,
    67,
    *range(71, 87),
    *range(87, 94),
    *range(104, 109),
    *range(109, 158),
    164,
    165,
    166,
    167,
    168,
    169,
    174,
    177,
    183,
    184,
)
_POLY_SUPERSAMPLING = 2


def render_pointillism(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """Layers of separate dots of pure, broken colour over a coloured ground."""
    scale, shape = resolution_scale(image), image.shape[:2]
    ground = choose_colour(LIGHT_PAPERS + DARK_PAPERS, generator)
    gray = luminance(image)[..., None]
    vivid = np.clip(gray + generator.uniform(1.4, 2.1) * (image - gray), 0, 1)
    lab = to_lab(vivid + 0.5 * (vivid - blur(vivid.astype(np.float32), 2 * scale)))
    picture = np.broadcast_to(as_array(ground), image.shape)
    pitch = generator.uniform(2.3, 3.1) * scale
    spread = generator.uniform(5, 14)
    for coarseness in (1.7, 1.3, 1.0):
        pitch_here = pitch * coarseness
        cells = assign_cells(shape, pitch_here, jittered_seeds(shape, pitch_here, 0.3, generator))
        count = cells.seeds.shape[0] * cells.seeds.shape[1]
        columns, rows = (np.round(cells.seeds.reshape(-1, 2)[:, i]).astype(int) for i in (0, 1))
        colours = lab[rows.clip(0, shape[0] - 1), columns.clip(0, shape[1] - 1)]
        colours = from_lab((colours + generator.normal(0, spread, (count, 3)) * (0.4, 1, 1))[None])[0]
        radius = (pitch_here * generator.uniform(0.38, 0.56, count)).astype(np.float32)
        dot = smoothstep(cells.nearest - radius[cells.index], 0.5, -0.5)
        picture = mix(picture, colours[cells.index], dot)
    return Rendering(np.clip(picture, 0, 1), landmarks, ("pointillism painting", f"{ground.name} ground"))


def render_mosaic(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """Small square tesserae laid along the forms in grout, sometimes before a gold ground."""
    scale, shape = resolution_scale(image), image.shape[:2]
    pitch = generator.uniform(2.8, 3.9) * scale
    angles = form_angles(image, landmarks, 3 * scale)
    cells = _square_tesserae(shape, pitch, angles, generator)
    gray = luminance(image)[..., None]
    vivid = 0.5 + 1.2 * (gray + generator.uniform(1.2, 2.0) * (image - gray) - 0.52)
    detail = vivid - blur(vivid.astype(np.float32), 3 * scale)
    sharp = np.asarray(vivid + generator.uniform(0.8, 1.3) * detail, dtype=np.float32)
    words: tuple[str, ...] = ("mosaic",)
    if generator.random() < 0.4:
        gold = mix(
            np.asarray([0.62, 0.42, 0.1], np.float32),
            np.asarray([0.95, 0.78, 0.36], np.float32),
            fractal_noise(shape, generator, 2 * pitch, 2),
        )
        sharp = mix(gold, sharp, cut_out_figure(image, landmarks, 0))
        words = (*words, "gold background")
    colours = cells.mean_of(np.clip(sharp, 0, 1).astype(np.float32))
    noise = generator.normal(0, 0.012, colours.shape)
    colours = (colours * generator.normal(1, 0.06, (len(colours), 1)) + noise).astype(np.float32)
    grout = choose_colour(_GROUTS, generator, 0.02)
    seeds = cells.seeds.reshape(-1, 2)[cells.index]
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    slope = ((x - seeds[..., 0]) + (y - seeds[..., 1])) / pitch
    tiles = colours[cells.index] * (1 - 0.1 * slope[..., None])
    gap = smoothstep(cells.second - cells.nearest, 1.0 * scale, 0.25 * scale) * generator.uniform(0.65, 0.95)
    picture = mix(tiles.astype(np.float32), as_array(grout), gap)
    return Rendering(np.clip(picture, 0, 1), landmarks, (*words, grout.name))


def render_low_poly(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """Flat triangles between the landmarks and points scattered where the picture has edges."""
    scale, (height, width) = resolution_scale(image), image.shape[:2]
    points = _polygon_points(image, landmarks, int(generator.integers(110, 260)), generator)
    triangles = points[Delaunay(points).simplices]
    gray = luminance(image)[..., None]
    vivid = blur((gray + generator.uniform(1.1, 1.7) * (image - gray)).astype(np.float32), 0.5 * scale)
    vivid = np.clip(vivid + 0.8 * (vivid - blur(vivid, 3 * scale)), 0, 1)
    weights = np.asarray([[1, 1, 1], [4, 1, 1], [1, 4, 1], [1, 1, 4]], np.float32)
    samples = np.einsum("sk,nkc->nsc", weights / weights.sum(1, keepdims=True), triangles)
    columns = np.round(samples[..., 0]).astype(int).clip(0, width - 1)
    rows = np.round(samples[..., 1]).astype(int).clip(0, height - 1)
    colours = vivid[rows, columns].mean(1)
    colours = colours * generator.normal(1, generator.uniform(0.03, 0.09), (len(colours), 1))
    picture = _fill_triangles(triangles, np.clip(0.5 + 1.1 * (colours - 0.5), 0, 1), (height, width))
    return Rendering(picture, landmarks, ("low-poly",))


def render_stained_glass(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """Panes of saturated glass along the forms in black lead, face painted on, before coloured panes."""
    scale, shape = resolution_scale(image), image.shape[:2]
    regions = _glass_regions(image, landmarks)
    index, count = _leaded_panes(image, regions, generator.uniform(8.5, 11.5) * scale, generator)
    grounds = choose_colours(_GLASS_COLOURS, 2, generator)
    colours = _glass_colours(image, index, count, generator)
    is_ground = np.bincount(index.ravel(), (regions == 0).ravel(), count) > 0.5 * np.bincount(
        index.ravel(), None, count
    )
    palette = np.stack([as_array(colour) for colour in grounds])
    ground_panes = palette[generator.integers(0, 2, count)] * generator.uniform(0.75, 1.15, (count, 1))
    colours = np.where(is_ground[:, None], ground_panes, colours).astype(np.float32)
    glow = 0.82 + 0.36 * fractal_noise(shape, generator, 14 * scale, 4)
    picture = np.clip(colours[index] * glow[..., None], 0, 1).astype(np.float32)
    lead = np.asarray([0.05, 0.05, 0.06], np.float32)
    picture = _paint_glass_face(picture, landmarks, lead, scale)
    picture = mix(picture, lead, _lead_lines(index, landmarks, generator.uniform(0.45, 0.65) * scale))
    names = " and ".join(dict.fromkeys(colour.name for colour in grounds))
    return Rendering(np.clip(picture, 0, 1), landmarks, ("stained glass window", f"{names} background"))


def _square_tesserae(shape: tuple[int, int], pitch: float, angles: Array, generator: np.random.Generator) -> Cells:
    """Cells of the maximum norm turned along `angles`, relaxed twice so that they become nearly square.

    Method: Hausner 2001, "Simulating decorative mosaics", with a search of 3 × 3 seeds in place of cones.
    """
    seeds = jittered_seeds(shape, pitch, 0.2, generator)
    for _ in range(2):
        seeds = relax_seeds(assign_cells(shape, pitch, seeds, _turned_maximum_norm(angles, seeds)))
    return assign_cells(shape, pitch, seeds, _turned_maximum_norm(angles, seeds))


def _turned_maximum_norm(angles: Array, seeds: Array) -> Metric:
    points = np.round(seeds.reshape(-1, 2)).astype(int)
    rows, columns = points[:, 1].clip(0, angles.shape[0] - 1), points[:, 0].clip(0, angles.shape[1] - 1)
    cosines, sines = np.cos(angles[rows, columns]), np.sin(angles[rows, columns])

    def norm(dx: Array, dy: Array, candidate: NDArray[np.intp]) -> Array:
        cosine, sine = cosines[candidate], sines[candidate]
        larger = np.maximum(np.abs(dx * cosine + dy * sine), np.abs(dy * cosine - dx * sine))
        return np.asarray(larger, dtype=np.float32)

    return norm


def _polygon_points(image: Array, landmarks: Array, number: int, generator: np.random.Generator) -> Array:
    """(N,2) landmarks that carry the face, `number` points drawn by edge strength, points on the border."""
    height, width = image.shape[:2]
    gray = blur(luminance(image), 0.8 * resolution_scale(image))
    strength = np.hypot(*np.gradient(gray)) + 0.004
    drawn = generator.choice(height * width, number, replace=False, p=(strength / strength.sum()).ravel())
    scattered = np.stack([drawn % width, drawn // width], axis=-1)
    ticks = np.linspace(0, 1, 7)[:-1]
    ring = np.concatenate(
        [
            np.stack([ticks, 0 * ticks], -1),
            np.stack([0 * ticks + 1, ticks], -1),
            np.stack([1 - ticks, 0 * ticks + 1], -1),
            np.stack([0 * ticks, 1 - ticks], -1),
        ]
    )
    border = ring * (width + 1, height + 1) - 1
    inside = np.clip(landmarks[list(_POLY_LANDMARKS)], 0, (width - 1, height - 1))
    return np.concatenate([inside, scattered, border]).astype(np.float32)


def _fill_triangles(triangles: Array, colours: Array, shape: tuple[int, int]) -> Array:
    canvas = Image.new("RGB", (shape[1] * _POLY_SUPERSAMPLING, shape[0] * _POLY_SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    corners = ((triangles + 0.5) * _POLY_SUPERSAMPLING).reshape(len(triangles), 6).tolist()
    for corner, colour in zip(corners, np.round(colours * 255).astype(int).tolist(), strict=True):
        draw.polygon(corner, fill=tuple(colour))
    return np.asarray(canvas.reduce(_POLY_SUPERSAMPLING), dtype=np.float32) / np.float32(255)


def _glass_regions(image: Array, landmarks: Array) -> NDArray[np.intp]:
    """(H,W) 0 ground, 1 clothes and neck, 2 hair, 3 face: lead runs between them."""
    shape = image.shape[:2]
    regions = (cut_out_figure(image, landmarks, 0) > 0.5).astype(np.intp)
    regions[(regions == 1) & (region_mask("head", landmarks, shape, 0) > 0.5)] = 2
    regions[region_mask("face", landmarks, shape, 0) > 0.5] = 3
    return regions


def _leaded_panes(
    image: Array,
    regions: NDArray[np.intp],
    pitch: float,
    generator: np.random.Generator,
) -> tuple[NDArray[np.intp], int]:
    """(H,W) index of the pane and the number of panes: superpixels that do not cross the border of a region.

    Method: SLIC (Achanta et al. 2012), two rounds, with a penalty for another region.
    """
    shape = regions.shape
    features = to_lab(blur(image, 0.12 * pitch)) / np.float32(26)
    seeds = jittered_seeds(shape, pitch, 0.38, generator)
    for _ in range(2):
        cells = assign_cells(shape, pitch, seeds, _pane_cost(features, regions, seeds, pitch))
        seeds = relax_seeds(cells)
    return cells.index, seeds.shape[0] * seeds.shape[1]


def _pane_cost(features: Array, regions: NDArray[np.intp], seeds: Array, pitch: float) -> Metric:
    points = np.round(seeds.reshape(-1, 2)).astype(int)
    rows, columns = points[:, 1].clip(0, regions.shape[0] - 1), points[:, 0].clip(0, regions.shape[1] - 1)
    seed_features, seed_regions = features[rows, columns], regions[rows, columns]

    def cost(dx: Array, dy: Array, candidate: NDArray[np.intp]) -> Array:
        colour = np.square(features - seed_features[candidate]).sum(-1)
        crossing = 4.0 * (regions != seed_regions[candidate])
        return np.asarray((dx * dx + dy * dy) / pitch**2 + 0.35 * colour + crossing, dtype=np.float32)

    return cost


def _glass_colours(image: Array, index: NDArray[np.intp], count: int, generator: np.random.Generator) -> Array:
    area = np.maximum(np.bincount(index.ravel(), minlength=count), 1)
    mean = np.stack([np.bincount(index.ravel(), image[..., c].ravel(), count) for c in range(3)], -1) / area[:, None]
    lab = to_lab(mean[None].astype(np.float32))[0]
    lab[:, 1:] = lab[:, 1:] * generator.uniform(1.8, 2.6) + generator.normal(0, 7, (count, 2))
    lab[:, 0] = 18 + 0.85 * lab[:, 0] + generator.normal(0, 5, count)
    return np.asarray(from_lab(lab[None])[0], dtype=np.float32)


def _paint_glass_face(picture: Array, landmarks: Array, lead: Array, scale: float) -> Array:
    eyes = draw_eyes(
        picture,
        landmarks,
        np.asarray([0.2, 0.35, 0.5], np.float32),
        np.asarray([0.9, 0.93, 0.95], np.float32),
        lead,
        1.1 * scale,
    )
    brow, lip = np.asarray([0.16, 0.1, 0.08], np.float32), np.asarray([0.75, 0.12, 0.16], np.float32)
    return draw_brows_and_mouth(eyes, landmarks, brow, lip, lead, 1.1 * scale)


def _lead_lines(index: NDArray[np.intp], landmarks: Array, width: float) -> Array:
    """(H,W) in [0,1]: lead between panes, about twice `width` pixels wide, but not across eyes and mouth."""
    edge = np.zeros(index.shape, np.float32)
    edge[:, 1:] = index[:, 1:] != index[:, :-1]
    edge[1:] = np.maximum(edge[1:], index[1:] != index[:-1])
    line = smoothstep(blur(edge, width), 0.15, 0.45)
    kept = landmark_shapes(landmarks, (LEFT_EYE, RIGHT_EYE, MOUTH), (index.shape[0], index.shape[1]))
    return line * (1 - blur(kept, 0.5 * width))
