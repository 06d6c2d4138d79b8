"""Building blocks of the renderers: tones, noise, orientation, flow, lines, light and regions of the face.

Every length is in pixels; renderers multiply lengths chosen for a width of 128 by `resolution_scale`.
"""

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.draw import polygon

from acfun.images import LUMA_WEIGHTS
from acfun.synthetic.renderers.base import Array

FACE_OUTLINE = (*range(134, 145), *range(133, 124, -1))
HEAD_OUTLINE = tuple(range(145, 158))
LEFT_EYE = (18, 19, 20, 21, 22, 30, 29, 28)
RIGHT_EYE = (23, 24, 25, 26, 27, 33, 32, 31)
LEFT_BROW = (71, 72, 73, 74, 75, 76, 84, 83)
RIGHT_BROW = (77, 78, 79, 80, 81, 82, 86, 85)
MOUTH = (87, 88, 89, 90, 91, 92, 93, 108, 107, 106, 105, 104)
NOSE = (50, 52, 54, 61, 62, 63, 64, 55, 69, 68, 67, 66, 60, 58, 56)
PUPILS = (0, 1)


def resolution_scale(image: Array) -> float:
    """Pixels per 1/128 of the picture's width."""
    return float(image.shape[1]) / 128


def luminance(image: Array) -> Array:
    """(H,W,3) in [0,1] → (H,W) in [0,1], Rec. 601 weights."""
    return np.asarray(image @ np.array(LUMA_WEIGHTS, dtype=np.float32))


def blur(image: Array, sigma: float) -> Array:
    """Gaussian blur of (H,W) or (H,W,C) with `sigma` in pixels; channels stay apart."""
    sigmas = (sigma, sigma) if image.ndim == 2 else (sigma, sigma, 0)
    return np.asarray(ndimage.gaussian_filter(image, sigmas, truncate=3.0), dtype=np.float32)


def resize(image: Array, size: tuple[int, int], resample: Image.Resampling = Image.Resampling.BICUBIC) -> Array:
    """Resample (H,W) or (H,W,C) to `size` = (height, width), antialiased where it shrinks."""
    if image.ndim == 3:
        return np.stack([resize(image[..., c], size, resample) for c in range(image.shape[2])], axis=-1)
    return np.asarray(Image.fromarray(np.ascontiguousarray(image, np.float32)).resize(size[::-1], resample))


def stretch(gray: Array, low: float = 0.02, high: float = 0.98, gamma: float = 1.0) -> Array:
    """Map the `low` and `high` quantiles of `gray` to 0 and 1, clip, and apply `gamma` (> 1 darkens)."""
    bottom, top = np.quantile(gray, (low, high))
    return np.asarray(np.clip((gray - bottom) / max(float(top - bottom), 0.05), 0, 1) ** gamma, dtype=np.float32)


def smoothstep(value: Array, low: float, high: float) -> Array:
    """Smooth rise from 0 at `low` to 1 at `high`."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def mix(first: Array, second: Array, weight: Array) -> Array:
    """`first` where `weight` is 0, `second` where it is 1; a (H,W) weight is broadcast over the channels."""
    if (weight.ndim == 2 and max(first.ndim, second.ndim) == 3) or (weight.ndim == 2 and first.ndim == 1):
        weight = weight[..., None]
    return np.asarray(first + (second - first) * weight, dtype=np.float32)


def fractal_noise(
    shape: tuple[int, int],
    generator: np.random.Generator,
    cell: float,
    octaves: int = 3,
    persistence: float = 0.5,
    aspect: float = 1.0,
) -> Array:
    """(H,W) smooth noise in [0,1] with mean about 0.5; its coarsest grain is `cell` pixels
    high and `aspect` times as wide."""
    total, amplitude, noise = 0.0, 1.0, np.zeros(shape, np.float32)
    for octave in range(octaves):
        grain = cell / 2**octave
        if grain < 1 and octave > 0:
            break
        rows, columns = int(shape[0] / grain) + 2, int(shape[1] / (grain * aspect)) + 2
        coarse = generator.random((rows, columns), dtype=np.float32)
        noise += amplitude * resize(coarse, shape)
        total, amplitude = total + amplitude, amplitude * persistence
    return np.asarray(np.clip(noise / total, 0, 1))


def paper_texture(shape: tuple[int, int], generator: np.random.Generator, scale: float) -> Array:
    """(H,W) height of the paper's tooth, mean 0.5; its fibres measure `scale` to 5 `scale` pixels."""
    fine = generator.normal(0, 1, shape).astype(np.float32)
    tooth = blur(fine, 0.6 * scale)
    coarse = fractal_noise(shape, generator, 5 * scale, 2) - 0.5
    return np.asarray(np.clip(0.5 + 0.17 * tooth / (tooth.std() + 1e-6) + 0.25 * coarse, 0, 1), dtype=np.float32)


