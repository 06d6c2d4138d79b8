"""What the draughtsman's renderers share: tones with local contrast, grain along strokes, bare paper."""

import numpy as np

from acfun.synthetic.renderers import tools
from acfun.synthetic.renderers.base import Array
from acfun.synthetic.renderers.figure import figure_mask


def supersampling(image: Array) -> int:
    """How much finer than `image` printed lines are drawn, so that they stay smooth on small pictures."""
    return 2 if image.shape[1] < 224 else 1


def modelled_tone(image: Array, detail: float = 0.7) -> Array:
    """Luminance (H,W) in [0,1], simplified into areas, with the local contrast that a draughtsman adds."""
    scale = tools.resolution_scale(image)
    gray = tools.luminance(image)
    simple = 0.5 * gray + 0.5 * tools.luminance(tools.anisotropic_kuwahara(image, 2.2 * scale))
    contrast = np.clip(gray - tools.blur(gray, 6 * scale), -0.25, 0.12)
    return tools.stretch(simple + detail * contrast, 0.01, 0.97)


def leave_background(
    tone: Array,
    image: Array,
    landmarks: Array,
    generator: np.random.Generator,
    value: float,
    chance: float,
) -> Array:
    """With probability `chance`, fade `tone` to `value` outside the figure, along a ragged edge."""
    if generator.random() > chance:
        return tone
    shape, scale = (tone.shape[0], tone.shape[1]), tone.shape[1] / 128
    figure = tools.resize(tools.blur(figure_mask(image, landmarks), 1.2 * tools.resolution_scale(image)), shape)
    ragged = 0.5 * (tools.fractal_noise(shape, generator, 14 * scale, 2) - 0.5)
    return tools.mix(np.full_like(tone, value), tone, tools.smoothstep(figure + ragged, 0.25, 0.75))


def grain_along(angles: Array, generator: np.random.Generator, length: float, width: float) -> Array:
    """(H,W) streaks along `angles`, uniform in [0,1]; `length` and `width` in pixels."""
    noise = tools.blur(generator.normal(0, 1, angles.shape).astype(np.float32), width / 2)
    streaks = tools.flow_blur(noise, angles, length)
    deviation = tools.blur(streaks - streaks.mean(), 0.35 * width)
    return np.asarray(0.5 + 0.5 * np.tanh(1.1 * deviation / (deviation.std() + 1e-6)), dtype=np.float32)


def form_angles(image: Array, landmarks: Array, fine: int, follow_edges: float) -> Array:
    """`tools.form_angles` of `image` for a sheet `fine` times as large."""
    angles = tools.form_angles(image, landmarks, 3 * tools.resolution_scale(image), follow_edges)
    return angles.repeat(fine, axis=0).repeat(fine, axis=1)


def hatch_angles(image: Array, landmarks: Array, generator: np.random.Generator, form: float) -> Array:
    """One direction of the hand for the whole sheet, bent towards the form of the face by `form` in [0,1]."""
    shape_angles = tools.form_angles(image, landmarks, 3.5 * tools.resolution_scale(image))
    hand = generator.choice([-1.0, 1.0]) * generator.uniform(0.6, 1.1)
    x = (1 - form) * np.cos(2 * hand) + form * np.cos(2 * shape_angles)
    y = (1 - form) * np.sin(2 * hand) + form * np.sin(2 * shape_angles)
    return np.asarray(0.5 * np.arctan2(y, x), dtype=np.float32)
