"""Low-rank adapters through PEFT, behind the contract of the other variants.

PEFT makes the factors from its own `LoraConfig`; they stand in a wrapper of ours, because what diffusers does to LoRAs
(`set_adapters`, `fuse_lora`, a `scale` for one call) it does to every layer of PEFT, and a style is none of its own.
"""

from typing import Protocol

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from acfun.cfun.sites import Group, Site, find_attention_blocks, find_children, find_layers, find_res_blocks
from acfun.errors import ConfigError

ADAPTER_NAME = "acfun"

CONVOLUTIONS = ("conv1", "conv2")
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


class _FindSites(Protocol):
    def __call__(self, unet: nn.Module, groups: tuple[Group, ...]) -> list[Site]: ...


class LoraBlock(nn.Module):
    """A linear or a convolution W (`base_layer`) with a low-rank update: W x + scale · B A x."""

    scale: Tensor

    def __init__(self, layer: LoraLayer) -> None:
        super().__init__()
        # The base comes first: libraries read a model's dtype from its first parameter.
        self.base_layer = layer.base_layer
        self.lora_A, self.lora_B = layer.lora_A[ADAPTER_NAME], layer.lora_B[ADAPTER_NAME]
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B,…) as the base takes it → (B,…) in the base's dtype."""
        output: Tensor = self.base_layer(hidden_states)
        update = self.lora_B(self.lora_A(hidden_states.to(next(self.lora_A.parameters()).dtype)))
        adapted: Tensor = output + update * self.scale
        return adapted.to(output.dtype)


class LoraVariant:
    """LoRA on the ResBlocks' convolutions, on attention (for the ablation), or on any layer (for imported ones)."""

    def __init__(self, find_parents: _FindSites, target_modules: tuple[str, ...] = ()) -> None:
        self.find_parents = find_parents
        self.target_modules = target_modules

    def find_sites(self, unet: nn.Module, groups: tuple[Group, ...]) -> list[Site]:
        parents = self.find_parents(unet, groups)
        return find_children(parents, self.target_modules) if self.target_modules else parents

    def wrap(self, sites: list[Site], rank: int) -> list[nn.Module]:
        for site in sites:
            _check_is_free(site)
        # PEFT works on a holder, not on the UNet, so that nothing else of the UNet is marked or frozen by it.
        holder = nn.ModuleDict({str(index): site.module for index, site in enumerate(sites)})
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(holder.keys()))
        inject_adapter_in_model(config, holder, adapter_name=ADAPTER_NAME)
        return [LoraBlock(_as_lora(layer)) for layer in holder.values()]

    def scale_of(self, layer: nn.Module) -> Tensor:
        return layer.get_buffer("scale")


LORA = LoraVariant(find_res_blocks, CONVOLUTIONS)
ATTENTION_LORA = LoraVariant(find_attention_blocks, PROJECTIONS)
LAYER_LORA = LoraVariant(find_layers)


def _as_lora(layer: nn.Module) -> LoraLayer:
    if not isinstance(layer, LoraLayer):
        raise TypeError(f"expected a LoRA layer of PEFT, found {type(layer).__name__}")
    return layer


def _check_is_free(site: Site) -> None:
    if isinstance(site.module, BaseTunerLayer | LoraBlock):
        raise ConfigError(
            f"{site.name} carries an adapter already ({type(site.module).__name__}): fuse or unload it "
            "before a style with LoRA is put in",
        )
