"""Load a base model, frozen, from the package, a diffusers folder or the hub."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from huggingface_hub import snapshot_download
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModel, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from acfun.base.families import FAMILIES, Family, find_family
from acfun.base.fingerprint import TEXT_KEYS, UNET_KEYS, compute_fingerprint
from acfun.errors import BaseNotFoundError
from acfun.paths import mini_dir

MINI = "mini"
PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
IMAGE_PARTS = ("image_encoder", "feature_extractor")
# Only the plain safetensors weights: a repository also holds .bin, fp16 and non-EMA copies of them.
HUB_PATTERNS = (
    "model_index.json",
    "*/*.json",
    "tokenizer/*",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "image_encoder/model.safetensors",
)


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
        image_encoder: CLIP image encoder.
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
    image_encoder: CLIPVisionModelWithProjection | CLIPVisionModel = field(repr=False)
    image_processor: CLIPImageProcessorPil = field(repr=False)
    scheduler: DDIMScheduler = field(repr=False)
    resolution: int
    fingerprint: str

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
    name_or_path: str | Path = MINI, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Base:
    """Load a base: "mini", a family's name, a diffusers folder or a hub id (from its cache when offline).

    Raises:
        BaseNotFoundError: nothing there, parts missing or unreadable, or no network for a hub id.
        BaseFamilyMismatchError: a model of a family that acfun does not know.
    """
    folder = _find_folder(name_or_path)
    _check_parts(folder, PARTS)
    unet = _load(UNet2DConditionModel.from_pretrained, folder / "unet")
    text_encoder = _load(CLIPTextModel.from_pretrained, folder / "text_encoder", dtype="auto")
    vae = _load(AutoencoderKL.from_pretrained, folder / "vae")
    scheduler = _load(DDIMScheduler.from_pretrained, folder / "scheduler")
    num_text_encoders = len([path for path in folder.glob("text_encoder*") if path.is_dir()])
    family = find_family(unet.config["cross_attention_dim"], num_text_encoders)
    image_encoder, image_processor = _load_image_encoder(folder, family)
    base = assemble_base(
        name=str(name_or_path),
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=_load(CLIPTokenizer.from_pretrained, folder / "tokenizer"),
        image_encoder=image_encoder,
        image_processor=image_processor,
        scheduler=scheduler,
    )
    for module in (unet, vae, text_encoder, image_encoder):
        _freeze(module, dtype, device)
    return base


def assemble_base(
    *,
    name: str,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    image_encoder: CLIPVisionModelWithProjection | CLIPVisionModel,
    image_processor: CLIPImageProcessorPil,
    scheduler: DDIMScheduler,
) -> Base:
    """Make a base of modules that are already loaded; they are neither moved nor frozen.

    Raises:
        BaseFamilyMismatchError: a model of a family that acfun does not know.
    """
    configs = {
        "unet": {key: unet.config[key] for key in UNET_KEYS},
        "text_encoder": {key: getattr(text_encoder.config, key) for key in TEXT_KEYS},
        "prediction_type": scheduler.config["prediction_type"],
    }
    vae_scale_factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
    return Base(
        name=name,
        family=find_family(unet.config["cross_attention_dim"]).name,
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        image_encoder=image_encoder,
        image_processor=image_processor,
        scheduler=scheduler,
        resolution=unet.config["sample_size"] * vae_scale_factor,
        fingerprint=compute_fingerprint(unet, text_encoder, configs=configs),
    )


def _find_folder(name_or_path: str | Path) -> Path:
    if str(name_or_path) == MINI:
        if not (mini_dir() / "unet").is_dir():
            raise BaseNotFoundError(
                f"the embedded base has no weights in {mini_dir()}: reinstall acfun or name another base"
            )
        return mini_dir()
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    family = FAMILIES.get(str(name_or_path))
    repo_id = family.repo_id if family and family.repo_id else str(name_or_path)
    if isinstance(name_or_path, Path) or repo_id.count("/") != 1 or repo_id.startswith((".", "/", "~")):
        raise BaseNotFoundError(
            f"there is no base {str(name_or_path)!r}: use {', '.join(sorted(FAMILIES))}, the path of a "
            f"diffusers folder (with {', '.join(PARTS)} in it) or a hub id such as {FAMILIES['sd1'].repo_id}"
        )
    return _download(repo_id, HUB_PATTERNS)


def _download(repo_id: str, patterns: tuple[str, ...]) -> Path:
    try:
        return Path(snapshot_download(repo_id, allow_patterns=list(patterns)))
    # The hub's client raises errors of its HTTP library too, which share no parent with its own.
    except Exception as error:
        raise BaseNotFoundError(
            f"{repo_id} is neither a folder here nor in the hub's cache, and it cannot be downloaded "
            f"({type(error).__name__}): go online once, or give the path of a diffusers folder that holds "
            f"{', '.join(PARTS)}"
        ) from error


def _check_parts(folder: Path, parts: tuple[str, ...]) -> None:
    if missing := [part for part in parts if not (folder / part).is_dir()]:
        raise BaseNotFoundError(
            f"{folder} is no complete base: it has no {', '.join(missing)}; a diffusers folder with "
            f"{', '.join(parts)} is needed"
        )


def _load_image_encoder(
    folder: Path, family: Family
) -> tuple[CLIPVisionModelWithProjection | CLIPVisionModel, CLIPImageProcessorPil]:
    encoder_dir, processor_dir = (folder / part for part in IMAGE_PARTS)
    if not encoder_dir.is_dir() and family.image_encoder_id is not None:
        encoder_dir = processor_dir = _download(family.image_encoder_id, ("*.json", "model.safetensors"))
    else:
        _check_parts(folder, IMAGE_PARTS)
    config = json.loads((encoder_dir / "config.json").read_text(encoding="utf-8"))
    has_projection = config.get("architectures") != ["CLIPVisionModel"]
    encoder_class: Any = CLIPVisionModelWithProjection if has_projection else CLIPVisionModel
    return (
        _load(encoder_class.from_pretrained, encoder_dir, dtype="auto"),
        _load(CLIPImageProcessorPil.from_pretrained, processor_dir),
    )


def _load(from_pretrained: Callable[..., Any], folder: Path, **options: Any) -> Any:
    try:
        return from_pretrained(folder, local_files_only=True, **options)
    # Broken files surface as whatever the reader of that format raises.
    except Exception as error:
        raise BaseNotFoundError(f"{folder} cannot be read ({error}): copy or download it again") from error


def _freeze(module: Any, dtype: torch.dtype, device: str | torch.device) -> Any:
    assert isinstance(module, nn.Module)
    return module.to(device=device, dtype=dtype).eval().requires_grad_(False)
