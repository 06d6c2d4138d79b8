"""Everything a fit looks at, encoded once before the loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from acfun.base.vae_features import encode_features, encode_latents
from acfun.losses import SHADING_SIDE, compute_gram, compute_shading, extract_patches, select_patches, self_similarity

WHOLE = "whole"
NUM_SCALES = 3
NUM_STYLE_CROPS = 24
SMALLEST_CROP = 0.5
MIN_REGION_PATCHES = 24
SCENE_REGIONS = (WHOLE, "background")  # taken from the whole painting rather than from around the painted face
NEIGHBOURS = {
    "eyes": ("skin", "hair"),
    "mouth": ("skin", "hair"),
    "skin": ("hair", "background"),
    "hair": ("background", "skin"),
    "background": ("hair", "skin"),
}


@dataclass(frozen=True)
class Portrait:
    """A picture in canonical framing and what is known of the face in it.

    Attributes:
        image: (1,3,S,S) in [-1,1].
        landmarks: (1,189,2) pixels, or None where no face was found.
        masks: (1,R,S,S) soft region masks in the order of `region_names`, or None where no face was found.
        region_names: names of the regions.
    """

    image: Tensor
    landmarks: Tensor | None
    masks: Tensor | None
    region_names: tuple[str, ...]


@dataclass(frozen=True)
class FaceSample:
    """One photograph to be stylized.

    Attributes:
        latents: (C,h,w).
        landmarks: (189,2) pixels.
        masks: per scale, region name → (H,W) in [0,1]; one region `whole` where the style has no face.
        self_similarities: per structure stage (P,P).
        shading: (h,w) of `acfun.losses.compute_shading`.
        shading_masks: (2,h,w) in [0,1], face and hair.
        identity_embeds: (D,) unit length.
        shape_target: (189,2) pixels, where the landmarks should go for the painting's proportions.
        inter_pupil: () distance of the pupils, pixels.
    """

    latents: Tensor
    landmarks: Tensor
    masks: tuple[dict[str, Tensor], ...]
    self_similarities: tuple[Tensor, ...]
    shading: Tensor
    shading_masks: Tensor
    identity_embeds: Tensor
    shape_target: Tensor
    inter_pupil: Tensor


@dataclass(frozen=True)
class PatchBank:
    """Colour patches of the style image: per scale, region name → (N, D)."""

    levels: tuple[dict[str, Tensor], ...]


@dataclass(frozen=True)
class FitData:
    """Encoded style and faces, and the frozen networks that the losses need.

    Attributes:
        faces: the photographs.
        style_latents: (K,C,h,w); the first is the whole style image, the others random crops of it.
        style_patches: the style's colour patches.
        style_grams: per encoder stage (C,C).
        vae: frozen.
        num_train_timesteps: T of the noise schedule.
        encode_identity: (images (B,3,H,W), landmarks (B,189,2)) → (B,D).
        extract_structure: images (B,3,H,W) → feature maps whose self-similarity is a picture's structure.
        regress_landmarks: images (B,3,H,W) → (B,189,2).
    """

    faces: tuple[FaceSample, ...]
    style_latents: Tensor
    style_patches: PatchBank
    style_grams: tuple[Tensor, ...]
    vae: AutoencoderKL
    num_train_timesteps: int
    encode_identity: Callable[[Tensor, Tensor], Tensor]
    extract_structure: Callable[[Tensor], list[Tensor]]
    regress_landmarks: Callable[[Tensor], Tensor]

    @property
    def patch_dimension(self) -> int:
        """Values in one colour patch."""
        return next(iter(self.style_patches.levels[0].values())).shape[1]


def build_style_patches(style: Portrait, painting: Portrait) -> PatchBank:
    """Cut the style into colour patches, by region where it has a face; regions too small at a scale are left out.

    Args:
        style: the painted face in canonical framing.
        painting: the whole painting, (1,3,h,w); its background is the style's, however small the face in it.
    """
    levels = []
    for head, whole in zip(_pyramid(style), _pyramid(painting), strict=True):
        regions = _cut_regions(*head) | {name: p for name, p in _cut_regions(*whole).items() if name in SCENE_REGIONS}
        levels.append({name: points for name, points in regions.items() if len(points) >= MIN_REGION_PATCHES})
    return PatchBank(tuple(levels))


def _cut_regions(image: Tensor, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    patches = extract_patches(image)
    return {name: select_patches(patches, mask) for name, mask in masks.items()}


def build_masks(face: Portrait, bank: PatchBank) -> tuple[dict[str, Tensor], ...]:
    """Masks of the photograph for the regions that the style has; what has no counterpart joins a neighbour.

    Args:
        face: with masks.
        bank: the style's regions.

    Returns:
        One dict a scale: region name → (H,W) in [0,1].
    """
    return tuple(
        _merge_masks(image, masks, level) for (image, masks), level in zip(_pyramid(face), bank.levels, strict=True)
    )


def _merge_masks(image: Tensor, masks: dict[str, Tensor], level: dict[str, Tensor]) -> dict[str, Tensor]:
    if WHOLE in level:
        return {WHOLE: image.new_ones(image.shape[-2:])}
    merged = {name: masks[name].clone() for name in level}
    # In the order of the masks, since sums in another order differ in the last bit.
    for name in masks:
        neighbour = next((other for other in NEIGHBOURS[name] if other in merged), None)
        if name not in merged and neighbour is not None:
            merged[neighbour] += masks[name]
    return merged


def build_face_sample(
    face: Portrait,
    bank: PatchBank,
    vae: AutoencoderKL,
    encode_identity: Callable[[Tensor, Tensor], Tensor],
    extract_structure: Callable[[Tensor], list[Tensor]],
    shape_offset: Tensor,
) -> FaceSample:
    """Encode one photograph.

    Args:
        face: with landmarks.
        bank: the style's regions.
        vae: of the base.
        encode_identity: as in `FitData`.
        extract_structure: as in `FitData`.
        shape_offset: (189,2) of `compute_shape_offset`.
    """
    assert face.landmarks is not None and face.masks is not None
    pupils = face.landmarks[0, :2]
    across = pupils[1] - pupils[0]
    axes = torch.stack([across, torch.stack([-across[1], across[0]])])
    by_name = dict(zip(face.region_names, face.masks[0], strict=True))
    shaded = torch.stack([by_name["skin"] + by_name["eyes"] + by_name["mouth"], by_name["hair"]])
    with torch.no_grad():
        features = extract_structure(face.image)
        identity = encode_identity(face.image, face.landmarks)[0]
    return FaceSample(
        latents=encode_latents(vae, face.image)[0],
        landmarks=face.landmarks[0],
        masks=build_masks(face, bank),
        self_similarities=tuple(self_similarity(feature)[0] for feature in features),
        shading=compute_shading(face.image)[0],
        shading_masks=F.adaptive_avg_pool2d(shaded, SHADING_SIDE),
        identity_embeds=identity,
        shape_target=face.landmarks[0] + shape_offset @ axes,
        inter_pupil=across.norm(),
    )


def encode_style_crops(vae: AutoencoderKL, style: Portrait, painting: Tensor, generator: torch.Generator) -> Tensor:
    """Latents (1+K,C,h,w): the style portrait, then random square crops of the whole painting, half of them flipped.

    Crops keep a fit from learning the painting's layout.

    Args:
        vae: of the base.
        style: in canonical framing.
        painting: (1,3,H,W) the whole style image.
        generator: draws the crops.
    """
    size = style.image.shape[-1]
    crops = [style.image]
    shortest = min(painting.shape[-2:])
    for _ in range(NUM_STYLE_CROPS):
        side = max(8, round(shortest * float(torch.empty(()).uniform_(SMALLEST_CROP, 1, generator=generator))))
        top, left = (int(torch.randint(length - side + 1, (), generator=generator)) for length in painting.shape[-2:])
        crop = painting[..., top : top + side, left : left + side]
        crop = F.interpolate(crop, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
        crops.append(crop.flip(3) if torch.rand((), generator=generator) < 0.5 else crop)
    return torch.cat([encode_latents(vae, part) for part in torch.cat(crops).split(5)])


def encode_style_grams(vae: AutoencoderKL, painting: Portrait) -> tuple[Tensor, ...]:
    """Channel covariances (C,C) of the encoder's stages on the whole painting."""
    with torch.no_grad():
        return tuple(compute_gram(feature)[0] for feature in encode_features(vae, painting.image))


