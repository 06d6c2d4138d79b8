"""Flat styles: cartoon, duotone poster, pixel art."""

import numpy as np

from acfun.synthetic.renderers.base import Array, Rendering
from acfun.synthetic.renderers.colours import (
    DARK_PAPERS,
    LIGHT_PAPERS,
    VIVID_COLOURS,
    NamedColour,
    as_array,
    choose_colour,
    extract_palette,
    from_lab,
    nearest_in_palette,
    to_lab,
)
from acfun.synthetic.renderers.features import cut_out_figure, ink_features
from acfun.synthetic.renderers.tools import (
    blur,
    luminance,
    mix,
    region_mask,
    resize,
    resolution_scale,
    smoothstep,
    stretch,
)

_BAYER = np.asarray([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]], np.float32) / 16 - 0.47
_MIDTONES = tuple(colour for colour in VIVID_COLOURS if colour.name not in ("navy", "yellow"))
_DARK_TONES = (
    *DARK_PAPERS,
    *(colour for colour in VIVID_COLOURS if colour.name in ("navy", "violet", "blue", "brown")),
)
_LIGHT_TONES = (
    *LIGHT_PAPERS,
    *(colour for colour in VIVID_COLOURS if colour.name in ("yellow", "pink", "lime")),
)
_SCREEN_PALETTES = {
    "green handheld palette": ("0f380f", "306230", "8bac0f", "c4d82f"),
    "black and white palette": ("101010", "f4f4f0"),
    "grey palette": ("141414", "5a5a5a", "a5a5a5", "f0f0f0"),
    "sunset palette": ("2b0f54", "ab1f65", "ff4f69", "ff8142", "ffda45"),
    "ice palette": ("0d2b45", "203c76", "5b8fc7", "a8d3e8", "f2f8f5"),
    "amber palette": ("1c0f05", "6b3a0a", "c87914", "ffd27a"),
}


def render_cartoon(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """A few flat colours by region and clean dark outlines, often before a flat background."""
    figure = cut_out_figure(image, landmarks, 0.7 * resolution_scale(image))
    words: tuple[str, ...] = ("flat cartoon",)
    picture = flatten_colours(image, int(generator.integers(6, 10)), generator.uniform(1.2, 1.6), generator)
    if generator.random() < 0.6:
        ground = choose_colour(VIVID_COLOURS + LIGHT_PAPERS, generator)
        picture = mix(as_array(ground), picture, figure)
        words = (*words, f"{ground.name} background")
    return Rendering(ink_features(image, picture, landmarks, figure, generator), landmarks, words)


def flatten_colours(image: Array, number: int, saturation: float, generator: np.random.Generator) -> Array:
    """(H,W,3) reduced to `number` flat colours with clean outlines; chroma is multiplied by `saturation`."""
    scale = resolution_scale(image)
    smooth = blur(image, 1.0 * scale)
    palette = extract_palette(smooth, number, generator)
    chosen = nearest_in_palette(smooth, palette)
    # The fourth power of the blurred shares rounds the regions off and keeps a soft edge of about a pixel.
    shares = np.stack([blur((chosen == i).astype(np.float32), 0.9 * scale) ** 4 for i in range(number)], axis=-1)
    lab = to_lab(palette[None])[0]
    lab[:, 1:] *= saturation
    lab[:, 0] = 53 + (lab[:, 0] - 50) * 1.1
    return np.asarray(shares @ from_lab(lab[None])[0] / shares.sum(-1, keepdims=True), dtype=np.float32)


def render_duotone(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """Two to four flat tones of named colours, cut from the light and shade of the face."""
    scale = resolution_scale(image)
    tones = _tone_ramp(int(generator.integers(2, 5)), generator)
    gray = blur(luminance(image), generator.uniform(0.7, 1.2) * scale)
    local = 0.5 + 1.6 * (gray - blur(gray, 9 * scale))
    level = stretch((0.65 * gray + 0.35 * local).astype(np.float32), 0.03, 0.97)
    face = level[region_mask("face", landmarks, gray.shape, 0) > 0.5]
    quantiles = np.linspace(0, 1, len(tones) + 1)[1:-1] ** 1.3 * 0.9
    picture = np.broadcast_to(as_array(tones[0]), image.shape)
    for tone, quantile in zip(tones[1:], quantiles, strict=True):
        threshold = float(np.quantile(face, quantile)) if face.size else float(quantile)
        picture = mix(picture, as_array(tone), smoothstep(level, threshold - 0.03, threshold + 0.03))
    if generator.random() < 0.4:
        ground = tones[int(generator.integers(len(tones)))]
        picture = mix(as_array(ground), picture, cut_out_figure(image, landmarks, 0.6 * scale))
    names = list(dict.fromkeys(tone.name for tone in tones))
    words = " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
    return Rendering(np.clip(picture, 0, 1).astype(np.float32), landmarks, ("duotone poster", words))


def _tone_ramp(number: int, generator: np.random.Generator) -> list[NamedColour]:
    """`number` named colours from dark to light, each clearly lighter than the one before."""
    while True:
        tones = [choose_colour(_DARK_TONES, generator), choose_colour(_LIGHT_TONES, generator)]
        tones[1:1] = [choose_colour(_MIDTONES, generator) for _ in range(number - 2)]
        lightness = to_lab(np.asarray([[tone.rgb for tone in tones]], np.float32))[0, :, 0]
        if np.all(np.diff(lightness) > 12):
            return tones


def render_pixel_art(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """Coarse square pixels of a small palette, sometimes dithered."""
    scale = resolution_scale(image)
    block = generator.uniform(2.6, 3.7) * scale
    height, width = (round(length / block) for length in image.shape[:2])
    sharp = image + generator.uniform(0.5, 0.9) * (image - blur(image, 2.5 * scale))
    small = np.clip(0.5 + 1.2 * (resize(sharp.astype(np.float32), (height, width)) - 0.48), 0, 1).astype(np.float32)
    number = int(generator.choice([8, 12, 16, 24]))
    palette, word = _pixel_palette(small, number, generator)
    if generator.random() < 0.4:
        rows, columns = np.indices((height, width)) % 4
        small = np.clip(small + _BAYER[rows, columns, None] * generator.uniform(0.08, 0.16), 0, 1).astype(np.float32)
    if len(palette) <= 5:
        level = stretch(luminance(small), 0.02, 0.98)
        chosen = np.clip(np.round(level * (len(palette) - 1)), 0, len(palette) - 1).astype(int)
    else:
        chosen = nearest_in_palette(small, palette)
    rows = (np.arange(image.shape[0]) * height) // image.shape[0]
    columns = (np.arange(image.shape[1]) * width) // image.shape[1]
    return Rendering(palette[chosen][rows][:, columns].astype(np.float32), landmarks, ("pixel art", word))


def _pixel_palette(small: Array, number: int, generator: np.random.Generator) -> tuple[Array, str]:
    """The picture's own `number` colours, made vivid, or a fixed palette from dark to light; and its name."""
    if generator.random() < 0.3:
        names = list(_SCREEN_PALETTES)
        name = names[int(generator.integers(len(names)))]
        codes = [[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in _SCREEN_PALETTES[name]]
        return np.asarray(codes, np.float32) / np.float32(255), name
    lab = to_lab(extract_palette(small, number, generator)[None])
    lab[..., 1:] *= generator.uniform(1.1, 1.6)
    return from_lab(lab)[0], f"{number} colours"
