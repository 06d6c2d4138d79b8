"""What only drawings have: lines of the pen, and tones between ink and paper that few pixels take.

A photograph's features over a drawing of patches are soft greys, as no pen makes them. Here they become lines, and all
tones move towards those that the drawing has.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from acfun.face.align import measure_pupil_distance
from acfun.face.regions import REGIONS
from acfun.features import FACE
from acfun.images import blur, compute_luma, resize

LINE_STRENGTH, MAX_SCALE = 4.0, 1.5
LINE_WIDTH, LINE_REACH = 0.008, 0.045  # deviations of the two blurs whose difference is a line, in pupil distances
TONE_SHARE = 0.5  # of the way to the drawing's tones
_EDGE = 2.0  # pixels


def draw_lines(drawing: Tensor, photo: Tensor, regions: Tensor, landmarks: Tensor, scale: float = 1.0) -> Tensor:
    """Draw the dark lines of a photographed face (difference of Gaussians; Winnemöller et al. 2012, section 2).

    Args:
        drawing: (1,3,kH,kW) in [-1,1].
        photo: (1,3,·,·) in [-1,1], what was drawn.
        regions: (1,6,H,W) in [0,1], masks of its `REGIONS`.
        landmarks: (189,2) pixels of the masks.
        scale: ≥ 0; how dark lines are, up to `MAX_SCALE`: beyond it shadows turn black.

    Returns:
        (1,3,kH,kW) in [-1,1].
    """
    size = (drawing.shape[-2], drawing.shape[-1])
    unit = max(1.0, float(measure_pupil_distance(landmarks))) * size[0] / regions.shape[-2]
    face = blur(regions[:, [REGIONS.index(name) for name in FACE]].sum(1, keepdim=True), _EDGE)
    luma = compute_luma(resize(photo, size))[:, None]
    lines = (blur(luma, LINE_WIDTH * unit) - blur(luma, LINE_REACH * unit)).clamp(max=0)
    strength = min(scale, MAX_SCALE) * LINE_STRENGTH
    return (drawing + strength * F.interpolate(face, size, mode="bilinear") * lines).clamp(-1, 1)


def match_tones(image: Tensor, drawing: Tensor) -> Tensor:
    """A picture (1,3,H,W) in [-1,1] whose distribution of luma comes near to that of a drawing (1,3,·,·)."""
    luma = compute_luma(image)
    tones, wanted = luma.flatten().sort().values, compute_luma(drawing).flatten().sort().values
    # What is of one tone stays so: the middle of its ranks counts.
    ranks = 0.5 * (torch.searchsorted(tones, luma) + torch.searchsorted(tones, luma, right=True)) / len(tones)
    places = ranks * (len(wanted) - 1)
    below = places.long()
    matched = torch.lerp(wanted[below], wanted[(below + 1).clamp(max=len(wanted) - 1)], places - below)
    return (image + TONE_SHARE * (matched - luma)[:, None]).clamp(-1, 1)
