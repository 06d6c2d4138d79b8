"""What the face finder is trained on: scenes with faces for the detector, crops for the regressor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from acfun.errors import DataError
from acfun.face.align import portrait_transform, transform_points
from acfun.face.finder import fit_pose
from acfun.face.networks import DETECTOR_STRIDE
from acfun.face.symmetry import mirror_landmarks
from train.face_augmentation import (
    PoseNoise,
    cut_faces,
    recolour,
    sample_framings,
    similarity_about_centre,
)
from train.faceless import sample_backgrounds

SMALLEST_WIDTH, LARGEST_WIDTH = 24.0, 1.3  # of a face's unit frame: pixels, fraction of the scene
COARSE_NOISE, FINE_NOISE = PoseNoise(0.13, 0.11, 0.045), PoseNoise(0.035, 0.03, 0.012)


@dataclass(frozen=True)
class FaceShards:
    """Square images with one face each: images (N,S,S,3) uint8; landmarks (N,189,2) pixels."""

    images: np.ndarray[Any, np.dtype[np.uint8]]
    landmarks: Tensor

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw (images (B,3,S,S) in [-1,1], landmarks (B,189,2))."""
        indices = torch.randint(len(self.images), (count,), generator=generator)
        return to_tensor(self.images[indices.numpy()]), self.landmarks[indices]


@dataclass(frozen=True)
class FaceBatch:
    """crops (B,3,S,S) in [-1,1]; landmarks (B,189,2) in their unit frame; is_face (B,) bool."""

    crops: Tensor
    landmarks: Tensor
    is_face: Tensor

    def to(self, device: torch.device) -> "FaceBatch":
        """The batch on a device."""
        return FaceBatch(self.crops.to(device), self.landmarks.to(device), self.is_face.to(device))


@dataclass(frozen=True)
class SceneBatch:
    """Scenes, and what the detector should say of them.

    images (B,3,S,S) in [-1,1]; heat (B,h,w) in [0,1]; pose (B,4,h,w): x, y, width in pixels and angle of the
    face; where (B,h,w) bool: the cells that have one.
    """

    images: Tensor
    heat: Tensor
    pose: Tensor
    where: Tensor

    def to(self, device: torch.device) -> "SceneBatch":
        """The batch on a device."""
        return SceneBatch(*(tensor.to(device) for tensor in (self.images, self.heat, self.pose, self.where)))


