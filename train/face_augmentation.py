"""Faces turned, bent, moved and recoloured on the fly, with their landmarks, for training the face finder.

The unit frame is that of `acfun.face.networks`. Everything random comes from one `torch.Generator`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from acfun.face.align import compose_transforms, invert_transform, transform_points
from acfun.face.finder import fit_pose
from acfun.face.symmetry import mirror_landmarks
from acfun.images import compute_luma

MAX_YAW, MAX_PITCH = 0.5, 0.22
_HEAD_CENTRE, _HEAD_RADII, _HEAD_DEPTH = (0.5, 0.48), (0.36, 0.45), 0.22
_NOSE_RADII, _NOSE_DEPTH, _NOSE_TIP = (0.05, 0.07), 0.06, 55
_CELL = 6
_INVERSION_STEPS = 4


@dataclass(frozen=True)
class PoseNoise:
    """How far framings are off: standard deviations of angle (rad), logarithm of scale, and shift (widths)."""

    angle: float
    log_scale: float
    shift: float


class Deformation:
    """A smooth invertible deformation of the unit frame: the head turned, nodded and slightly bent.

    Args:
        count: batch size.
        nose: (2,) the tip of the nose in the unit frame.
        generator: source of randomness.
    """

    def __init__(self, count: int, nose: Tensor, generator: torch.Generator) -> None:
        def spread(limit: float, *shape: int) -> Tensor:
            return (torch.rand(count, *shape, generator=generator) * 2 - 1) * limit

        is_turned = (torch.rand(count, 1, generator=generator) < 0.6).float()
        self.yaw, self.pitch = spread(MAX_YAW, 1) * is_turned, spread(MAX_PITCH, 1) * is_turned
        self.frequency, self.phase = spread(9.0, 4, 1, 2), spread(math.pi, 4, 1)
        self.amplitude, self.nose = spread(0.007, 4, 1, 2), nose
        self.stretch = 1 + spread(0.06, 1, 2)

    def depth(self, points: Tensor) -> Tensor:
        """How far in front of the ears the head stands at (B,N,2) points, in widths: (B,N)."""
        centre, radii = points.new_tensor(_HEAD_CENTRE), points.new_tensor(_HEAD_RADII)
        radius = ((points - centre) / radii).norm(dim=-1).clamp(max=1)
        head = _HEAD_DEPTH * torch.cos(math.pi / 2 * radius).square()
        bump = ((points - self.nose) / points.new_tensor(_NOSE_RADII)).square().sum(-1)
        return head + _NOSE_DEPTH * torch.exp(-bump / 2)

    def forward(self, points: Tensor) -> Tensor:
        """Where (B,N,2) points of the unit frame go."""
        centre = points.new_tensor(_HEAD_CENTRE)
        offset, depth = (points - centre) * self.stretch, self.depth(points)
        turned = torch.stack(
            [
                offset[..., 0] * self.yaw.cos() + depth * self.yaw.sin(),
                offset[..., 1] * self.pitch.cos() + depth * self.pitch.sin(),
            ],
            -1,
        )
        waves = torch.sin((self.frequency * points[:, None]).sum(-1) + self.phase)
        return centre + turned + (self.amplitude * waves[..., None]).sum(1)

    def inverse(self, targets: Tensor) -> Tensor:
        """Which points go to (B,N,2) `targets`, by fixed-point iteration."""
        points = targets
        for _ in range(_INVERSION_STEPS):
            points = points - (self.forward(points) - targets)
        return points


def sample_framings(count: int, noise: PoseNoise, generator: torch.Generator) -> Tensor:
    """Draw (B,2,3) similarities of the unit frame about its middle."""
    angle, log_scale = torch.randn(2, count, generator=generator)
    shift = torch.randn(count, 2, generator=generator) * noise.shift
    return similarity_about_centre(angle * noise.angle, (log_scale * noise.log_scale).exp(), shift)


def similarity_about_centre(angle: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(B,2,3) similarities that turn and scale about (0.5, 0.5), then shift; all (B,), shift (B,2)."""
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    linear = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)
    centre = linear.new_full((2, 1), 0.5)
    return torch.cat([linear, centre - linear @ centre + shift[..., None]], -1)


def sample_pixels(images: Tensor, points: Tensor, size: int) -> Tensor:
    """Sample (B,C,H,W) at the (B,n²,2) pixel positions of `unit_grid` over the result: (B,C,size,size)."""
    extent = points.new_tensor([images.shape[-1], images.shape[-2]])
    side = math.isqrt(points.shape[1])
    coarse = ((2 * points + 1) / extent - 1).reshape(-1, side, side, 2).permute(0, 3, 1, 2)
    grid = F.interpolate(coarse, (size, size), mode="bilinear", align_corners=True).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def unit_grid(count: int, size: int) -> Tensor:
    """(count,n²,2) points of a coarse grid over the unit frame, ending at the corner pixels of a crop of `size`."""
    ticks = torch.linspace(0.5 / size, 1 - 0.5 / size, size // _CELL)
    return torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1).reshape(1, -1, 2).expand(count, -1, -1)