def structure_angles(gray: Array, sigma: float) -> tuple[Array, Array]:
    """Direction along the edges of `gray` and how certain it is.

    Returns the angle (H,W) in radians, x right and y down, and the anisotropy (H,W) in [0,1]. `sigma` is the
    width in pixels over which the structure tensor is smoothed.
    """
    gx, gy = ndimage.sobel(gray, axis=1), ndimage.sobel(gray, axis=0)
    xx, yy, xy = blur(gx * gx, sigma), blur(gy * gy, sigma), blur(gx * gy, sigma)
    spread = np.sqrt((xx - yy) ** 2 + 4 * xy**2)
    angle = 0.5 * np.arctan2(2 * xy, xx - yy) + np.pi / 2
    return np.asarray(angle, dtype=np.float32), np.asarray(spread / (xx + yy + 1e-4), dtype=np.float32)


def form_angles(image: Array, landmarks: Array, sigma: float, follow_edges: float = 1.0) -> Array:
    """Stroke direction (H,W) in radians along the edges and, where there are none, round the head.

    Round the head means the tangent of ellipses about the face's centre; both directions are mixed as doubled
    angles so that opposite directions agree. `sigma` in pixels.
    """
    angle, certainty = structure_angles(luminance(image), sigma)
    slope = blur(ndimage.gaussian_gradient_magnitude(luminance(image), sigma / 2), sigma)
    edge_weight = follow_edges * certainty * stretch(slope, 0.1, 0.9)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    centre = landmarks[[*PUPILS, 129]].mean(0)
    round_angle = np.arctan2(columns - centre[0], -(rows - centre[1]) / 1.4)
    x = edge_weight * np.cos(2 * angle) + 0.25 * np.cos(2 * round_angle)
    y = edge_weight * np.sin(2 * angle) + 0.25 * np.sin(2 * round_angle)
    return np.asarray(0.5 * np.arctan2(blur(y.astype(np.float32), sigma), blur(x.astype(np.float32), sigma)))


def flow_blur(image: Array, angles: Array, length: float) -> Array:
    """Line integral convolution: average (H,W) or (H,W,C) over `length` pixels along `angles` (H,W).

    Method: Cabral and Leedom 1993, with nearest samples and at most eight steps to each side.
    """
    height, width = angles.shape
    cos, sin = np.cos(angles), np.sin(angles)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    total, steps = image.astype(np.float32), int(np.clip(round(length / 2), 1, 8))
    stride = length / 2 / steps
    for sign in (1.0, -1.0):
        x, y = columns.copy(), rows.copy()
        dx, dy = sign * cos, sign * sin
        for _ in range(steps):
            x, y = np.clip(x + stride * dx, 0, width - 1), np.clip(y + stride * dy, 0, height - 1)
            flat = (y + 0.5).astype(np.intp) * width + (x + 0.5).astype(np.intp)
            total = total + image.reshape(height * width, -1)[flat].reshape(image.shape)
            step_x, step_y = cos.ravel()[flat], sin.ravel()[flat]
            # An angle has no sense of direction; keep walking the way the path already goes.
            turn = np.where(step_x * dx + step_y * dy < 0, -1.0, 1.0).astype(np.float32)
            dx, dy = step_x * turn, step_y * turn
    return np.asarray(total / (2 * steps + 1), dtype=np.float32)


def edge_lines(
    gray: Array, sigma: float, strength: float = 20.0, threshold: float = 0.0, softness: float = 0.1
) -> Array:
    """(H,W) extended difference of Gaussians: 1 on paper, 0 on a line.

    Notation: strength → p, threshold → ε, 1/softness → φ of Winnemöller, Kyprianidis and
    Olsen 2012. `sigma` in pixels.
    """
    narrow, wide = blur(gray, sigma), blur(gray, 1.6 * sigma)
    response = strength * (narrow - wide) + threshold
    return np.asarray(np.clip(1 + np.tanh(np.minimum(response, 0) / softness), 0, 1), dtype=np.float32)


