"""Peers without a diffusion model: colours, latents and pixels are moved to the style's statistics."""

import math

import torch
from skimage.color import lab2rgb, rgb2lab
from torch import Tensor
from torch.nn import functional as F

from acfun.base import Base
from acfun.base.vae_features import decode_latents, encode_features, encode_latents
from acfun.evaluation.contract import Painter
from acfun.evaluation.suites import Scene
from acfun.images import array_to_tensor, tensor_to_array
from acfun.losses import compute_gram, match_colours

NUM_ROTATIONS = 24
MOMENTS_FLOOR = 1e-6
GATYS_STEPS, GATYS_RATE = 120, 0.03


def transfer_statistics(base: Base, scene: Scene, seed: int) -> Painter:
    """Mean and deviation of the colours in CIELAB (Reinhard et al. 2001, https://doi.org/10.1109/38.946629)."""
    wanted = rgb2lab(tensor_to_array(scene.picture)).reshape(-1, 3)

    def paint(setting: float) -> Tensor:
        painted = []
        for face in scene.faces.split(1):
            lab = rgb2lab(tensor_to_array(face))
            pixels = lab.reshape(-1, 3)
            scaled = (lab - pixels.mean(0)) / (pixels.std(0) + 1e-6) * wanted.std(0) + wanted.mean(0)
            painted.append(array_to_tensor(lab2rgb(lab + setting * (scaled - lab)).astype("float32")))
        return torch.cat(painted).to(scene.faces)

    return paint


def transport_colours(base: Base, scene: Scene, seed: int) -> Painter:
    """Sliced optimal transport of the colours (Pitié et al. 2007, https://doi.org/10.1016/j.cviu.2006.11.011)."""
    generator = torch.Generator().manual_seed(seed)
    rotations = torch.linalg.qr(torch.randn(NUM_ROTATIONS, 3, 3, generator=generator)).Q
    rotations, wanted = rotations.to(scene.faces), scene.picture[0].flatten(1).T

    def transport(face: Tensor) -> Tensor:
        pixels = face[0].flatten(1).T.clone()
        quantiles = (torch.arange(len(pixels), device=pixels.device) + 0.5) / len(pixels)
        for rotation in rotations:
            projected, targets = pixels @ rotation, (wanted @ rotation).sort(0).values
            at = (quantiles * len(targets)).long().clamp(max=len(targets) - 1)
            order = projected.argsort(0)
            pixels += (
                torch.zeros_like(projected).scatter(0, order, targets[at] - projected.gather(0, order)) @ rotation.T
            )
        return pixels.T.reshape(face.shape).clamp(-1, 1)

    transported = torch.cat([transport(face) for face in scene.faces.split(1)])
    return lambda setting: torch.lerp(scene.faces, transported, setting)


def match_covariance(base: Base, scene: Scene, seed: int) -> Painter:
    """The optimal map between normal distributions of RGB colours (Pitié & Kokaram 2007)."""
    wanted = scene.picture[0].flatten(1).T
    mapped = []
    for face in scene.faces:
        pixels = face.flatten(1).T
        moved = match_colours(pixels, pixels.new_ones(len(pixels)), wanted, max_stretch=math.inf)
        mapped.append(moved.T.reshape(face.shape).clamp(-1, 1))
    return lambda setting: torch.lerp(scene.faces, torch.stack(mapped), setting)


@torch.no_grad()
def normalise_latents(base: Base, scene: Scene, seed: int) -> Painter:
    """Mean and deviation of each latent channel (adaptive instance normalisation, Huang & Belongie 2017)."""
    latents, wanted = encode_latents(base.vae, scene.faces), encode_latents(base.vae, scene.style.painting.image)
    moved = match_moments(latents, wanted, (2, 3))
    return lambda setting: decode_latents(base.vae, torch.lerp(latents, moved, setting)).clamp(-1, 1)


def descend_on_pixels(base: Base, scene: Scene, seed: int) -> Painter:
    """Gram matrices of the style, features of the face, of the VAE's encoder (Gatys et al. 2016).

    https://arxiv.org/abs/1508.06576. The dial is the weight of the style against the content.
    """
    with torch.no_grad():
        grams = [compute_gram(part) for part in encode_features(base.vae, scene.style.painting.image)]

    def paint(setting: float) -> Tensor:
        painted = []
        for face in scene.faces.split(1):
            with torch.no_grad():
                content = encode_features(base.vae, face)[-1]
            image = face.clone().requires_grad_()
            optimizer = torch.optim.Adam([image], lr=GATYS_RATE)
            for _ in range(GATYS_STEPS):
                found = encode_features(base.vae, image)
                pairs = zip(found, grams, strict=True)
                style = sum((compute_gram(part) - gram).abs().sum() / gram.abs().sum() for part, gram in pairs)
                loss = F.mse_loss(found[-1], content) / content.var() + setting * style
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            painted.append(image.detach().clamp(-1, 1))
        return torch.cat(painted)

    return paint


def match_moments(values: Tensor, wanted: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Values with mean and deviation over `dims` of those that are wanted."""
    (std, mean), (wanted_std, wanted_mean) = (torch.std_mean(part, dims, keepdim=True) for part in (values, wanted))
    return (values - mean) / (std + MOMENTS_FLOOR) * wanted_std + wanted_mean