def cut_faces(
    images: Tensor,
    landmarks: Tensor,
    mean_shape: Tensor,
    size: int,
    framings: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Deform faces, cut them, and mirror half of them.

    Args:
        images: (B,C,H,W).
        landmarks: (B,189,2) pixels.
        mean_shape: (189,2) in the unit frame, symmetric.
        size: width of the crops, pixels.
        framings: (B,2,3), unit square of the crop → unit frame of the face.
        generator: source of randomness.

    Returns:
        (crops (B,C,size,size), landmarks (B,189,2) in the crops' unit square).
    """
    poses = fit_pose(landmarks, mean_shape)
    deformation = Deformation(len(images), mean_shape[_NOSE_TIP], generator)
    bent = deformation.forward(transform_points(landmarks, invert_transform(poses)))
    placed = compose_transforms(fit_pose(bent, mean_shape), framings)
    source = deformation.inverse(transform_points(unit_grid(len(images), size), placed))
    crops = sample_pixels(images, transform_points(source, poses), size)
    return mirror(crops, transform_points(bent, invert_transform(placed)), mean_shape, generator)


def mirror(crops: Tensor, landmarks: Tensor, mean_shape: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror half of the crops (B,C,H,W) together with their landmarks (B,189,2) in the unit square."""
    is_mirrored = torch.rand(len(crops), 1, 1, generator=generator) < 0.5
    flipped = mirror_landmarks(landmarks, mean_shape, 1.0)
    return torch.where(is_mirrored[..., None], crops.flip(3), crops), torch.where(is_mirrored, flipped, landmarks)


def recolour(images: Tensor, generator: torch.Generator) -> Tensor:
    """Vary light, colour, sharpness, grain, and cover parts, each for some of (B,3,H,W) images in [-1,1]."""

    def draw(count: int, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    def change(part: float, function: Callable[[Tensor], Tensor]) -> None:
        """Apply `function` to a run of the batch, which is in random order anyway."""
        count = round(part * len(values))
        start = int(torch.randint(len(values) - count + 1, (), generator=generator))
        if count:
            values[start : start + count] = function(values[start : start + count])

    def shift_colours(some: Tensor) -> Tensor:
        matrix = torch.eye(3) + 0.35 * torch.randn(len(some), 3, 3, generator=generator)
        return (matrix @ some.flatten(2)).view_as(some).clamp(0, 1)

    def posterize(some: Tensor) -> Tensor:
        levels = 2 + 6 * draw(len(some), 1, 1, 1)
        return (some * levels).round() / levels

    def colour_by_two(some: Tensor) -> Tensor:
        grey = some.mean(1, keepdim=True)
        return draw(len(some), 3, 1, 1) * (1 - grey) + draw(len(some), 3, 1, 1) * grey

    def add_grain(some: Tensor) -> Tensor:
        return some + 0.1 * draw(len(some), 1, 1, 1) * torch.randn(some.shape, generator=generator)

    def relight(some: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, some.shape[-1])
        slope = draw(2, len(some), 1, 1, 1) - 0.5
        light = torch.exp(1.2 * (slope[0] * ramp + slope[1] * ramp[:, None]))
        power = torch.exp((draw(len(some), 1, 1, 1) - 0.5) * 1.6)
        return (some + 1e-3).pow(power) * light

    values = (images.clamp(-1, 1) + 1) / 2
    change(0.3, shift_colours)
    change(0.42, _to_grey)
    change(0.08, colour_by_two)
    change(0.5, relight)
    change(0.1, lambda some: 2 * some - _blur(some))
    change(0.1, _blur)
    change(0.06, lambda some: (1 - 9 * (_blur(some) - some).abs().mean(1, keepdim=True)).expand_as(some))
    change(0.1, posterize)
    change(0.3, lambda some: _lower_resolution(some, float(draw(1))))
    contrast, brightness = 0.5 + 0.8 * draw(len(values), 1, 1, 1), 0.3 * (draw(len(values), 1, 1, 1) - 0.5)
    values = (values - 0.5) * contrast + 0.5 + brightness
    change(0.4, add_grain)
    change(0.25, lambda some: _cover(some, generator))
    return values.clamp(0, 1) * 2 - 1


def _to_grey(images: Tensor) -> Tensor:
    return compute_luma(images)[:, None].expand_as(images)


def _blur(images: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)


def _lower_resolution(images: Tensor, amount: float) -> Tensor:
    size = round(images.shape[-1] * (0.22 + 0.6 * amount))
    return F.interpolate(F.interpolate(images, (size, size), mode="area"), images.shape[-2:], mode="bilinear")


def _cover(images: Tensor, generator: torch.Generator) -> Tensor:
    """Cover a rectangle of each image with a plain colour."""
    count, _, height, width = images.shape
    box = torch.rand(count, 4, generator=generator)
    inside_x = (torch.arange(width) / width - box[:, :1]).abs() < 0.04 + 0.12 * box[:, 2:3]
    inside_y = (torch.arange(height) / height - box[:, 1:2]).abs() < 0.04 + 0.12 * box[:, 3:4]
    is_covered = inside_y[:, None, :, None] & inside_x[:, None, None, :]
    return torch.where(is_covered, torch.rand(count, 3, 1, 1, generator=generator), images)
