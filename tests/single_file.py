"""Tiny bases written as one file in the original layout of Stable Diffusion: the inverse of what diffusers converts."""

import re
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING
from safetensors.torch import save_file
from torch import Tensor

from acfun.base import Base
from acfun.base.original_layout import name_original

_TABLES: Any = DIFFUSERS_TO_LDM_MAPPING
_VAE_NAMES = [
    ("mid_block.resnets.0", "mid.block_1"),
    ("mid_block.resnets.1", "mid.block_2"),
    ("mid_block.attentions.0", "mid.attn_1"),
    ("downsamplers.0", "downsample"),
    ("upsamplers.0", "upsample"),
    (".resnets.", ".block."),
    ("down_blocks.", "down."),
    ("up_blocks.", "up."),
    ("conv_shortcut", "nin_shortcut"),
    ("group_norm", "norm"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("to_out.0", "proj_out"),
]
_OPEN_CLIP_NAMES = [
    ("text_model.encoder.layers.", "transformer.resblocks."),
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    (".fc1.", ".c_fc."),
    (".fc2.", ".c_proj."),
    (".self_attn", ".attn"),
]


def save_single_file(base: Base, path: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write UNet, VAE and text encoders as checkpoints of the base's family are published."""
    tensors = _convert_unet(base) | _convert_vae(base)
    if base.family == "sd2":
        tensors |= _convert_open_clip(base.text_encoder, "cond_stage_model.model.")
    elif base.family == "sdxl":
        tensors |= _convert_clip(base.text_encoder, "conditioner.embedders.0.transformer.")
        tensors |= _convert_open_clip(base.text_encoder_2, "conditioner.embedders.1.model.")
    else:
        tensors |= _convert_clip(base.text_encoder, "cond_stage_model.transformer.")
    save_file({name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}, path)


def _convert_unet(base: Base) -> dict[str, Tensor]:
    config, table = base.unet.config, _TABLES["unet"]
    layers = config.layers_per_block
    names = table["layers"] | (table["addition_embed_type"] if config.addition_embed_type else {})
    converted = {}
    for name, tensor in base.unet.state_dict().items():
        down = re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.+)", name)
        up = re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.+)", name)
        if name in names:
            original = names[name]
        elif down:
            original = f"input_blocks.{(int(down[1]) + 1) * (layers + 1)}.0.op.{down[2]}"
        elif up:
            has_attention = "CrossAttn" in config.up_block_types[int(up[1])]
            original = f"output_blocks.{int(up[1]) * (layers + 1) + layers}.{1 + has_attention}.conv.{up[2]}"
        else:
            original = name_original(name, layers)
        converted[f"model.diffusion_model.{original}"] = tensor
    return converted


def _convert_vae(base: Base) -> dict[str, Tensor]:
    table, count = _TABLES["vae"], len(base.vae.config.up_block_types)
    converted = {}
    for name, tensor in base.vae.state_dict().items():
        original = table.get(name, name)
        original = re.sub(r"up_blocks\.(\d+)", lambda match: f"up_blocks.{count - 1 - int(match[1])}", original)
        for new, old in _VAE_NAMES:
            original = original.replace(new, old)
        is_attention = ".attn_1." in original and tensor.ndim == 2
        converted[f"first_stage_model.{original}"] = tensor[:, :, None, None] if is_attention else tensor
    return converted


def _convert_clip(text_encoder: Any, prefix: str) -> dict[str, Tensor]:
    names = ((name.removeprefix("text_model."), tensor) for name, tensor in text_encoder.state_dict().items())
    return {f"{prefix}text_model.{name}": tensor for name, tensor in names}


def _convert_open_clip(text_encoder: Any, prefix: str) -> dict[str, Tensor]:
    table = _TABLES["openclip"]["layers"]
    state, converted = text_encoder.state_dict(), {}
    # The projection stands beside the text model, as in the original.
    state = {
        name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}": tensor
        for name, tensor in state.items()
    }
    for name, tensor in state.items():
        original = table.get(name, name)
        for new, old in _OPEN_CLIP_NAMES:
            original = original.replace(new, old)
        joined = re.fullmatch(r"(.+\.attn)\.q_proj\.(weight|bias)", original)
        if joined:
            parts = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            converted[f"{prefix}{joined[1]}.in_proj_{joined[2]}"] = torch.cat(parts)
        elif not re.search(r"\.attn\.[kv]_proj\.", original):
            converted[f"{prefix}{original}"] = tensor.T if original == "text_projection" else tensor
    return converted
