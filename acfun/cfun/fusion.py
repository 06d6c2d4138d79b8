"""The one contract of concrete fusion: `inject` puts wrappers into a UNet, `eject` takes them out again."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from acfun.cfun.affine import AffineBlock, AffineVariant
from acfun.cfun.lora import ATTENTION_LORA, LAYER_LORA, LORA, LoraBlock
from acfun.cfun.sites import GROUPS, Group, Site, replace_module
from acfun.errors import ConfigError, StyleFileError


class Variant(Protocol):
    """How one kind of adapter is made; everything else is common to all kinds."""

    def find_sites(self, unet: nn.Module, groups: tuple[Group, ...]) -> list[Site]:
        """The modules that this variant replaces."""

    def wrap(self, sites: list[Site], rank: int) -> list[nn.Module]:
        """One wrapper per site, with the site's module as `base_layer`, without effect when fresh."""

    def scale_of(self, layer: nn.Module) -> Tensor:
        """The live strength () of a wrapper, to be changed in place."""


VARIANTS: dict[str, Variant] = {
    "std_affine": AffineVariant(use_mean=False),
    "mean_std_affine": AffineVariant(use_mean=True),
    "lora": LORA,
    "attention_lora": ATTENTION_LORA,
    "layer_lora": LAYER_LORA,
}
LORA_VARIANTS = ("lora", "attention_lora", "layer_lora")


@dataclass(frozen=True, kw_only=True)
class CFunOptions:
    """What a concrete fusion is made of.

    Attributes:
        variant: a key of `VARIANTS`; "std_affine" is the paper's.
        groups: which parts of the UNet carry it.
        rank: width of the narrow middle of every adapter.
        layers: module paths of those places that carry it; empty for all that the variant knows.
    """

    variant: str = "std_affine"
    groups: tuple[Group, ...] = GROUPS
    rank: int = 16
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ConfigError(f"unknown CFun variant {self.variant!r}: choose one of {', '.join(VARIANTS)}")
        if not self.groups or not set(self.groups) <= set(GROUPS):
            raise ConfigError(f"CFun groups are {self.groups!r}: choose one or more of {', '.join(GROUPS)}")
        if self.rank < 1:
            raise ConfigError(f"CFun rank is {self.rank}: it must be at least 1")


class ConcreteFusion:
    """The wrappers that stand in one UNet, which owns them; made by `inject`."""

    def __init__(
        self,
        unet: nn.Module,
        variant: Variant,
        sites: list[Site],
        layers: list[nn.Module],
        was_trainable: list[nn.Parameter],
    ) -> None:
        self._unet = unet
        self._variant = variant
        self._sites = sites
        self._layers = layers
        self._was_trainable = was_trainable

    @property
    def site_names(self) -> list[str]:
        """Module paths of the replaced modules, in module order."""
        return [site.name for site in self._sites]

    @property
    def scales(self) -> dict[Group, float]:
        """The live strength of every group that has an adapter."""
        pairs = zip(self._sites, self._layers, strict=True)
        return {site.group: float(self._variant.scale_of(layer)) for site, layer in pairs}

    def set_scale(
        self,
        *,
        encoder: float | None = None,
        middle: float | None = None,
        decoder: float | None = None,
    ) -> None:
        """Sets how strongly each group acts: 0 is exactly the base, 1 what was fitted; None: unchanged.

        The change is also seen by a UNet that was compiled before.
        """
        wanted: dict[Group, float | None] = {"encoder": encoder, "middle": middle, "decoder": decoder}
        for site, layer in zip(self._sites, self._layers, strict=True):
            value = wanted[site.group]
            if value is not None:
                self._variant.scale_of(layer).fill_(value)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The adapters' own parameters by module path: "down_blocks.0.resnets.0.affine.to_hidden.weight"."""
        for site, layer in zip(self._sites, self._layers, strict=True):
            for name, parameter in layer.named_parameters():
                if not name.startswith("base_layer."):
                    yield f"{site.name}.{name}", parameter

    def state_dict(self) -> dict[str, Tensor]:
        """The adapters' own parameters, detached, sharing memory with the live ones."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Copies `tensors` into the adapters.

        Raises:
            StyleFileError: a name is missing, too many, or has another shape; nothing is changed then.
        """
        load_parameters(dict(self.named_parameters()), tensors, owner="CFun")

    def eject(self) -> None:
        """Puts the original modules back, bit-exactly. Does nothing the second time."""
        if self._unet.get_submodule(self._sites[0].name) is not self._layers[0]:
            return
        for site in self._sites:
            replace_module(self._unet, site.name, site.module)
        for parameter in self._was_trainable:
            parameter.requires_grad_(True)


def carries_adapters(unet: nn.Module) -> bool:
    """True while the adapters of a style stand in `unet`."""
    return any(isinstance(module, AffineBlock | LoraBlock) for module in unet.modules())


def inject(unet: nn.Module, options: CFunOptions) -> ConcreteFusion:
    """Puts fresh adapters, which change nothing yet, into `unet`, compiled or not.

    The adapters' parameters are float32 on the UNet's device and require gradients; all parameters of the
    UNet itself stop doing so.

    Raises:
        ConfigError: the UNet has nothing to adapt in the chosen groups, lacks one of the named layers, or carries a
            style already.
    """
    unet = getattr(unet, "_orig_mod", unet)  # what torch.compile wraps
    if carries_adapters(unet):
        raise ConfigError("this UNet carries a style already: eject it before another is put in")
    variant = VARIANTS[options.variant]
    sites = variant.find_sites(unet, options.groups)
    if not sites:
        raise ConfigError(
            f"CFun {options.variant!r} finds nothing to adapt in {', '.join(options.groups)} of this UNet: "
            "choose other groups",
        )
    if missing := sorted(set(options.layers) - {site.name for site in sites}):
        raise ConfigError(
            f"CFun {options.variant!r} finds no {missing[0]!r} here (and {len(missing) - 1} more): use the base "
            "that the style was made with",
        )
    sites = [site for site in sites if not options.layers or site.name in options.layers]
    return place(unet, variant, sites, options.rank)


def place(unet: nn.Module, variant: Variant, sites: list[Site], rank: int) -> ConcreteFusion:
    """Puts fresh adapters of one kind at chosen sites of `unet`, under the contract of `inject`."""
    was_trainable = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    layers = variant.wrap(sites, rank)
    fusion = ConcreteFusion(unet, variant, sites, layers, was_trainable)
    device = next(unet.parameters()).device
    unet.requires_grad_(False)
    for _, parameter in fusion.named_parameters():
        parameter.data = parameter.data.to(device=device, dtype=torch.float32)
        parameter.requires_grad_(True)
    for site, layer in zip(sites, layers, strict=True):
        scale = variant.scale_of(layer)
        scale.data = scale.data.to(device)
        replace_module(unet, site.name, layer.train(site.module.training))
    return fusion


def load_parameters(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], *, owner: str) -> None:
    """Copies `tensors` into `parameters` after checking that names and shapes agree.

    Raises:
        StyleFileError: they do not; nothing is changed then.
    """
    if parameters.keys() != tensors.keys():
        wrong = sorted(parameters.keys() ^ tensors.keys())
        raise StyleFileError(
            f"the tensors of {owner} do not fit: {len(wrong)} names differ, first {wrong[0]!r}; "
            "use the base and the options that the style was made with",
        )
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise StyleFileError(
                f"tensor {name!r} of {owner} is {tuple(tensors[name].shape)}, this base needs "
                f"{tuple(parameter.shape)}; use the base that the style was made with",
            )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
