"""What the painter's renderers share: colour moods, ramps and grounds behind the figure."""

import numpy as np

from acfun.synthetic.renderers import tools
from acfun.synthetic.renderers.base import Array
from acfun.synthetic.renderers.colours import NamedColour, as_array, from_lab, to_lab
from acfun.synthetic.renderers.figure import figure_mask

GRADES = {
    "natural colours": (1.25, 0.0, 2.0),
    "warm tones": (1.2, 6.0, 16.0),
    "cool tones": (1.0, -5.0, -12.0),
    "muted tones": (0.7, 0.0, 4.0),
    "rich colours": (1.5, 2.0, 4.0),
    "golden tones": (1.0, 4.0, 28.0),
    "green tones": (0.9, -12.0, 8.0),
}
"""Chroma factor and shifts of a and b in Lab of each colour mood."""


def choose_grade(image: Array, generator: np.random.Generator) -> tuple[Array, str]:
    """Give `image` the contrast of a painting and a colour mood drawn at random; also the mood's name."""
    name = list(GRADES)[int(generator.integers(len(GRADES)))]
    chroma, shift_a, shift_b = GRADES[name]
    lab = to_lab(image)
    light = tools.stretch(lab[..., 0], 0.01, 0.99, generator.uniform(0.85, 1.3))
    middle = (4 * light * (1 - light))[..., None]
    lab[..., 0] = 6 + 88 * light
    lab[..., 1:] = lab[..., 1:] * chroma + middle * np.array([shift_a, shift_b], dtype=np.float32)
    return from_lab(lab), name


def paint_ground(image: Array, landmarks: Array, colour: NamedColour, generator: np.random.Generator) -> Array:
    """Replace what lies behind the figure by a mottled `colour` that is lighter on one side of the head."""
    shape, scale = (image.shape[0], image.shape[1]), tools.resolution_scale(image)
    columns = np.linspace(-1, 1, shape[1], dtype=np.float32)[None]
    light = 1 + 0.25 * generator.choice([-1.0, 1.0]) * columns
    light = light + 0.7 * (tools.fractal_noise(shape, generator, 30 * scale, 3) - 0.5)
    ground = np.clip(as_array(colour) * light[..., None], 0, 1)
    return tools.mix(ground, image, figure_mask(image, landmarks))


def distance_to_border(shape: tuple[int, int]) -> Array:
    """(H,W) distance in pixels to the nearest border of the picture."""
    rows, columns = (np.minimum(np.arange(n), np.arange(n)[::-1]).astype(np.float32) for n in shape)
    return np.minimum(rows[:, None], columns[None])


def colour_ramp(value: Array, colours: list[Array]) -> Array:
    """(H,W) in [0,1] → (H,W,3): colours evenly spaced along the value, linear between."""
    at = np.linspace(0, 1, len(colours))
    channels = np.stack(colours)
    return np.stack([np.interp(value, at, channels[:, c]) for c in range(3)], -1).astype(np.float32)
