"""Extractors: from images (B,3,H,W) in [-1,1] to what metrics compare; each does its own resizing."""

import torch
from diffusers import AutoencoderKL
from skimage.color import rgb2lab
from torch import Tensor

from acfun.base.vae_features import encode_features
from acfun.face.align import face_crop
from acfun.face.identity import IdentityEncoder
from acfun.images import compute_luma, resize, tensor_to_array

STRUCTURE_SIZE = 64


@torch.no_grad()
def extract_identity(encoder: IdentityEncoder, images: Tensor, landmarks: Tensor) -> Tensor:
    """Unit identity embeddings (B,D); landmarks (B,189,2) pixels."""
    embeds: Tensor = encoder(face_crop(images, landmarks))
    return embeds


@torch.no_grad()
def extract_stages(vae: AutoencoderKL, images: Tensor, size: int | None = 256) -> list[Tensor]:
    """Feature maps of the VAE encoder's stages, which see colour and paint, for pictures of `size` pixels or as is."""
    return encode_features(vae, images if size is None else resize(images, size))


@torch.no_grad()
def extract_luminance(images: Tensor, size: int = STRUCTURE_SIZE) -> Tensor:
    """Rec. 601 luma (B,size,size) in [-1,1], averaged down."""
    return compute_luma(resize(images, size))


def extract_lab(image: Tensor) -> Tensor:
    """CIELAB colours (N,3), D65, of the pixels of one image (1,3,H,W)."""
    return torch.from_numpy(rgb2lab(tensor_to_array(image))).float().reshape(-1, 3)
