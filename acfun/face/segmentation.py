"""Where a portrait's face, hair, body and background end: landmarks say about where, the picture's colours exactly.

In the line of GrabCut (Rother et al. 2004, https://doi.org/10.1145/1015706.1015720): colours of the parts and the parts
of the pixels are found in turn, and a guided filter (He et al. 2013, https://doi.org/10.1109/TPAMI.2012.213) draws the
edges after those of the picture. Hair above a forehead or beside a neck, caps, bald heads and faces whose landmarks
stand a little off come out as they are, which outlines through landmarks alone cannot do.
"""

import torch
import torch.nn.functional as F
from skimage.color import rgb2lab
from torch import Tensor

from acfun.face.align import fit_size, measure_pupil_distance, scale_points
from acfun.face.regions import BROW_CONTOURS, FACE_OVAL, REGIONS, draw_clothes, draw_polygon, draw_regions
from acfun.face.segmenter import PortraitSegmenter, estimate_parts
from acfun.images import blur, tensor_to_array
from acfun.masks import reach

SIDE = 128  # of the shorter side, pixels, at which parts are told apart
NUM_COLOURS, NUM_REFINEMENTS, NUM_ROUNDS = 32, 8, 6
COLOUR_TOLERANCE = 0.02  # squared distance, in units of 50 of CIELAB
NEIGHBOURHOOD_WEIGHT = 0.7  # of the mean of 5 × 5 pixels beside the pixel itself
# Where parts are expected: as drawn, blurred by these deviations in pupil distances, and a little of each everywhere.
NEAR_BLUR, FAR_BLUR = 0.25, 0.8
ANYWHERE = (0.02, 0.08, 0.02, 0.02)  # face, hair, which may be long, body, background
CLOTHES_CHANCE = 1.0  # beside the body: as likely as the background
# Colours of what is hair or body for certain tell locks on clothes, in pupil distances from hair: all of it where they
# are by this factor, as a logarithm, more likely. How far hair goes on there, in reaches; a lock's breadth.
SURE_HAIR, SURE_BODY, HAIR_REACH, LOCK_RATIO = 0.8, 0.8, 0.9, 2.0
NUM_LOCKS, LOCK_BREADTH = 3, 0.13
CORE_BLUR, MIN_CORE = 0.15, 0.9
FILTER_RADIUS, COARSE_EPSILON, FINE_EPSILON = 3, 1e-2, 1e-3
FEATURES_CERTAINTY = 0.5  # eyes and mouth are where landmarks are, or nowhere
# What the segmenter says counts to this power; it is never quite sure.
SEGMENTER_WEIGHT, SEGMENTER_DOUBT = 2.0, 0.02
MIN_LENT = 0.6  # of hair in a larger picture, from which on it is hair in a portrait, too
_HAIR = REGIONS.index("hair")
_FACE = [REGIONS.index(name) for name in ("skin", "eyes", "mouth")]


@torch.no_grad()
def segment_regions(
    image: Tensor,
    landmarks: Tensor,
    certainty: float = 1.0,
    segmenter: PortraitSegmenter | None = None,
) -> Tensor:
    """The `REGIONS` of a portrait; at each pixel they sum to one.

    Args:
        image: (1,3,H,W) in [-1,1].
        landmarks: (1,189,2) pixels.
        certainty: in [0,1], of the landmarks. Below `FEATURES_CERTAINTY` eyes and mouth are taken for skin.
        segmenter: of photographs, which says about where parts are besides the landmarks; hair goes on down clothes
            then. Without one, landmarks and colours alone tell.

    Returns:
        (1,6,H,W) in [0,1], on the device of the image.
    """
    size = (image.shape[-2], image.shape[-1])
    picture, points = image.float().cpu(), landmarks.float().cpu()
    small = fit_size(size, SIDE)
    lab = _convert_to_lab(F.adaptive_avg_pool2d(picture, small))
    placed = scale_points(points, size, small)
    seen = None if segmenter is None else estimate_parts(segmenter, picture, points, small)
    expected = _expect_parts(placed, small, certainty, seen)
    parts, shares = _agree(expected, lab)
    unit = float(measure_pupil_distance(placed[0]).clamp(min=1))
    parts = parts if segmenter is None else _gather_locks(parts, shares, unit)
    enlarged = F.interpolate(parts, size, mode="bilinear")
    face, hair, body, background = _filter_guided(_convert_to_lab(picture), enlarged, FINE_EPSILON).split(1, 1)
    features = draw_regions(points, size)[:, 1:3] * float(certainty >= FEATURES_CERTAINTY)
    skin = 1 - features.sum(1, keepdim=True)
    return torch.cat([face * skin, face * features, hair, body, background], 1).to(image)


