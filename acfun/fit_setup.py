"""How a base stands while a style is fitted: with the fresh style in it, fast on its device, small if need be."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from acfun.afun import AFunOptions
from acfun.base import Base
from acfun.cfun import CFunOptions
from acfun.config import FitConfig
from acfun.style_model import StyleModel, build_style_model

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What is done to need less memory. Each costs time; none changes what is computed.

    Attributes:
        name: of them all.
        rests: networks with nothing to do are in main memory: the image encoder, and the VAE once all is encoded.
        recomputes: blocks of the UNet and of the VAE's decoder keep only what goes into them, and compute the rest
            again for gradients.
        streams: the UNet's weights are in main memory, and on the device only while their layer needs them.
    """

    name: str
    rests: bool = False
    recomputes: bool = False
    streams: bool = False


ROOMY = Measures(name="roomy")
MEASURES = (
    ROOMY,
    Measures(name="resting", rests=True),
    Measures(name="recomputing", rests=True, recomputes=True),
    Measures(name="streaming", rests=True, recomputes=True, streams=True),
)
"""From the fastest to the smallest."""


def list_measures(device: torch.device) -> tuple[Measures, ...]:
    """Those of use on a device: without memory of its own, nothing is won by moving networks out of it."""
    return MEASURES if device.type == "cuda" else (ROOMY, Measures(name="recomputing", recomputes=True))


@contextmanager
def set_up(base: Base, measures: Measures, device: torch.device) -> Iterator[None]:
    """Inside the block the base computes with these measures; afterwards it is what it was.

    Args:
        base: without a style; one may be put in inside the block, and must be out again at its end.
        measures: what is done for memory.
        device: where it computes: its own, but for a base without weights.
    """
    with ExitStack() as undo:
        # torch's fused attention takes twice as long as products of matrices in bfloat16 on a CPU.
        if device.type == "cpu" and base.dtype is torch.bfloat16:
            undo.callback(base.unet.set_attn_processor, dict(base.unet.attn_processors))
            base.unet.set_attn_processor(AttnProcessor())
        for module in (base.unet, base.vae) if measures.recomputes else ():
            if not module.is_gradient_checkpointing:
                undo.callback(module.disable_gradient_checkpointing)
                module.enable_gradient_checkpointing()
        for module in find_streamed(base.unet) if measures.streams else ():
            undo.callback(_StreamedWeights(module).stop)
        yield


@contextmanager
def resting(measures: Measures, *modules: nn.Module | None) -> Iterator[None]:
    """Inside the block these networks are in main memory, where the measures say so."""
    with ExitStack() as undo:
        for module in filter(None, modules if measures.rests else ()):
            undo.callback(module.to, next(module.parameters()).device)
            module.to(CPU)
        yield


def find_streamed(unet: Any) -> list[nn.Module]:
    """The modules with weights of their own in the UNet's blocks; what is before and after these stays."""
    blocks = (*unet.down_blocks, unet.mid_block, *unet.up_blocks)
    return [
        module
        for block in blocks
        for module in block.modules()
        if next(module.parameters(recurse=False), None) is not None
    ]


class _StreamedWeights:
    """Frozen weights of one module in main memory; while it computes, and for its gradients, copies on the device."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = {name: weight for name, weight in module._parameters.items() if weight is not None}
        self._device = next(iter(self._parameters.values())).device
        self._module = module
        for weight in self._parameters.values():
            host = weight.data.to(CPU) if self._device.type != "meta" else weight.data
            weight.data = host.pin_memory() if self._device.type == "cuda" else host
        self._hooks = (
            module.register_forward_pre_hook(self._bring),
            module.register_forward_hook(self._drop, always_call=True),
        )

    def stop(self) -> None:
        """Puts the weights back on the device for good."""
        for hook in self._hooks:
            hook.remove()
        for weight in self._parameters.values():
            weight.data = weight.data.to(self._device)

    def _bring(self, module: nn.Module, args: object) -> None:
        for name, weight in self._parameters.items():
            # A copy that autograd lets go of with the layer, not the parameter, which it would keep.
            copied: Any = torch.empty_like(weight, device=self._device).copy_(weight.detach(), non_blocking=True)
            module._parameters[name] = copied

    def _drop(self, module: nn.Module, args: object, output: object) -> None:
        module._parameters.update(self._parameters)


def build_model(config: FitConfig, base: Base, style_embeds: Tensor, generator: torch.Generator | None) -> StyleModel:
    """Put the fresh style that a config asks for into a base.

    Args:
        config: of the fit.
        base: carries the style from now on.
        style_embeds: (1,T,D), the style image as the base's image encoder sees it.
        generator: source of first weights; None draws from torch's global one.
    """
    cfun = None
    if config.cfun != "none":
        cfun = CFunOptions(variant=config.cfun, groups=config.cfun_groups, rank=config.cfun_rank)
    return build_style_model(
        base,
        style_embeds,
        afun=AFunOptions.for_width(base.text_dim) if config.use_afun else None,
        cfun=cfun,
        placeholder=config.placeholder,
        num_vectors=config.num_token_vectors,
        generator=generator,
    )
