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

from acfun.face.regions import REGIONS
from acfun.images import blur, resize
from acfun.patch_guide import Found, Guide
from acfun.patches import AROUND_HEAD, PATCH_SIZE, Patches
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
RELIEF_REACH = 2.0  # pixels of the size that is sampled
FEATURES = ("eyes", "mouth")  # are drawn, and need no relief
STROKE_STRIDE = 2
STROKE_REACH = 4.0  # pixels of the size that is sampled: what is finer than this is strokes
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
            guide = Guide(wanted, masks, self.known_regions, plan.stride, freedom)
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
        guide = Guide(picture, regions, self.known_regions, FINISHING.stride, freedom, keeps=False)
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
        guide = Guide(blur(picture, STROKE_REACH), regions, self.known_regions, STROKE_STRIDE, 1.0, keeps=False)
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
    """Strokes of the painted skin.

    Attributes:
        patches: of the style image's head without what is fine; those of skin are open.
        fine: (1,3,kh,kw), what is fine in the head, k times as large.
        usual: its mean square, median over the skin.
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
