"""Masks: made to reach farther, and what they hide filled from around."""

import torch
from torch import Tensor
from torch.nn import functional as F

from acfun.images import blur

REACH_STEPS = 8  # how finely `reach` goes


def grow(mask: Tensor, margin: float) -> Tensor:
    """A mask (1,1,H,W) that reaches `margin` pixels farther, with a soft edge."""
    radius = max(1, round(margin))
    return blur(F.max_pool2d(mask, 2 * radius + 1, 1, radius), margin / 3)


def reach(mask: Tensor, margin: float) -> Tensor:
    """As `grow`, for many pixels: in steps of about an eighth of them."""
    factor = max(1, round(margin / REACH_STEPS))
    small = F.max_pool2d(mask, factor, ceil_mode=True)
    sides = [factor * side for side in small.shape[-2:]]
    grown = F.interpolate(grow(small, margin / factor), size=sides, mode="nearest")
    return grown[..., : mask.shape[-2], : mask.shape[-1]]


def fill(maps: Tensor, known: Tensor) -> Tensor:
    """What is not known of (1,C,H,W), by (1,1,H,W) in [0,1], taken from around it (push-pull, Gortler et al. 1996)."""
    if min(maps.shape[-2:]) == 1:
        return maps
    size = (-(-maps.shape[-2] // 2), -(-maps.shape[-1] // 2))
    share = F.adaptive_avg_pool2d(known, size)
    coarse = F.adaptive_avg_pool2d(known * maps, size) / share.clamp(min=1e-6)
    filled = fill(coarse, (4 * share).clamp(max=1))
    return torch.lerp(F.interpolate(filled, maps.shape[-2:], mode="bilinear"), maps, known)