def anisotropic_kuwahara(image: Array, radius: float, sharpness: float = 4.0) -> Array:
    """Smooth (H,W,C) within areas and sharpen their borders, as flat oil paint does; `radius` in pixels.

    After Kyprianidis, Kang and Döllner 2009, with each of the eight sectors of the ellipse replaced by a
    Gaussian spot at its middle, so that two blurs and eight gathers suffice. The ellipse lies along the
    structure tensor.
    """
    height, width = image.shape[:2]
    angles, anisotropy = structure_angles(luminance(image), 0.7 * radius)
    spot, spot_square = blur(image, 0.35 * radius), blur(image * image, 0.35 * radius)
    variance = np.sqrt(np.maximum(spot_square - spot * spot, 0).sum(-1))
    flat_spot, flat_variance = spot.reshape(height * width, -1), variance.ravel()
    long_axis, short_axis = 0.7 * radius * (1 + anisotropy), 0.7 * radius / (1 + anisotropy)
    cos, sin = np.cos(angles), np.sin(angles)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    total, weights = np.zeros_like(flat_spot), np.zeros((height * width, 1), np.float32)
    for direction in np.arange(8) * np.pi / 4:
        u, v = long_axis * np.cos(direction), short_axis * np.sin(direction)
        x = np.clip(columns + u * cos - v * sin + 0.5, 0, width - 1).astype(np.intp)
        y = np.clip(rows + u * sin + v * cos + 0.5, 0, height - 1).astype(np.intp)
        flat = (y * width + x).ravel()
        weight = (1 / (1 + 30 * flat_variance[flat]) ** sharpness)[:, None]
        total, weights = total + weight * flat_spot[flat], weights + weight
    return np.asarray((total / weights).reshape(image.shape), dtype=np.float32)


def relief_light(height: Array, strength: float, angle: float) -> Array:
    """(H,W) factor about 1 by which light grazing along `angle` (radians) brightens or darkens a relief."""
    gy, gx = np.gradient(height)
    slope = (gx * np.cos(angle) + gy * np.sin(angle)) * strength
    return np.asarray(1 + slope / np.sqrt(1 + slope**2 + (strength * (gx - gy)) ** 2), dtype=np.float32)


def polygon_mask(points: Array, shape: tuple[int, int], softness: float = 1.0) -> Array:
    """(H,W) in [0,1]: 1 inside the polygon of (x, y) `points`, with an edge of `softness` pixels."""
    mask = np.zeros(shape, np.float32)
    rows, columns = polygon(points[:, 1], points[:, 0], shape)
    mask[rows, columns] = 1
    return blur(mask, softness) if softness > 0 else mask


def region_mask(name: str, landmarks: Array, shape: tuple[int, int], softness: float = 1.0) -> Array:
    """(H,W) soft mask of the region `name`: a key of `REGIONS`, or "figure" (head, neck and shoulders)."""
    if name == "figure":
        return polygon_mask(figure_outline(landmarks, shape), shape, softness)
    masks = [polygon_mask(landmarks[list(outline)], shape, softness) for outline in REGIONS[name]]
    return np.asarray(np.clip(np.sum(masks, axis=0), 0, 1), dtype=np.float32)


REGIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "face": (FACE_OUTLINE,),
    "head": (HEAD_OUTLINE,),
    "eyes": (LEFT_EYE, RIGHT_EYE),
    "brows": (LEFT_BROW, RIGHT_BROW),
    "mouth": (MOUTH,),
    "nose": (NOSE,),
}


def figure_outline(landmarks: Array, shape: tuple[int, int]) -> Array:
    """(N,2) outline of head, neck and shoulders; these, lacking landmarks, slope to the corners."""
    height, width = shape
    left, right = landmarks[145], landmarks[157]
    chin_y, head_width = landmarks[129, 1], right[0] - left[0]
    shoulder_y = min(chin_y + 0.35 * head_width, height + 0.1 * head_width)
    shoulders = [
        [right[0] + 0.02 * head_width, chin_y + 0.1 * head_width],
        [right[0] + 0.75 * head_width, shoulder_y + 0.1 * head_width],
        [width + head_width, 2 * height],
        [-head_width, 2 * height],
        [left[0] - 0.75 * head_width, shoulder_y + 0.1 * head_width],
        [left[0] - 0.02 * head_width, chin_y + 0.1 * head_width],
    ]
    return np.concatenate([landmarks[list(HEAD_OUTLINE)], np.asarray(shoulders)]).astype(np.float32)