def to_tensor(images: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """(B,H,W,3) uint8 → (B,3,H,W) in [-1,1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def open_face_shards(directory: Path, max_size: int) -> FaceShards:
    """Read `images.npy` and `landmarks.npy` of a folder, images averaged down to less than twice `max_size`.

    Raises:
        DataError: one is missing or they do not fit together.
    """
    if not (directory / "images.npy").is_file() or not (directory / "landmarks.npy").is_file():
        raise DataError(f"{directory} has no images.npy or no landmarks.npy: write shards into it first")
    images = np.load(directory / "images.npy", mmap_mode="r")
    landmarks = torch.from_numpy(np.load(directory / "landmarks.npy")).float()
    if len(images) != len(landmarks) or images.ndim != 4:
        raise DataError(f"{directory}: images {images.shape} do not fit landmarks {tuple(landmarks.shape)}")
    factor = max(1, images.shape[1] // max_size)
    if factor > 1:
        images = np.concatenate([_average_cells(images[i : i + 64], factor) for i in range(0, len(images), 64)])
    return FaceShards(images, (landmarks + 0.5) / factor - 0.5)


def compute_mean_shape(shards: Sequence[FaceShards]) -> Tensor:
    """The symmetric (189,2) mean of all faces, its pupils placed as in the canonical portrait framing."""
    landmarks = torch.cat([shard.landmarks for shard in shards])
    mean = ((transform_points(landmarks, portrait_transform(landmarks, 256)) + 0.5) / 256).mean(0)
    mirrored = mirror_landmarks(mean, mean, 1.0)
    return (mean + mirrored) / 2


def sample_faces(
    shards: FaceShards,
    backgrounds: Tensor,
    mined: Tensor,
    mean_shape: Tensor,
    count: int,
    size: int,
    generator: torch.Generator,
) -> FaceBatch:
    """Draw crops: a third framed as the detector would, half as in the second pass, the rest no faces.

    Of those without a face a third are framed too badly, a third are of the backgrounds, and a third, where there are
    any, of the `mined` ones (N,3,size,size) in [-1,1]. A `count` below 16 has none.
    """
    num_wild, num_empty, num_mined = count // 16, count // 16, count // 16 if len(mined) else 0
    num_faces = count - num_empty - num_mined
    num_fine = count // 2
    num_coarse = num_faces - num_fine - num_wild
    framings = torch.cat(
        [
            sample_framings(num_coarse, COARSE_NOISE, generator),
            sample_framings(num_fine, FINE_NOISE, generator),
            _sample_wild_framings(num_wild, generator),
        ]
    )
    images, landmarks = shards.sample(num_faces, generator)
    crops, points = cut_faces(images, landmarks, mean_shape, size, framings, generator)
    empty = F.interpolate(sample_backgrounds(backgrounds, num_empty, generator), (size, size), mode="area")
    hard = mined[torch.randint(max(1, len(mined)), (num_mined,), generator=generator)].float()
    order = torch.randperm(count, generator=generator)
    points = torch.cat([points, mean_shape.expand(num_empty + num_mined, -1, -1)])
    is_face = torch.arange(count) < num_coarse + num_fine
    return FaceBatch(recolour(torch.cat([crops, empty, hard])[order], generator), points[order], is_face[order])


def sample_scenes(
    shards: FaceShards,
    backgrounds: Tensor,
    mean_shape: Tensor,
    count: int,
    size: int,
    generator: torch.Generator,
) -> SceneBatch:
    """Draw scenes for the detector: none to two faces of any size before a background or alone."""
    octave = int(torch.randint(3, (), generator=generator))
    ratio = (SMALLEST_WIDTH / size / LARGEST_WIDTH) ** (1 / 3)
    widest = LARGEST_WIDTH * ratio**octave
    canvas = sample_backgrounds(backgrounds, count, generator)
    canvas = F.interpolate(canvas, (size, size), mode="bilinear")
    cells = size // DETECTOR_STRIDE
    heat, where = torch.zeros(count, cells, cells), torch.zeros(count, cells, cells, dtype=torch.bool)
    pose_maps = torch.ones(count, 4, cells, cells)
    for layer, probability in enumerate((0.8, 0.25)):
        images, landmarks = shards.sample(count, generator)
        images, landmarks = _shrink(images, landmarks, 2**octave)
        is_drawn = torch.rand(count, generator=generator) < probability
        masks = _sample_masks(images, is_drawn, may_fill=layer == 0, generator=generator)
        framings = _sample_scene_framings(count, widest * ratio, widest, generator)
        layers, points = cut_faces(torch.cat([images, masks], 1), landmarks, mean_shape, size, framings, generator)
        x, y, width, angle = _describe_poses(points * size - 0.5, mean_shape)
        is_clear = ~_is_taken(heat, x, y, width) & is_drawn
        alpha = layers[:, 3:] * is_clear[:, None, None, None]
        canvas = alpha * layers[:, :3] + (1 - alpha) * canvas
        _add_target(heat, where, pose_maps, torch.stack([x, y, width, angle], 1), is_clear)
    return SceneBatch(recolour(canvas, generator), heat, pose_maps, where)


def _describe_poses(points: Tensor, mean_shape: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre x and y, width of the unit frame, and angle of (B,189,2) landmarks, (B,) each."""
    poses = fit_pose(points, mean_shape)
    centre = transform_points(poses.new_full((len(poses), 1, 2), 0.5), poses)[:, 0]
    cosine, sine = poses[:, 0, 0], poses[:, 1, 0]
    return centre[:, 0], centre[:, 1], torch.hypot(cosine, sine), torch.atan2(sine, cosine)


def _distance(heat: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Pixels from each cell's centre to (x, y): (B,h,w)."""
    ticks = (torch.arange(heat.shape[-1]) + 0.5) * DETECTOR_STRIDE - 0.5
    return torch.hypot(ticks - x[:, None, None], ticks[:, None] - y[:, None, None])


def _is_taken(heat: Tensor, x: Tensor, y: Tensor, width: Tensor) -> Tensor:
    """(B,): whether a face at the place would cover the middle of an earlier one."""
    near = _distance(heat, x, y) < 0.9 * width[:, None, None]
    return ((heat > 0.3) & near).flatten(1).any(1)


def _add_target(heat: Tensor, where: Tensor, pose_maps: Tensor, pose: Tensor, is_clear: Tensor) -> None:
    """Write the faces of (B,4) poses into the target maps, in place."""
    x, y, width, _ = pose.unbind(1)
    distance = _distance(heat, x, y)
    sigma = (0.035 * width).clamp(min=0.45 * DETECTOR_STRIDE)[:, None, None]
    blob = torch.exp(-(distance**2) / (2 * sigma**2))
    blob = torch.where(distance == distance.amin((1, 2), keepdim=True), 1.0, blob)
    heat.copy_(torch.maximum(heat, blob * is_clear[:, None, None]))
    near = (distance < (0.08 * width).clamp(min=0.8 * DETECTOR_STRIDE)[:, None, None]) & is_clear[:, None, None]
    where |= near
    pose_maps.copy_(torch.where(near[:, None], pose[:, :, None, None], pose_maps))


def _sample_scene_framings(count: int, smallest: float, largest: float, generator: torch.Generator) -> Tensor:
    """(B,2,3), unit square of the scene → unit frame of a face whose width is a fraction of the scene's."""
    draws = torch.rand(count, generator=generator)
    width = smallest * (largest / smallest) ** draws
    angle = 0.2 * torch.randn(count, generator=generator)
    reach = (0.5 - 0.2 * width).clamp(min=0.12)
    centre = (torch.rand(count, 2, generator=generator) * 2 - 1) * reach[:, None]
    placed = similarity_about_centre(angle, width, centre)
    linear = torch.linalg.inv(placed[:, :, :2])
    return torch.cat([linear, -linear @ placed[:, :, 2:]], -1)


def _sample_wild_framings(count: int, generator: torch.Generator) -> Tensor:
    """Framings so wrong that there is no face to speak of: much too near or far, or beside it."""
    kind = torch.rand(count, generator=generator)
    scale = torch.where(kind < 0.3, 0.28, torch.where(kind < 0.6, 3.2, 1.0))
    direction = torch.rand(count, generator=generator) * 2 * math.pi
    shift = torch.stack([direction.cos(), direction.sin()], 1) * torch.where(kind < 0.6, 0.05, 0.75)[:, None]
    return similarity_about_centre(0.3 * torch.randn(count, generator=generator), scale, shift)


def _sample_masks(images: Tensor, is_drawn: Tensor, *, may_fill: bool, generator: torch.Generator) -> Tensor:
    """(B,1,H,W) opacity: the whole scene for half of the first layer, a soft-edged square otherwise."""
    count, width = len(images), images.shape[3]
    ticks = torch.linspace(-1, 1, width)
    feather = 0.02 + 0.5 * torch.rand(count, 1, 1, generator=generator) ** 2
    edge = ((1 - ticks.abs()) / feather).clamp(0, 1)
    is_filled = torch.rand(count, 1, 1, generator=generator) < (0.5 if may_fill else 0.0)
    return torch.where(is_filled, torch.ones(()), edge * edge.transpose(1, 2)).unsqueeze(1)


def _shrink(images: Tensor, landmarks: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Average cells of `factor` pixels, so that small faces do not alias."""
    if factor == 1:
        return images, landmarks
    return F.avg_pool2d(images, factor), (landmarks + 0.5) / factor - 0.5


def _average_cells(images: Any, factor: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    count, size = len(images), images.shape[1] // factor
    cells = images[:, : size * factor, : size * factor].reshape(count, size, factor, size, factor, 3)
    averages: np.ndarray[Any, np.dtype[np.uint8]] = np.round(cells.mean((2, 4), dtype=np.float32)).astype(np.uint8)
    return averages
