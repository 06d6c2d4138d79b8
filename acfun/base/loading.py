"""Load a base model, frozen, from the package, a diffusers folder, a single file or the hub."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from acfun.base.families import FAMILIES, Family, find_family
from acfun.base.fingerprint import TEXT_KEYS, UNET_KEYS, compute_fingerprint
from acfun.base.single_file import SUFFIX, read_file, recognise_file
from acfun.base.sources import (
    MINI,
    check_parts,
    find_folder,
    find_image_encoder,
    mark_local,
    read_part,
    recognise_folder,
)
from acfun.devices import has_bfloat16
from acfun.errors import BaseFamilyMismatchError, ConfigError
from acfun.noise import without_messages

OWN_IMAGE_ENCODER, HALF_VARIANT = "own", "fp16"
IMAGE_PARTS = ("image_encoder", "feature_extractor")


@dataclass(frozen=True, kw_only=True)
class Base:
    """A frozen latent diffusion model and all around it; every module is in eval mode, without gradients.

    Attributes:
        name: what was asked for: "mini", a folder or a hub id.
        family: name of its row in the family table.
        unet: denoiser of latents, conditioned on prompt embeddings.
        vae: images (B,3,H,W) in [-1,1] ↔ latents.
        text_encoder: CLIP text model.
        tokenizer: its tokenizer.
        text_encoder_2: the second one, in families that have two.
        tokenizer_2: likewise.
        image_encoder: CLIP image encoder; fits look at the style image with it, sampling does without.
        image_processor: holds the image encoder's normalisation.
        scheduler: DDIM with the model's noise schedule and prediction type.
        resolution: width and height of the images it was trained on, pixels.
        fingerprint: see `acfun.base.fingerprint`.
    """

    name: str
    family: str
    unet: UNet2DConditionModel = field(repr=False)
    vae: AutoencoderKL = field(repr=False)
    text_encoder: CLIPTextModel = field(repr=False)
    tokenizer: CLIPTokenizer = field(repr=False)
    image_encoder: CLIPVisionModelWithProjection | CLIPVisionModel | None = field(repr=False)
    image_processor: CLIPImageProcessorPil | None = field(repr=False)
    scheduler: DDIMScheduler = field(repr=False)
    resolution: int
    fingerprint: str
    text_encoder_2: CLIPTextModelWithProjection | None = field(default=None, repr=False)
    tokenizer_2: CLIPTokenizer | None = field(default=None, repr=False)

    @property
    def text_parts(self) -> dict[str, Any]:
        """Text encoders and tokenizers by the names that pipelines of diffusers give them."""
        return {name: getattr(self, name) for pair in FAMILIES[self.family].text_parts for name in pair}

    @property
    def text_encoders(self) -> tuple[Any, ...]:
        """All text encoders."""
        return tuple(getattr(self, name) for name, _ in FAMILIES[self.family].text_parts)

    @property
    def tokenizers(self) -> tuple[CLIPTokenizer, ...]:
        """The tokenizer of each text encoder."""
        return tuple(getattr(self, name) for _, name in FAMILIES[self.family].text_parts)

    @property
    def vae_scale_factor(self) -> int:
        """Pixels along the side of one latent."""
        return int(2 ** (len(self.vae.config["block_out_channels"]) - 1))

    @property
    def text_dim(self) -> int:
        """Width of the prompt embeddings: that of all text encoders side by side."""
        return sum(int(text_encoder.config.hidden_size) for text_encoder in self.text_encoders)

    @property
    def device(self) -> torch.device:
        """Where the modules are."""
        device: torch.device = self.unet.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The precision the modules compute in."""
        dtype: torch.dtype = self.unet.dtype
        return dtype


def load_base(
    name_or_path: str | Path = MINI,
    *,
    config: str | Path | None = None,
    image_encoder: str | Path | None = OWN_IMAGE_ENCODER,
    dtype: torch.dtype | None = torch.float32,
    device: str | torch.device = "cpu",
) -> Base:
    """Load a base: "mini", a family's name, a diffusers folder, a single file, or a hub id (cached, when offline).

    Args:
        name_or_path: of the base; a single file is a .safetensors in the original layout of Stable Diffusion.
        config: for a single file: diffusers folder or hub id of any model of its family, whose configs and tokenizers
            are read; None takes those of the family's model on the hub.
        image_encoder: folder or hub id of the CLIP image encoder; "own" is the folder's own one or, where it has none,
            that of the family, from the hub. None loads none: such a base samples, but no style can be fitted on it.
        dtype: of all modules, but a VAE that cannot compute in float16 stays in float32; None: `choose_dtype`.
        device: of all modules.

    Raises:
        BaseNotFoundError: nothing there, parts missing or unreadable, or no network for a hub id.
        BaseFamilyMismatchError: a model of a family that acfun does not know.
        ConfigError: `config` is given, and the base is no single file.
    """
    path = Path(name_or_path)
    if path.suffix == SUFFIX and path.is_file():
        family = recognise_file(path)
        parts, folder = read_file(path, family, config)
    elif config is not None:
        raise ConfigError(
            f"config is {str(config)!r}, but {str(name_or_path)!r} is no single file: leave config out, on the "
            "command line --base-config"
        )
    else:
        folder = find_folder(name_or_path)
        family = recognise_folder(folder)
        parts = _read_folder(folder, family)
    encoder, processor = _load_image_encoder(folder, family, image_encoder)
    base = assemble_base(name=mark_local(name_or_path), image_encoder=encoder, image_processor=processor, **parts)
    dtype = dtype or choose_dtype(family, torch.device(device))
    vae_dtype = torch.float32 if dtype is torch.float16 and not family.has_half_vae else dtype
    _freeze(base.vae, vae_dtype, device)
    for module in (base.unet, *base.text_encoders, *filter(None, [encoder])):
        _freeze(module, dtype, device)
    return base


