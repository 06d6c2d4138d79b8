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
from acfun.errors import BaseNotFoundError
from acfun.paths import mini_dir

MINI, OWN_IMAGE_ENCODER = "mini", "own"
COMMON_PARTS = FAMILIES[MINI].parts
IMAGE_PARTS = ("image_encoder", "feature_extractor")
# Only the plain safetensors weights: a repository also holds .bin, fp16 and non-EMA copies of them.
HUB_PATTERNS = (
    "model_index.json",
    "*/*.json",
    "tokenizer*/*",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder*/model.safetensors",
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
    image_encoder: str | Path | None = OWN_IMAGE_ENCODER,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Base:
    """Load a base: "mini", a family's name, a diffusers folder or a hub id (from its cache when offline).

    Args:
        name_or_path: of the base.
        image_encoder: folder or hub id of the CLIP image encoder; "own" is the folder's own one or, where it has none,
            that of the family, from the hub. None loads none: such a base samples, but no style can be fitted on it.
        dtype: of all modules; a VAE that cannot compute in float16 stays in float32.
        device: of all modules.

    Raises:
        BaseNotFoundError: nothing there, parts missing or unreadable, or no network for a hub id.
        BaseFamilyMismatchError: a model of a family that acfun does not know.
    """
    folder = _find_folder(name_or_path)
    family = _recognise(folder)
    _check_parts(folder, family.parts)
    encoder, processor = _load_image_encoder(folder, family, image_encoder)
    base = assemble_base(
        name=str(name_or_path),
        unet=_load(UNet2DConditionModel.from_pretrained, folder / "unet"),
        vae=_load(AutoencoderKL.from_pretrained, folder / "vae"),
        image_encoder=encoder,
        image_processor=processor,
        scheduler=_load(DDIMScheduler.from_pretrained, folder / "scheduler"),
        **_load_texts(folder, family),
    )
    vae_dtype = torch.float32 if dtype is torch.float16 and not family.has_half_vae else dtype
    _freeze(base.vae, vae_dtype, device)
    for module in (base.unet, *base.text_encoders, *filter(None, [encoder])):
        _freeze(module, dtype, device)
    return base


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
        BaseFamilyMismatchError: a model of a family that acfun does not know.
    """
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
            f"diffusers folder (with {', '.join(COMMON_PARTS)} in it) or a hub id such as {FAMILIES['sd1'].repo_id}"
        )
    return _download(repo_id, HUB_PATTERNS, f"a diffusers folder that holds {', '.join(COMMON_PARTS)}")


def _download(repo_id: str, patterns: tuple[str, ...], wanted: str) -> Path:
    try:
        return Path(snapshot_download(repo_id, allow_patterns=list(patterns)))
    # The hub's client raises errors of its HTTP library too, which share no parent with its own.
    except Exception as error:
        raise BaseNotFoundError(
            f"{repo_id} is neither a folder here nor in the hub's cache, and it cannot be downloaded "
            f"({type(error).__name__}): go online once, or give the path of {wanted}"
        ) from error


def _check_parts(folder: Path, parts: tuple[str, ...]) -> None:
    if missing := [part for part in parts if not (folder / part).is_dir()]:
        raise BaseNotFoundError(
            f"{folder} is no complete base: it has no {', '.join(missing)}; a diffusers folder with "
            f"{', '.join(parts)} is needed"
        )


def _recognise(folder: Path) -> Family:
    """The family of a diffusers folder, by the configs in it."""
    _check_parts(folder, ("unet",))
    config = _load(UNet2DConditionModel.load_config, folder / "unet")
    num_text_encoders = len([path for path in folder.glob("text_encoder*") if path.is_dir()])
    # What has none lacks a part of every family, which is named later.
    return find_family(config.get("cross_attention_dim", 0), max(1, num_text_encoders))


def _load_texts(folder: Path, family: Family) -> dict[str, Any]:
    """Text encoders and tokenizers of a folder by name."""
    loaded = {}
    for (encoder_part, tokenizer_part), encoder_class in zip(family.text_parts, family.text_encoders, strict=True):
        loaded[encoder_part] = _load(encoder_class.from_pretrained, folder / encoder_part, dtype="auto")
        loaded[tokenizer_part] = _load(CLIPTokenizer.from_pretrained, folder / tokenizer_part)
    return loaded


def _load_image_encoder(
    folder: Path, family: Family, name_or_path: str | Path | None
) -> tuple[CLIPVisionModelWithProjection | CLIPVisionModel | None, CLIPImageProcessorPil | None]:
    if name_or_path is None:
        return None, None
    encoder_dir, processor_dir = (folder / part for part in IMAGE_PARTS)
    if str(name_or_path) != OWN_IMAGE_ENCODER:
        encoder_dir = processor_dir = _find_image_encoder(name_or_path)
    elif not encoder_dir.is_dir() and family.image_encoder_id is not None:
        encoder_dir = processor_dir = _find_image_encoder(family.image_encoder_id)
    else:
        _check_parts(folder, IMAGE_PARTS)
    config = json.loads((encoder_dir / "config.json").read_text(encoding="utf-8"))
    has_projection = config.get("architectures") != ["CLIPVisionModel"]
    encoder_class: Any = CLIPVisionModelWithProjection if has_projection else CLIPVisionModel
    return (
        _load(encoder_class.from_pretrained, encoder_dir, dtype="auto"),
        _load(CLIPImageProcessorPil.from_pretrained, processor_dir),
    )


def _find_image_encoder(name_or_path: str | Path) -> Path:
    """Folder of a CLIP image encoder, with its processor in it."""
    wanted = "a folder with config.json, model.safetensors and preprocessor_config.json as image_encoder"
    folder = Path(name_or_path)
    if not folder.is_dir() and str(name_or_path).count("/") == 1:
        folder = _download(str(name_or_path), ("*.json", "model.safetensors"), wanted)
    names = ("config.json", "preprocessor_config.json")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise BaseNotFoundError(f"image encoder {str(name_or_path)!r} has no {', '.join(missing)}: give {wanted}")
    return folder


def _load(from_pretrained: Callable[..., Any], folder: Path, **options: Any) -> Any:
    try:
        return from_pretrained(folder, local_files_only=True, **options)
    # Broken files surface as whatever the reader of that format raises.
    except Exception as error:
        raise BaseNotFoundError(f"{folder} cannot be read ({error}): copy or download it again") from error


def _freeze(module: Any, dtype: torch.dtype, device: str | torch.device) -> Any:
    assert isinstance(module, nn.Module)
    return module.to(device=device, dtype=dtype).eval().requires_grad_(False)
