"""Geometry between photographs, identity crops and portrait crops; every warp is differentiable in the image.

Pixel coordinates have their origin in the centre of the upper left pixel. A transform (B,2,3) maps
pixels of the source image to pixels of the crop.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

PUPIL_INDICES = (0, 1)
FIVE_POINT_INDICES = (0, 1, 55, 87, 93)
INTER_PUPIL_FRACTION = 0.23
EYES_CENTRE = (0.5, 0.47)
SHARP_MINIFICATION = 1.5
IDENTITY_CROP_SIZE = 112
FEATHER = 0.12  # width of the border in which a portrait runs into the photograph, as a share of it
# Eyes, tip of the nose and corners of the mouth in the 112 px crop of ArcFace (Deng et al. 2019, https://arxiv.org/abs/1801.07698).
_ARCFACE_TEMPLATE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)


def five_points(landmarks: Tensor) -> Tensor:
    """Pick pupils, nose, corners of the mouth: (B,189,2) → (B,5,2), in the order of the ArcFace template."""
    return landmarks[:, list(FIVE_POINT_INDICES)]


def arcface_template(size: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """The (5,2) positions that an identity encoder expects in a crop of `size` pixels."""
    template = torch.tensor(_ARCFACE_TEMPLATE, dtype=dtype, device=device)
    return (template + 0.5) * (size / IDENTITY_CROP_SIZE) - 0.5


def similarity_transform(source: Tensor, target: Tensor) -> Tensor:
    """Least-squares similarity from `source` to `target`, differentiable in both.

    Umeyama (1991), "Least-squares estimation of transformation parameters between two point patterns".
    In two dimensions and without reflection the rotation needs no singular value decomposition: with centred
    points as complex numbers, scale · e^{i angle} = Σ conj(source) target / Σ |source|².

    Args:
        source: (B,N,2) points, N ≥ 2, not all equal.
        target: (N,2) or (B,N,2) points.

    Returns:
        (B,2,3) with target ≈ transform[:, :, :2] @ source + transform[:, :, 2].
    """
    target = target.to(source).expand_as(source)
    source_mean, target_mean = source.mean(1, keepdim=True), target.mean(1, keepdim=True)
    centred, centred_target = source - source_mean, target - target_mean
    norm = centred.square().sum((1, 2))
    cosine = (centred * centred_target).sum((1, 2)) / norm
    sine = (centred[..., 0] * centred_target[..., 1] - centred[..., 1] * centred_target[..., 0]).sum(1) / norm
    linear = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)
    shift = target_mean.transpose(1, 2) - linear @ source_mean.transpose(1, 2)
    return torch.cat([linear, shift], -1)


def invert_transform(transform: Tensor) -> Tensor:
    """Invert affine transforms (B,2,3)."""
    linear = torch.linalg.inv(transform[:, :, :2])
    return torch.cat([linear, -linear @ transform[:, :, 2:]], -1)


def compose_transforms(outer: Tensor, inner: Tensor) -> Tensor:
    """The transforms (B,2,3) that apply `inner` first and `outer` then."""
    shift = outer[:, :, :2] @ inner[:, :, 2:] + outer[:, :, 2:]
    return torch.cat([outer[:, :, :2] @ inner[:, :, :2], shift], -1)


def fit_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """A size (height, width) made smaller in proportion, where its shorter side is longer than `side`."""
    scale = min(1.0, side / min(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def scale_points(points: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Points (…,2) of an image of size `old` (height, width) where they are once it is resized to `new`."""
    ratio = points.new_tensor([new[1] / old[1], new[0] / old[0]])
    return (points + 0.5) * ratio - 0.5


def measure_pupil_distance(landmarks: Tensor) -> Tensor:
    """From pupil to pupil, pixels: (…,189,2) → (…)."""
    pupils = landmarks[..., list(PUPIL_INDICES), :]
    distance: Tensor = (pupils[..., 1, :] - pupils[..., 0, :]).norm(dim=-1)
    return distance