def choose_dtype(family: Family, device: torch.device) -> torch.dtype:
    """bfloat16 where the family is large and the device computes in it, else float32."""
    return torch.bfloat16 if family.is_large and has_bfloat16(device) else torch.float32


def assemble_base(
    *,
    name: str,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    image_encoder: CLIPVisionModelWithProjection | CLIPVisionModel | None,
    image_processor: CLIPImageProcessorPil | None,
    scheduler: DDIMScheduler,
    text_encoder_2: CLIPTextModelWithProjection | None = None,
    tokenizer_2: CLIPTokenizer | None = None,
) -> Base:
    """Make a base of modules that are already loaded; they are neither moved nor frozen.

    Raises:
        BaseFamilyMismatchError: a model of a family that acfun does not know, or one for inpainting and the like.
    """
    channels, latent_channels = unet.config["in_channels"], vae.config["latent_channels"]
    if channels != latent_channels:
        raise BaseFamilyMismatchError(
            f"the UNet of {name!r} reads {channels} channels, its VAE has {latent_channels}: models for inpainting, "
            "depth or editing are no bases; use the model that they were made from"
        )
    text_encoders = {"text_encoder": text_encoder, "text_encoder_2": text_encoder_2}
    present = {part: encoder for part, encoder in text_encoders.items() if encoder is not None}
    configs = {
        "unet": {key: unet.config[key] for key in UNET_KEYS},
        "prediction_type": scheduler.config["prediction_type"],
    }
    configs |= {part: {key: getattr(one.config, key) for key in TEXT_KEYS} for part, one in present.items()}
    vae_scale_factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
    return Base(
        name=name,
        family=find_family(unet.config["cross_attention_dim"], len(present)).name,
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        image_encoder=image_encoder,
        image_processor=image_processor,
        scheduler=scheduler,
        resolution=unet.config["sample_size"] * vae_scale_factor,
        fingerprint=compute_fingerprint(unet, *present.values(), configs=configs),
    )


def _read_folder(folder: Path, family: Family) -> dict[str, Any]:
    """The parts of a diffusers folder by name."""
    check_parts(folder, family.parts)
    variants = {part: _find_variant(folder / part) for part in family.parts}
    loaded = {
        "unet": read_part(UNet2DConditionModel.from_pretrained, folder / "unet", variant=variants["unet"]),
        "vae": read_part(AutoencoderKL.from_pretrained, folder / "vae", variant=variants["vae"]),
        "scheduler": read_part(DDIMScheduler.from_pretrained, folder / "scheduler"),
    }
    for (encoder_part, tokenizer_part), encoder_class in zip(family.text_parts, family.text_encoders, strict=True):
        loaded[encoder_part] = read_part(
            encoder_class.from_pretrained, folder / encoder_part, dtype="auto", variant=variants[encoder_part]
        )
        loaded[tokenizer_part] = read_part(CLIPTokenizer.from_pretrained, folder / tokenizer_part)
    return loaded


def _find_variant(folder: Path) -> str | None:
    """The variant of the weights in a folder: None where the plain ones are there."""
    names = [path.name for path in folder.glob("*.safetensors")]
    return HALF_VARIANT if names and all(f".{HALF_VARIANT}" in name for name in names) else None


def _load_image_encoder(
    folder: Path, family: Family, name_or_path: str | Path | None
) -> tuple[CLIPVisionModelWithProjection | CLIPVisionModel | None, CLIPImageProcessorPil | None]:
    if name_or_path is None:
        return None, None
    encoder_dir, processor_dir = (folder / part for part in IMAGE_PARTS)
    if str(name_or_path) != OWN_IMAGE_ENCODER:
        encoder_dir = processor_dir = find_image_encoder(name_or_path)
    elif not encoder_dir.is_dir() and family.image_encoder_id is not None:
        encoder_dir = processor_dir = find_image_encoder(family.image_encoder_id)
    else:
        check_parts(folder, IMAGE_PARTS)
    config = json.loads((encoder_dir / "config.json").read_text(encoding="utf-8"))
    has_projection = config.get("architectures") != ["CLIPVisionModel"]
    encoder_class: Any = CLIPVisionModelWithProjection if has_projection else CLIPVisionModel
    return (
        read_part(encoder_class.from_pretrained, encoder_dir, dtype="auto"),
        read_part(CLIPImageProcessorPil.from_pretrained, processor_dir),
    )


def _freeze(module: Any, dtype: torch.dtype, device: str | torch.device) -> Any:
    assert isinstance(module, nn.Module)
    with without_messages():
        module.to(device=device, dtype=dtype)
    return module.eval().requires_grad_(False)
