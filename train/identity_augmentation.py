"""What separates two photographs of one person, put onto crops on the fly: pose, framing, light, glasses, textures."""

import torch
import torch.nn.functional as F
from torch import Tensor

from acfun.face.align import (
    IDENTITY_CROP_SIZE,
    arcface_template,
    compose_transforms,
    five_points,
    invert_transform,
    similarity_transform,
    transform_points,
)
from acfun.face.finder import fit_pose
from train.face_augmentation import Deformation, recolour, sample_pixels, unit_grid

NOSE_TIP = 55
# Errors of found landmarks: pixels of a 112 px crop for each of the five points, and for all of them together.
POINT_NOISE, FRAME_NOISE = 1.0, 1.2
EYES_APART = 0.3146
GLASSES_PART, FILTERED_PART, RECOLOURED_PART = 0.15, 0.2, 0.65
# Standard deviation below which darkness or fog has swallowed the face.
MIN_CONTRAST = 0.12


def augment_crops(
    images: Tensor, landmarks: Tensor, mean_shape: Tensor, size: int, strength: float, generator: torch.Generator
) -> Tensor:
    """Cut identity crops of faces turned, moved, mirrored, relit and covered at random.

    Args:
        images: (B,3,H,W) in [-1,1].
        landmarks: (B,189,2) pixels.
        mean_shape: (189,2) in the unit frame.
        size: width of the crops, pixels.
        strength: in [0,1]; 0 gives plain crops.
        generator: source of randomness.

    Returns:
        (B,3,size,size) in [-1,1].
    """
    crops = cut_turned_crops(images, landmarks, mean_shape, size, strength, generator)
    is_mirrored = torch.rand(len(crops), 1, 1, 1, generator=generator) < 0.5 * strength
    crops = torch.where(is_mirrored, crops.flip(3), crops)
    crops = filter_randomly(crops, strength * FILTERED_PART, generator)
    crops = draw_glasses(crops, strength * GLASSES_PART, generator)
    order = torch.randperm(len(crops), generator=generator)  # recolour treats runs of neighbours alike
    recoloured = recolour(crops[order], generator)[order.argsort()]
    is_plain = torch.rand(len(crops), generator=generator) > strength * RECOLOURED_PART
    is_lost = recoloured.std((1, 2, 3)) < MIN_CONTRAST
    return torch.where((is_plain | is_lost)[:, None, None, None], crops, recoloured)


def cut_turned_crops(
    images: Tensor, landmarks: Tensor, mean_shape: Tensor, size: int, strength: float, generator: torch.Generator
) -> Tensor:
    """Turn and bend the heads, then align them by five points that are a little off; arguments as `augment_crops`."""
    count = len(images)
    poses = fit_pose(landmarks, mean_shape)
    deformation = Deformation(count, mean_shape[NOSE_TIP], generator)
    for part in (deformation.yaw, deformation.pitch, deformation.amplitude):
        part.mul_(strength)
    bent = deformation.forward(transform_points(landmarks, invert_transform(poses)))
    template = arcface_template(size)
    noise = torch.randn(count, 5, 2, generator=generator) * POINT_NOISE
    noise = noise + torch.randn(count, 1, 2, generator=generator) * FRAME_NOISE
    to_crop = similarity_transform(five_points(bent), template + noise * strength * size / IDENTITY_CROP_SIZE)
    to_pixels = torch.tensor([[size, 0, -0.5], [0, size, -0.5]]).expand(count, -1, -1)
    unit_to_unit = compose_transforms(invert_transform(to_crop), to_pixels)
    source = deformation.inverse(transform_points(unit_grid(count, size), unit_to_unit))
    return sample_pixels(images, transform_points(source, poses), size)


def filter_randomly(crops: Tensor, part: float, generator: torch.Generator) -> Tensor:
    """Mix a part of the crops with what a random 3×3 convolution makes of them.

    Xu et al. (2021), "Robust and generalizable visual representation learning via random convolutions",
    https://arxiv.org/abs/2007.13003.
    """
    count = round(part * len(crops))
    if count == 0:
        return crops
    chosen = torch.randperm(len(crops), generator=generator)[:count]
    kernels = torch.randn(count * 3, 3, 3, 3, generator=generator) / 27**0.5
    some = crops[chosen]
    filtered = F.conv2d(F.pad(some, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[None], kernels, groups=count)
    weight = torch.rand(count, 1, 1, 1, generator=generator)
    crops = crops.clone()
    crops[chosen] = (weight * filtered.view_as(some) + (1 - weight) * some).clamp(-1, 1)
    return crops


def draw_glasses(crops: Tensor, part: float, generator: torch.Generator) -> Tensor:
    """Draw frames around the eyes of a part of the crops, in all widths, shapes and colours, with tinted lenses."""
    is_worn = torch.rand(len(crops), 1, 1, 1, generator=generator) < part

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(len(crops), *(shape or (1, 1)), generator=generator)

    size = crops.shape[-1]
    eyes = (arcface_template(size)[:2] + 0.5) / size
    ticks = (torch.arange(size) + 0.5) / size
    middle = eyes.mean(0) + torch.randn(len(crops), 2, generator=generator) * 0.012
    x = ticks[None, None, :] - middle[:, 0, None, None]
    y = ticks[None, :, None] - middle[:, 1, None, None] - draw(0, 0.03)
    half, height, width = draw(0.115, 0.15), draw(0.07, 0.12), draw(0.005, 0.018)
    power = draw(2, 4.5)
    distance = (((x.abs() - EYES_APART / 2) / half).abs().pow(power) + (y / height).abs().pow(power)).pow(1 / power)
    rim = (distance - 1).abs() * height < width
    bridge = (y + 0.3 * height).abs() < 0.7 * width
    frame = rim | (bridge & (distance > 1) & (y.abs() < height) & (x.abs() < 0.45))
    lens = (distance < 1)[:, None] * draw(0, 0.35, 1, 1, 1) * (draw(0, 1, 1, 1, 1) < 0.4)
    colour = draw(-1, 0.2, 3, 1, 1)
    worn = torch.where(frame[:, None], colour, crops + lens * (colour - crops))
    return torch.where(is_worn, worn, crops)
