"""Feature maps of a VAE's encoder: style statistics and layout are read from them."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor


def encode_features(vae: AutoencoderKL, image: Tensor) -> list[Tensor]:
    """Outputs of the encoder's stages for (B,3,H,W) images in [-1,1], from fine to coarse: (B, C_i, H_i, W_i) each."""
    encoder = vae.encoder
    hidden = encoder.conv_in(image)
    features = []
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            hidden = resnet(hidden, None)
        features.append(hidden)
        for downsampler in block.downsamplers or ():
            hidden = downsampler(hidden)
    return features


def encode_latents(vae: AutoencoderKL, image: Tensor) -> Tensor:
    """Scaled mean latents (B,C,h,w) of (B,3,H,W) images in [-1,1]."""
    with torch.no_grad():
        mean = vae.encode(image.to(vae.dtype)).latent_dist.mean
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    return (mean - shift) * vae.config.scaling_factor


def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Images (B,3,H,W), about [-1,1], of scaled latents; gradients flow."""
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    image: Tensor = vae.decode((latents / vae.config.scaling_factor + shift).to(vae.dtype)).sample
    return image
