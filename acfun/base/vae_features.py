"""A VAE as losses see it: scaled latents, images, and the feature maps of its encoder; results are float32."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor


def encode_features(vae: AutoencoderKL, image: Tensor) -> list[Tensor]:
    """Outputs of the encoder's stages, fine to coarse: (B, C_i, H_i, W_i) each; gradients flow.

    Args:
        vae: without attention between the stages, as those of Stable Diffusion are.
        image: (B,3,H,W) in [-1,1].
    """
    encoder = vae.encoder
    hidden = encoder.conv_in(image.to(vae.dtype))
    features = []
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            hidden = resnet(hidden, None)
        features.append(hidden.float())
        for downsampler in block.downsamplers or ():
            hidden = downsampler(hidden)
    return features


@torch.no_grad()
def encode_latents(vae: AutoencoderKL, image: Tensor) -> Tensor:
    """Scaled mean latents (B,C,h,w), as the UNet sees them, of (B,3,H,W) images in [-1,1]; without gradients."""
    mean: Tensor = vae.encode(image.to(vae.dtype)).latent_dist.mean
    latents: Tensor = (mean.float() - _shift(vae)) * vae.config.scaling_factor
    return latents


def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Images (B,3,H,W), about [-1,1], of scaled latents (B,C,h,w); gradients flow."""
    image: Tensor = vae.decode((latents / vae.config.scaling_factor + _shift(vae)).to(vae.dtype)).sample
    return image.float()


def _shift(vae: AutoencoderKL) -> float:
    return getattr(vae.config, "shift_factor", None) or 0.0