def compute_shape_offset(style_shape: Tensor, mean_shape: Tensor, amount: float) -> Tensor:
    """How a painted face deviates from the average face: (189,2) in inter-pupil distances, the pupils' axis as x.

    Args:
        style_shape: (189,2) landmarks of the painted face, any frame.
        mean_shape: (189,2) landmarks of the average face, any frame.
        amount: 0 keeps the photograph's proportions, 1 adds the whole deviation.
    """
    return amount * (_in_own_axes(style_shape) - _in_own_axes(mean_shape))


def _in_own_axes(landmarks: Tensor) -> Tensor:
    across = landmarks[1] - landmarks[0]
    axes = torch.stack([across, torch.stack([-across[1], across[0]])]) / across.square().sum()
    return (landmarks - (landmarks[0] + landmarks[1]) / 2) @ axes.T


def _pyramid(portrait: Portrait) -> Sequence[tuple[Tensor, dict[str, Tensor]]]:
    """(image, region masks) at `NUM_SCALES` scales, each half of the one before."""
    masks = portrait.image.new_ones((1, 1, *portrait.image.shape[-2:])) if portrait.masks is None else portrait.masks
    names = (WHOLE,) if portrait.masks is None else portrait.region_names
    image, levels = portrait.image, []
    for _ in range(NUM_SCALES):
        levels.append((image, dict(zip(names, masks[0], strict=True))))
        image, masks = F.avg_pool2d(image, 2), F.avg_pool2d(masks, 2)
    return levels
