"""The shapes of the families' own models, written down: such a base has random weights, or none, and needs no download.

Sources: the `config.json` files of stable-diffusion-v1-5, stable-diffusion-2-1, stable-diffusion-xl-base-1.0 and of the
CLIP image encoders in the family table. Left out is what the classes have as defaults.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import (
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from acfun.base.families import FAMILIES
from acfun.base.loading import Base
from acfun.base.sources import MINI, find_folder, read_part, recognise_folder
from acfun.errors import BaseNotFoundError
from acfun.paths import mini_dir

VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
CLIP_L_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_H_TEXT = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
CLIP_G_TEXT = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
CLIP_L_IMAGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
CLIP_H_IMAGE = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Configs of a base's networks, as their classes take them.

    Attributes:
        family: name of its row in the family table.
        unet: its `sample_size` is that of the base.
        vae: images ↔ latents.
        text_encoders: of each of the family's.
        image_encoder: of CLIP.
        scheduler: noise schedule and prediction type.
    """

    family: str
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoders: tuple[Mapping[str, Any], ...]
    image_encoder: Mapping[str, Any]
    scheduler: Mapping[str, Any] = field(default_factory=SCHEDULER.copy)


ARCHITECTURES = {
    architecture.family: architecture
    for architecture in (
        Architecture(
            family="sd1",
            unet={"sample_size": 64, "cross_attention_dim": 768},
            vae=VAE,
            text_encoders=(CLIP_L_TEXT,),
            image_encoder={**CLIP_L_IMAGE, "patch_size": 14, "projection_dim": 768},
        ),
        Architecture(
            family="sd2",
            unet={
                "sample_size": 96,
                "cross_attention_dim": 1024,
                "attention_head_dim": (5, 10, 20, 20),
                "use_linear_projection": True,
            },
            vae=VAE,
            text_encoders=({**CLIP_H_TEXT, "hidden_act": "gelu"},),
            image_encoder={**CLIP_H_IMAGE, "patch_size": 14, "projection_dim": 1024, "hidden_act": "gelu"},
            scheduler={**SCHEDULER, "prediction_type": "v_prediction"},
        ),
        Architecture(
            family="sdxl",
            unet={
                "sample_size": 128,
                "cross_attention_dim": 2048,
                "block_out_channels": (320, 640, 1280),
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                "transformer_layers_per_block": (1, 2, 10),
                "attention_head_dim": (5, 10, 20),
                "use_linear_projection": True,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
            },
            vae={**VAE, "scaling_factor": 0.13025},
            text_encoders=(CLIP_L_TEXT, {**CLIP_G_TEXT, "projection_dim": 1280, "hidden_act": "gelu"}),
            image_encoder={**CLIP_L_IMAGE, "patch_size": 14, "projection_dim": 768},
        ),
    )
}


def find_architecture(name_or_path: str | Path) -> Architecture:
    """The shape of a base: a family's own, or that of a diffusers folder, of which only the configs are read.

    Raises:
        BaseNotFoundError: there is no such folder, or it lacks configs.
        BaseFamilyMismatchError: a model of a family that acfun does not know.
    """
    if str(name_or_path) in ARCHITECTURES:
        return ARCHITECTURES[str(name_or_path)]
    if str(name_or_path) != MINI and not Path(name_or_path).is_dir():
        raise BaseNotFoundError(
            f"there is no shape of {str(name_or_path)!r}: use {', '.join(FAMILIES)}, or the path of a diffusers folder"
        )
    folder = find_folder(name_or_path)
    family = recognise_folder(folder)
    encoder_dir = folder / "image_encoder"
    own = ARCHITECTURES.get(family.name)
    return Architecture(
        family=family.name,
        unet=read_part(UNet2DConditionModel.load_config, folder / "unet"),
        vae=read_part(AutoencoderKL.load_config, folder / "vae"),
        text_encoders=tuple(
            read_part(CLIPTextConfig.from_pretrained, folder / name).to_dict() for name, _ in family.text_parts
        ),
        image_encoder=own.image_encoder
        if own is not None and not encoder_dir.is_dir()
        else read_part(CLIPVisionConfig.from_pretrained, encoder_dir).to_dict(),
        scheduler=read_part(DDIMScheduler.load_config, folder / "scheduler"),
    )


def describe_architecture(base: Base) -> Architecture:
    """The shape of a base that has an image encoder."""
    assert base.image_encoder is not None
    return Architecture(
        family=base.family,
        unet=base.unet.config,
        vae=base.vae.config,
        text_encoders=tuple(text_encoder.config.to_dict() for text_encoder in base.text_encoders),
        image_encoder=base.image_encoder.config.to_dict(),
        scheduler=base.scheduler.config,
    )


def build_random_base(
    architecture: Architecture, *, dtype: torch.dtype, device: torch.device, size: int | None = None
) -> Base:
    """A frozen base of this shape, with first weights from torch's global generator; on device "meta" without any.

    Args:
        architecture: its shape.
        dtype: of all modules.
        device: of all modules.
        size: resolution, pixels; the base's own when None.
    """
    family = FAMILIES[architecture.family]
    scale = 2 ** (len(architecture.vae["block_out_channels"]) - 1)
    resolution = size or architecture.unet["sample_size"] * scale
    with _defaults(dtype, device):
        text_encoders = [
            encoder_class(CLIPTextConfig(**_without_dtype(config)))
            for encoder_class, config in zip(family.text_encoders, architecture.text_encoders, strict=True)
        ]
        unet = UNet2DConditionModel.from_config({**architecture.unet, "sample_size": resolution // scale})
        vae = AutoencoderKL.from_config(dict(architecture.vae))
        image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**_without_dtype(architecture.image_encoder)))
    for module in (unet, vae, image_encoder, *text_encoders):
        module.eval().requires_grad_(False)
    # The words do not matter where the weights are random: those of the embedded base do, padded to this length.
    length = text_encoders[0].config.max_position_embeddings
    tokenizers = [
        CLIPTokenizer.from_pretrained(mini_dir() / "tokenizer", model_max_length=length) for _ in text_encoders
    ]
    parts = dict(zip(family.text_parts, zip(text_encoders, tokenizers, strict=True), strict=True))
    texts = {name: part for names, pair in parts.items() for name, part in zip(names, pair, strict=True)}
    return Base(
        name=architecture.family,
        family=architecture.family,
        unet=unet,
        vae=vae,
        image_encoder=image_encoder,
        image_processor=CLIPImageProcessorPil(),
        scheduler=DDIMScheduler.from_config(dict(architecture.scheduler)),
        resolution=resolution,
        fingerprint="random",
        **texts,
    )


def _without_dtype(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config of transformers without the dtype that was saved, which parts of its models would be made in."""
    return {name: value for name, value in config.items() if name != "dtype"}


@contextmanager
def _defaults(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Modules are made in this dtype and on this device, so that large ones never stand there twice."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)
