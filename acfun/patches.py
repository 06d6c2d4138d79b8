"""All patches of a painting at one scale, and the search for the nearest of them."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from acfun.face.regions import REGIONS
from acfun.images import compute_luma

PATCH_SIZE = 7
NUM_COLOUR_COMPONENTS, NUM_LUMA_COMPONENTS = 48, 16
REGION_WEIGHT = 1.0  # of the regions that patches are of, beside their colours
AROUND_HEAD = ("body", "background")  # regions taken from the whole painting, not only from around its face
MIN_AROUND_HEAD = 0.9
FEATURES = ("eyes", "mouth")  # of a face; nowhere else is anything painted with them
FEATURE_PENALTY = 30.0  # how much farther away a patch is that is nothing else, where nothing of them is
FREE_FEATURES = 0.2  # share of a patch that costs nothing: what lies at its edge
FEW_FEATURES = 0.1  # share of a place from which on they cost nothing there
SLACK = 0.05  # the lower, the more are patches favoured that nothing resembles
COHERENCE, FLOOR = 0.25, 0.002  # what each neighbour that agrees is worth, and from which squared distance on
NUM_COMPLETENESS_QUERIES = 1500  # at least, where there are as many; at most twice that
MAX_KEYS = 32768  # of a search; more of the painting's patches than that are thinned out
QUERIES_PER_CHUNK = 128  # few enough that their distances to all keys stay in the processor's cache


@dataclass(frozen=True)
class Queries:
    """What Q patches look for: appearance (Q,A), luma (Q,L), and how much the luma counts (Q,)."""

    appearance: Tensor
    luma: Tensor
    weights: Tensor

    def select(self, rows: Tensor) -> Self:
        """Some of them, by their indices."""
        return type(self)(self.appearance[rows], self.luma[rows], self.weights[rows])

    @property
    def energy(self) -> Tensor:
        """Squared lengths (Q,), luma weighted."""
        return self.appearance.square().sum(1) + self.weights * self.luma.square().sum(1)

    @property
    def rejection(self) -> Tensor:
        """What features of a face cost here (Q,): nothing where there are any, much elsewhere."""
        return FEATURE_PENALTY * (1 - _measure_features(self.appearance) / FEW_FEATURES).clamp(min=0)


class Patches:
    """All N patches of the painting at one scale, from one or two pictures; the second only what is around a head.

    Args:
        sources: (picture (1,3,h,w), masks of its regions (1,6,h,w) or None) each.
    """

    def __init__(self, sources: Sequence[tuple[Tensor, Tensor | None]]) -> None:
        self.shapes = [(image.shape[-2] - PATCH_SIZE + 1, image.shape[-1] - PATCH_SIZE + 1) for image, _ in sources]
        counts = [height * width for height, width in self.shapes]
        self.starts = [sum(counts[:index]) for index in range(len(counts))]
        self.parts = [merge_face(regions) for _, regions in sources if regions is not None]
        self.values = _unfold_all([image for image, _ in sources])
        lumas = _unfold_all([compute_smooth_luma(image) for image, _ in sources])
        masks = torch.cat([_pool_regions(image, regions) for image, regions in sources])
        self.is_open = torch.ones(len(self.values), dtype=torch.bool, device=self.values.device)
        if len(sources) == 2 and sources[1][1] is not None:
            around = masks[self.starts[1] :, [REGIONS.index(name) for name in AROUND_HEAD]].sum(1)
            self.is_open[self.starts[1] :] = around > MIN_AROUND_HEAD * REGION_WEIGHT
        self.colour_basis = _Basis(self.values[self.is_open], NUM_COLOUR_COMPONENTS)
        self.luma_basis = _Basis(lumas[self.is_open], NUM_LUMA_COMPONENTS)
        self.appearance = torch.cat([self.colour_basis(self.values), masks], 1)
        self.luma = self.luma_basis(lumas)

    def measure_share(self, region: str) -> Tensor:
        """How much of each patch is of a region, (N,) in [0,1]."""
        return self.appearance[:, REGIONS.index(region) - len(REGIONS)] / REGION_WEIGHT

    def restrict(self, is_open: Tensor) -> Self:
        """The same patches, of which those alone are to be found that are open, (N,) of bool."""
        restricted = copy(self)
        restricted.is_open = is_open
        return restricted

    def search(self, queries: Queries, stride: int) -> Tensor:
        """Indices (Q,) of the nearest among every `stride`-th patch both ways; those that nothing resembles go first.

        Notation: SLACK → α, with which the squared distance d(q,k) counts as d(q,k) / (α + min over q' of d(q',k))
        (Granot et al. 2022, equation 2).
        """
        keys = self._select(stride)
        appearance, luma = self.appearance[keys], self.luma[keys]
        norms = torch.stack([appearance.square().sum(1), luma.square().sum(1)], 1)
        # |a − a'|² + w |l − l'|² as one product of matrices.
        left = torch.cat([appearance, luma, norms], 1)

        def extend(rows: slice) -> Tensor:
            weights = queries.weights[rows, None]
            wanted = [-2 * queries.appearance[rows], -2 * weights * queries.luma[rows]]
            return torch.cat([*wanted, torch.ones_like(weights), weights], 1)

        step = max(1, len(queries.weights) // NUM_COMPLETENESS_QUERIES)
        sample = slice(None, None, step)
        nearest = (extend(sample) @ left.T).add_(queries.energy[sample, None]).amin(0).clamp(min=0)
        key_weights = 1 / (nearest + SLACK)
        left = torch.cat([left, torch.ones_like(left[:, :1])], 1) * key_weights[:, None]
        # Features that nothing asks for would be favoured as what nothing resembles: what they cost comes afterwards.
        left = torch.cat([left, _find_features(appearance)[:, None]], 1)
        ends, found = torch.stack([queries.energy, queries.rejection], 1), []
        for start in range(0, len(queries.weights), QUERIES_PER_CHUNK):
            rows = slice(start, start + QUERIES_PER_CHUNK)
            found.append((torch.cat([extend(rows), ends[rows]], 1) @ left.T).argmin(1))
        return keys[torch.cat(found)]

    def _select(self, stride: int) -> Tensor:
        parts = []
        for start, (height, width) in zip(self.starts, self.shapes, strict=True):
            grid = torch.arange(height * width, device=self.values.device).view(height, width)[::stride, ::stride]
            parts.append(start + grid.flatten())
        keys = torch.cat(parts)
        keys = keys[self.is_open[keys]]
        if not len(keys) and stride > 1:
            return self._select(1)
        return keys if len(keys) <= MAX_KEYS else self._select(stride + 1)

    def refine(self, queries: Queries, candidates: Tensor, coherence: float = COHERENCE) -> tuple[Tensor, Tensor]:
        """Indices (Q,) of the nearest of each patch's own candidates (Q,C), and how far they are (Q,).

        The more of the candidates are one and the same, the nearer it counts: strokes are copied in whole (Hertzmann et
        al. 2001, section 3.2).
        """
        distances = self.measure(queries, candidates).masked_fill(~self.is_open[candidates], float("inf"))
        repeats = (candidates[:, :, None] == candidates[:, None]).sum(2) - 1
        chosen = ((distances + FLOOR) / (1 + coherence * repeats)).argmin(1, keepdim=True)
        return candidates.gather(1, chosen)[:, 0], distances.gather(1, chosen)[:, 0]

    def measure(self, queries: Queries, indices: Tensor) -> Tensor:
        """Squared distances (Q,C) to patches (Q,C)."""
        appearance = self.appearance[indices]
        apart = (appearance - queries.appearance[:, None]).square().sum(-1)
        apart += queries.weights[:, None] * (self.luma[indices] - queries.luma[:, None]).square().sum(-1)
        return apart + queries.rejection[:, None] * _find_features(appearance)

    def locate(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(source, row, column) of patches, in the shape of `indices`."""
        source = torch.zeros_like(indices)
        row, column = torch.zeros_like(indices), torch.zeros_like(indices)
        for index, (start, (_, width)) in enumerate(zip(self.starts, self.shapes, strict=True)):
            is_here, rest = indices >= start, indices - start
            source = torch.where(is_here, index, source)
            row, column = torch.where(is_here, rest // width, row), torch.where(is_here, rest % width, column)
        return source, row, column

    def index(self, source: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """The inverse of `locate`; places beyond an edge become those at it."""
        indices = torch.zeros_like(source)
        for index, (start, (height, width)) in enumerate(zip(self.starts, self.shapes, strict=True)):
            here = start + row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            indices = torch.where(source == index, here, indices)
        return indices


def _measure_features(appearance: Tensor) -> Tensor:
    """How much (…) of patches with appearance (…,A) is eyes, brows or mouth, in [0,1]."""
    shares = appearance[..., -len(REGIONS) :] / REGION_WEIGHT
    return shares[..., [REGIONS.index(name) for name in FEATURES]].sum(-1)


def _find_features(appearance: Tensor) -> Tensor:
    """The same, as far as it is more than what may be at the edge of a patch, up to 1 again."""
    return (_measure_features(appearance) - FREE_FEATURES).clamp(min=0) / (1 - FREE_FEATURES)


class _Basis:
    """The first principal components of (N,D) rows, which are centred in place."""

    def __init__(self, rows: Tensor, count: int) -> None:
        self.mean = rows.mean(0)
        centred = rows.sub_(self.mean)
        self.directions = torch.linalg.eigh(centred.T @ centred / len(rows))[1].flip(1)[:, :count]

    def __call__(self, rows: Tensor) -> Tensor:
        """(Q,D) → (Q,min(D,count))."""
        scores: Tensor = (rows - self.mean) @ self.directions
        return scores


def cut_patches(pictures: Sequence[Tensor], factor: int, source: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Patches (Q,C·(7k)²) of maps (1,C,kh,kw), k = `factor`, at places (Q,) as `Patches.locate` gives them."""
    side = factor * PATCH_SIZE
    patches = pictures[0].new_empty(len(source), pictures[0].shape[1], side, side)
    for index, picture in enumerate(pictures):
        is_here = source == index
        windows = picture[0].unfold(1, side, 1).unfold(2, side, 1)
        patches[is_here] = windows[:, factor * row[is_here], factor * column[is_here]].transpose(0, 1)
    return patches.flatten(1)


def merge_face(regions: Tensor) -> Tensor:
    """Masks (1,4,h,w) of `REGIONS` (1,6,h,w): a face is one part."""
    face = regions[:, : REGIONS.index("hair")].sum(1, keepdim=True)
    return torch.cat([face, regions[:, REGIONS.index("hair") :]], 1)


def unfold(maps: Tensor, stride: int = 1, side: int = PATCH_SIZE) -> Tensor:
    """Patches (N,C·k²) of (1,C,h,w), divided by the patch size, so that distances are means over a patch's pixels."""
    return F.unfold(maps, side, stride=stride)[0].T.div_(side)


def _unfold_all(maps: Sequence[Tensor]) -> Tensor:
    """The patches of several maps in a row; those of one map at a time lie in memory twice."""
    counts = [(part.shape[-2] - PATCH_SIZE + 1) * (part.shape[-1] - PATCH_SIZE + 1) for part in maps]
    patches = maps[0].new_empty(sum(counts), maps[0].shape[1] * PATCH_SIZE**2)
    for rows, part in zip(patches.split(counts), maps, strict=True):
        rows.copy_(unfold(part))
    return patches


def compute_smooth_luma(image: Tensor) -> Tensor:
    """Luma (1,1,h,w) of (1,3,h,w), averaged over 3×3 pixels."""
    return F.avg_pool2d(F.pad(compute_luma(image)[:, None], (1, 1, 1, 1), mode="replicate"), 3, 1)


def _pool_regions(image: Tensor, regions: Tensor | None) -> Tensor:
    """What patches of a picture are of, (N,6), weighted; all zero where nothing is known."""
    if regions is None:
        height, width = image.shape[-2:]
        return image.new_zeros((height - PATCH_SIZE + 1) * (width - PATCH_SIZE + 1), len(REGIONS))
    return REGION_WEIGHT * F.avg_pool2d(regions, PATCH_SIZE, 1)[0].flatten(1).T
