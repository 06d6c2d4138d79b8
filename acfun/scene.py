"""The scene behind portraits: a photograph without the heads that are painted by themselves and put back into it.

Heads in a scene are small; painted with it they would be seen, coarse as they are, around those that are put back.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from acfun.face.align import measure_pupil_distance, scale_points
from acfun.face.regions import NECK_CONTOUR, REGIONS, draw_polygon
from acfun.face.segmentation import segment_people
from acfun.face.segmenter import load_segmenter
from acfun.images import resize
from acfun.masks import fill, grow
from acfun.portrait import Portrait

MARGIN = 3.0  # pixels around heads that are hidden with them: half a patch of the brushwork
REACH = 1.0  # pupil distances around them, in which hair and skin are hidden too
OPAQUE = 0.9  # from which share on nothing is seen of what is behind a portrait
MIN_LEFT = 0.1  # of hair and skin, from which on they colour what is around them
MIN_SEEN = 0.7  # of body and background, in what is neither
_BODY, _BACKGROUND = REGIONS.index("body"), REGIONS.index("background")
_HEAD = [REGIONS.index(name) for name in ("skin", "hair")]


def segment_photo(photo: Tensor, landmarks: Tensor, size: tuple[int, int]) -> Tensor:
    """The `REGIONS` (1,6,*size) in [0,1] of a photograph (1,3,H,W) with landmarks (F,189,2)."""
    points = scale_points(landmarks, (photo.shape[-2], photo.shape[-1]), size)
    return segment_people(resize(photo, size), points, segmenter=load_segmenter())


def build_scene(photo: Tensor, landmarks: Tensor, regions: Tensor, heads: Tensor, enlargement: int = 1) -> Portrait:
    """A photograph whose heads are filled from around them, with regions of bodies, background, hair and necks left.

    Args:
        photo: (1,3,H,W) in [-1,1].
        landmarks: (F,189,2) pixels, of its faces, the largest first.
        regions: (1,6,h,w) of `segment_photo`; those of the scene are of this size.
        heads: (1,2,H,W) in [0,1], what is to be hidden, and where the portraits are that show it. Hair and necks that
            reach to where portraits run out, or beyond, stay.
        enlargement: the picture is this many times as large.
    """
    size = (regions.shape[-2], regions.shape[-1])
    hidden, shown = F.interpolate(heads, size, mode="area").split(1, 1)
    points = scale_points(landmarks, (photo.shape[-2], photo.shape[-1]), size)
    body, background = regions[:, _BODY, None], regions[:, _BACKGROUND, None]
    unit = float(measure_pupil_distance(points[0]))
    # Where a portrait runs out, the same hair must stand behind it.
    covered = (shown > OPAQUE).float()
    is_person, hidden = grow((body + background < MIN_SEEN).float(), MARGIN) * covered, hidden * covered
    known = 1 - covered * torch.maximum(grow(hidden, MARGIN), grow(hidden, REACH * unit) * is_person).round()
    left = regions[:, _HEAD] * known * (1 - covered)
    is_scene = 1 - left.sum(1, keepdim=True)
    necks = torch.stack([draw_polygon(face[None, list(NECK_CONTOUR)], size) for face in points]).amax(0)[None]
    body = torch.maximum(fill(body / (body + background).clamp(min=MIN_SEEN), known), (1 - known) * necks)
    masks = torch.zeros_like(regions)
    masks[:, _HEAD] = left
    masks[:, [_BODY, _BACKGROUND]] = is_scene * torch.cat([body, 1 - body], 1)
    large = (enlargement * size[0], enlargement * size[1])
    # What is behind heads goes on without the hair beside it.
    shown_around = known * (1 - grow((left.sum(1, keepdim=True) > MIN_LEFT).float(), MARGIN).round())
    known, shown_around = (F.interpolate(mask, large, mode="bilinear") for mask in (known, shown_around))
    image = resize(photo, large)
    return Portrait(torch.lerp(fill(image, shown_around), image, known), points[:1], given_regions=masks)
