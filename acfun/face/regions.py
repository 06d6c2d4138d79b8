"""Soft masks of the parts of a portrait, drawn from its landmarks at any resolution."""

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

REGIONS = ("skin", "eyes", "mouth", "hair", "body", "background")
# Where a region belongs that has no counterpart, the first one that has.
NEIGHBOURS = {
    "eyes": ("skin", "hair"),
    "mouth": ("skin", "hair"),
    "skin": ("hair", "background"),
    "hair": ("background", "skin"),
    "body": ("background", "hair"),
    "background": ("body", "hair", "skin"),
}
FACE_OVAL = (*range(125, 134), *range(144, 133, -1))
EYE_CONTOURS = ((18, 34, 35, 36, 37, 38, 22, 30, 29, 28), (23, 39, 40, 41, 42, 43, 27, 33, 32, 31))
BROW_CONTOURS = ((71, 72, 73, 74, 75, 76, 84, 83), (77, 78, 79, 80, 81, 82, 86, 85))
MOUTH_CONTOUR = (*range(87, 94), *range(108, 103, -1))
HAIR_CONTOUR = tuple(range(145, 158))
NECK_CONTOUR = (*range(125, 134), 157, 184, 183, 145)
NECK_SIDES = (145, 183, 184, 157)
# From either side of the neck: distances outwards and down, in pupil distances.
SHOULDERS = ((0.5, 0.15), (1.3, 0.6), (2.2, 2.0), (2.5, 12.0))
# From the middle of the neck, the same for what may be clothes.
CLOTHES = ((6.0, 0.3), (6.0, 12.0))
_MIN_DRAWN_SIZE = 96


def draw_regions(landmarks: Tensor, size: tuple[int, int]) -> Tensor:
    """Draw the `REGIONS` of faces; at each pixel they sum to one.

    Skin is the oval of the face, without eyes, brows and mouth, and the neck; the eyes have their brows; hair is what
    the outline of the head holds besides; the body is where shoulders and clothes must be, below the neck.

    Args:
        landmarks: (B,189,2) pixels.
        size: (height, width) of the masks, pixels; small ones are drawn larger and averaged.

    Returns:
        (B,6,*size) in [0,1].
    """
    height, width = size
    samples = max(1, -(-_MIN_DRAWN_SIZE // min(height, width)))
    drawn = (height * samples, width * samples)
    points = (landmarks + 0.5) * samples - 0.5

    def fill(*contours: tuple[int, ...]) -> Tensor:
        masks = [draw_polygon(points[:, list(contour)], drawn) for contour in contours]
        return torch.stack(masks).amax(0)

    eyes, body = fill(*EYE_CONTOURS, *BROW_CONTOURS), draw_polygon(_outline_body(points), drawn)
    layers = (eyes, fill(MOUTH_CONTOUR), fill(FACE_OVAL, NECK_CONTOUR), fill(HAIR_CONTOUR), body)
    uncovered = torch.ones_like(eyes)
    seen = []
    for layer in layers:
        seen.append(layer * uncovered)
        uncovered = uncovered * (1 - layer)
    visible_eyes, mouth, skin, hair, visible_body = seen
    masks = torch.stack([skin, visible_eyes, mouth, hair, visible_body, uncovered], 1)
    return F.avg_pool2d(masks, samples) if samples > 1 else masks


def draw_clothes(landmarks: Tensor, size: tuple[int, int]) -> Tensor:
    """Where sleeves, skirts and cloaks may be besides the body: below the neck, on either side.

    Args:
        landmarks: (B,189,2) pixels.
        size: (height, width) of the mask, pixels.

    Returns:
        (B,1,*size) in [0,1].
    """
    right, down = _measure_axes(landmarks)
    neck = landmarks[:, list(NECK_SIDES)].mean(1)
    near = [neck + out * right + fall * down for out, fall in CLOTHES]
    far = [neck - out * right + fall * down for out, fall in reversed(CLOTHES)]
    return draw_polygon(torch.stack([*near, *far], 1), size)[:, None]


def fold_regions(masks: Tensor, kept: Collection[str]) -> Tensor:
    """Masks (B,6,H,W) whose regions that are not kept have joined a neighbour; without one they are lost."""
    folded = masks * masks.new_tensor([float(name in kept) for name in REGIONS]).view(-1, 1, 1)
    for index, name in enumerate(REGIONS):
        neighbour = next((other for other in NEIGHBOURS[name] if other in kept), None)
        if name not in kept and neighbour is not None:
            folded[:, REGIONS.index(neighbour)] += masks[:, index]
    return folded


def _outline_body(points: Tensor) -> Tensor:
    """Corners (B,N,2) of the body below the neck of (B,189,2) landmarks."""
    right, down = _measure_axes(points)
    neck = points[:, list(NECK_SIDES)]
    near = [neck[:, 3] + out * right + fall * down for out, fall in SHOULDERS]
    far = [neck[:, 0] - out * right + fall * down for out, fall in reversed(SHOULDERS)]
    return torch.cat([neck, torch.stack([*near, *far], 1)], 1)


def _measure_axes(points: Tensor) -> tuple[Tensor, Tensor]:
    """From pupil to pupil, and as far down, (B,2) each."""
    right = points[:, 1] - points[:, 0]
    return right, torch.stack([-right[:, 1], right[:, 0]], 1)


def draw_polygon(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Fill polygons with an edge one pixel wide.

    Args:
        points: (B,N,2) corners in order, pixels.
        size: (height, width) of the masks.

    Returns:
        (B,*size) in [0,1].
    """
    height, width = size
    rows = torch.arange(height, dtype=points.dtype, device=points.device)[:, None]
    columns = torch.arange(width, dtype=points.dtype, device=points.device)
    start = points[..., None, None]
    along = points.roll(-1, 1)[..., None, None] - start
    distance = points.new_full((len(points), height, width), float("inf"))
    is_inside = torch.zeros(distance.shape, dtype=torch.bool, device=points.device)
    for corner in range(points.shape[1]):
        x, y = columns - start[:, corner, 0], rows - start[:, corner, 1]
        dx, dy = along[:, corner, 0], along[:, corner, 1]
        position = ((x * dx + y * dy) / (dx * dx + dy * dy).clamp(min=1e-12)).clamp(0, 1)
        distance = torch.minimum(distance, torch.hypot(x - position * dx, y - position * dy))
        # A ray to the right crosses this edge: each crossing changes sides.
        crosses = ((y < 0) != (y < dy)) & ((x * dy < y * dx) == (dy > 0))
        is_inside ^= crosses
    return (torch.where(is_inside, distance, -distance) + 0.5).clamp(0, 1)
