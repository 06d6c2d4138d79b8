"""Named colours for captions, Lab conversion and palettes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from skimage.color import lab2rgb, rgb2lab

from acfun.synthetic.renderers.base import Array


class NamedColour(NamedTuple):
    """A colour with the word a caption uses for it; `rgb` is in [0,1]."""

    name: str
    rgb: tuple[float, float, float]


def _colour(name: str, code: str) -> NamedColour:
    red, green, blue = (int(code[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return NamedColour(name, (red, green, blue))


VIVID_COLOURS = (
    _colour("red", "d62828"),
    _colour("orange", "f3722c"),
    _colour("yellow", "f9c74f"),
    _colour("lime", "90be6d"),
    _colour("green", "2a8f4f"),
    _colour("teal", "1b9aaa"),
    _colour("blue", "2456c4"),
    _colour("navy", "14213d"),
    _colour("violet", "6a3fb5"),
    _colour("magenta", "c2268f"),
    _colour("pink", "f28ab2"),
    _colour("brown", "7a4a24"),
)
"""Saturated colours for posters, prints and unnatural painting."""

LIGHT_PAPERS = (
    _colour("white", "f8f7f3"),
    _colour("cream", "f3e9d2"),
    _colour("ivory", "f6f0e0"),
    _colour("grey", "d5d3cf"),
    _colour("tan", "d9bf98"),
    _colour("blue-grey", "c3ccd4"),
    _colour("rose", "ecd3ca"),
)
"""Papers that are lighter than any ink."""

DARK_PAPERS = (
    _colour("black", "16161a"),
    _colour("slate", "2b3138"),
    _colour("dark green", "1e332a"),
    _colour("dark blue", "19233f"),
    _colour("dark brown", "33241c"),
    _colour("maroon", "3a1720"),
)
"""Papers that are darker than any chalk."""

INKS = (
    _colour("black", "15130f"),
    _colour("sepia", "4f2f18"),
    _colour("blue", "1d3370"),
    _colour("green", "1e4532"),
    _colour("sanguine", "98381f"),
    _colour("violet", "40225c"),
)
"""Inks, pencils and crayons that are darker than any light paper."""


def choose_colour(
    colours: tuple[NamedColour, ...], generator: np.random.Generator, spread: float = 0.03
) -> NamedColour:
    """Draw one of `colours` and vary it by a normal deviate of `spread` per channel, keeping its name."""
    name, rgb = colours[int(generator.integers(len(colours)))]
    varied = np.clip(np.asarray(rgb) + generator.normal(0, spread, 3), 0, 1)
    return NamedColour(name, (float(varied[0]), float(varied[1]), float(varied[2])))


def choose_colours(
    colours: tuple[NamedColour, ...],
    number: int,
    generator: np.random.Generator,
    spread: float = 0.03,
) -> list[NamedColour]:
    """Draw `number` different colours of `colours`, each varied as in `choose_colour`."""
    order = generator.permutation(len(colours))[:number]
    return [choose_colour((colours[i],), generator, spread) for i in order]


def as_array(colour: NamedColour) -> Array:
    """The colour as a (3,) float32 array in [0,1]."""
    return np.asarray(colour.rgb, dtype=np.float32)


def to_lab(image: Array) -> Array:
    """(…,3) RGB in [0,1] → (…,3) CIE Lab, L in [0,100]."""
    return np.asarray(rgb2lab(image), dtype=np.float32)


def from_lab(lab: Array) -> Array:
    """(…,3) CIE Lab → (…,3) RGB in [0,1]; colours outside the gamut are clipped."""
    lab = np.array(lab, dtype=np.float32)
    lab[..., 0] = np.clip(lab[..., 0], 0, 100)
    # A very negative b at a low L has no XYZ; this bound is where the inverse of Lab ends.
    lab[..., 2] = np.minimum(lab[..., 2], 200 * (lab[..., 0] + 16) / 116 - 1e-3)
    return np.clip(np.asarray(lab2rgb(lab), dtype=np.float32), 0, 1)


def nearest_in_palette(image: Array, palette: Array) -> NDArray[np.intp]:
    """Index (H,W) of the colour of `palette` (N,3) nearest in Lab to each pixel of `image` (H,W,3)."""
    lab = to_lab(image)
    distances = [np.square(lab - colour).sum(-1) for colour in to_lab(palette[None])[0]]
    return np.asarray(np.argmin(distances, axis=0), dtype=np.intp)


def extract_palette(image: Array, number: int, generator: np.random.Generator) -> Array:
    """(number,3) main colours of `image`: five rounds of k-means over 500 pixels drawn at random."""
    pixels = to_lab(image).reshape(-1, 3)
    pixels = pixels[generator.integers(len(pixels), size=500)]
    order = np.argsort(pixels[:, 0])
    centres = pixels[order[np.linspace(0, len(order) - 1, number).astype(int)]]
    for _ in range(5):
        nearest = np.square(pixels[:, None] - centres[None]).sum(-1).argmin(1)
        occupied = np.unique(nearest)
        centres = centres.copy()
        centres[occupied] = [pixels[nearest == i].mean(0) for i in occupied]
    return np.asarray(from_lab(centres[None])[0])
