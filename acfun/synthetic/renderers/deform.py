"""Styles that change shapes, not only surfaces: caricature, elongated, big-eyed; the register of them all."""

import numpy as np

from acfun.synthetic.renderers.base import Array, Renderer, Rendering
from acfun.synthetic.renderers.colours import (
    LIGHT_PAPERS,
    VIVID_COLOURS,
    NamedColour,
    as_array,
    choose_colour,
)
from acfun.synthetic.renderers.cubist import render_cubist
from acfun.synthetic.renderers.features import (
    JAW_LINE,
    MOUTH_LINE,
    cut_out_figure,
    draw_eyes,
    eye_mask,
    landmark_lines,
    landmark_shapes,
    median_colour,
    outlines,
)
from acfun.synthetic.renderers.figure import skin_mask
from acfun.synthetic.renderers.flat import flatten_colours
from acfun.synthetic.renderers.munch import render_munch_swirl
from acfun.synthetic.renderers.shapes import elongate, enlarge_eyes, exaggerate, to_face_frame, to_pixels
from acfun.synthetic.renderers.surfaces import brush_grain, colour_ramp, paint_surface
from acfun.synthetic.renderers.tools import (
    FACE_OUTLINE,
    LEFT_EYE,
    MOUTH,
    RIGHT_EYE,
    anisotropic_kuwahara,
    blur,
    form_angles,
    fractal_noise,
    luminance,
    mix,
    region_mask,
    resolution_scale,
    smoothstep,
    stretch,
)
from acfun.synthetic.renderers.warp import warp_face, warp_image

__all__ = ["RENDERERS", "warp_image"]

_EARTHS = (
    NamedColour("ochre", (0.86, 0.62, 0.34)),
    NamedColour("sienna", (0.8, 0.5, 0.32)),
    NamedColour("orange", (0.94, 0.62, 0.38)),
    NamedColour("pale", (0.92, 0.76, 0.6)),
    NamedColour("rose", (0.88, 0.6, 0.5)),
)
_WALLS = (
    NamedColour("slate blue", (0.33, 0.45, 0.52)),
    NamedColour("grey green", (0.42, 0.5, 0.42)),
    NamedColour("brown", (0.4, 0.27, 0.18)),
    NamedColour("red brown", (0.5, 0.22, 0.15)),
    NamedColour("teal", (0.2, 0.42, 0.44)),
    NamedColour("grey", (0.52, 0.5, 0.48)),
)
_DARK_BROWN = np.asarray([0.14, 0.09, 0.07], np.float32)
_LONG_NOSE = ((75, 50, 51, 52, 53, 54, 61, 62, 63, 64, 180, 55, 181, 69), (68, 69))
_CHEEK_POINTS = (44, 49, 164, 165, 166, 167, 168, 169)
_EARS = (tuple(range(115, 120)), tuple(range(120, 125)))
_THROAT = (125, 127, 129, 131, 133, 184, 183)
_THIN_BROWS = ((71, 72, 73, 74, 75), (78, 79, 80, 81, 82))