def segment_people(
    image: Tensor,
    people: Tensor,
    certainty: float = 1.0,
    segmenter: PortraitSegmenter | None = None,
) -> Tensor:
    """The `REGIONS` of a picture of several people; at each pixel they sum to one.

    Arguments and results are those of `segment_regions`, but for `people`: landmarks (F,189,2), of which `certainty`
    is said of the first.
    """
    regions = torch.cat(
        [
            segment_regions(image, face[None], 1.0 if index else certainty, segmenter)
            for index, face in enumerate(people)
        ]
    )
    if len(people) == 1:
        return regions
    figures, background = regions[:, :-1].amax(0, keepdim=True), regions[:, -1:].amin(0, keepdim=True)
    share = (1 - background) / figures.sum(1, keepdim=True).clamp(min=1e-6)
    return torch.cat([share * figures, background], 1)


def lend_hair(regions: Tensor, hair: Tensor, landmarks: Tensor) -> Tensor:
    """Regions (1,6,H,W) of a portrait in which ground and clothes beside hair are hair where a larger picture says so.

    The larger picture shows more of ground and clothes, so that it tells dark hair from a dark coat.

    Args:
        regions: of the portrait.
        hair: (1,1,H,W) in [0,1], hair of the larger picture, where it is in the portrait.
        landmarks: (1,189,2) pixels of the portrait.
    """
    near = _is_near(regions[:, _HAIR, None], HAIR_REACH * float(measure_pupil_distance(landmarks[0])))
    share = near * ((hair - MIN_LENT) / (1 - MIN_LENT)).clamp(0, 1)
    lent = share * regions[:, _HAIR + 1 :]
    face, own, rest = regions[:, :_HAIR], regions[:, _HAIR, None], regions[:, _HAIR + 1 :]
    return torch.cat([face, own + lent.sum(1, keepdim=True), rest - lent], 1)


def _expect_parts(points: Tensor, size: tuple[int, int], certainty: float, seen: Tensor | None) -> Tensor:
    """Chances (1,4,h,w) of face, hair, body and background by place, and by what a segmenter has `seen`, (1,4,h,w)."""
    drawn = draw_regions(points, size)
    parts = torch.cat([drawn[:, _FACE].sum(1, keepdim=True), drawn[:, len(_FACE) :]], 1)
    eye_to_eye = points[0, 1] - points[0, 0]
    unit = float(eye_to_eye.norm().clamp(min=1))
    expected = (blur(parts, NEAR_BLUR * unit) + blur(parts, FAR_BLUR * unit)) / 2
    expected = expected + expected.new_tensor(ANYWHERE).view(1, 4, 1, 1)
    expected[:, 2] += CLOTHES_CHANCE * blur(draw_clothes(points, size), NEAR_BLUR * unit)[:, 0]
    if seen is not None:
        # Which of what is below a chin is skin, colours tell better: a black collar was a neck.
        face, hair, body, background = seen.split(1, 1)
        either = torch.maximum(face, body)
        told = torch.cat([either, hair, either, background], 1)
        expected = expected * told.clamp(min=SEGMENTER_DOUBT).pow(SEGMENTER_WEIGHT)
    expected = expected / expected.sum(1, keepdim=True)
    below_brows = draw_polygon(points[:, list(FACE_OVAL)], size)[:, None] * ~_is_above_brows(points, size)
    core = certainty * (blur(below_brows, CORE_BLUR * unit) > MIN_CORE).float()
    return torch.lerp(expected, expected.new_tensor([1.0, 0, 0, 0]).view(1, 4, 1, 1), core)


def _is_above_brows(points: Tensor, size: tuple[int, int]) -> Tensor:
    """(h,w): on the far side of the line through the brows, seen from the chin."""
    brows = points[0, [*BROW_CONTOURS[0], *BROW_CONTOURS[1]]].mean(0)
    right = points[0, 1] - points[0, 0]
    rows, columns = torch.arange(size[0])[:, None] - brows[1], torch.arange(size[1]) - brows[0]
    return columns * right[1] - rows * right[0] > 0


def _agree(expected: Tensor, lab: Tensor) -> tuple[Tensor, Tensor]:
    """Parts (1,4,h,w) that agree with where they are expected, with each other in colour, and with edges.

    Returns:
        The parts, and how much (N,K) each pixel is of each typical colour.
    """
    neighbourhood = NEIGHBOURHOOD_WEIGHT * _box(lab, 2)
    shares = _share_colours(torch.cat([lab, neighbourhood], 1)[0].flatten(1).T)
    by_place, parts = expected[0].flatten(1).T, expected
    for _ in range(NUM_ROUNDS):
        chances = by_place * _compute_likelihoods(parts, shares)
        parts = (chances / chances.sum(1, keepdim=True)).T.reshape(expected.shape)
        parts = _filter_guided(lab, parts, COARSE_EPSILON)
    return parts.square() / parts.square().sum(1, keepdim=True), shares


