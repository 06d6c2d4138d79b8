"""What a picture asks of each patch of a canvas, and the canvas that the patches found for it make."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from acfun.face.regions import REGIONS, fold_regions
from acfun.patches import (
    PATCH_SIZE,
    REGION_WEIGHT,
    Patches,
    Queries,
    compute_smooth_luma,
    cut_patches,
    merge_face,
    unfold,
)

CANVAS_NOISE = 0.3  # on the background at the coarsest scale: a flat wall gives strokes nothing to begin with
# How closely luma is kept: by what a patch is of, and the more, up to a deviation of FULL_CONTRAST, there is to see.
LUMA_WEIGHTS_BY_REGION = {"skin": 2.0, "eyes": 4.0, "mouth": 6.0, "hair": 1.0, "body": 1.2, "background": 0.6}
MIN_LUMA_WEIGHT, MAX_LUMA_WEIGHT, FULL_CONTRAST = 0.5, 5.5, 0.15
KEPT_SHARES = {"skin": 0.05, "eyes": 0.4, "mouth": 0.4}  # of the picture, in a sketch
VOTE_SLACK, VOTE_POWER = 0.02, 0.6  # a vote counts (squared distance + slack) to the power of minus 0.6
VOTE_WIDTH, ENLARGED_VOTE_WIDTH = 0.3, 0.15  # deviation of a patch's vote around its centre, in patches
MIN_AGREEMENT = 0.05  # what a vote for the paint of one part, hair say, counts for in another
# Share of a mouth that is looked for in skin: teeth have no patches where the painted mouth is shut.
MOUTH_AS_SKIN = 0.5
MIN_LACK = 0.02  # of the strokes of a patch; less cannot be seen
STROKE_COHERENCE = 4.0  # strokes are copied in whole before all
STROKE_ROUNDS, STROKE_SEARCH_STRIDE = 5, 3  # as in a plan of one search


@dataclass(frozen=True)
class Found:
    """What was found for each patch of a guide: indices (Q,) of the painting's patches, and how far they are (Q,)."""

    guide: "Guide"
    patches: Patches
    indices: Tensor
    distances: Tensor

    @property
    def loudness(self) -> Tensor:
        """How much each patch's vote counts, (Q,)."""
        return (self.distances + VOTE_SLACK).pow(-VOTE_POWER)


