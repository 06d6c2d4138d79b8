"""What several tests of pipelines load into them."""

from typing import Any

import torch
from torch import Tensor

from tests.tiny import WIDTH


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
