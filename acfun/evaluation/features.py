"""Extractors: from images (B,3,H,W) in [-1,1] to what metrics compare; each does its own resizing."""

import torch
from diffusers import AutoencoderKL
from skimage.color import rgb2lab
from torch import Tensor, nn
from torch.nn import functional as F

from acfun.base import FAMILIES, Base
from acfun.base.image_embeds import encode_image
from acfun.base.prompts import tokenize
from acfun.base.vae_features import encode_features
from acfun.face.align import face_crop
from acfun.face.finder import FaceFinder, fit_pose, regress_landmarks
from acfun.face.regions import REGIONS, draw_regions
from acfun.images import blur, compute_luma, resize, tensor_to_array

STRUCTURE_SIZE = 64
FACE_REGIONS, OUTSIDE_REGIONS = ("skin", "eyes", "mouth"), ("body", "background")
STAGE_SIZE = 256
# Of strokes, in pixels of pictures of `STAGE_SIZE`: what is coarser is form. Contrast of what is finer, evened out.
STROKE_REACH, STROKE_CONTRAST, FAINT = 4.0, 0.35, 0.02


@torch.no_grad()
def extract_identity(encoder: nn.Module, images: Tensor, landmarks: Tensor) -> Tensor:
    """Unit identity embeddings (B,D); landmarks (B,189,2) pixels."""
    embeds: Tensor = encoder(face_crop(images, landmarks))
    return embeds


@torch.no_grad()
def extract_stages(vae: AutoencoderKL, images: Tensor, size: int | None = STAGE_SIZE) -> list[Tensor]:
    """Feature maps of the VAE encoder's stages, which see colour and paint, for pictures of `size` pixels or as is."""
    return encode_features(vae, images if size is None else resize(images, size))


@torch.no_grad()
def extract_strokes(images: Tensor) -> Tensor:
    """Fine light and shade of equal contrast everywhere, (B,3,H,W) in [-1,1]: strokes, whatever colours they have."""
    luma = compute_luma(images)[:, None]
    fine = luma - blur(luma, STROKE_REACH)
    contrast = blur(fine.square(), 2 * STROKE_REACH).sqrt() + FAINT
    return (STROKE_CONTRAST * fine / contrast).clamp(-1, 1).expand(-1, 3, -1, -1)


@torch.no_grad()
def extract_luminance(images: Tensor, size: int = STRUCTURE_SIZE) -> Tensor:
    """Rec. 601 luma (B,size,size) in [-1,1], averaged down."""
    return compute_luma(resize(images, size))


def extract_lab(image: Tensor) -> Tensor:
    """CIELAB colours (N,3), D65, of the pixels of one image (1,3,H,W)."""
    return torch.from_numpy(rgb2lab(tensor_to_array(image))).float().reshape(-1, 3)


@torch.no_grad()
def extract_landmarks(finder: FaceFinder, images: Tensor, expected: Tensor) -> Tensor:
    """Landmarks (B,189,2) in pixels, looked for from the pose of those that are expected (B,189,2)."""
    points = expected.to(finder.regressor.mean_shape)
    poses = fit_pose(points, finder.regressor.mean_shape)
    return regress_landmarks(finder, images.to(points), poses).landmarks.to(expected)


@torch.no_grad()
def extract_tokens(base: Base, images: Tensor) -> Tensor:
    """CLIP's patch tokens (B,T,D), row by row, without the class token."""
    return encode_image(base, images).tokens[:, 1:].float()


def extract_face_tokens(base: Base, images: Tensor, landmarks: Tensor) -> Tensor:
    """The same (B,T,D) of the inner face alone, cut as for identity encoders; landmarks (B,189,2) pixels."""
    return extract_tokens(base, face_crop(images, landmarks))


@torch.no_grad()
def extract_text_alignment(base: Base, images: Tensor, texts: tuple[str, str]) -> Tensor | None:
    """How much more like the first of two texts than like the second CLIP finds pictures: difference of cosines (B,).

    None where the base's text encoder does not end in the space that its images share.
    """
    if not FAMILIES[base.family].has_joint_space:
        return None
    input_ids = tokenize(base.tokenizer, list(texts)).to(base.device)
    wanted = F.normalize(base.text_encoder(input_ids).pooler_output.float(), dim=-1)
    pictures = F.normalize(encode_image(base, images).pooled.float(), dim=-1)
    similarities: Tensor = pictures @ wanted.T
    return similarities[:, 0] - similarities[:, 1]


def extract_region_lab(image: Tensor, landmarks: Tensor, regions: tuple[str, ...]) -> Tensor:
    """CIELAB colours (N,3) of regions of one portrait (1,3,H,W) with landmarks (1,189,2); N may be 0."""
    masks = draw_regions(landmarks, (image.shape[-2], image.shape[-1]))[0]
    mask = torch.stack([masks[REGIONS.index(name)] for name in regions]).sum(0)
    return extract_lab(image)[mask.flatten().cpu() > 0.5]
