"""Shards as the UNet sees them: encoded once by the frozen parts of a base, and kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from acfun.base.prompts import tokenize
from acfun.base.vae_features import encode_latents
from acfun.paths import atomic_write
from train.pretraining import Shards, open_shards

ENCODED_AT_ONCE = 16


@dataclass(frozen=True)
class Latents:
    """Encoded shards: latents (N,C,h,w) float16, and token ids (N,T) of their captions."""

    latents: Tensor
    input_ids: Tensor


@dataclass(frozen=True)
class Neighbours:
    """The frozen parts of a base around its UNet, float32."""

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer


def load_neighbours(base_dir: Path, device: torch.device) -> Neighbours:
    """Read `vae`, `text_encoder` and `tokenizer` of a diffusers folder."""
    vae = AutoencoderKL.from_pretrained(base_dir / "vae", torch_dtype=torch.float32)
    text_encoder: Any = CLIPTextModel.from_pretrained(base_dir / "text_encoder", dtype=torch.float32)
    return Neighbours(
        vae=vae.to(device).eval().requires_grad_(False),
        text_encoder=text_encoder.to(device).eval().requires_grad_(False),
        tokenizer=CLIPTokenizer.from_pretrained(base_dir / "tokenizer"),
    )


def encode_shards(shards: Shards, neighbours: Neighbours, accelerator: Accelerator) -> Latents:
    """Encode images with their first captions; every second is mirrored, since captions know no left and right."""
    latents = []
    for indices in torch.arange(len(shards)).split(ENCODED_AT_ONCE):
        pixel_values = shards.pixel_values(indices)
        pixel_values = torch.where((indices % 2 == 0)[:, None, None, None], pixel_values, pixel_values.flip(3))
        with accelerator.autocast():
            latents.append(encode_latents(neighbours.vae, pixel_values.to(accelerator.device)).half().cpu())
    input_ids = tokenize(neighbours.tokenizer, [captions[0] for captions in shards.captions])
    return Latents(torch.cat(latents), input_ids)


def load_latents(shards_dirs: Sequence[Path], path: Path, neighbours: Neighbours, accelerator: Accelerator) -> Latents:
    """Read the encoded shards that an earlier start of this run kept at `path`, or encode and keep them.

    Raises:
        DataError: there are no shards.
    """
    if path.is_file():
        content = torch.load(path, weights_only=True)
        return Latents(content["latents"], content["input_ids"])
    encoded = encode_shards(open_shards(*shards_dirs), neighbours, accelerator)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        torch.save({"latents": encoded.latents, "input_ids": encoded.input_ids}, temporary)
    return encoded
