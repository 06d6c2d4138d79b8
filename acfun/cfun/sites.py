"""Where adapters may stand in a UNet: ResBlocks and attention blocks, named by module path and grouped."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

Group = Literal["encoder", "middle", "decoder"]

GROUPS: tuple[Group, ...] = get_args(Group)

_GROUP_OF_ROOT: dict[str, Group] = {"down_blocks": "encoder", "mid_block": "middle", "up_blocks": "decoder"}


@dataclass(frozen=True, kw_only=True)
class Site:
    """One module of a UNet that a wrapper may replace.

    Attributes:
        name: its module path, as `unet.get_submodule` takes it.
        group: "encoder" (`down_blocks`), "middle" (`mid_block`) or "decoder" (`up_blocks`).
        module: what stands there now.
    """

    name: str
    group: Group
    module: nn.Module


def find_res_blocks(unet: nn.Module, groups: tuple[Group, ...] = GROUPS) -> list[Site]:
    """The ResBlocks of `unet` in module order, restricted to `groups`."""
    return _find_sites(unet, ResnetBlock2D, groups)


def find_attention_blocks(unet: nn.Module, groups: tuple[Group, ...] = GROUPS) -> list[Site]:
    """The attention blocks (self and cross) of `unet` in module order, restricted to `groups`."""
    return _find_sites(unet, Attention, groups)


def find_layers(unet: nn.Module, groups: tuple[Group, ...] = GROUPS) -> list[Site]:
    """Every linear and every convolution of `unet`'s blocks in module order, restricted to `groups`.

    A layer that carries an adapter of PEFT is found with it, as one.
    """
    sites = [site for kind in (nn.Linear, nn.Conv2d, BaseTunerLayer) for site in _find_sites(unet, kind, groups)]
    inside = tuple(f"{site.name}." for site in sites if isinstance(site.module, BaseTunerLayer))
    order = {name: index for index, (name, _) in enumerate(unet.named_modules())}
    return sorted((site for site in sites if not site.name.startswith(inside)), key=lambda site: order[site.name])


def find_children(sites: list[Site], names: tuple[str, ...]) -> list[Site]:
    """The submodules called `names` (for example "conv1" or "to_out.0") of every site."""
    return [
        Site(name=f"{site.name}.{name}", group=site.group, module=site.module.get_submodule(name))
        for site in sites
        for name in names
    ]


def replace_module(root: nn.Module, name: str, module: nn.Module) -> None:
    """Puts `module` at the path `name` below `root`; the order of `root`'s parameters stays as it was."""
    parent_name, _, child_name = name.rpartition(".")
    parent = root.get_submodule(parent_name)
    # Not setattr: the parent may be a ModuleList, whose children are named by numbers.
    parent._modules[child_name] = module


def _find_sites(unet: nn.Module, kind: type[Any], groups: tuple[Group, ...]) -> list[Site]:
    found = ((name, _GROUP_OF_ROOT.get(name.split(".")[0]), module) for name, module in unet.named_modules())
    return [
        Site(name=name, group=group, module=module)
        for name, group, module in found
        if isinstance(module, kind) and group in groups and group is not None
    ]
