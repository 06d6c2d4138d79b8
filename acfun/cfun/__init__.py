"""Concrete fusion (colour, strokes, lines): adapters that stand in the ResBlocks of a frozen UNet."""

from acfun.cfun.fusion import (
    LORA_VARIANTS,
    VARIANTS,
    CFunOptions,
    ConcreteFusion,
    Variant,
    carries_adapters,
    inject,
    load_parameters,
    place,
)
from acfun.cfun.sites import GROUPS, Group, Site, find_attention_blocks, find_res_blocks

__all__ = [
    "GROUPS",
    "LORA_VARIANTS",
    "VARIANTS",
    "CFunOptions",
    "ConcreteFusion",
    "Group",
    "Site",
    "Variant",
    "carries_adapters",
    "find_attention_blocks",
    "find_res_blocks",
    "inject",
    "load_parameters",
    "place",
]
