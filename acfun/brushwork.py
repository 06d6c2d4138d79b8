"""Brushwork: a picture laid out anew from patches of a painting, coarse to fine.

Patch-based synthesis in the line of Kwatra et al. 2005 (texture optimisation), Elad & Milanfar 2017 (style transfer,
https://arxiv.org/abs/1609.03057), Fišer et al. 2017 (guides for faces) and Granot et al. 2022 (completeness,
https://arxiv.org/abs/2103.15545): every patch of the picture is replaced by the nearest one of the painting, where
overlapping ones are averaged, again and again, at each scale. Strokes are the painter's own; what is painted with them
is the picture's light and shade, the more closely the more there is to see.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from acfun.face.regions import REGIONS, fold_regions
from acfun.images import blur, resize
from acfun.patch_guide import Found, Guide
from acfun.patches import AROUND_HEAD, FEATURES, PATCH_SIZE, Patches
from acfun.portrait import Portrait, StyleImage
from acfun.relief import measure_fine_energy, measure_lack, measure_relief, restore_relief


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


@dataclass(frozen=True)
class Manner:
    """How strokes are laid on what is smooth.

    Attributes:
        quantile: of how fine a painted region is from place to place: what is wanted everywhere.
        noise: deviation in [-1,1] of what is asked for, so that an even ground takes more than one and the same stroke.
        least: deviation of fine differences, in wanted ones, from which on a patch has strokes.
        most: from which on it has lines of the painting.
    """

    quantile: float
    noise: float
    least: float
    most: float


COARSEST_SIDE = 64  # the coarsest scale's shorter side is at least this, where the picture's is
PLANS = (Plan(4, 1, 4, 1), Plan(4, 2, 4, 2), Plan(3, 3, 1, 4))  # coarse to fine; the last one for all further scales
FINISHING = Plan(4, 2, 1, 3)
RELIEF_REACH = 2.0  # pixels of the size that is sampled
STROKE_STRIDE = 2
STROKE_REACH = 4.0  # pixels of the size that is sampled: what is finer than this is strokes
FAINT_STROKE = 0.01  # deviation in [-1,1], about a level of 8 bits
SKIN_MANNER = Manner(quantile=0.5, noise=0.0, least=0.0, most=4.0)
# A ground that has strokes has them nearly everywhere; one with things in it is calm in between.
GROUND_MANNER = Manner(quantile=0.25, noise=0.1, least=0.5, most=2.5)
FACE_MANNERS = ((SKIN_MANNER, ("skin",)), (GROUND_MANNER, AROUND_HEAD))
WHOLE_MANNERS = ((GROUND_MANNER, (None,)),)


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
        self._broad: dict[int, Patches] = {}
        self._strokes: dict[tuple[str | None, int], _Strokes | None] = {}

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
            guide = Guide(wanted, masks, self.known_regions, plan.stride, freedom)
            canvas = guide.draw_canvas() if canvas is None else resize(canvas, guide.size)
            canvas, found = self._work(plan, guide, self._cut(scale), canvas, found)
        assert canvas is not None
        return canvas.clamp(-1, 1)

    @torch.no_grad()
    def finish(self, picture: Tensor, regions: Tensor, freedom: float = 1.0, enlargement: int = 1) -> Tensor:
        """Go over a picture that is painted already, at the finest scale alone: (1,3,kH,kW) in [-1,1].

        Relief comes back that overlapping patches have lost; what is smooth gets strokes, if it is enlarged.

        Args:
            picture: (1,3,H,W) in [-1,1].
            regions: (1,6,H,W) in [0,1].
            freedom: as for `sketch`.
            enlargement: k; the patches that are found are laid out as they are in the larger source.
        """
        guide = Guide(picture, regions, self.known_regions, FINISHING.stride, freedom, keeps=False)
        canvas, found = self._work(FINISHING, guide, self._cut(0), picture, None)
        if enlargement > 1:
            canvas = guide.enlarge(found, self._enlarge(enlargement), enlargement)
        masks = F.interpolate(regions, canvas.shape[-2:], mode="bilinear")
        masks = masks if self.has_face else torch.ones_like(masks[:, :1])
        canvas = restore_relief(canvas, masks, self._measure_relief(enlargement), RELIEF_REACH * enlargement)
        return self._lay_strokes(canvas, picture, regions, enlargement) if enlargement > 1 else canvas

    def forget(self) -> None:
        """Let go of what was cut from the painting; what is needed again is cut again."""
        for kept in (self._scales, self._reliefs, self._broad, self._strokes):
            kept.clear()

    def _lay_strokes(self, canvas: Tensor, picture: Tensor, regions: Tensor, factor: int) -> Tensor:
        """An enlarged canvas (1,3,kH,kW) with strokes of the painting where it is smooth, region by region.

        Patches are found by what is broad in them and laid out with what is fine. At the size that is sampled nothing
        of this can be seen.
        """
        noise = blur(torch.randn(picture.shape, generator=torch.Generator().manual_seed(0)).to(picture), STROKE_REACH)
        noise, broad = noise / noise.std(), blur(picture, STROKE_REACH)
        folded = fold_regions(regions, self.known_regions)
        for manner, names in FACE_MANNERS if self.has_face else WHOLE_MANNERS:
            wanted = broad + manner.noise * noise
            guide = Guide(wanted, regions, self.known_regions, STROKE_STRIDE, 1.0, keeps=False)
            for name in names:
                strokes = self._cut_strokes(name, manner, factor)
                if strokes is None:
                    continue
                mask = torch.ones_like(folded[:, :1]) if name is None else folded[:, REGIONS.index(name), None]
                lack = measure_lack(canvas, strokes.usual, STROKE_REACH * factor)
                lack = lack * F.interpolate(mask, canvas.shape[-2:], mode="bilinear")
                found = guide.match_strokes(strokes.patches, F.adaptive_avg_pool2d(lack, guide.size))
                if found is not None:
                    canvas = (canvas + lack * guide.enlarge(found, [strokes.fine], factor)).clamp(-1, 1)
        return canvas

    def _cut_strokes(self, region: str | None, manner: Manner, factor: int) -> "_Strokes | None":
        """Those of a painted region, or of everything, k = `factor` times as large; None where there are none."""
        if (region, factor) not in self._strokes:
            is_painted = region is None or region in self.known_regions
            self._strokes[region, factor] = self._find_strokes(region, manner, factor) if is_painted else None
        return self._strokes[region, factor]

    def _find_strokes(self, region: str | None, manner: Manner, factor: int) -> "_Strokes | None":
        part = 0 if region == "skin" else -1
        patches, enlarged = self._cut_broad(part), self._enlarge(factor)[part]
        fine_energy = measure_fine_energy(enlarged, STROKE_REACH * factor)
        energy = F.avg_pool2d(F.avg_pool2d(fine_energy, factor), PATCH_SIZE, 1).flatten()
        is_there = patches.is_open if region is None else patches.measure_share(region) > 0.5
        found = energy[is_there]
        usual = float(found.quantile(manner.quantile, interpolation="lower")) if len(found) else 0.0
        if usual <= FAINT_STROKE**2:
            return None
        has_strokes = (energy >= manner.least**2 * usual) & (energy <= manner.most**2 * usual)
        fine = enlarged - blur(enlarged, STROKE_REACH * factor)
        return _Strokes(patches.restrict(is_there & has_strokes), fine, usual)

    def _cut_broad(self, part: int) -> Patches:
        """Patches of what is broad in one of the pictures that patches come from."""
        if part not in self._broad:
            portrait = self._choose_parts(self.style)[part]
            self._broad[part] = Patches([(blur(portrait.image, STROKE_REACH), portrait.regions)])
        return self._broad[part]

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
        self, plan: Plan, guide: Guide, patches: Patches, canvas: Tensor, found: Found | None
    ) -> tuple[Tensor, Found]:
        """The rounds at one scale, which go on from what was found at the coarser one."""
        for index in range(plan.num_rounds):
            queries = guide.describe(canvas, patches)
            candidates = []
            if index < plan.num_searches:
                candidates.append(patches.search(queries, plan.search_stride)[:, None])
            if found is not None and plan.num_searches < plan.num_rounds:
                candidates.append(guide.propose(found, patches))
            found = Found(guide, patches, *patches.refine(queries, torch.cat(candidates, 1)))
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
class _Strokes:
    """Strokes of a painted region.

    Attributes:
        patches: of the style image without what is fine; those of the region that have strokes are open.
        fine: (1,3,kh,kw), what is fine in it, k times as large.
        usual: its mean square, where the region is as fine as the manner wants it everywhere.
    """

    patches: Patches
    fine: Tensor
    usual: float


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