def _compute_likelihoods(parts: Tensor, shares: Tensor) -> Tensor:
    """How likely the colours of N pixels are in each of P parts (1,P,h,w), by their shares (N,K): (N,P)."""
    colours = parts[0].flatten(1) @ shares + 1
    likelihoods: Tensor = shares @ (colours / colours.sum(1, keepdim=True)).T
    return likelihoods


def _gather_locks(parts: Tensor, shares: Tensor, unit: float) -> Tensor:
    """Parts (1,4,h,w) in which clothes beside hair are hair where they have its colours, from one lock to the next.

    Pupils are `unit` pixels apart.
    """
    face, hair, body, ground = parts.split(1, 1)
    near = _is_near(hair, HAIR_REACH * unit)
    is_sure = torch.cat([hair > SURE_HAIR, (body > SURE_BODY) & ~near], 1)
    of_hair, of_body = _compute_likelihoods(is_sure.float(), shares).T.view(2, *hair.shape)
    is_lock = ((of_hair / of_body).log() / LOCK_RATIO).clamp(0, 1) * float(is_sure[:, 1].any())
    # Chains, seams and what is in a pattern are narrower.
    is_broad = (4 * blur((hair + is_lock).clamp(max=1), LOCK_BREADTH * unit) - 2).clamp(0, 1)
    locks = torch.zeros_like(body)
    for _ in range(NUM_LOCKS):
        locks = _is_near(hair + locks, HAIR_REACH * unit) * body * is_lock * is_broad
    return torch.cat([face, hair + locks, body - locks, ground], 1)


def _is_near(mask: Tensor, margin: float) -> Tensor:
    return reach((mask > 0.5).float(), margin) > 0.5


def _share_colours(colours: Tensor) -> Tensor:
    """How much (N,K) each of N pixels is of each of K typical colours; k-means from evenly spaced brightnesses."""
    ranked = colours[colours[:, 0].argsort(stable=True)]
    at = (torch.arange(NUM_COLOURS) + 0.5) / NUM_COLOURS * len(ranked)
    centres = ranked[at.long()]
    for _ in range(NUM_REFINEMENTS):
        members = F.one_hot(torch.cdist(colours, centres).argmin(1), NUM_COLOURS).to(colours)
        counts = members.sum(0)[:, None]
        centres = torch.where(counts > 0, members.T @ colours / counts.clamp(min=1), centres)
    return torch.softmax(-torch.cdist(colours, centres).square() / COLOUR_TOLERANCE, 1)


def _filter_guided(guide: Tensor, parts: Tensor, epsilon: float) -> Tensor:
    """Parts (1,P,h,w), in each window linear in the colours of the guide (1,3,h,w); each pixel's sum to one.

    Notation: Σ, cov(I,p) → covariance, joint; a, b → slopes, offsets (He et al. 2013, equations 19 and 20).
    """
    mean, part_mean = _box(guide, FILTER_RADIUS), _box(parts, FILTER_RADIUS)
    products = (guide[:, :, None] * torch.cat([guide, parts], 1)[:, None]).flatten(1, 2)
    means = mean[:, :, None] * torch.cat([mean, part_mean], 1)[:, None]
    covariances = _box(products, FILTER_RADIUS).view_as(means) - means
    covariance, joint = (part.permute(0, 3, 4, 1, 2) for part in covariances.split([3, parts.shape[1]], 2))
    slopes = torch.linalg.solve(covariance + epsilon * torch.eye(3), joint).permute(0, 3, 4, 1, 2)
    offsets = part_mean - (slopes * mean[:, :, None]).sum(1)
    slopes = _box(slopes.flatten(1, 2), FILTER_RADIUS).view_as(slopes)
    filtered = ((slopes * guide[:, :, None]).sum(1) + _box(offsets, FILTER_RADIUS)).clamp(1e-6, 1)
    return filtered / filtered.sum(1, keepdim=True)


def _convert_to_lab(image: Tensor) -> Tensor:
    """CIELAB (1,3,h,w) in units of 50 of (1,3,h,w) in [-1,1]."""
    lab = torch.from_numpy(rgb2lab(tensor_to_array(image))).float() / 50
    return lab.permute(2, 0, 1)[None]


def _box(maps: Tensor, radius: int) -> Tensor:
    """Means (B,C,h,w) of windows; as convolutions along columns and rows, far faster on a CPU than average pooling."""
    channels, side = maps.shape[1], 2 * radius + 1
    column = maps.new_full((channels, 1, side, 1), 1 / side)
    padded = F.pad(maps, (radius, radius, radius, radius), mode="replicate")
    return F.conv2d(F.conv2d(padded, column, groups=channels), column.transpose(2, 3), groups=channels)
