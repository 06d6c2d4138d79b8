"""Brushwork: a picture laid out anew from patches of a painting, coarse to fine.

Patch-based synthesis in the line of Kwatra et al. 2005 (texture optimisation), Elad & Milanfar 2017 (style transfer,
https://arxiv.org/abs/1609.03057), Fišer et al. 2017 (guides for faces) and Granot et al. 2022 (completeness,
https://arxiv.org/abs/2103.15545): every patch of the picture is replaced by the nearest one of the painting, where
overlapping ones are averaged, again and again, at each scale. Strokes are the painter's own; what is painted with them
is the picture's light and shade, the more closely the more there is to see.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from acfun.face.regions import REGIONS, fold_regions
from acfun.images import blur, resize
from acfun.patches import (
    AROUND_HEAD,
    PATCH_SIZE,
    REGION_WEIGHT,
    Patches,
    Queries,
    compute_smooth_luma,
    cut_patches,
    unfold,
)
from acfun.portrait import Portrait, StyleImage
from acfun.relief import add_strokes, measure_fine_energy, measure_relief, restore_relief


@dataclass(frozen=True)
class Plan:
    """The work at one scale.

    Attributes:
        num_rounds: how often all patches are replaced.
        stride: of the patches that are replaced, pixels.
        num_searches: in how many rounds, the first ones, the whole painting is searched. Where it is not in all, every
            round also looks around what was found before.
        search_stride: of the painting's patches that are looked at in such a search, pixels.
    """

    num_rounds: int
    stride: int
    num_searches: int
    search_stride: int


COARSEST_SIDE = 64  # the coarsest scale's shorter side is at least this, where the picture's is
PLANS = (Plan(4, 1, 4, 1), Plan(4, 2, 4, 2), Plan(3, 3, 1, 4))  # coarse to fine; the last one for all further scales
FINISHING = Plan(4, 2, 1, 3)
CANVAS_NOISE = 0.3  # on the background at the coarsest scale: a flat wall gives strokes nothing to begin with
# How closely luma is kept: by what a patch is of, and the more, up to a deviation of FULL_CONTRAST, there is to see.
LUMA_WEIGHTS_BY_REGION = {"skin": 2.0, "eyes": 4.0, "mouth": 6.0, "hair": 1.0, "body": 1.2, "background": 0.6}
MIN_LUMA_WEIGHT, MAX_LUMA_WEIGHT, FULL_CONTRAST = 0.5, 5.5, 0.15
KEPT_SHARES = {"skin": 0.05, "eyes": 0.4, "mouth": 0.4}  # of the picture, in a sketch
MOUTH_AS_SKIN = (
    0.5  # share of a mouth that is looked for in skin: teeth have no patches where the painted mouth is shut
)
VOTE_SLACK, VOTE_POWER = 0.02, 0.6  # a vote counts (squared distance + slack) to the power of minus 0.6
VOTE_WIDTH, ENLARGED_VOTE_WIDTH = 0.3, 0.15  # deviation of a patch's vote around its centre, in patches
RELIEF_REACH = 2.0  # pixels of the size that is sampled
FEATURES = ("eyes", "mouth")  # are drawn, and need no relief
STROKE_REACH = 4.0  # pixels of the size that is sampled: what is finer than this is strokes
STROKE_COHERENCE = 4.0  # strokes are copied in whole before all
STROKE_ROUNDS, STROKE_STRIDE, STROKE_SEARCH_STRIDE = 5, 2, 3  # as in a plan of one search
MAX_STROKE = 4.0  # deviation of fine differences, in usual ones; what has more is a line of the painted face


class Brushwork:
    """Lays out pictures from the patches of a style image.

    A style image with a face gives the patches of its head, region to region, and those of the whole painting's
    background; one without gives all that it has.

    Args:
        style: the style image, as large as the pictures.
        source: the same, larger: what enlarged pictures are cut from. The style image itself when None.
    """

    def __init__(self, style: StyleImage, source: StyleImage | None = None) -> None:
        self.style, self.source = style, source or style
        self.has_face = style.head.regions is not None
        masks = (*style.head.masks.items(), *style.painting.masks.items())
        self.known_regions = {name for name, mask in masks if float(mask.sum()) >= PATCH_SIZE**2}
        self._scales: dict[int, Patches] = {}
        self._reliefs: dict[int, Tensor] = {}
        self._strokes: dict[int, _Strokes | None] = {}

    @torch.no_grad()
    def sketch(self, picture: Tensor, regions: Tensor, freedom: float = 1.0) -> Tensor:
        """Lay out a picture anew, coarse to fine.

        Args:
            picture: (1,3,H,W) in [-1,1], in the painting's colours already.
            regions: (1,6,H,W) in [0,1], masks of its `REGIONS`.
            freedom: > 0; how much less than usual the picture's light and shade count.

        Returns:
            (1,3,H,W) in [-1,1].
        """
        height, width = picture.shape[-2:]
        coarsest = max(0, (min(height, width) // COARSEST_SIDE).bit_length() - 1)
        canvas, found = None, None
        for order, scale in enumerate(range(coarsest, -1, -1)):
            plan = PLANS[min(order, len(PLANS) - 1)]
            wanted, masks = _shrink(picture, scale), _shrink_masks(regions, scale)
            guide = _Guide(wanted, masks, self.known_regions, plan.stride, freedom)
            canvas = guide.draw_canvas() if canvas is None else resize(canvas, guide.size)
            canvas, found = self._work(plan, guide, self._cut(scale), canvas, found)
        assert canvas is not None
        return canvas.clamp(-1, 1)

    @torch.no_grad()
    def finish(self, picture: Tensor, regions: Tensor, freedom: float = 1.0, enlargement: int = 1) -> Tensor:
        """Go over a picture that is painted already, at the finest scale alone: (1,3,kH,kW) in [-1,1].

        Relief comes back that overlapping patches have lost; enlarged skin that is smooth gets strokes.

        Args:
            picture: (1,3,H,W) in [-1,1].
            regions: (1,6,H,W) in [0,1].
            freedom: as for `sketch`.
            enlargement: k; the patches that are found are laid out as they are in the larger source.
        """
        guide = _Guide(picture, regions, self.known_regions, FINISHING.stride, freedom, keeps=False)
        canvas, found = self._work(FINISHING, guide, self._cut(0), picture, None)
        if enlargement > 1:
            canvas = guide.enlarge(found, self._enlarge(enlargement), enlargement)
        masks = F.interpolate(regions, canvas.shape[-2:], mode="bilinear")
        masks = masks if self.has_face else torch.ones_like(masks[:, :1])
        canvas = restore_relief(canvas, masks, self._measure_relief(enlargement), RELIEF_REACH * enlargement)
        return self._stroke_skin(canvas, picture, regions, enlargement) if enlargement > 1 else canvas

    def _stroke_skin(self, canvas: Tensor, picture: Tensor, regions: Tensor, factor: int) -> Tensor:
        """An enlarged canvas (1,3,kH,kW) with strokes of the painted skin where its own is smooth.

        Patches are found by what is broad in them and laid out with what is fine. At the size that is sampled nothing
        of this can be seen.
        """
        mask = regions[:, REGIONS.index("skin"), None]
        strokes = self._cut_strokes(factor)
        if strokes is None or not bool(mask.any()):
            return canvas
        guide = _Guide(blur(picture, STROKE_REACH), regions, self.known_regions, STROKE_STRIDE, 1.0, keeps=False)
        laid = guide.enlarge(guide.match_skin(strokes.patches), [strokes.fine], factor)
        mask = F.interpolate(mask, canvas.shape[-2:], mode="bilinear")
        return add_strokes(canvas, laid, mask, strokes.usual, STROKE_REACH * factor)

    def _cut_strokes(self, factor: int) -> "_Strokes | None":
        """Those of the painted skin, k = `factor` times as large; None where there is none, or it is flat."""
        if factor not in self._strokes:
            self._strokes[factor] = None
            if self.has_face and "skin" in self.known_regions:
                head, enlarged = self.style.head, self._enlarge(factor)[0]
                patches = Patches([(blur(head.image, STROKE_REACH), head.regions)])
                fine_energy = measure_fine_energy(enlarged, STROKE_REACH * factor)
                energy = F.avg_pool2d(F.avg_pool2d(fine_energy, factor), PATCH_SIZE, 1).flatten()
                is_skin = patches.measure_share("skin") > 0.5
                usual = float(energy[is_skin].median()) if bool(is_skin.any()) else 0.0
                if usual > 0:
                    patches.is_open = is_skin & (energy <= MAX_STROKE**2 * usual)
                    fine = enlarged - blur(enlarged, STROKE_REACH * factor)
                    self._strokes[factor] = _Strokes(patches, fine, usual)
        return self._strokes[factor]

    def _enlarge(self, factor: int) -> list[Tensor]:
        """The pictures that patches come from, k = `factor` times as large, (1,3,kh,kw)."""
        pairs = zip(self._choose_parts(self.source), self._choose_parts(self.style), strict=True)
        sides = [(source, [factor * side for side in part.image.shape[-2:]]) for source, part in pairs]
        return [resize(source.image, (side[0], side[1])) for source, side in sides]

    def _measure_relief(self, factor: int) -> Tensor:
        """Relief (6,) of the style image's regions, or (1,) of all of it, in pictures `factor` times as large."""
        if factor not in self._reliefs:
            measured = []
            for part, picture in zip(self._choose_parts(self.style), self._enlarge(factor), strict=True):
                masks = torch.ones_like(part.image[:, :1]) if part.regions is None else part.regions
                masks = F.interpolate(masks, picture.shape[-2:], mode="bilinear")
                measured.append(measure_relief(picture, masks, RELIEF_REACH * factor))
            if self.has_face:
                head, painting = measured
                is_around = torch.tensor([name in AROUND_HEAD for name in REGIONS], device=head.device)
                is_drawn = torch.tensor([name in FEATURES for name in REGIONS], device=head.device)
                measured = [torch.where(is_around, painting, head).masked_fill(is_drawn, 0)]
            self._reliefs[factor] = measured[0]
        return self._reliefs[factor]

    def _work(
        self, plan: Plan, guide: "_Guide", patches: Patches, canvas: Tensor, found: "_Found | None"
    ) -> tuple[Tensor, "_Found"]:
        """The rounds at one scale, which go on from what was found at the coarser one."""
        for index in range(plan.num_rounds):
            queries = guide.describe(canvas, patches)
            candidates = []
            if index < plan.num_searches:
                candidates.append(patches.search(queries, plan.search_stride)[:, None])
            if found is not None and plan.num_searches < plan.num_rounds:
                candidates.append(guide.propose(found, patches))
            found = _Found(guide, patches, *patches.refine(queries, torch.cat(candidates, 1)))
            canvas = guide.vote(found)
        assert found is not None
        return canvas, found

    def _cut(self, scale: int) -> Patches:
        """Patches of the style image, smaller by two to the power of `scale`."""
        if scale not in self._scales:
            self._scales[scale] = Patches([_cut_source(part, scale) for part in self._choose_parts(self.style)])
        return self._scales[scale]

    def _choose_parts(self, style: StyleImage) -> tuple[Portrait, ...]:
        return (style.head, style.painting) if self.has_face else (style.painting,)


