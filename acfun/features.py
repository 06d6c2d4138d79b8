"""The features of a face, drawn over its painting.

What a person is known by is small: lids and pupils, brows, lips, the lines beside a nose. Patches of a painting blur
it, and so do autoencoders. A painted face keeps its colours here, and takes its light and shade in part from the
photograph: fine ones, most of all where features are, and broad ones.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from acfun.face.align import measure_pupil_distance
from acfun.face.regions import REGIONS
from acfun.images import blur, compute_luma, resize
from acfun.masks import grow

FACE = ("skin", "eyes", "mouth")
# In pupil distances: deviation of the blur below which light and shade are fine; margin around eyes, brows and mouth.
FINE, MARGIN = 0.045, 0.055
FEATURE_SHARE, SKIN_SHARE = 0.8, 0.35  # of fine light and shade that is the photograph's
SHADING_SHARE = 0.4  # of broad light and shade in a face
LIP_SHARE = 0.4  # of a mouth's hue that is the recoloured photograph's
FORM_REACH = 0.01  # deviation of the blur below which light and shade around a face are fine, in the picture's side
FORM_SHARES = {"body": 1.0, "background": 0.5}  # how much of what follows is the photograph's there
FINE_FORM_SHARE, BROAD_FORM_SHARE = 0.6, 0.4
MIN_CONTRAST, MAX_CONTRAST = 0.75, 1.2  # of what is drawn; the photograph's is 1
_MIN_SPREAD = 1e-3


def draw_features(
    painting: Tensor, photo: Tensor, recoloured: Tensor, regions: Tensor, landmarks: Tensor, scale: float = 1.0
) -> Tensor:
    """Draw a person's features over the painting.

    Args:
        painting: (1,3,kH,kW) in [-1,1].
        photo: (1,3,·,·) in [-1,1], what was painted; features are as fine as it shows them.
        recoloured: (1,3,H,W) in [-1,1], the photograph in the style's colours, which give the drawing its contrast.
        regions: (1,6,H,W) in [0,1], masks of its `REGIONS`.
        landmarks: (189,2) pixels of the masks.
        scale: ≥ 0, multiplies what is the photograph's, up to all of it.

    Returns:
        (1,3,kH,kW) in [-1,1].
    """
    size, unit = (painting.shape[-2], painting.shape[-1]), max(1.0, float(measure_pupil_distance(landmarks)))
    masks = dict(zip(REGIONS, regions.split(1, 1), strict=True))
    face, mouth = torch.stack([masks[name] for name in FACE]).sum(0), grow(masks["mouth"], MARGIN * unit)
    small = resize(photo, (regions.shape[-2], regions.shape[-1]))
    contrast = (_measure_spread(recoloured, face) / _measure_spread(small, face)).clamp(MIN_CONTRAST, MAX_CONTRAST)

    fine = torch.maximum(FEATURE_SHARE * torch.maximum(mouth, grow(masks["eyes"], MARGIN * unit)), SKIN_SHARE * face)
    shares = scale * torch.cat([fine, SHADING_SHARE * blur(face, MARGIN * unit), LIP_SHARE * mouth], 1)
    shares = F.interpolate(torch.cat([shares, face], 1), size, mode="bilinear").clamp(0, 1)
    fine_share, broad_share, lip_share, face = shares.split(1, 1)

    luma, wanted = (compute_luma(image)[:, None] for image in (painting, resize(photo, size)))
    reach = FINE * unit * size[0] / regions.shape[-2]
    broad, wanted_broad = blur(luma, reach), blur(wanted, reach)
    # The painting says how light the face is, the photograph which of its parts are the lighter ones.
    level = (face * (broad - contrast * wanted_broad)).sum() / face.sum().clamp(min=1e-6)
    drawn = torch.lerp(broad, contrast * wanted_broad + level, broad_share)
    drawn += torch.lerp(luma - broad, contrast * (wanted - wanted_broad), fine_share)
    lips = resize(recoloured, size)
    hue = torch.lerp(painting - luma, lips - compute_luma(lips)[:, None], lip_share)
    return (drawn + hue).clamp(-1, 1)


def draw_forms(
    painting: Tensor, photo: Tensor, recoloured: Tensor, regions: Tensor, ground: Tensor, scale: float = 1.0
) -> Tensor:
    """Draw bodies, and what stands beside them, over the painting: folds, collars, things.

    Strokes stay: what is fine in the photograph is added to them.

    Args:
        painting: (1,3,kH,kW) in [-1,1].
        photo: (1,3,·,·) in [-1,1], what was painted; forms are as fine as it shows them.
        recoloured: (1,3,H,W) in [-1,1], the photograph in the style's colours.
        regions: (1,6,H,W) in [0,1], masks of its `REGIONS`.
        ground: (1,1,H,W) in [0,1], how much of the photograph's own ground is to be seen.
        scale: ≥ 0, multiplies what is the photograph's, up to all of it.

    Returns:
        (1,3,kH,kW) in [-1,1].
    """
    size, small = (painting.shape[-2], painting.shape[-1]), resize(photo, (regions.shape[-2], regions.shape[-1]))
    masks = dict(zip(REGIONS, regions.split(1, 1), strict=True))
    masks["background"] = masks["background"] * ground
    share = sum(part * masks[name] for name, part in FORM_SHARES.items())
    contrast = (_measure_spread(recoloured, share) / _measure_spread(small, share)).clamp(max=MAX_CONTRAST)
    # What only the larger photograph shows.
    detail = contrast * compute_luma(resize(photo, size) - resize(small, size))[:, None]
    luma, wanted = (compute_luma(image)[:, None] for image in (painting, resize(recoloured, size)))
    share, wanted = F.interpolate(share, size, mode="bilinear"), wanted + detail
    broad, wanted_broad = (blur(part, FORM_REACH * min(size)) for part in (luma, wanted))
    fine_share, broad_share = ((scale * part * share).clamp(max=1) for part in (FINE_FORM_SHARE, BROAD_FORM_SHARE))
    drawn = broad_share * (wanted_broad - broad) + fine_share * (wanted - wanted_broad)
    return (painting + drawn).clamp(-1, 1)


def _measure_spread(image: Tensor, weights: Tensor) -> Tensor:
    """Standard deviation () of the luma of (1,3,H,W), weighted by (1,1,H,W)."""
    luma, shares = compute_luma(image)[:, None], weights / weights.sum().clamp(min=1e-6)
    mean = (shares * luma).sum()
    return (shares * (luma - mean).square()).sum().sqrt().clamp(min=_MIN_SPREAD)
