"""What the face finder is trained on: scenes with faces for the detector, crops for the regressor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from skimage import data as skimage_data
from torch import Tensor

from acfun.errors import DataError
from acfun.face.align import portrait_transform, transform_points
from acfun.face.finder import FaceFinder, detect_poses, fit_pose, frame_faces
from acfun.face.networks import DETECTOR_STRIDE
from acfun.synthetic.backgrounds import sample_background
from acfun.synthetic.renderers import TRAINING_RENDERERS, Renderer
from train.face_augmentation import (
    PoseNoise,
    cut_faces,
    mirror_permutation,
    recolour,
    sample_framings,
    similarity_about_centre,
)

# Photographs and textures in scikit-image without a face; the astronaut is kept for the tests.
FACELESS = (
    *("brick", "cell", "chelsea", "coffee", "coins", "gravel", "grass", "horse", "hubble_deep_field"),
    *("immunohistochemistry", "moon", "page", "retina", "rocket", "text"),
)
# Renderers that draw a face of their own where the landmarks are.
FACE_DRAWING = ("big_eyed", "caricature", "cartoon", "cubist", "elongated", "halftone")
PAINTED_SHARE = 0.5  # of the pictures without a face
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
    mirrored = mean[mirror_permutation(mean)] * mean.new_tensor([-1.0, 1.0]) + mean.new_tensor([1.0, 0.0])
    return (mean + mirrored) / 2


def build_backgrounds(count: int, size: int, shards: FaceShards, mean_shape: Tensor, seed: int) -> Tensor:
    """Pictures without a face, (count,3,size,size) uint8: crops, surfaces, rounds, shuffled tiles; half are painted."""
    generator = np.random.default_rng(seed)
    photographs = [_as_colour(getattr(skimage_data, name)()) for name in FACELESS]
    renderers = [renderer for name, renderer in TRAINING_RENDERERS.items() if name not in FACE_DRAWING]
    makers = (
        lambda: _crop(photographs[generator.integers(len(photographs))], size, generator),
        lambda: (sample_background(size, generator) * 255).astype(np.uint8),
        lambda: _draw_rounds(size, generator),
        lambda: _shuffle_tiles(shards.images[generator.integers(len(shards.images))], size, generator),
    )
    pictures = []
    for _ in range(count):
        picture = makers[generator.choice(len(makers), p=(0.4, 0.15, 0.15, 0.3))]()
        if generator.random() < PAINTED_SHARE:
            picture = _paint(picture, mean_shape, renderers[generator.integers(len(renderers))], generator)
        pictures.append(picture)
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


@torch.no_grad()
def mine_crops(finder: FaceFinder, backgrounds: Tensor, count: int, size: int, generator: torch.Generator) -> Tensor:
    """What the detector takes for faces in some of the pictures without any: (B,3,size,size) in [-1,1], B ≥ 0.

    Args:
        finder: is left in the mode that it is in.
        backgrounds: of `build_backgrounds`.
        count: of the pictures that are looked at.
        size: of the crops, framed as the regressor will see them.
        generator: chooses the pictures.
    """
    device, was_training = finder.regressor.mean_shape.device, finder.training
    finder.eval()
    pictures = _sample_backgrounds(backgrounds, count, generator).to(device).split(1)
    poses = [detect_poses(finder, picture, picture.shape[-1])[0] for picture in pictures]
    finder.train(was_training)
    crops = [frame_faces(picture, found, size) for picture, found in zip(pictures, poses, strict=True)]
    return torch.cat(crops).cpu()


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
    empty = F.interpolate(_sample_backgrounds(backgrounds, num_empty, generator), (size, size), mode="area")
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
    canvas = _sample_backgrounds(backgrounds, count, generator)
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


def _sample_backgrounds(backgrounds: Tensor, count: int, generator: torch.Generator) -> Tensor:
    indices = torch.randint(len(backgrounds), (count,), generator=generator)
    return backgrounds[indices].float() / 127.5 - 1


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


def _as_colour(image: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    pixels = np.asarray(image)
    if pixels.dtype == bool:
        pixels = pixels * np.uint8(255)
    return np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels[..., :3]


def _crop(image: Any, size: int, generator: np.random.Generator) -> Any:
    """A random square of a photograph, resized by nearest pixels."""
    extent = int(min(image.shape[:2]) * generator.uniform(0.2, 1.0))
    top, left = (int(generator.integers(length - extent + 1)) for length in image.shape[:2])
    ticks = np.linspace(0, extent - 1, size).astype(int)
    return image[top + ticks[:, None], left + ticks]


def _draw_rounds(size: int, generator: np.random.Generator) -> Any:
    """Rings and discs of chance colours before a background, which stand like eyes at times."""
    canvas = sample_background(size, generator)
    rows, columns = np.mgrid[:size, :size]
    for _ in range(int(generator.integers(2, 12))):
        top, left = generator.uniform(0, size, 2)
        radius, aspect = size * generator.uniform(0.03, 0.3), generator.uniform(0.5, 2.0)
        distance = np.hypot(rows - top, (columns - left) * aspect) / radius
        for share in sorted(generator.uniform(0.2, 1.0, int(generator.integers(1, 4))), reverse=True):
            alpha = np.clip((share - distance) * radius / generator.uniform(1.0, 6.0), 0, 1)[..., None]
            canvas = canvas + alpha * (generator.random(3) - canvas)
    return (np.clip(canvas, 0, 1) * 255).astype(np.uint8)


def _paint(picture: Any, mean_shape: Tensor, renderer: Renderer, generator: np.random.Generator) -> Any:
    """A picture (S,S,3) uint8 without a face, rendered as if one stood somewhere in it: heads without faces too."""
    size, width = picture.shape[0], generator.uniform(0.4, 1.2)
    corner = generator.uniform(-width, 1, 2)
    landmarks = ((mean_shape.numpy() * width + corner) * size - 0.5).astype(np.float32)
    painted = renderer.render(picture.astype(np.float32) / 255, landmarks, generator).image
    return (np.clip(painted, 0, 1) * 255).astype(np.uint8)


def _shuffle_tiles(image: Any, size: int, generator: np.random.Generator) -> Any:
    """A portrait cut into tiles and laid in another order: skin and hair without a face."""
    tiles = int(generator.integers(4, 8))
    extent = size // tiles + 1
    ticks = np.linspace(0, image.shape[0] - 1, tiles * extent).astype(int)
    grid = image[ticks[:, None], ticks].reshape(tiles, extent, tiles, extent, 3).swapaxes(1, 2)
    shuffled = generator.permutation(grid.reshape(-1, extent, extent, 3)).reshape(tiles, tiles, extent, extent, 3)
    return shuffled.swapaxes(1, 2).reshape(tiles * extent, tiles * extent, 3)[:size, :size]
