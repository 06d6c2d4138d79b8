"""Blending styles: the mean of their parts where they are alike, and LoRAs side by side where they are not.

Notation: w → weight of a style, A and B → the factors of a LoRA, ΔW = B A.

    mean of parts    Σ w θ              of styles that were fitted from the same initial weights
    LoRAs stacked    [w₁ B₁, w₂ B₂] [A₁; A₂] = Σ w ΔW       exact for any LoRAs, of rank r₁ + r₂

What one of the styles lacks, a pseudo-word or an abstract fusion, counts as that of the base, which changes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from acfun.cfun import GROUPS, LORA_VARIANTS, CFunOptions
from acfun.errors import StyleFileError
from acfun.style_architecture import StyleArchitecture

ANY_LAYER = "layer_lora"
# The abstract fusion ends with it, so that scaling it scales the whole.
AFUN_OUTPUT = "afun.proj_out."
STYLE_EMBEDS = "style_embeds"


@dataclass(frozen=True)
class Part:
    """One style of a blend.

    Attributes:
        architecture: of the style.
        tensors: its fitted tensors, by part and module path.
        weight: in the blend.
    """

    architecture: StyleArchitecture
    tensors: Mapping[str, Tensor]
    weight: float


def blend_parts(parts: Sequence[Part]) -> tuple[StyleArchitecture, dict[str, Tensor]]:
    """Architecture and tensors of a blend.

    Raises:
        StyleFileError: the styles are so different that nothing is both.
    """
    if _are_alike(parts):
        names = parts[0].tensors
        return parts[0].architecture, {name: _sum(parts, name) for name in names}
    parts = [part for part in parts if part.weight]
    cfun, tensors = _stack_loras([part for part in parts if part.architecture.cfun is not None])
    worded = [part for part in parts if part.architecture.placeholder is not None]
    fused = [part for part in parts if part.architecture.afun is not None]
    for owners, fields in ((worded, ("placeholder", "initializer_word", "num_vectors")), (fused, ("afun",))):
        _check_equal(owners, fields)
    for name in (name for part in worded[:1] for name in part.tensors if name.startswith("token")):
        tensors[name] = _sum(worded, name)
    tensors |= _blend_afun(fused)
    heaviest = max(parts, key=lambda part: part.weight)
    tensors.setdefault(STYLE_EMBEDS, heaviest.tensors[STYLE_EMBEDS])
    first = (worded or parts)[0].architecture
    return replace(first, cfun=cfun, afun=fused[0].architecture.afun if fused else None), tensors


def _are_alike(parts: Sequence[Part]) -> bool:
    """Whether the mean of all tensors means something; factors of LoRAs from elsewhere have nothing in common."""
    architectures = {part.architecture for part in parts}
    shapes = [{name: tensor.shape for name, tensor in part.tensors.items()} for part in parts]
    cfun = parts[0].architecture.cfun
    is_foreign = len(parts) > 1 and cfun is not None and cfun.variant == ANY_LAYER
    return len(architectures) == 1 and all(shape == shapes[0] for shape in shapes) and not is_foreign


def _sum(parts: Iterable[Part], name: str) -> Tensor:
    return torch.stack([part.weight * part.tensors[name].float() for part in parts]).sum(dim=0)


def _stack_loras(parts: Sequence[Part]) -> tuple[CFunOptions | None, dict[str, Tensor]]:
    """One LoRA that changes weights by the weighted sum of what all of them change."""
    options = [part.architecture.cfun for part in parts if part.architecture.cfun is not None]
    if wrong := [cfun.variant for cfun in options if cfun.variant not in LORA_VARIANTS]:
        raise StyleFileError(
            f"cannot blend styles of different architectures (CFun {wrong[0]!r} beside something else): fit all with "
            "the same options, or all with LoRA"
        )
    if not options:
        return None, {}
    layers = sorted({name.rsplit(".", 2)[0] for part in parts for name in part.tensors if name.startswith("cfun.")})
    stacked = {}
    for layer in layers:
        names = [f"{layer}.lora_{side}.weight" for side in "AB"]
        like = next(part for part in parts if names[0] in part.tensors)
        factors = [_take_factors(part, names, like, cfun.rank) for part, cfun in zip(parts, options, strict=True)]
        stacked[names[0]] = torch.cat([down for down, _ in factors], dim=0)
        stacked[names[1]] = torch.cat([up for _, up in factors], dim=1)
    paths = tuple(layer.removeprefix("cfun.") for layer in layers)
    rank = sum(cfun.rank for cfun in options)
    return CFunOptions(variant=ANY_LAYER, groups=GROUPS, rank=rank, layers=paths), stacked


def _take_factors(part: Part, names: Sequence[str], like: Part, rank: int) -> tuple[Tensor, Tensor]:
    """A and w B of one layer; zeros, shaped like another style's, where this one leaves the layer alone."""
    if names[0] in part.tensors:
        down, up = (part.tensors[name].float() for name in names)
        return down, part.weight * up
    down, up = (like.tensors[name].float() for name in names)
    return down.new_zeros(rank, *down.shape[1:]), up.new_zeros(len(up), rank, *up.shape[2:])


def _blend_afun(parts: Sequence[Part]) -> dict[str, Tensor]:
    """The mean abstract fusion of those styles that have one, as strong as their share of the blend."""
    if not parts:
        return {}
    share = sum(part.weight for part in parts)
    if not share:
        weights = [part.weight for part in parts]
        raise StyleFileError(f"the weights of abstract fusions are {weights}, which cancel out: leave those styles out")
    own = [replace(part, weight=part.weight / share) for part in parts]
    names = [name for name in own[0].tensors if name.startswith("afun.") or name == STYLE_EMBEDS]
    blended = {name: _sum(own, name) for name in names}
    return {name: share * tensor if name.startswith(AFUN_OUTPUT) else tensor for name, tensor in blended.items()}


def _check_equal(parts: Sequence[Part], fields: Sequence[str]) -> None:
    for name in fields:
        values = [getattr(part.architecture, name) for part in parts]
        if unlike := [value for value in values if value != values[0]]:
            raise StyleFileError(
                f"cannot blend styles of different architectures ({name} {values[0]!r} and {unlike[0]!r}): fit all "
                "with the same options"
            )
