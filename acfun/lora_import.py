"""LoRAs of others as styles: named by diffusers itself, from whichever layout, and kept as concrete fusion."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from acfun.base import FAMILIES, Base
from acfun.base.sources import mark_local
from acfun.cfun import CFunOptions
from acfun.cfun.sites import find_layers
from acfun.errors import StyleFileError
from acfun.face.finder import FaceFinder
from acfun.portrait import StyleImage
from acfun.style import Style
from acfun.style_file import is_style
from acfun.style_model import build_style_model

UNET_PREFIX, PEFT_PREFIX = "unet.", "base_model.model."
BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.")
# What names of tensors tell of other ways to change weights than a product of two matrices.
FOREIGN_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_w": "LoHa",
    "lokr_w": "LoKr",
    "lora_mid": "three factors a layer",
    ".diff": "whole weights",
    ".diff_b": "biases",
    ".bias": "biases",
}
_FACTOR = re.compile(r"[._]lora[._]")
# Diffusers' older name of an attention layer's factor.
_PROCESSOR = re.compile(r"\.processor\.(to_[qkv]|to_out)_lora\.(down|up)\.")

Factors = tuple[Tensor, Tensor]
"""A (r,in) or (r,in,k,k) and B (out,r) or (out,r,1,1), the LoRA's scale in B."""


@dataclass(frozen=True)
class Imported:
    """What became of a file.

    Attributes:
        style: the LoRA as a style, to be loaded, blended and exported like any other.
        left_out: module paths of what it changes besides the UNet's blocks, such as text encoders.
    """

    style: Style
    left_out: tuple[str, ...]


def import_lora(
    path: Path | str,
    base: Base,
    *,
    picture: Tensor | None = None,
    finder: FaceFinder | None = None,
    licence: str = "unspecified",
    base_config: str | None = None,
) -> Imported:
    """Read a LoRA as diffusers, PEFT and kohya's scripts write it, and make a style of its UNet part.

    Args:
        path: a .safetensors file.
        base: of the family that the LoRA was trained on; it is not changed.
        picture: (1,3,H,W) in [-1,1], a picture in that style, whose strokes and colours guide sampling; None: no guide.
        finder: looks for the face in the picture, so that skin is painted like skin; None: nobody looks.
        licence: under which terms the LoRA may be used.
        base_config: where the base's configs came from, noted so that it can be loaded again for the style.

    Raises:
        StyleFileError: the file cannot be read, is no LoRA, or none for this base.
        ConfigError: the base carries a style already.
    """
    path = Path(path)
    check_lora(path)
    layers, left_out = _read_layers(path, base)
    rank = max(len(down) for down, _ in layers.values())
    options = CFunOptions(variant="layer_lora", rank=rank, layers=tuple(layers))
    # Without an abstract fusion nobody looks at the style image's tokens.
    tensors = {"style_embeds": torch.zeros(1, 1, 1)}
    for name, (down, up) in layers.items():
        tensors[f"cfun.{name}.lora_A.weight"] = _pad(down, rank, dim=0)
        tensors[f"cfun.{name}.lora_B.weight"] = _pad(up, rank, dim=1)
    model = build_style_model(
        base, tensors["style_embeds"], afun=None, cfun=options, placeholder=None, generator=torch.Generator()
    )
    try:
        model.load_style_tensors(tensors)
        image = None if picture is None else StyleImage.for_base(picture, base.resolution, finder)
        config = {
            "imported_from": path.name,
            "left_out": len(left_out),
            "base_config": base_config and mark_local(base_config),
        }
        return Imported(Style.from_model(model, base, image=image, config=config, licence=licence), tuple(left_out))
    finally:
        model.eject()


def check_lora(path: Path) -> None:
    """Refuse what is no LoRA before diffusers takes a guess at it.

    Raises:
        StyleFileError: the file cannot be read, or is none.
    """
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise StyleFileError(f"{path} cannot be read as .safetensors ({error}): check the path or copy it") from error
    if is_style(path):
        raise StyleFileError(f"{path} is a style file already: give it to acfun apply, or load it by Style.load")
    if not any("lora" in name or mark in name for name in names for mark in ("hada_", "lokr_")):
        found = f"it has {names[0]!r}" if names else "it is empty"
        raise StyleFileError(f"{path} is no LoRA ({found}): give a LoRA in diffusers', PEFT's or kohya's layout")
    for mark, kind in FOREIGN_KINDS.items():
        if any(name.endswith(mark) if mark.startswith(".") else mark in name for name in names):
            raise StyleFileError(f"{path} holds {kind}, which is no plain LoRA: convert it, or merge it into a base")


