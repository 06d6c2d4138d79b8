"""Everything a fit looks at, encoded once before the loop."""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from acfun.base.vae_features import encode_latents
from acfun.imagery import FaceTargets, Imagery
from acfun.portrait import StyleImage

NUM_STYLE_CROPS = 24
SMALLEST_CROP = 0.5
CROPS_AT_ONCE = 5


@dataclass(frozen=True)
class FitData:
    """Encoded style and faces.

    Attributes:
        face_latents: (F,C,h,w) of the photographs.
        pair_latents: (F,C,h,w) of the photographs as painted before the fit, for objectives that learn from such pairs.
        faces: F, what is kept of them.
        style: the style image.
        style_latents: (K,C,h,w); the first is the style image's head, the others are random crops of the whole.
        imagery: what the style asks of pictures.
        vae: frozen.
        num_train_timesteps: T of the noise schedule.
    """

    face_latents: Tensor
    pair_latents: Tensor | None
    faces: tuple[FaceTargets, ...]
    style: StyleImage
    style_latents: Tensor
    imagery: Imagery
    vae: AutoencoderKL
    num_train_timesteps: int


def encode_style_crops(vae: AutoencoderKL, head: Tensor, painting: Tensor, generator: torch.Generator) -> Tensor:
    """Latents (1+K,C,h,w): the style's head, then random square crops of the whole painting, half of them flipped.

    Crops keep a fit from learning the painting's layout.

    Args:
        vae: of the base.
        head: (1,3,S,S) in [-1,1].
        painting: (1,3,H,W) the whole style image.
        generator: draws the crops.
    """
    size = head.shape[-1]
    crops = [head]
    shortest = min(painting.shape[-2:])
    for _ in range(NUM_STYLE_CROPS):
        side = max(8, round(shortest * float(torch.empty(()).uniform_(SMALLEST_CROP, 1, generator=generator))))
        top, left = (int(torch.randint(length - side + 1, (), generator=generator)) for length in painting.shape[-2:])
        crop = painting[..., top : top + side, left : left + side]
        crop = F.interpolate(crop, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
        crops.append(crop.flip(3) if torch.rand((), generator=generator) < 0.5 else crop)
    return torch.cat([encode_latents(vae, part) for part in torch.cat(crops).split(CROPS_AT_ONCE)])
