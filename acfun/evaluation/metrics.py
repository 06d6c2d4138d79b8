"""Metrics as pure functions of features."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from acfun.losses import compute_gram

EPSILON = 1e-8


def compute_cosine(embeds: Tensor, targets: Tensor) -> Tensor:
    """Cosine similarity (B,) of embeddings (B,D), in [-1,1]."""
    return F.cosine_similarity(embeds, targets, dim=-1)


def compute_perceptual_distance(stages: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Squared distance (B,) of channel-normalised feature maps, mean over positions and stages, in [0,4].

    LPIPS of Zhang et al. 2018, https://arxiv.org/abs/1801.03924, without its learnt weights.

    Args:
        stages: per stage (B,C,h,w).
        targets: likewise.
    """
    distances = [
        (F.normalize(stage, dim=1) - F.normalize(target, dim=1)).square().sum(1).mean((1, 2))
        for stage, target in zip(stages, targets, strict=True)
    ]
    return torch.stack(distances).mean(0)


def compute_style_distance(stages: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Relative L1 distance (B,) of channel covariances, mean over stages.

    Gatys et al. 2016, https://arxiv.org/abs/1508.06576, with covariances in place of raw products.
    """
    distances = []
    for stage, target in zip(stages, targets, strict=True):
        wanted = compute_gram(target)
        distances.append((compute_gram(stage) - wanted).abs().sum((1, 2)) / wanted.abs().sum((1, 2)).clamp(min=EPSILON))
    return torch.stack(distances).mean(0)


def compute_colour_distance(colours: Tensor, targets: Tensor, num_quantiles: int = 256) -> Tensor:
    """Wasserstein-1 distance () of the marginals of CIELAB colours (N,3) and (M,3), mean over L*, a*, b*."""
    points = (torch.arange(num_quantiles) + 0.5) / num_quantiles
    distance = torch.quantile(colours, points, dim=0) - torch.quantile(targets, points, dim=0)
    return distance.abs().mean()


def compute_ghosting(results: Tensor, faces: Tensor, styles: Tensor) -> Tensor:
    """How much of each result (B,H,W) is a double exposure of the style image, (B,) in [0,1].

    The share of the result's variance that least squares explains by the face (B,H,W) and the style (B,H,W) laid over
    each other, beyond what the face explains alone; 0 where the style would have to be subtracted.
    """
    result, face, style = (_standardise(images.flatten(1)) for images in (results, faces, styles))
    overlap = (face * style).mean(1, keepdim=True)
    own = _standardise(style - overlap * face)  # the style image's share that the face does not have
    weight = (result * own).mean(1)
    return weight.clamp(min=0).square()


def compute_ssim(results: Tensor, targets: Tensor, window: int = 7) -> Tensor:
    """Structural similarity (B,) of luminance images (B,H,W) in [-1,1], uniform windows.

    Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861, with K₁ = 0.01, K₂ = 0.03 and range 2.
    """
    x, y = results[:, None], targets[:, None]
    mean_x, mean_y = (F.avg_pool2d(images, window, 1) for images in (x, y))
    var_x = F.avg_pool2d(x * x, window, 1) - mean_x.square()
    var_y = F.avg_pool2d(y * y, window, 1) - mean_y.square()
    covariance = F.avg_pool2d(x * y, window, 1) - mean_x * mean_y
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    ratio = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (ratio / ((mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2))).mean((1, 2, 3))


def bootstrap_interval(
    values: Tensor, generator: torch.Generator, confidence: float = 0.95, rounds: int = 2000
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of values (N,)."""
    draws = torch.randint(len(values), (rounds, len(values)), generator=generator)
    low, high = torch.quantile(
        values[draws].mean(1), torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2])
    ).tolist()
    return low, high


def _standardise(values: Tensor) -> Tensor:
    """Rows (B,N) with mean 0 and variance 1; constant rows become 0."""
    centred = values - values.mean(1, keepdim=True)
    return centred / centred.square().mean(1, keepdim=True).sqrt().clamp(min=EPSILON)