@dataclass(frozen=True)
class _Found:
    """What was found for each patch of a guide: indices (Q,) of the painting's patches, and how far they are (Q,)."""

    guide: "_Guide"
    patches: Patches
    indices: Tensor
    distances: Tensor

    @property
    def loudness(self) -> Tensor:
        """How much each patch's vote counts, (Q,)."""
        return (self.distances + VOTE_SLACK).pow(-VOTE_POWER)


@dataclass(frozen=True)
class _Strokes:
    """Strokes of the painted skin.

    Attributes:
        patches: of the style image's head without what is fine; those of skin are open.
        fine: (1,3,kh,kw), what is fine in the head, k times as large.
        usual: its mean square, median over the skin.
    """

    patches: Patches
    fine: Tensor
    usual: float


class _Guide:
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

    def propose(self, found: _Found, patches: Patches) -> Tensor:
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

    def match_skin(self, patches: Patches) -> _Found:
        """For the patches that touch skin: places in the painting like what is wanted there, as coherent as can be."""
        rows = self.regions[:, REGIONS.index("skin")].nonzero()[:, 0]
        whole = self.describe(self.wanted, patches)
        queries = whole.select(rows)
        found = _Found(
            self, patches, torch.zeros_like(whole.weights, dtype=torch.long), torch.zeros_like(whole.weights)
        )
        candidates = patches.search(queries, STROKE_SEARCH_STRIDE)[:, None]
        for _ in range(STROKE_ROUNDS):
            found.indices[rows], found.distances[rows] = patches.refine(queries, candidates, STROKE_COHERENCE)
            candidates = self.propose(found, patches)[rows]
        return found

    def draw_canvas(self) -> Tensor:
        """A canvas (1,3,h,w) to begin with: the picture, with noise on its background."""
        noise = torch.randn(self.wanted.shape, generator=torch.Generator().manual_seed(0)).to(self.wanted)
        return self.wanted + CANVAS_NOISE * self.background * noise

    def vote(self, found: _Found) -> Tensor:
        """The canvas (1,3,h,w) as the patches that were found say, the nearer ones and their centres more loudly."""
        painted = self._blend(found.patches.values[found.indices] * PATCH_SIZE, found.loudness, VOTE_WIDTH)
        return torch.lerp(painted, self.wanted, self.kept)

    def enlarge(self, found: _Found, pictures: Sequence[Tensor], factor: int) -> Tensor:
        """The canvas (1,3,kh,kw), of what was found, cut from pictures k = `factor` times as large as its sources."""
        values = cut_patches(pictures, factor, *found.patches.locate(found.indices))
        return self._blend(values, found.loudness, ENLARGED_VOTE_WIDTH, factor)

    def _blend(self, values: Tensor, loudness: Tensor, width: float, factor: int = 1) -> Tensor:
        """Overlapping patches (Q,3·k²), k times as large as this guide's, laid out: (1,3,kh,kw)."""
        side = PATCH_SIZE * factor
        along = torch.arange(side, device=values.device) - (side - 1) / 2
        bell = torch.exp(-0.5 * (along / (width * side)).square())
        weights = loudness[:, None] * (bell[:, None] * bell).flatten()
        weighted = (values.unflatten(1, (-1, side**2)) * weights[:, None]).flatten(1)
        return self._fold(weighted, factor) / self._fold(weights, factor)

    def _unfold(self, maps: Tensor) -> Tensor:
        """Patches (Q,C·k²) of (1,C,h,w), divided by the patch size; edges are repeated outwards."""
        rest = [(count - 1) * self.stride + 1 - side for count, side in zip(self.grid, self.size, strict=True)]
        padding = (self.padding, self.padding + rest[1], self.padding, self.padding + rest[0])
        return unfold(F.pad(maps, padding, mode="replicate"), self.stride)

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


def _open_mouths(masks: Tensor) -> Tensor:
    """Masks (1,6,h,w) in which mouths are skin in part."""
    opened, (skin, mouth) = masks.clone(), (REGIONS.index("skin"), REGIONS.index("mouth"))
    opened[:, skin] += MOUTH_AS_SKIN * masks[:, mouth]
    opened[:, mouth] *= 1 - MOUTH_AS_SKIN
    return opened


def _shrink(image: Tensor, scale: int) -> Tensor:
    return resize(image, _scale_size(image, scale)) if scale else image


def _shrink_masks(masks: Tensor, scale: int) -> Tensor:
    return F.adaptive_avg_pool2d(masks, _scale_size(masks, scale))


def _scale_size(image: Tensor, scale: int) -> tuple[int, int]:
    height, width = (max(PATCH_SIZE, side >> scale) for side in image.shape[-2:])
    return height, width


def _cut_source(portrait: Portrait, scale: int) -> tuple[Tensor, Tensor | None]:
    regions = portrait.regions
    return _shrink(portrait.image, scale), None if regions is None else _shrink_masks(regions, scale)
