"""Relief: how far strokes stand out from what they lie on.

Where patches overlap they are averaged, and lose what they do not agree on: the fine differences inside a region are
weaker than the painting's own. They are given back in part; and on what is left without any, strokes of the painting
are laid.
"""

import torch
from torch import Tensor

from acfun.images import blur

RELIEF_SHARE = 0.6  # of what is missing
MAX_GAIN = 2.0
MIN_AREA = 500.0  # pixels of a region, fewer say nothing of its strokes


def measure_relief(image: Tensor, masks: Tensor, reach: float) -> Tensor:
    """Root mean square (R,) of the fine differences in each region of a picture; 0 in regions too small to tell.

    Args:
        image: (1,C,H,W).
        masks: (1,R,H,W) in [0,1].
        reach: deviation of the blur below which differences are fine, pixels.
    """
    return _measure(image - blur(image, reach), masks)


def restore_relief(image: Tensor, masks: Tensor, wanted: Tensor, reach: float) -> Tensor:
    """A picture (1,C,H,W) in [-1,1] whose fine differences come near to those that are `wanted` (R,).

    They only ever become stronger. Other arguments are those of `measure_relief`; a region of which 0 is wanted stays
    as it is.
    """
    fine = image - blur(image, reach)
    found = _measure(fine, masks)
    gains = torch.where(found > 0, wanted / found.clamp(min=1e-6), 1.0).clamp(1, MAX_GAIN)
    gain = torch.einsum("brhw,r->bhw", masks, RELIEF_SHARE * (gains - 1))[:, None]
    return (image + gain * fine).clamp(-1, 1)


def measure_fine_energy(image: Tensor, reach: float) -> Tensor:
    """Mean square (1,1,H,W) of the fine differences around each pixel of a picture (1,C,H,W)."""
    fine = image - blur(image, reach)
    return blur(fine.square().mean(1, keepdim=True), reach)


def measure_lack(image: Tensor, wanted: float, reach: float) -> Tensor:
    """How much of a painting's strokes a picture (1,C,H,W) lacks, (1,1,H,W) in [0,1].

    Mean squares of what is independent add up: where the picture's is m and w is wanted, √(1 − m/w) of the strokes are
    lacking, and none where the picture has strokes or features of its own.

    Args:
        image: calmer than the painting in places.
        wanted: mean square of the painting's fine differences.
        reach: deviation of the blur below which differences are fine, pixels.
    """
    return (1 - measure_fine_energy(image, reach) / wanted).clamp(0, 1).sqrt()


def _measure(fine: Tensor, masks: Tensor) -> Tensor:
    energy, areas = fine.square().mean(1, keepdim=True), masks.sum((0, 2, 3))
    means = (masks * energy).sum((0, 2, 3)) / areas.clamp(min=1e-6)
    return torch.where(areas >= MIN_AREA, means.sqrt(), 0.0)