def transform_points(points: Tensor, transform: Tensor) -> Tensor:
    """Apply (B,2,3) transforms to (B,N,2) points."""
    return points @ transform[:, :, :2].transpose(1, 2) + transform[:, :, 2].unsqueeze(1)


def warp(image: Tensor, transform: Tensor, size: tuple[int, int], *, padding_mode: str = "reflection") -> Tensor:
    """Resample an image; where it shrinks, averages over as many samples as there are source pixels.

    Args:
        image: (B,C,H,W).
        transform: (B,2,3), pixels of `image` → pixels of the result.
        size: (height, width) of the result.
        padding_mode: of `torch.nn.functional.grid_sample`, for what lies outside the image.

    Returns:
        (B,C,*size), differentiable in `image` and `transform`.
    """
    height, width = size
    inverse = invert_transform(transform.to(image))
    minification = float(inverse[:, :, :2].detach().square().sum(1).sqrt().max())
    samples = math.ceil(minification) if minification > SHARP_MINIFICATION else 1
    columns = (torch.arange(width * samples, dtype=image.dtype, device=image.device) + 0.5) / samples - 0.5
    rows = (torch.arange(height * samples, dtype=image.dtype, device=image.device) + 0.5) / samples - 0.5
    points = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).reshape(1, -1, 2)
    source = transform_points(points, inverse)
    extent = torch.tensor([image.shape[-1], image.shape[-2]], dtype=image.dtype, device=image.device)
    grid = ((2 * source + 1) / extent - 1).reshape(len(image), height * samples, width * samples, 2)
    fine = F.grid_sample(image, grid, mode="bilinear", padding_mode=padding_mode, align_corners=False)
    return F.avg_pool2d(fine, samples) if samples > 1 else fine


def face_crop(image: Tensor, landmarks: Tensor, size: int = IDENTITY_CROP_SIZE) -> Tensor:
    """Cut the inner face to the ArcFace template, for identity encoders.

    Args:
        image: (B,3,H,W) in [-1,1].
        landmarks: (B,189,2) pixels, or (B,5,2) already in the template's order.
        size: width and height of the crop, pixels.

    Returns:
        (B,3,size,size) in [-1,1], differentiable in `image`.
    """
    points = five_points(landmarks) if landmarks.shape[1] > len(FIVE_POINT_INDICES) else landmarks
    target = arcface_template(size, dtype=points.dtype, device=points.device)
    return warp(image, similarity_transform(points, target), (size, size))


def portrait_transform(landmarks: Tensor, size: int) -> Tensor:
    """The (B,2,3) similarity that brings the pupils of (B,189,2) landmarks to the canonical framing."""
    return place_pupils(landmarks, size, INTER_PUPIL_FRACTION, EYES_CENTRE)


def place_pupils(landmarks: Tensor, size: int, fraction: float, centre: tuple[float, float]) -> Tensor:
    """The (B,2,3) similarity from (B,189,2) landmarks to a square of `size` pixels with upright pupils.

    Args:
        landmarks: pixels of the source.
        size: side of the square, pixels.
        fraction: from pupil to pupil, as a share of it.
        centre: of the eyes, (x, y) in the same shares.
    """
    half = fraction / 2
    eyes = [[centre[0] - half, centre[1]], [centre[0] + half, centre[1]]]
    target = torch.tensor(eyes, dtype=landmarks.dtype, device=landmarks.device) * size - 0.5
    return similarity_transform(landmarks[:, list(PUPIL_INDICES)], target)