class Guide:
    """What a picture asks of each patch of the canvas at one scale.

    Args:
        wanted: (1,3,h,w).
        masks: (1,6,h,w).
        known_regions: those that the painting has too.
        stride: of the patches that are replaced.
        freedom: by which the luma's weights are divided.
        keeps: whether eyes and mouth are in part left as they are.
    """

    def __init__(
        self,
        wanted: Tensor,
        masks: Tensor,
        known_regions: Collection[str],
        stride: int,
        freedom: float,
        *,
        keeps: bool = True,
    ) -> None:
        self.size, self.stride = (wanted.shape[-2], wanted.shape[-1]), stride
        self.padding = PATCH_SIZE // 2
        self.grid = tuple(-(-(side - 1) // stride) + 1 for side in self.size)
        self.parts = merge_face(fold_regions(masks, known_regions))
        self.wanted, self.background = wanted, masks[:, REGIONS.index("background"), None]
        self.luma = self._unfold(compute_smooth_luma(wanted))
        weights = masks.new_tensor([LUMA_WEIGHTS_BY_REGION[name] for name in REGIONS])
        contrast = (self.luma.std(1) * PATCH_SIZE / FULL_CONTRAST).clamp(max=1)
        self.weights = MIN_LUMA_WEIGHT + (MAX_LUMA_WEIGHT - MIN_LUMA_WEIGHT) * contrast
        self.weights *= self._unfold_means(masks) @ weights / freedom
        self.regions = REGION_WEIGHT * self._unfold_means(fold_regions(_open_mouths(masks), known_regions))
        kept = masks.new_tensor([KEPT_SHARES.get(name, 0.0) for name in REGIONS])
        self.kept = float(keeps) * torch.einsum("brhw,r->bhw", masks, kept)[:, None]

    def describe(self, canvas: Tensor, patches: Patches) -> Queries:
        """What the patches of the canvas (1,3,h,w) look for."""
        appearance = torch.cat([patches.colour_basis(self._unfold(canvas)), self.regions], 1)
        return Queries(appearance, patches.luma_basis(self.luma), self.weights)

    def propose(self, found: Found, patches: Patches) -> Tensor:
        """Candidates (Q,9): where the patches around each one were found, at this scale or the next coarser one."""
        guide = found.guide
        factor = 1 if guide is self else 2
        centre = (factor - 1) * (PATCH_SIZE // 2)
        rows, columns = (torch.arange(count, device=patches.values.device) * self.stride for count in self.grid)
        source, row, column = (part.view(guide.grid) for part in found.patches.locate(found.indices))
        proposals = []
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                nearest_row = (rows // (factor * guide.stride) + down).clamp(0, guide.grid[0] - 1)
                nearest_column = (columns // (factor * guide.stride) + right).clamp(0, guide.grid[1] - 1)
                at = (nearest_row[:, None], nearest_column)
                moved_row = factor * row[at] + centre + (rows - factor * guide.stride * nearest_row)[:, None]
                moved_column = factor * column[at] + centre + columns - factor * guide.stride * nearest_column
                proposals.append(patches.index(source[at], moved_row, moved_column).flatten())
        return torch.stack(proposals, 1)

    def match_strokes(self, patches: Patches, lack: Tensor) -> Found | None:
        """Places in the painting like what is wanted here, as coherent as can be, for patches that lack strokes.

        None where no patch lacks any.

        Args:
            patches: of what is broad in the painting.
            lack: (1,1,h,w) in [0,1], of strokes, at each pixel.
        """
        rows = (self._unfold_means(lack)[:, 0] > MIN_LACK).nonzero()[:, 0]
        if not len(rows):
            return None
        whole = self.describe(self.wanted, patches)
        queries = whole.select(rows)
        found = Found(self, patches, torch.zeros_like(whole.weights, dtype=torch.long), torch.zeros_like(whole.weights))
        candidates = patches.search(queries, STROKE_SEARCH_STRIDE)[:, None]
        for _ in range(STROKE_ROUNDS):
            found.indices[rows], found.distances[rows] = patches.refine(queries, candidates, STROKE_COHERENCE)
            candidates = self.propose(found, patches)[rows]
        return found

    def draw_canvas(self) -> Tensor:
        """A canvas (1,3,h,w) to begin with: the picture, with noise on its background."""
        noise = torch.randn(self.wanted.shape, generator=torch.Generator().manual_seed(0)).to(self.wanted)
        return self.wanted + CANVAS_NOISE * self.background * noise

    def vote(self, found: Found) -> Tensor:
        """The canvas (1,3,h,w) as the patches that were found say, the nearer ones and their centres more loudly."""
        painted = self._blend(found.patches.values[found.indices] * PATCH_SIZE, found, VOTE_WIDTH)
        return torch.lerp(painted, self.wanted, self.kept)

    def enlarge(self, found: Found, pictures: Sequence[Tensor], factor: int) -> Tensor:
        """The canvas (1,3,kh,kw), of what was found, cut from pictures k = `factor` times as large as its sources."""
        values = cut_patches(pictures, factor, *found.patches.locate(found.indices))
        return self._blend(values, found, ENLARGED_VOTE_WIDTH, factor)

    def _agree(self, found: Found, factor: int = 1) -> Tensor | float:
        """How much the pixels (Q,k²) of patches are of the part of a painting that is wanted where they are laid."""
        if not found.patches.parts:
            return 1.0
        places, agreement = found.patches.locate(found.indices), self.weights.new_zeros(())
        for wanted, *painted in zip(
            self.parts.split(1, 1), *(part.split(1, 1) for part in found.patches.parts), strict=True
        ):
            cut = cut_patches([_enlarge(part, factor) for part in painted], factor, *places)
            agreement = agreement + cut * self._unfold(_enlarge(wanted, factor), factor)
        return (factor * PATCH_SIZE * agreement).clamp(min=MIN_AGREEMENT)

    def _blend(self, values: Tensor, found: Found, width: float, factor: int = 1) -> Tensor:
        """Overlapping patches (Q,3·k²), k times as large as this guide's, laid out: (1,3,kh,kw)."""
        side = PATCH_SIZE * factor
        along = torch.arange(side, device=values.device) - (side - 1) / 2
        bell = torch.exp(-0.5 * (along / (width * side)).square())
        weights = found.loudness[:, None] * (bell[:, None] * bell).flatten() * self._agree(found, factor)
        weighted = (values.unflatten(1, (-1, side**2)) * weights[:, None]).flatten(1)
        return self._fold(weighted, factor) / self._fold(weights, factor)

    def _unfold(self, maps: Tensor, factor: int = 1) -> Tensor:
        """Patches (Q,C·k²) of (1,C,h,w), divided by the patch size; edges are repeated outwards."""
        rest = [(count - 1) * self.stride + 1 - side for count, side in zip(self.grid, self.size, strict=True)]
        near = self.padding
        padding = [factor * part for part in (near, near + rest[1], near, near + rest[0])]
        return unfold(F.pad(maps, padding, mode="replicate"), factor * self.stride, factor * PATCH_SIZE)

    def _unfold_means(self, maps: Tensor) -> Tensor:
        """Means (Q,C) of patches of (1,C,h,w)."""
        means: Tensor = self._unfold(maps).unflatten(1, (maps.shape[1], -1)).mean(-1)
        return PATCH_SIZE * means

    def _fold(self, patches: Tensor, factor: int) -> Tensor:
        """Sums (1,C,kh,kw) of overlapping patches (Q,C·(k·7)²)."""
        stride, padding, (height, width) = (factor * self.stride, factor * self.padding, self.size)
        reach = [(count - 1) * stride + factor * PATCH_SIZE for count in self.grid]
        folded = F.fold(patches.T[None], (reach[0], reach[1]), factor * PATCH_SIZE, stride=stride)
        sums: Tensor = folded[..., padding : padding + factor * height, padding : padding + factor * width]
        return sums


def _enlarge(maps: Tensor, factor: int) -> Tensor:
    return maps if factor == 1 else F.interpolate(maps, scale_factor=factor, mode="bilinear")


def _open_mouths(masks: Tensor) -> Tensor:
    """Masks (1,6,h,w) in which mouths are skin in part."""
    opened, (skin, mouth) = masks.clone(), (REGIONS.index("skin"), REGIONS.index("mouth"))
    opened[:, skin] += MOUTH_AS_SKIN * masks[:, mouth]
    opened[:, mouth] *= 1 - MOUTH_AS_SKIN
    return opened
