"""The backdrop: a painting's own ground, which stands where a photograph's ground shows next to nothing.

A wall behind a sitter says nothing of the sitter. Laid out in the painting's patches it becomes a plain, where the
painting's mood is in its sky.
"""

import torch
from torch import Tensor

from acfun.face.align import measure_pupil_distance
from acfun.face.regions import REGIONS
from acfun.images import blur, compute_luma, resize
from acfun.masks import fill, grow, reach
from acfun.palette import USUAL_DISTANCES, find_odd
from acfun.portrait import Portrait

SURE_GROUND = 0.9  # share of the ground in what is surely of it
MIN_GROUND = 0.02  # share of the painting from which on it has one to show
MARGIN = 3.0  # pixels around a figure that are hidden with it, half a patch of the brushwork
WORN_MARGIN = 4.0  # pixels around what is worn
# In pupil distances from a head: in this reach what is unusual is worn (hats, veils, locks); beyond the other nothing
# is, and if so much of the ground lies there, it vouches for what is usual.
WORN_REACH, SURE_REACH, MIN_SURE = 3.5, 2.0, 0.15
UNSURE_DISTANCES = 3.0  # up to which colours are usual around a head that fills its picture: nothing vouches for them
CALM, BUSY = 0.04, 0.10  # deviation of luma in [-1,1], up to which a ground shows nothing, from which on it is kept
NEIGHBOURHOOD = 0.04  # deviation of what it is measured in, in shorter sides of the photograph
WISPS = 0.01  # of the ground around figures in which it is not measured, for loose hair lies there; likewise
MIN_WEIGHT = 1e-3
_GROUND = REGIONS.index("background")


def build_backdrop(painting: Portrait, *, is_drawing: bool = False) -> Tensor | None:
    """The ground (1,3,h,w) of a painting of that size, which goes on behind the figure; all of it without a face.

    None where next to no ground is seen.

    Args:
        painting: with landmarks, where it has a face.
        is_drawing: whether it is ink on paper, whose colours do not tell what is worn: strokes of the ground are as
            dark as a hat is.
    """
    if painting.regions is None:
        return painting.image
    figure = (painting.masks["background"] <= SURE_GROUND).float()[None, None]
    known = 1 - grow(figure, MARGIN).round()
    if not is_drawing:
        known *= 1 - grow(find_worn(painting, known), WORN_MARGIN).round()
    return fill(painting.image, known) if float(known.mean()) >= MIN_GROUND else None


def find_worn(painting: Portrait, ground: Tensor) -> Tensor:
    """Hats, veils and locks (1,1,h,w) that count as ground (1,1,h,w), by their colours: of 0 and 1."""
    assert painting.landmarks is not None
    unit = float(measure_pupil_distance(painting.landmarks[0]))
    head = 1 - painting.masks["background"] - painting.masks["body"]
    is_ground = ground > 0.5
    sure = is_ground & (reach(head[None, None], SURE_REACH * unit) < 0.5)
    is_sure = float(sure.sum()) >= MIN_SURE * float(is_ground.sum())
    is_odd = find_odd(painting.image, ground, USUAL_DISTANCES if is_sure else UNSURE_DISTANCES)
    worn: Tensor = is_odd & is_ground & (reach(head[None, None], WORN_REACH * unit) > 0.5)
    return worn.float()


def lay_backdrop(picture: Tensor, photo: Tensor, regions: Tensor, backdrop: Tensor, scale: float = 1.0) -> Tensor:
    """A picture (1,3,H,W) with a painting's ground where that of the photograph shows nothing.

    Args:
        picture: of the photograph, in the painting's colours.
        photo: (1,3,H,W) in [-1,1].
        regions: (1,6,H,W) in [0,1], its `REGIONS`.
        backdrop: (1,3,h,w) of `build_backdrop`; its middle, from the top on, is what is seen.
        scale: ≥ 0; by how much more may be seen in what is taken for nothing. 0 keeps the photograph's ground.
    """
    ground = regions[:, _GROUND, None]
    share = ground * measure_calm(photo, ground, scale)
    return torch.lerp(picture, place_backdrop(backdrop, (picture.shape[-2], picture.shape[-1])), share)


def measure_calm(photo: Tensor, ground: Tensor, scale: float = 1.0) -> Tensor:
    """How little a photograph (1,3,H,W) shows on its ground (1,1,H,W): (1,1,H,W) in [0,1], 1 is nothing."""
    if scale == 0:
        return torch.zeros_like(ground)
    spread = NEIGHBOURHOOD * min(photo.shape[-2:])
    figures = grow((ground <= SURE_GROUND).float(), WISPS * min(photo.shape[-2:]))
    seen, luma = 1 - figures.round(), compute_luma(photo)[:, None]
    weight = blur(seen, spread).clamp(min=MIN_WEIGHT)

    def average(values: Tensor) -> Tensor:
        return blur(seen * values, spread) / weight

    deviation = average((average(luma.square()) - average(luma).square()).clamp(min=0).sqrt()) / scale
    share = ((BUSY - deviation) / (BUSY - CALM)).clamp(0, 1)
    return share.square() * (3 - 2 * share)


def place_backdrop(backdrop: Tensor, size: tuple[int, int]) -> Tensor:
    """What is seen of a backdrop (1,3,h,w) in a picture of a size (height, width), which it covers: (1,3,*size)."""
    factor = max(1.0, *(side / own for side, own in zip(size, backdrop.shape[-2:], strict=True)))
    height, width = (max(side, round(factor * own)) for side, own in zip(size, backdrop.shape[-2:], strict=True))
    covering = resize(backdrop, (height, width))
    left = (width - size[1]) // 2
    # Of what is higher than the picture the top is seen: below it are bodies.
    return covering[..., : size[0], left : left + size[1]]
