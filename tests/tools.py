"""What several tests of pipelines load into them."""

from typing import Any

import torch
from torch import Tensor

from acfun.afun import AFunOptions
from acfun.base import Base
from acfun.cfun import CFunOptions
from acfun.style import Style
from acfun.style_model import build_style_model
from tests.tiny import WIDTH, make_style_embeds


def make_ip_adapter(unet: Any) -> dict[str, dict[str, Tensor]]:
    """An IP-Adapter for a tiny UNet, in the form of its published files."""
    generator, text_width = torch.Generator().manual_seed(0), unet.config.cross_attention_dim

    def draw(*shape: int) -> Tensor:
        return 0.5 * torch.randn(shape, generator=generator)

    image_proj = {"proj.weight": draw(4 * text_width, WIDTH), "proj.bias": draw(4 * text_width)}
    image_proj |= {"norm.weight": torch.ones(text_width), "norm.bias": torch.zeros(text_width)}
    weights: dict[str, Tensor] = {}
    cross = [name.removesuffix(".processor") for name in unet.attn_processors if name.endswith("attn2.processor")]
    for index, name in enumerate(cross):
        hidden_size = unet.get_submodule(name).to_q.in_features
        weights |= {f"{2 * index + 1}.to_{part}_ip.weight": draw(hidden_size, text_width) for part in "kv"}
    return {"image_proj": image_proj, "ip_adapter": weights}


def make_fitted(base: Base, **options: Any) -> Style:
    """A style with all its parts, of random strength, made on a base that is free afterwards.

    Args:
        base: to make it on.
        options: of `build_style_model`, over those of a small LoRA in ResBlocks.
    """
    common: dict[str, Any] = {
        "afun": AFunOptions(num_layers=1, num_heads=2, head_dim=8),
        "cfun": CFunOptions(variant="lora", rank=4),
        "initializer_word": "a",  # one token of the tiny vocabulary
        "generator": torch.Generator().manual_seed(0),
    }
    model = build_style_model(base, make_style_embeds(), **(common | options))
    generator = torch.Generator().manual_seed(1)
    for parameter in model.trainable_parameters():
        parameter.data.normal_(std=0.2, generator=generator)
    style = Style.from_model(model, base)
    model.eject()
    return style
