"""CLIP's view of an image: the tokens that stand for a style, and one pooled vector."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from acfun.base.loading import Base
from acfun.errors import BaseNotFoundError


class ImageEmbeds(NamedTuple):
    """What the image encoder sees.

    tokens: (B,T,D), class token first, then the patches row by row, after the final layer norm.
    pooled: (B,P), in the space shared with texts where the encoder has a projection.
    """

    tokens: Tensor
    pooled: Tensor


def encode_image(base: Base, image: Tensor) -> ImageEmbeds:
    """Encode images (B,3,H,W) in [-1,1], of any size; the middle square is seen. Differentiable in the image.

    Raises:
        ValueError: the image has another shape.
        BaseNotFoundError: the base was loaded without its image encoder.
    """
    encoder = require_image_encoder(base)
    output = encoder(pixel_values=prepare_pixel_values(base, image))
    # Stand-alone vision models and those with a projection keep the final layer norm at different depths.
    vision_model: Any = getattr(encoder, "vision_model", encoder)
    tokens = vision_model.post_layernorm(output.last_hidden_state)
    pooled = output.image_embeds if hasattr(output, "image_embeds") else output.pooler_output
    return ImageEmbeds(tokens, pooled)


def require_image_encoder(base: Base) -> Any:
    """The base's image encoder.

    Raises:
        BaseNotFoundError: the base was loaded without it.
    """
    if base.image_encoder is None:
        raise BaseNotFoundError(
            f"base {base.name!r} was loaded without an image encoder: give load_base the folder or the hub id of one, "
            "as image_encoder"
        )
    return base.image_encoder


def encode_style_image(base: Base, image: Tensor) -> Tensor:
    """The style image's tokens (1,T,D), e_is of the paper; `image` is (1,3,H,W) in [-1,1]."""
    return encode_image(base, image).tokens


def prepare_pixel_values(base: Base, image: Tensor) -> Tensor:
    """The encoder's input (B,3,S,S): shorter side resized to S, middle cut out, normalised."""
    assert base.image_encoder is not None
    config: Any = base.image_encoder.config
    return fit_pixel_values(image, config.image_size, base.image_processor).to(base.device, base.dtype)


def fit_pixel_values(image: Tensor, size: int, processor: Any) -> Tensor:
    """The input (B,3,size,size) of a CLIP image encoder, of images (B,3,H,W) in [-1,1].

    Raises:
        ValueError: the image has another shape.
    """
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"image has shape {tuple(image.shape)}: (B,3,H,W) in [-1,1] is needed")
    height, width = image.shape[-2:]
    # Rounded down, as the processor does.
    shape = (size * height // min(height, width), size * width // min(height, width))
    resized = F.interpolate(image.float(), shape, mode="bicubic", antialias=True).clamp(-1, 1)
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    square = resized[:, :, top : top + size, left : left + size]
    mean, std = (
        torch.tensor(values, device=image.device)[:, None, None]
        for values in (processor.image_mean, processor.image_std)
    )
    return (square / 2 + 0.5 - mean) / std
