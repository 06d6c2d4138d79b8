"""Halftone pop-art: four-colour dot screens, or flat colours under one screen of dots, with bold outlines."""

import numpy as np

from acfun.synthetic.renderers.base import Array, Rendering
from acfun.synthetic.renderers.colours import (
    LIGHT_PAPERS,
    VIVID_COLOURS,
    NamedColour,
    as_array,
    choose_colour,
    choose_colours,
)
from acfun.synthetic.renderers.features import cut_out_figure, outlines
from acfun.synthetic.renderers.tools import (
    blur,
    luminance,
    mix,
    region_mask,
    resolution_scale,
    smoothstep,
    stretch,
)

_SCREEN_ANGLES = (15, 75, 0, 45)
_PROCESS_INKS = ((0.0, 0.62, 0.88), (0.9, 0.08, 0.5), (1.0, 0.89, 0.05), (0.08, 0.07, 0.08))
_POP_COLOURS = tuple(colour for colour in VIVID_COLOURS if colour.name not in ("navy", "brown"))
_POP_SKINS = (
    NamedColour("peach", (0.99, 0.82, 0.68)),
    NamedColour("pink", (0.98, 0.73, 0.76)),
    NamedColour("yellow", (0.99, 0.85, 0.36)),
    NamedColour("white", (0.98, 0.97, 0.95)),
)


def render_halftone(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """Pop-art print: four-colour dot screens, or flat colours with one screen of dots; bold outlines."""
    scale = resolution_scale(image)
    pitch = generator.uniform(2.9, 3.9) * scale
    if generator.random() < 0.5:
        picture, words = _four_colour_print(image, pitch, generator), ("coloured dots",)
    else:
        picture, words = _dotted_flats(image, landmarks, pitch, generator), ("flat colours",)
    outline = 1 - outlines(image, scale * generator.uniform(0.9, 1.3), generator.uniform(16, 24))
    picture = mix(picture, np.full(3, 0.04, np.float32), outline)
    return Rendering(np.clip(picture, 0, 1), landmarks, ("halftone pop-art", *words))


def _screen(shape: tuple[int, int], pitch: float, degrees: float) -> Array:
    """(H,W) in [0,1]: threshold pattern of round dots `pitch` pixels apart on a grid turned by `degrees`."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) * np.float32(2 * np.pi / pitch)
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    pattern = 0.5 + 0.25 * (np.cos(x * cosine + y * sine) + np.cos(y * cosine - x * sine))
    return np.asarray(pattern, dtype=np.float32)


def _print_dots(amount: Array, screen: Array, pitch: float) -> Array:
    """(H,W) coverage of ink where the share of paper to be covered is `amount` (H,W)."""
    softness = 0.9 / pitch
    return smoothstep((amount + screen - 1).astype(np.float32), -softness, softness) * (amount > 0.02)


def _four_colour_print(image: Array, pitch: float, generator: np.random.Generator) -> Array:
    gray = luminance(image)[..., None]
    vivid = np.clip(gray + generator.uniform(1.3, 1.9) * (image - gray), 0, 1)
    vivid = np.clip(0.5 + 1.25 * (blur(vivid.astype(np.float32), 0.25 * pitch) - 0.42), 0, 1)
    inks = 1 - vivid
    black = inks.min(-1) ** 2 * 0.8
    amounts = [*np.moveaxis((inks - black[..., None]) / (1.001 - black[..., None]), -1, 0), black]

    picture = np.broadcast_to(as_array(choose_colour(LIGHT_PAPERS[:3], generator, 0.01)), image.shape)
    turn = generator.uniform(0, 90)
    for amount, colour, angle in zip(amounts, _PROCESS_INKS, _SCREEN_ANGLES, strict=True):
        coverage = _print_dots(amount.astype(np.float32), _screen(gray.shape[:2], pitch, angle + turn), pitch)
        picture = picture * (1 - coverage[..., None] * (1 - np.asarray(colour, np.float32)))
    return picture.astype(np.float32)


def _dotted_flats(image: Array, landmarks: Array, pitch: float, generator: np.random.Generator) -> Array:
    scale, shape = resolution_scale(image), image.shape[:2]
    skin, ground, shade, dots = choose_colours(_POP_COLOURS, 4, generator)
    if generator.random() < 0.6:
        skin = choose_colour(_POP_SKINS, generator)
    level = stretch(blur(luminance(image), 0.9 * scale), 0.03, 0.97)
    screen = _screen(shape, pitch, 45)
    figure = cut_out_figure(image, landmarks, 0.6 * scale)
    picture = np.broadcast_to(as_array(skin), image.shape)
    halftone = _print_dots(np.clip(1.05 - 1.25 * level, 0, 0.75).astype(np.float32), screen, pitch)
    picture = mix(picture, as_array(dots), halftone * region_mask("head", landmarks, shape, 0.6 * scale))
    picture = mix(picture, as_array(shade), smoothstep(level, 0.34, 0.28))
    picture = mix(picture, np.full(3, 0.05, np.float32), smoothstep(level, 0.15, 0.1))
    picture = mix(picture, np.full(3, 0.98, np.float32), smoothstep(level, 0.9, 0.94))
    picture = mix(picture, as_array(dots), 0.9 * region_mask("mouth", landmarks, shape, 0.4 * scale))
    back = np.broadcast_to(as_array(ground), image.shape)
    if generator.random() < 0.5:
        back = mix(back, np.full(3, 0.97, np.float32), _print_dots(np.full(shape, 0.4, np.float32), screen, pitch))
    return mix(back, picture, figure)
