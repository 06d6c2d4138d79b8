"""Pictures without a face for the training of the face finder, and what its detector takes for faces in them."""

from typing import Any

import numpy as np
import torch
from skimage import data as skimage_data
from torch import Tensor

from acfun.face.finder import FaceFinder, detect_poses, frame_faces
from acfun.synthetic.backgrounds import sample_background
from acfun.synthetic.renderers import TRAINING_RENDERERS, Renderer

# Photographs and textures in scikit-image without a face; the astronaut is kept for the tests.
FACELESS = (
    *("brick", "cell", "chelsea", "coffee", "coins", "gravel", "grass", "horse", "hubble_deep_field"),
    *("immunohistochemistry", "moon", "page", "retina", "rocket", "text"),
)
# Renderers that draw a face of their own where the landmarks are.
FACE_DRAWING = ("big_eyed", "caricature", "cartoon", "cubist", "elongated", "halftone")
PAINTED_SHARE = 0.5  # of the pictures without a face


def build_backgrounds(count: int, size: int, portraits: Any, mean_shape: Tensor, seed: int) -> Tensor:
    """Pictures without a face, (count,3,size,size) uint8: crops, surfaces, rounds, shuffled tiles; half are painted.

    Args:
        count: pictures.
        size: of their sides, pixels.
        portraits: (N,S,S,3) uint8, to be shuffled.
        mean_shape: (189,2) in the unit frame; renderers ask where a face is.
        seed: of everything random.
    """
    generator = np.random.default_rng(seed)
    photographs = [_as_colour(getattr(skimage_data, name)()) for name in FACELESS]
    renderers = [renderer for name, renderer in TRAINING_RENDERERS.items() if name not in FACE_DRAWING]
    makers = (
        lambda: _crop(photographs[generator.integers(len(photographs))], size, generator),
        lambda: (sample_background(size, generator) * 255).astype(np.uint8),
        lambda: _draw_rounds(size, generator),
        lambda: _shuffle_tiles(portraits[generator.integers(len(portraits))], size, generator),
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
    pictures = sample_backgrounds(backgrounds, count, generator).to(device).split(1)
    poses = [detect_poses(finder, picture, picture.shape[-1])[0] for picture in pictures]
    finder.train(was_training)
    crops = [frame_faces(picture, found, size) for picture, found in zip(pictures, poses, strict=True)]
    return torch.cat(crops).cpu()


def sample_backgrounds(backgrounds: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Some of the pictures (N,3,S,S) uint8: (count,3,S,S) in [-1,1]."""
    indices = torch.randint(len(backgrounds), (count,), generator=generator)
    return backgrounds[indices].float() / 127.5 - 1


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