def portrait_crop(image: Tensor, landmarks: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Cut head and shoulders to the canonical portrait framing.

    What lies outside the image is mirrored, never black.

    Args:
        image: (B,3,H,W) in [-1,1].
        landmarks: (B,189,2) pixels.
        size: width and height of the crop, pixels.

    Returns:
        ((B,3,size,size) in [-1,1], the (B,2,3) transform from image to crop).
    """
    transform = portrait_transform(landmarks, size)
    return warp(image, transform, (size, size)), transform


def paste_back(
    image: Tensor, stylized_crop: Tensor, transform: Tensor, feather: float = FEATHER, shown: Tensor | None = None
) -> Tensor:
    """Put a stylized portrait crop back into the photograph it was cut from.

    Towards the edge of the crop the low frequencies of the photograph take over the crop's colours before
    the two are blended, so no frame of another colour is left.

    Args:
        image: (B,3,H,W) in [-1,1], the whole photograph.
        stylized_crop: (B,3,h,w) in [-1,1].
        transform: (B,2,3) from `portrait_crop` or `portrait_transform` at the size of `stylized_crop`.
        feather: width of the blended border as a fraction of the crop, in (0, 0.5].
        shown: (B,1,h,w) in [0,1], how much is put back of each of the crop's pixels inside that border; all when None.

    Returns:
        (B,3,H,W) in [-1,1].

    Raises:
        ValueError: feather out of range.
    """
    if not 0 < feather <= 0.5:
        raise ValueError(f"feather={feather} lies outside (0, 0.5]: it is a fraction of the crop")
    height, width = stylized_crop.shape[-2:]
    original_crop = warp(image, transform, (height, width))
    mask = feather_mask(height, width, feather).to(stylized_crop).expand(len(image), 1, height, width)
    matched = stylized_crop + (1 - mask) * _low_frequencies(original_crop - stylized_crop, feather)
    mask = mask if shown is None else mask * shown.to(mask)
    top, left, box_height, box_width = _covered_box(transform, (height, width), (image.shape[-2], image.shape[-1]))
    if box_height == 0 or box_width == 0:
        return image.clone()
    inverse = invert_transform(transform.to(image))
    inverse = torch.cat([inverse[:, :, :2], inverse[:, :, 2:] - inverse.new_tensor([[left], [top]])], -1)
    layers = warp(torch.cat([matched, mask], 1), inverse, (box_height, box_width), padding_mode="border")
    inside = warp(torch.ones_like(mask), inverse, (box_height, box_width), padding_mode="zeros")
    weight = layers[:, -1:] * inside
    result = image.clone()
    box = result[..., top : top + box_height, left : left + box_width]
    result[..., top : top + box_height, left : left + box_width] = weight * layers[:, :-1] + (1 - weight) * box
    return result


def feather_mask(height: int, width: int, feather: float = FEATHER) -> Tensor:
    """(height, width) in [0,1]: 0 on the border, a raised cosine up to 1 within `feather` of the size."""

    def ramp(length: int) -> Tensor:
        position = (torch.arange(length) + 0.5) / length
        depth = torch.minimum(position, 1 - position) / feather
        return 0.5 - 0.5 * torch.cos(math.pi * depth.clamp(0, 1))

    return ramp(height)[:, None] * ramp(width)[None, :]


def _low_frequencies(image: Tensor, fraction: float) -> Tensor:
    """Blur by averaging cells of `fraction` of the image."""
    cells = max(2, round(1 / fraction))
    coarse = F.adaptive_avg_pool2d(image, cells)
    return F.interpolate(coarse, image.shape[-2:], mode="bicubic", align_corners=False)


def _covered_box(transform: Tensor, crop: tuple[int, int], image: tuple[int, int]) -> tuple[int, int, int, int]:
    """The (top, left, height, width) of the image's pixels that any crop of the batch covers."""
    height, width = crop
    corners = transform.new_tensor([[-1.0, -1.0], [width, -1.0], [-1.0, height], [width, height]])
    points = transform_points(corners.expand(len(transform), 4, 2), invert_transform(transform)).reshape(-1, 2)
    left, top = (max(0, math.floor(float(value))) for value in points.amin(0))
    right = min(image[1], math.ceil(float(points[:, 0].max())) + 1)
    bottom = min(image[0], math.ceil(float(points[:, 1].max())) + 1)
    return top, left, max(0, bottom - top), max(0, right - left)
