"""Imagery: what a style asks of a portrait, and how far pictures are from it. Fits learn it, and it guides sampling."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from acfun import losses
from acfun.backdrop import build_backdrop, lay_backdrop, measure_calm
from acfun.base.vae_features import decode_latents, encode_features
from acfun.brushwork import Brushwork
from acfun.drawing import draw_lines, match_tones
from acfun.face.align import face_crop
from acfun.face.identity import FeatureStages, IdentityEncoder
from acfun.face.regions import REGIONS, fold_regions
from acfun.features import draw_features, draw_forms
from acfun.images import compute_luma, resize
from acfun.palette import find_usual
from acfun.patches import AROUND_HEAD
from acfun.portrait import STYLE_SIDE, Portrait, StyleImage

WHOLE = "whole"
NUM_SCALES = 3
NUM_DIRECTIONS = 48
MIN_REGION_PATCHES = 24
BLEND = 7  # pixels on either side of a region's edge where recoloured regions run into each other
# Mean luma in [-1,1] of skin and hair in photographs, the share of what a person departs from it by that is kept, and
# of what the painted person departs from it by that is taken for his own, and not for the style's.
AVERAGE_TONES, KEPT_TONE, SITTERS_TONE = {"skin": 0.13, "hair": -0.29}, 0.7, 0.3
MAX_HEAD_SCALE = 3.0  # a painted head that is enlarged by more has few strokes, and broad ones
SCENE_REGIONS = (WHOLE, *AROUND_HEAD)  # taken from the whole painting rather than from around the painted face
SHADED_REGIONS = (("skin", "eyes", "mouth"), ("hair",))
STRUCTURE_SIZE, NUM_STRUCTURE_STAGES = 128, 3
TERMS = frozenset({"statistics", "gram", "structure", "shading", "identity"})

PatchBank = tuple[dict[str, Tensor], ...]
"""Colour patches of a style image: per scale, region name → (N, D)."""


@dataclass(frozen=True)
class FaceTargets:
    """What is kept of one photograph, and where the style's regions are in it.

    Attributes:
        landmarks: (189,2) pixels.
        regions: (6,H,W) in [0,1], its `REGIONS`.
        masks: per scale, region name → (H,W) in [0,1]; one region `whole` where the style has no face.
        self_similarities: per structure stage (P,P).
        shading: (h,w) of `acfun.losses.compute_shading`.
        shading_masks: (2,h,w) in [0,1], face and hair.
        identity_embeds: (D,) unit length.
    """

    landmarks: Tensor
    regions: Tensor
    masks: PatchBank
    self_similarities: tuple[Tensor, ...]
    shading: Tensor
    shading_masks: Tensor
    identity_embeds: Tensor


class Imagery:
    """What a style image asks of portraits, and how far pictures are from it.

    In a painting each region has colours of its own. In ink on paper dark is what was dark in the sitter, whatever it
    is, so all of it is one region: a dark man's face would make every face dark. Chalk on dark paper leaves grounds
    dark that are light, so it has regions.

    A painting whose head is small beside it is one region too: the head's strokes would be as broad as they are few,
    and in a scene it is the scene that makes the mood.

    Args:
        style: the style image, on the device of the networks, of any size.
        size: of portraits, pixels: that of the style's head beside them.
        vae: frozen; its encoder's features are those of the Gram matrices.
        encoder: frozen; sees structure and identity. Trained to see a face in any paint, it says little of colour.
        identity_encoder: frozen; of `acfun.face.recognition`, sees identity in place of `encoder`.
    """

    def __init__(
        self,
        style: StyleImage,
        size: int,
        vae: AutoencoderKL,
        encoder: IdentityEncoder,
        identity_encoder: nn.Module | None = None,
    ) -> None:
        self.style, self.is_drawing = style.shrink(size), style.shrink(STYLE_SIDE).is_drawing
        self.backdrop = build_backdrop(self.style.painting, is_drawing=self.is_drawing)
        if self.is_drawing or style.head_scale > MAX_HEAD_SCALE:
            style, self.style = style.without_face(), self.style.without_face()
        self.vae, self.encoder, self.stages = vae, identity_encoder or encoder, FeatureStages(encoder)
        self.patches, self.brushwork = build_patch_bank(self.style), Brushwork(self.style, style)
        # Of the pixel in the middle of each patch.
        self.colours = {
            name: bank.unflatten(1, (3, -1))[:, :, bank.shape[1] // 6] for name, bank in self.patches[0].items()
        }
        if "background" in self.colours:
            self.colours["background"] = _select_usual(self.colours["background"])
        with torch.no_grad():
            features = encode_features(vae, self.style.painting.image)
            self.grams = tuple(losses.compute_gram(feature)[0] for feature in features)

    def sample_directions(self, generator: torch.Generator) -> Tensor:
        """Random unit directions (D,K) for one evaluation of the statistics."""
        dimension = next(iter(self.patches[0].values())).shape[1]
        return losses.sample_directions(dimension, NUM_DIRECTIONS, generator)

    @torch.no_grad()
    def describe(self, face: Portrait) -> FaceTargets:
        """What is to be kept of a portrait with landmarks, of any size."""
        assert face.landmarks is not None
        assert face.regions is not None
        masks = face.masks
        shaded = torch.stack([torch.stack([masks[name] for name in names]).sum(0) for names in SHADED_REGIONS])
        return FaceTargets(
            landmarks=face.landmarks[0],
            regions=face.regions[0],
            masks=merge_masks(face, self.patches),
            self_similarities=tuple(losses.self_similarity(part)[0] for part in self._extract_structure(face.image)),
            shading=losses.compute_shading(face.image)[0],
            shading_masks=F.adaptive_avg_pool2d(shaded, losses.SHADING_SIDE),
            identity_embeds=self._encode_identity(face.image, face.landmarks)[0],
        )

    def sketch(
        self, portrait: Portrait, face: FaceTargets, freedom: float = 1.0, backdrop_scale: float = 1.0
    ) -> Tensor:
        """A portrait (1,3,H,W) laid out anew in the style's colours and strokes: what painting starts from.

        Args:
            portrait: with landmarks.
            face: `describe` of it.
            freedom: > 0; how much less than usual the photograph's light and shade count.
            backdrop_scale: ≥ 0; as `scale` of `lay_backdrop`.
        """
        regions = face.regions[None]
        picture = self.recolour(portrait.image, [face])
        if self.backdrop is not None:
            picture = lay_backdrop(picture, portrait.image, regions, self.backdrop, backdrop_scale)
        return self.brushwork.sketch(picture, regions, freedom)

    def finish(
        self,
        image: Tensor,
        photo: Tensor,
        face: FaceTargets,
        freedom: float = 1.0,
        enlargement: int = 1,
        identity_scale: float = 1.0,
        backdrop_scale: float = 1.0,
    ) -> Tensor:
        """A painted portrait with the strokes and the features that the networks have blurred, (1,3,kH,kW).

        Args:
            image: (1,3,H,W) in [-1,1].
            photo: (1,3,·,·) in [-1,1], what was painted; features are drawn as finely as it shows them.
            face: `describe` of it.
            freedom: as for `sketch`.
            enlargement: k.
            identity_scale: ≥ 0; how much of the light and shade of features and forms is the photograph's.
            backdrop_scale: as for `sketch`.
        """
        regions = face.regions[None]
        painted = self.brushwork.finish(image, regions, freedom, enlargement)
        small = resize(photo, (image.shape[-2], image.shape[-1]))
        recoloured, scale = self.recolour(small, [face]), identity_scale / freedom
        ground = regions[:, REGIONS.index("background"), None]
        shown = 1 - measure_calm(small, ground, backdrop_scale * float(self.backdrop is not None))
        formed = draw_forms(painted, photo, recoloured, regions, shown, scale)
        drawn = draw_features(formed, photo, recoloured, regions, face.landmarks, scale)
        if not self.is_drawing:
            return drawn
        style = self.style if enlargement == 1 else self.brushwork.source
        lined = draw_lines(drawn, photo, regions, face.landmarks, scale)
        return match_tones(lined, style.painting.image)

    @torch.no_grad()
    def recolour(self, images: Tensor, faces: Sequence[FaceTargets]) -> Tensor:
        """Portraits whose regions have the mean and the covariance of the style's colours: a start to paint on.

        Who has darker or lighter skin or hair than most has so, in part, beside the painted person too.

        Args:
            images: (B,3,H,W) in [-1,1].
            faces: B of `describe`, of the same pictures.
        """
        if self.is_drawing:
            return self._map_tones(images).clamp(-1, 1)
        mapped = [self._map_colours(*row) for row in zip(images.split(1), faces, strict=True)]
        return torch.cat(mapped).clamp(-1, 1)

    def _map_tones(self, images: Tensor) -> Tensor:
        """Pictures (B,3,H,W) in the colours of a drawing, with the mean and the spread of its light and dark."""
        colours = self.style.painting.image[0].flatten(1)
        tones, luma = compute_luma(colours[None, :, None])[0, 0], compute_luma(images)[:, None]
        middle = colours.mean(1, keepdim=True)
        per_tone = ((colours - middle) * (tones - tones.mean())).mean(1) / tones.var(correction=0).clamp(min=1e-6)
        stretch = (tones.std() / luma.std((2, 3), keepdim=True).clamp(min=1e-6)).clamp(max=losses.MAX_STRETCH)
        moved = stretch * (luma - luma.mean((2, 3), keepdim=True))
        return middle[..., None] + per_tone[:, None, None] * moved

    def _map_colours(self, image: Tensor, face: FaceTargets) -> Tensor:
        """One picture with the style's colours, region by region, blended by their masks."""
        result, uncovered = torch.zeros_like(image), torch.ones_like(image[:, :1])
        pixels = image[0].flatten(1).T
        for name, colours in self.colours.items():
            mask = face.masks[0][name]
            if float(mask.sum()) >= MIN_REGION_PATCHES:
                soft = F.avg_pool2d(mask[None, None], 2 * BLEND + 1, 1, BLEND, count_include_pad=False)
                mapped = losses.match_colours(pixels, mask.flatten(), colours)
                if name in AVERAGE_TONES:
                    average, painted = AVERAGE_TONES[name], compute_luma(colours.T[None, :, None]).mean()
                    tone = (mask * compute_luma(image)[0]).sum() / mask.sum()
                    mapped = mapped + KEPT_TONE * (tone - average) - SITTERS_TONE * (painted - average)
                result, uncovered = result + soft * mapped.T.reshape(image.shape), uncovered - soft
        return result + uncovered * image

    def compute_terms(
        self, images: Tensor, faces: Sequence[FaceTargets], clarity: Tensor, directions: Tensor, names: frozenset[str]
    ) -> dict[str, Tensor]:
        """Losses by name, those of `TERMS` that are in `names`; each a mean over the batch.

        Args:
            images: (B,3,H,W), about [-1,1].
            faces: B of `describe`, of the same size.
            clarity: (B,) in [0,1]. A prediction from much noise is blurred: details, and who it is, are asked of it
                only as far as it can show them.
            directions: of `sample_directions`.
            names: what is asked for.
        """
        terms = {}
        if "gram" in names:
            terms["gram"] = losses.gram_distance(encode_features(self.vae, images), self.grams, clarity)
        if "shading" in names:
            shading, masks = (torch.stack([getattr(f, name) for f in faces]) for name in ("shading", "shading_masks"))
            terms["shading"] = losses.shading_distance(losses.compute_shading(images), shading, masks)
        if "structure" in names:
            similarities = zip(*(face.self_similarities for face in faces), strict=True)
            wanted = [torch.stack(maps) for maps in similarities]
            terms["structure"] = losses.structure_distance(self._extract_structure(images), wanted)
        if "statistics" in names:
            rows = zip(images.split(1), faces, clarity, strict=True)
            terms["statistics"] = torch.stack([self._match_regions(*row, directions) for row in rows]).mean()
        if "identity" in names:
            embeds = self._encode_identity(images, torch.stack([face.landmarks for face in faces]))
            targets = torch.stack([face.identity_embeds for face in faces])
            terms["identity"] = losses.identity_distance(embeds, targets, clarity)
        return terms

    def build_measure(
        self, faces: Sequence[FaceTargets], weights: Mapping[str, float], generator: torch.Generator
    ) -> Callable[[Tensor], Tensor]:
        """How far clean latents (B,C,h,w) are from what is asked for, as one weighted sum ().

        Args:
            faces: B of `describe`.
            weights: of `TERMS` by name; what is missing or 0 is not asked for.
            generator: draws the directions of each evaluation.
        """
        wanted = {name: weight for name, weight in weights.items() if weight}

        def measure(latents: Tensor) -> Tensor:
            images = decode_latents(self.vae, latents)
            directions = self.sample_directions(generator).to(images.device)
            terms = self.compute_terms(images, faces, images.new_ones(len(faces)), directions, frozenset(wanted))
            return losses.total_loss(terms, wanted)

        return measure

    def _match_regions(self, image: Tensor, face: FaceTargets, clarity: Tensor, directions: Tensor) -> Tensor:
        """Sliced Wasserstein distance region ↔ region, weighted by area in the photograph, summed over scales.

        The coarsest scale counts fully, each finer one less by the factor `clarity` ().
        """
        total = image.new_zeros(())
        for level, regions in enumerate(self.patches):
            patches = losses.extract_patches(image)
            for name, target in regions.items():
                points = losses.select_patches(patches, face.masks[level][name])
                if len(points):
                    share = len(points) / len(patches)
                    distance = losses.sliced_wasserstein(points, target, directions)
                    total = total + share * clarity ** (len(self.patches) - 1 - level) * distance
            image = F.avg_pool2d(image, 2)
        return total

    def _extract_structure(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.stages(resize(images.float(), STRUCTURE_SIZE))
        return maps[-NUM_STRUCTURE_STAGES:]

    def _encode_identity(self, images: Tensor, landmarks: Tensor) -> Tensor:
        embeds: Tensor = self.encoder(face_crop(images.float(), landmarks))
        return embeds


def _select_usual(colours: Tensor) -> Tensor:
    """Those of the colours (N,3) of a painted ground that are not far from most: without the things in it."""
    middle, limit = find_usual(colours)
    return colours[(colours - middle).norm(dim=1) <= limit]


def build_patch_bank(style: StyleImage) -> PatchBank:
    """Cut a style image into colour patches, by region where it has a face; too small regions are left out.

    The background is the whole painting's, however small the face in it.
    """
    levels = []
    for head, painting in zip(_build_pyramid(style.head), _build_pyramid(style.painting), strict=True):
        whole = {name: points for name, points in _cut_regions(*painting).items() if name in SCENE_REGIONS}
        regions = _cut_regions(*head) | whole
        levels.append({name: points for name, points in regions.items() if len(points) >= MIN_REGION_PATCHES})
    return tuple(levels)


def merge_masks(face: Portrait, bank: PatchBank) -> PatchBank:
    """Masks (H,W) of a portrait for the regions that a style has; what has no counterpart joins a neighbour."""
    pyramid = _build_pyramid(face)
    return tuple(_merge(image, masks, level) for (image, masks), level in zip(pyramid, bank, strict=True))


def _merge(image: Tensor, masks: Mapping[str, Tensor], level: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if WHOLE in level:
        return {WHOLE: image.new_ones(image.shape[-2:])}
    folded = fold_regions(torch.stack([masks[name] for name in REGIONS])[None], level)[0]
    return {name: folded[REGIONS.index(name)] for name in level}


def _cut_regions(image: Tensor, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    patches = losses.extract_patches(image)
    return {name: losses.select_patches(patches, mask) for name, mask in masks.items()}


def _build_pyramid(portrait: Portrait) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """(image, region masks) at `NUM_SCALES` scales, each half of the one before."""
    image, masks, levels = portrait.image, portrait.masks, []
    masks = masks or {WHOLE: image.new_ones(image.shape[-2:])}
    for _ in range(NUM_SCALES):
        levels.append((image, masks))
        image = F.avg_pool2d(image, 2)
        masks = {name: F.avg_pool2d(mask[None, None], 2)[0, 0] for name, mask in masks.items()}
    return levels
