"""Metrics as pure functions of features."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from acfun.losses import compute_gram, sliced_wasserstein

EPSILON = 1e-8
MAX_POINTS = 4096  # of a feature map that a Wasserstein distance looks at, evenly spaced


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


def compute_wasserstein(stages: Sequence[Tensor], targets: Sequence[Tensor], directions: Sequence[Tensor]) -> Tensor:
    """Sliced Wasserstein-1 distance (B,) of feature vectors wherever they stand, mean over stages.

    Bonneel et al. 2015, https://doi.org/10.1007/s10851-014-0506-3. In units of the standard deviation that each channel
    has in the target.

    Args:
        stages: per stage (B,C,h,w).
        targets: per stage (1,C,H,W), of another size if need be.
        directions: per stage (C,K) unit columns, of `acfun.losses.sample_directions`.
    """
    distances = []
    for stage, target, columns in zip(stages, targets, directions, strict=True):
        scale = target[0].flatten(1).std(1).clamp(min=EPSILON)
        wanted = _pick_points(target[0]) / scale
        distances.append(
            torch.stack([sliced_wasserstein(_pick_points(single) / scale, wanted, columns) for single in stage])
        )
    return torch.stack(distances).mean(0)


def compute_structure_distance(tokens: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute difference (B,) of the self-similarities of patches (B,T,D) and (B,T,D), in [0,2].

    How alike the parts of a picture are among themselves, whatever they are painted with (Tumanyan et al. 2022,
    https://arxiv.org/abs/2201.00424).
    """
    return (_compare_tokens(tokens) - _compare_tokens(targets)).abs().mean((1, 2))


def compute_face_similarity(tokens: Tensor, targets: Tensor) -> Tensor:
    """How alike faces are in what sets each apart from the others, (B,) in [-1,1]; B at least 2.

    The cosine of the self-similarities of patches, less their mean over the B people on either side. What a style does
    to all faces, and what all faces share, thus counts for nothing; figures of other people are not comparable.

    Args:
        tokens: (B,T,D) of aligned faces.
        targets: (B,T,D) of the same people, in the same order.
    """
    first, second = (_compare_tokens(part).flatten(1) for part in (tokens, targets))
    return compute_cosine(first - first.mean(0), second - second.mean(0))


def compute_bleeding(outside: Tensor, style_outside: Tensor, style_face: Tensor) -> Tensor:
    """How far the colours around the face are those of the painted face, () in [0,1].

    The colour distance to what surrounds the painted face, over its sum with the distance to that face: 0 where the
    surroundings have the painting's own colours, 0.5 where they are between both, 1 where they have the face's.

    Args:
        outside: CIELAB colours (N,3) around the face of the result.
        style_outside: (M,3) around the painted face.
        style_face: (K,3) of the painted face.
    """
    own, foreign = (compute_colour_distance(outside, colours) for colours in (style_outside, style_face))
    return own / (own + foreign).clamp(min=EPSILON)


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


def is_kept(identity: Tensor, leakage: Tensor, factor: float = 2.0) -> Tensor:
    """1 where results (B,) are like the person, and `factor` times as much as like the painted face, else 0."""
    return ((identity > 0) & (identity >= factor * leakage)).to(identity)


def wilson_interval(successes: float, count: float, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share, by default at 95 %; (0, 1) where nothing was counted.

    Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953:
    (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n) with p = successes / n.
    """
    if count == 0:
        return 0.0, 1.0
    share, spread = successes / count, z * z / count
    centre = (share + spread / 2) / (1 + spread)
    margin = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, centre - margin), min(1.0, centre + margin)


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


def _pick_points(feature: Tensor) -> Tensor:
    """At most `MAX_POINTS` evenly spaced vectors (N,C) of a feature map (C,h,w)."""
    points = feature.flatten(1).T
    return points[:: -(-len(points) // MAX_POINTS)]


def _compare_tokens(tokens: Tensor) -> Tensor:
    """Cosine similarities (B,T,T) of centred tokens (B,T,D)."""
    unit = F.normalize(tokens - tokens.mean(1, keepdim=True), dim=-1)
    return unit @ unit.transpose(1, 2)
