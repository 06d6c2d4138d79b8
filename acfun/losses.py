"""Losses as pure functions of tensors. Images are (B,3,H,W) in [-1,1]; latents are scaled as the UNet sees them.

Notation (paper → here): x̂0 → pred_original_sample, z_t → noisy_latents, ε → noise, ᾱ → alphas_cumprod,
ω_t → timestep_weights.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from acfun.images import compute_luma

SHADING_SIDE, SHADING_FLOOR = 48, 1e-3
COLOUR_FLOOR, MAX_STRETCH = 1e-3, 2.0


def predict_original_sample(
    model_pred: Tensor, noisy_latents: Tensor, alphas_cumprod: Tensor, prediction_type: str
) -> Tensor:
    """Clean latents that a prediction implies.

    ε-prediction: x̂0 = (z_t − √(1−ᾱ) ε̂) / √ᾱ (Ho et al. 2020, https://arxiv.org/abs/2006.11239, eq. 15);
    v-prediction: x̂0 = √ᾱ z_t − √(1−ᾱ) v̂ (Salimans & Ho 2022, https://arxiv.org/abs/2202.00512, appendix D).

    Args:
        model_pred: (B,C,h,w) output of the UNet.
        noisy_latents: (B,C,h,w).
        alphas_cumprod: (B,) ᾱ at each sample's timestep.
        prediction_type: "epsilon", "v_prediction" or "sample".

    Raises:
        ValueError: another prediction type.
    """
    signal = alphas_cumprod.sqrt().view(-1, 1, 1, 1)
    sigma = (1 - alphas_cumprod).sqrt().view(-1, 1, 1, 1)
    if prediction_type == "epsilon":
        return (noisy_latents - sigma * model_pred) / signal
    if prediction_type == "v_prediction":
        return signal * noisy_latents - sigma * model_pred
    if prediction_type == "sample":
        return model_pred
    raise ValueError(f"prediction_type {prediction_type!r} is unknown; epsilon, v_prediction and sample are")


def compute_timestep_weights(alphas_cumprod: Tensor, gamma: float = 5.0) -> Tensor:
    """ω_t for a loss on x̂0: min(SNR, γ) / γ, in [0, 1], with SNR = ᾱ / (1 − ᾱ).

    min-SNR weighting, Hang et al. 2023, https://arxiv.org/abs/2303.09556.

    Args:
        alphas_cumprod: (B,), below 1.
        gamma: where the signal-to-noise ratio is cut.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return snr.clamp(max=gamma) / gamma


def latent_distance(pred_original_sample: Tensor, target: Tensor, timestep_weights: Tensor) -> Tensor:
    """ω_t ‖x̂0 − z‖², mean over latent values and batch: one term of ACFun's face and style imagery alignment loss.

    Args:
        pred_original_sample: x̂0 (B,C,h,w).
        target: z (B,C,h,w).
        timestep_weights: (B,).
    """
    squared = (pred_original_sample - target).square().flatten(1).mean(1)
    return (timestep_weights * squared).mean()


def extract_patches(image: Tensor, size: int = 5, stride: int = 2) -> Tensor:
    """Overlapping colour patches of one image (1,3,H,W) as points (N, 3·size²)."""
    return F.unfold(image, size, stride=stride)[0].T


def select_patches(patches: Tensor, mask: Tensor, size: int = 5, stride: int = 2) -> Tensor:
    """Those of `extract_patches` whose centre lies inside `mask` (H,W) > 0.5: (M, D), M may be 0."""
    centre = size // 2
    rows, columns = ((length - size) // stride + 1 for length in mask.shape)
    centres = mask[centre : centre + rows * stride : stride, centre : centre + columns * stride : stride]
    return patches[centres.flatten() > 0.5]


def sliced_wasserstein(points: Tensor, target: Tensor, directions: Tensor) -> Tensor:
    """Mean absolute difference of the sorted projections of two point sets (Bonneel et al. 2015; p = 1).

    Sets of different size are compared at as many evenly spaced quantiles as the smaller set has points.

    Args:
        points: (N, D).
        target: (M, D).
        directions: (D, K) unit columns.
    """
    projected, wanted = (_sort_rows((some @ directions).T) for some in (points, target))
    count = min(len(points), len(target))
    return (_quantiles(projected, count) - _quantiles(wanted, count)).abs().mean()


def sample_directions(dimension: int, count: int, generator: torch.Generator) -> Tensor:
    """Random unit vectors, (dimension, count)."""
    return F.normalize(torch.randn(dimension, count, generator=generator), dim=0)


def gram_distance(features: Sequence[Tensor], targets: Sequence[Tensor], weights: Tensor | None = None) -> Tensor:
    """Relative L1 distance of centred Gram matrices, mean over stages, times `weights` (B,) where given.

    Gatys et al. 2016, https://arxiv.org/abs/1508.06576, with covariances in place of raw products.

    Args:
        features: per stage (B, C, h, w).
        targets: per stage (C, C), of `compute_gram`.
    """
    distances = [
        (compute_gram(feature) - target).abs().sum((-2, -1)) / target.abs().sum().clamp(min=1e-6)
        for feature, target in zip(features, targets, strict=True)
    ]
    per_image = torch.stack(distances).mean(0)
    return (per_image if weights is None else weights * per_image).mean()


def compute_gram(feature: Tensor) -> Tensor:
    """Channel covariance (B, C, C) of a feature map (B, C, h, w)."""
    flat = feature.flatten(2)
    centred = flat - flat.mean(-1, keepdim=True)
    return centred @ centred.transpose(1, 2) / flat.shape[-1]


def self_similarity(feature: Tensor, max_side: int = 16) -> Tensor:
    """Cosine similarity (B, P, P) of every position of a feature map (B, C, h, w) to every other, P ≤ max_side².

    Kolkin et al. 2019, https://arxiv.org/abs/1904.12785. A map larger than max_side is averaged down to it.
    """
    side = min(max_side, *feature.shape[-2:])
    flat = F.adaptive_avg_pool2d(feature, side).flatten(2)
    unit = F.normalize(flat - flat.mean(-1, keepdim=True), dim=1)
    return unit.transpose(1, 2) @ unit


def structure_distance(features: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of self-similarities, over stages: the layout is kept, the appearance is free.

    Args:
        features: per stage (B, C, h, w).
        targets: per stage (B, P, P), of `self_similarity`.
    """
    return torch.stack(
        [(self_similarity(feature) - target).abs().mean() for feature, target in zip(features, targets, strict=True)]
    ).mean()


def compute_shading(image: Tensor) -> Tensor:
    """Rec. 601 luma (B,h,w) of images (B,3,H,W), averaged down to `SHADING_SIDE` pixels."""
    return F.adaptive_avg_pool2d(compute_luma(image), SHADING_SIDE)


def shading_distance(shading: Tensor, target: Tensor, masks: Tensor) -> Tensor:
    """1 − correlation of light and dark inside each region, mean over regions and batch, in [0, 2].

    Level, contrast and colour of a region are free; which of its parts are the lighter ones is not.

    Args:
        shading: (B,h,w) of `compute_shading`.
        target: (B,h,w) likewise, of the photographs.
        masks: (B,R,h,w) in [0,1].
    """
    weights = masks / masks.sum((2, 3), keepdim=True).clamp(min=1e-6)
    first, second = (part[:, None] - (weights * part[:, None]).sum((2, 3), keepdim=True) for part in (shading, target))
    variances = [(weights * part.square()).sum((2, 3)) for part in (first, second)]
    covariance = (weights * first * second).sum((2, 3))
    correlation = covariance / (variances[0] * variances[1] + SHADING_FLOOR**2).sqrt()
    return (1 - correlation).mean()


def match_colours(pixels: Tensor, weights: Tensor, target: Tensor, max_stretch: float = MAX_STRETCH) -> Tensor:
    """Pixels (N,3) moved so that their weighted mean and covariance are those of `target` (M,3).

    The optimal transport map between two normal distributions (Olkin & Pukelsheim 1982).

    Args:
        pixels: all of them are moved.
        weights: (N,) ≥ 0, how much each counts for mean and covariance.
        target: colours wanted.
        max_stretch: > 0; the most that the map stretches along any of its axes, so that noise is not blown up.
    """
    shares = weights / weights.sum()
    mean = shares @ pixels
    eye = COLOUR_FLOOR * torch.eye(3, dtype=pixels.dtype, device=pixels.device)
    covariance = ((pixels - mean).T * shares) @ (pixels - mean) + eye
    wanted = torch.cov(target.T, correction=0) + eye
    root = _matrix_power(covariance, 0.5)
    inverse_root = _matrix_power(covariance, -0.5)
    stretch = inverse_root @ _matrix_power(root @ wanted @ root, 0.5) @ inverse_root
    factors, axes = torch.linalg.eigh(stretch)
    moved: Tensor = target.mean(0) + (pixels - mean) @ ((axes * factors.clamp(max=max_stretch)) @ axes.T)
    return moved


def identity_distance(identity_embeds: Tensor, target_embeds: Tensor, weights: Tensor | None = None) -> Tensor:
    """1 − cosine of unit identity embeddings (B, D), times `weights` (B,) where given, mean over the batch."""
    distances = 1 - (identity_embeds * target_embeds).sum(-1)
    return (distances if weights is None else weights * distances).mean()


def total_loss(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Σ weight · loss over the keys of `losses`.

    Raises:
        KeyError: a loss without a weight.
    """
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def _matrix_power(matrix: Tensor, exponent: float) -> Tensor:
    """Power of a symmetric positive matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    power: Tensor = (vectors * values.clamp(min=1e-9) ** exponent) @ vectors.T
    return power


def _sort_rows(values: Tensor) -> Tensor:
    """Sort each row of (K,N) upwards; gradients flow."""
    if values.device.type != "cpu":
        return values.sort(1).values
    # numpy sorts with vector instructions, several times as fast as torch on a CPU.
    order = np.argsort(values.detach().float().numpy(), axis=1)
    return values.gather(1, torch.from_numpy(order))


def _quantiles(sorted_rows: Tensor, count: int) -> Tensor:
    """`count` evenly spaced values (K,count) of sorted rows (K,N)."""
    if sorted_rows.shape[1] == count:
        return sorted_rows
    positions = torch.linspace(0, sorted_rows.shape[1] - 1, count, device=sorted_rows.device)
    return sorted_rows[:, positions.round().long()]