def render_caricature(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """What sets this face apart from the mean face is exaggerated; flat ink, oil or line-and-wash surface."""
    points, matrix = to_face_frame(landmarks)
    target = to_pixels(exaggerate(points, generator.uniform(0.07, 0.12), generator), matrix)
    warped, moved = warp_face(image, landmarks, target)
    picture, words = paint_surface(warped, moved, generator)
    return Rendering(picture, moved, ("caricature", *words))


def render_elongated(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """A long face and neck, almond eyes often without pupils, small mouth; earth colours in dry oil paint."""
    points, matrix = to_face_frame(landmarks)
    warped, moved = warp_face(image, landmarks, to_pixels(elongate(points, generator), matrix))
    scale, shape = resolution_scale(image), (image.shape[0], image.shape[1])
    skin, wall = choose_colour(_EARTHS, generator), choose_colour(_WALLS, generator)
    picture = _earthen_colours(warped, moved, as_array(skin), as_array(wall), generator)
    picture = _draw_long_face(picture, warped, moved, as_array(skin), generator)
    grain = brush_grain(shape, form_angles(warped, moved, 3 * scale), generator, 6 * scale, 1.2 * scale)
    picture = picture * (1 + generator.uniform(0.1, 0.2) * grain[..., None])
    words = ("elongated portrait", f"{skin.name} skin", f"{wall.name} wall")
    return Rendering(np.clip(picture, 0, 1).astype(np.float32), moved, words)


def render_big_eyed(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """Huge shining eyes over a small nose, mouth and chin; flat cel colours and clean lines."""
    points, matrix = to_face_frame(landmarks)
    warped, moved = warp_face(image, landmarks, to_pixels(enlarge_eyes(points, generator), matrix))
    scale, shape = resolution_scale(image), (image.shape[0], image.shape[1])
    ground, iris = (
        choose_colour(VIVID_COLOURS + LIGHT_PAPERS, generator),
        choose_colour(VIVID_COLOURS, generator),
    )
    figure = cut_out_figure(warped, moved, 0.6 * scale)
    picture, hair = _cel_colours(warped, moved, figure, generator)
    picture = mix(picture, np.asarray([0.95, 0.45, 0.45], np.float32), 0.35 * _cheeks(moved, shape))
    fade = np.linspace(1.06, 0.88, shape[0], dtype=np.float32)[:, None, None]
    picture = mix(np.clip(as_array(ground) * fade, 0, 1), picture, figure)
    ink = as_array(ground) * 0.12 + 0.04
    lines = figure * (1 - outlines(warped, 1.1 * scale, 12)) * (1 - _inner_face(moved, shape, scale))
    lines = np.maximum(lines, landmark_lines(moved, JAW_LINE, shape, 0.9 * scale))
    lines = np.maximum(lines, landmark_lines(moved, (*MOUTH_LINE, (64, 55, 69)), shape, 0.9 * scale))
    lines = np.maximum(lines, landmark_lines(moved, _THIN_BROWS, shape, 1.4 * scale))
    lip = mix(picture, np.asarray([0.85, 0.35, 0.4], np.float32), 0.7 * landmark_shapes(moved, (MOUTH,), shape))
    picture = mix(lip, ink, lines * (1 - eye_mask(moved, shape)))
    picture = draw_eyes(
        picture,
        moved,
        as_array(iris),
        np.full(3, 0.98, np.float32),
        ink,
        1.6 * scale,
        generator.uniform(2.2, 2.8),
    )
    words = ("big-eyed cartoon", f"{iris.name} eyes", *hair, f"{ground.name} background")
    return Rendering(np.clip(picture, 0, 1), moved, words)


def _earthen_colours(
    image: Array,
    landmarks: Array,
    skin: Array,
    wall: Array,
    generator: np.random.Generator,
) -> Array:
    """Skin, hair and clothes, and a two-part wall behind them, in their ramps of earth colours (H,W,3)."""
    scale, shape = resolution_scale(image), (image.shape[0], image.shape[1])
    smooth = anisotropic_kuwahara(image, 2.6 * scale)
    level = stretch(luminance(smooth), 0.02, 0.98)
    clothing = 0.25 + 0.3 * as_array(choose_colour(_WALLS, generator))
    flesh = colour_ramp(level, [0.3 * skin, 0.78 * skin, skin, 0.65 * skin + 0.35])
    dark = colour_ramp(level, [_DARK_BROWN, 0.5 * clothing, clothing])
    figure = cut_out_figure(image, landmarks, 0.9 * scale)
    picture = mix(dark, flesh, blur(skin_mask(image, landmarks), 0.6 * scale))
    edge = generator.uniform(0.15, 0.85) * shape[1]
    columns = np.arange(shape[1], dtype=np.float32)[None, :] + np.zeros((shape[0], 1), np.float32)
    other = as_array(choose_colour(_WALLS, generator))
    panel = mix(
        np.broadcast_to(wall, image.shape),
        0.6 * wall + 0.4 * other,
        smoothstep(columns, edge - scale, edge + scale),
    )
    panel = panel * (0.75 + 0.5 * fractal_noise(shape, generator, 18 * scale, 4))[..., None]
    return mix(panel.astype(np.float32), picture, figure)


def _draw_long_face(
    picture: Array,
    image: Array,
    landmarks: Array,
    skin: Array,
    generator: np.random.Generator,
) -> Array:
    """Eyes, brow-to-nose line, mouth and contour of an elongated face, in dark brown on `picture` (H,W,3)."""
    scale, shape = resolution_scale(image), (image.shape[0], image.shape[1])
    picture = mix(picture, skin * (0.85, 0.5, 0.42), 0.35 * _cheeks(landmarks, shape))
    lines = 0.7 * (1 - outlines(image, 1.1 * scale, 10))
    lines = np.maximum(lines, 0.8 * landmark_lines(landmarks, JAW_LINE, shape, 1.1 * scale))
    lines = np.maximum(lines, 0.75 * landmark_lines(landmarks, _LONG_NOSE, shape, 1.0 * scale))
    lines = np.maximum(lines, 0.9 * landmark_lines(landmarks, _THIN_BROWS, shape, 1.2 * scale))
    picture = mix(picture, _DARK_BROWN, lines * (1 - eye_mask(landmarks, shape)))
    picture = mix(picture, np.asarray([0.62, 0.2, 0.16], np.float32), landmark_shapes(landmarks, (MOUTH,), shape))
    picture = mix(picture, _DARK_BROWN, landmark_lines(landmarks, MOUTH_LINE, shape, 0.8 * scale))
    if generator.random() < 0.6:
        blank = as_array(choose_colour(_WALLS[:2] + _WALLS[4:], generator)) * 0.8
        picture = mix(picture, blank, landmark_shapes(landmarks, (LEFT_EYE, RIGHT_EYE), shape))
        return draw_eyes(picture, landmarks, blank, blank, _DARK_BROWN, 1.1 * scale, 0.0)
    white = np.asarray([0.75, 0.76, 0.72], np.float32)
    return draw_eyes(picture, landmarks, np.asarray([0.25, 0.28, 0.28], np.float32), white, _DARK_BROWN, 1.1 * scale)


def _cel_colours(
    image: Array,
    landmarks: Array,
    figure: Array,
    generator: np.random.Generator,
) -> tuple[Array, tuple[str, ...]]:
    """Skin and hair in two tones each, clothes in flat colours (H,W,3); and the words for the hair."""
    scale, shape = resolution_scale(image), (image.shape[0], image.shape[1])
    median = median_colour(image, landmarks, _CHEEK_POINTS)
    tint = np.clip(0.45 * median + 0.6 * median.max() * np.asarray([1.0, 0.83, 0.72], np.float32) + 0.05, 0, 1)
    hair = figure * (1 - landmark_shapes(landmarks, (FACE_OUTLINE, *_EARS, _THROAT), shape))
    hair = hair * smoothstep(np.arange(shape[0], dtype=np.float32)[:, None], *landmarks[[129, 93], 1])
    flesh = skin_mask(image, landmarks)
    is_low = smoothstep(np.arange(shape[0], dtype=np.float32)[:, None], *landmarks[[0, 64], 1])
    hair = hair * (1 - flesh * is_low)
    skin = smoothstep(blur(flesh * (1 - hair), 0.8 * scale), 0.4, 0.6)
    gray = blur(luminance(image), 1.5 * scale)
    light = blur(gray, 2 * scale) / max(float(luminance(median)), 0.05)
    flats = flatten_colours(image, int(generator.integers(5, 8)), generator.uniform(1.4, 2.2), generator)
    own = (image * hair[..., None]).sum((0, 1)) / (hair.sum() + 1e-3)
    words: tuple[str, ...] = ()
    if generator.random() < 0.5:
        colour = choose_colour(VIVID_COLOURS, generator)
        own, words = as_array(colour), (f"{colour.name} hair",)
    shine = smoothstep(stretch(gray - blur(gray, 8 * scale), 0.1, 0.95), 0.55, 0.65)
    locks = mix(0.72 * own, np.clip(1.1 * own + 0.05, 0, 1), shine)
    picture = mix(flats, locks.astype(np.float32), smoothstep(hair, 0.3, 0.7))
    cel = mix(tint * np.asarray([0.86, 0.72, 0.74], np.float32), tint, smoothstep(light, 0.78, 0.84))
    return mix(picture, cel, skin), words


def _inner_face(landmarks: Array, shape: tuple[int, int], scale: float) -> Array:
    """(H,W) in [0,1]: the face but for its border, where a calm style leaves out fine lines."""
    centre = landmarks[55]
    shrunk = (centre + 0.86 * (landmarks - centre)).astype(np.float32)
    return region_mask("face", shrunk, shape, 1.5 * scale)


def _cheeks(landmarks: Array, shape: tuple[int, int]) -> Array:
    """(H,W) in [0,1]: two soft discs on the cheeks."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    width = 0.22 * float(np.linalg.norm(landmarks[1] - landmarks[0]))
    discs = [np.exp(-((x - landmarks[i, 0]) ** 2 + (y - landmarks[i, 1]) ** 2) / (2 * width**2)) for i in (166, 169)]
    return np.asarray(np.clip(discs[0] + discs[1], 0, 1), dtype=np.float32)


RENDERERS = (
    Renderer("caricature", render_caricature, ("caricature",), is_deforming=True),
    Renderer("elongated", render_elongated, ("elongated portrait",), is_deforming=True),
    Renderer("big_eyed", render_big_eyed, ("big-eyed cartoon",), is_deforming=True),
    Renderer("cubist", render_cubist, ("cubist painting",), is_deforming=True),
    Renderer(
        "munch_swirl",
        render_munch_swirl,
        ("swirling expressionist painting",),
        is_deforming=True,
        is_held_out=True,
    ),
)