def _read_layers(path: Path, base: Base) -> tuple[dict[str, Factors], list[str]]:
    """Factors of the layers in the UNet's blocks by module path, and the paths of all others.

    Raises:
        StyleFileError: there is none, or one that the base does not have.
    """
    read = FAMILIES[base.family].pipeline_class.lora_state_dict
    try:
        tensors, alphas, metadata = read(
            path.parent,
            weight_name=path.name,
            local_files_only=True,
            unet_config=base.unet.config,
            return_lora_metadata=True,
        )
    # What diffusers cannot name surfaces in many ways.
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StyleFileError(f"{path} cannot be understood ({error}): convert it to diffusers' layout") from error
    renamed = {_rename(name): tensor.float() for name, tensor in tensors.items()}
    scales = {_rename(name.removesuffix(".alpha")): float(alpha) for name, alpha in (alphas or {}).items()}
    own = {name.removeprefix(UNET_PREFIX): value for name, value in (metadata or {}).items()}
    modules = sorted({_FACTOR.split(name)[0] for name in renamed})
    paths = {name.removeprefix(UNET_PREFIX): name for name in modules if name.startswith(UNET_PREFIX)}
    if missing := sorted(paths.keys() - dict(base.unet.named_modules()).keys()):
        raise _unfit(path, base, f"the UNet has no {missing[0]} (and {len(missing) - 1} more)")
    layers = {}
    for site in find_layers(base.unet):
        if site.name in paths:
            name = paths[site.name]
            factors = [f"{name}.lora_{side}.weight" for side in "AB"]
            if missing := [factor for factor in factors if factor not in renamed]:
                raise StyleFileError(f"{path} has no {missing[0]!r}: the file is not whole, copy or download it again")
            down, up = (renamed[factor] for factor in factors)
            alpha = scales.get(name, scales.get(f"{name}.lora_A.weight"))
            scale = _find_scale(own, site.name, len(down)) if alpha is None else alpha / len(down)
            layers[site.name] = _shape_factors(down, scale * up, site.module, path, base)
    if not layers:
        raise StyleFileError(f"{path} changes nothing in the UNet's blocks: give a LoRA with UNet layers in it")
    return layers, [name for name in modules if name.removeprefix(UNET_PREFIX) not in layers]


def _rename(name: str) -> str:
    """A tensor's name as PEFT has it, below "unet." where it is the UNet's; files mix it with older ones."""
    name = name.removeprefix(PEFT_PREFIX).replace(".lora.down.", ".lora_A.").replace(".lora.up.", ".lora_B.")

    def rename(match: re.Match[str]) -> str:
        layer = "to_out.0" if match[1] == "to_out" else match[1]
        return f".{layer}.lora_{'A' if match[2] == 'down' else 'B'}."

    name = _PROCESSOR.sub(rename, name)
    return f"{UNET_PREFIX}{name}" if name.startswith(BLOCKS) else name


def _find_scale(metadata: Mapping[str, Any], name: str, rank: int) -> float:
    """alpha / r as PEFT's config in the file has it; 1 without one."""
    if "lora_alpha" not in metadata:
        return 1.0
    patterns: dict[str, float] = metadata.get("alpha_pattern") or {}
    alpha: float = patterns.get(get_pattern_key(list(patterns), name), metadata["lora_alpha"])
    return alpha / (rank**0.5 if metadata.get("use_rslora") else rank)


def _shape_factors(down: Tensor, up: Tensor, layer: nn.Module, path: Path, base: Base) -> Factors:
    """Factors in the layer's own shape; 1×1 convolutions and linears are written either way.

    Raises:
        StyleFileError: the layer of the base is of another size.
    """
    weight = layer.get_parameter("weight")
    wanted = (len(down), *weight.shape[1:]), (weight.shape[0], len(down), *[1] * (weight.ndim - 2))
    if [down.numel(), up.numel()] != [torch.Size(shape).numel() for shape in wanted]:
        found = f"{tuple(down.shape)} and {tuple(up.shape)} for a layer of {tuple(weight.shape)}"
        raise _unfit(path, base, f"it has factors of {found}")
    return down.reshape(wanted[0]), up.reshape(wanted[1])


def _unfit(path: Path, base: Base, reason: str) -> StyleFileError:
    return StyleFileError(
        f"{path} does not fit base {base.name!r} of family {base.family} ({reason}): give a base of the family that it "
        "was trained on"
    )


def _pad(factor: Tensor, rank: int, dim: int) -> Tensor:
    """The factor with zeros for the ranks that another layer of the file has more."""
    shape = list(factor.shape)
    shape[dim] = rank - shape[dim]
    return torch.cat([factor, factor.new_zeros(shape)], dim=dim)
