"""A whole base of the real classes, tiny: random weights, byte-level tokenizer."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from acfun.base import FAMILIES, Base

RESOLUTION = 32
LATENT_CHANNELS = 4
LATENT_SIZE = 8
WIDTH = 16
NUM_STYLE_TOKENS = 17
MAX_LENGTH = 77
SECOND_WIDTH, POOLED_WIDTH, TIME_WIDTH = 24, 20, 8
# The end token that old CLIP configs name, those of SDXL among them; no text ends with it.
LEGACY_EOS = 2


def build_tokenizer(**options: Any) -> CLIPTokenizer:
    """One token per byte; the last byte of a word has a token of its own, as in CLIP's vocabulary."""
    characters = sorted(ByteLevel.alphabet())
    words = [
        *characters,
        *(f"{character}</w>" for character in characters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocab = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=MAX_LENGTH, **options)


def build_unet(*, width: int = WIDTH, **options: Any) -> UNet2DConditionModel:
    """Two stages, ResBlocks in all three groups, attention in all three groups."""
    common: dict[str, Any] = {
        "sample_size": LATENT_SIZE,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": width,
    }
    return UNet2DConditionModel(**(common | options))


def build_unet_xl() -> UNet2DConditionModel:
    """As SDXL's: attention in the deeper stage only, linear projections, pooled texts and sizes as added conditions."""
    return build_unet(
        width=WIDTH + SECOND_WIDTH,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
        projection_class_embeddings_input_dim=POOLED_WIDTH + 6 * TIME_WIDTH,
    )


def build_vae() -> AutoencoderKL:
    """Three stages: 32 px to 8 × 8 latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        latent_channels=LATENT_CHANNELS,
        sample_size=RESOLUTION,
    )


def configure_text_encoder(tokenizer: CLIPTokenizer, *, width: int = WIDTH, **options: Any) -> CLIPTextConfig:
    """Two layers of two heads."""
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": MAX_LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPTextConfig(**(common | options))


def build_text_encoder(tokenizer: CLIPTokenizer, *, width: int = WIDTH) -> CLIPTextModel:
    """The first text encoder of every family."""
    return CLIPTextModel(configure_text_encoder(tokenizer, width=width))


def build_text_encoder_2(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """The second one of SDXL."""
    return CLIPTextModelWithProjection(
        configure_text_encoder(
            tokenizer, width=SECOND_WIDTH, projection_dim=POOLED_WIDTH, hidden_act="gelu", eos_token_id=LEGACY_EOS
        )
    )


def build_image_encoder() -> CLIPVisionModelWithProjection:
    """Two layers of width 16 on 4 × 4 patches: 17 tokens."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=RESOLUTION,
            patch_size=8,
        ),
    )


def build_scheduler(prediction_type: str = "v_prediction") -> DDIMScheduler:
    """1000 training steps."""
    return DDIMScheduler(prediction_type=prediction_type, clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def build_image_processor() -> CLIPImageProcessorPil:
    """To the image encoder's size."""
    size = {"height": RESOLUTION, "width": RESOLUTION}
    return CLIPImageProcessorPil(size={"shortest_edge": RESOLUTION}, crop_size=size)


def make_tiny_base(
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    width: int = WIDTH,
    prediction_type: str = "v_prediction",
    family: str = "mini",
) -> Base:
    """A frozen base in eval mode; the same seed gives the same weights."""
    is_xl = len(FAMILIES[family].text_encoders) == 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer()
        unet, vae = build_unet_xl() if is_xl else build_unet(width=width), build_vae()
        text_encoder, image_encoder = build_text_encoder(tokenizer, width=width), build_image_encoder()
        second: dict[str, Any] = {}
        if is_xl:
            tokenizer_2 = build_tokenizer(pad_token="!")
            second = {"text_encoder_2": build_text_encoder_2(tokenizer_2), "tokenizer_2": tokenizer_2}
    modules: list[nn.Module] = [unet, vae, text_encoder, image_encoder]
    modules += [second["text_encoder_2"]] if second else []
    for module in modules:
        module.to(dtype=dtype).eval().requires_grad_(False)
    return Base(
        family=family,
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        image_encoder=image_encoder,
        image_processor=build_image_processor(),
        scheduler=build_scheduler(prediction_type),
        resolution=RESOLUTION,
        fingerprint=f"tiny-{seed}",
        name="tiny",
        **second,
    )


def save_tiny_checkpoint(directory: Path, **options: Any) -> None:
    """Writes `make_tiny_base(**options)` in the folder layout that diffusers uses."""
    build_diffusers_pipeline(make_tiny_base(**options)).save_pretrained(directory)


def build_diffusers_pipeline(base: Base) -> Any:
    """The pipeline of diffusers itself around a base."""
    family = FAMILIES[base.family]
    return family.pipeline_class(
        vae=base.vae,
        unet=base.unet,
        scheduler=base.scheduler,
        feature_extractor=base.image_processor,
        image_encoder=base.image_encoder,
        **base.text_parts,
        **family.pipeline_options,
    )


def make_style_embeds(*, seed: int = 0) -> torch.Tensor:
    """(1,17,16): random tokens in place of a style image's."""
    return torch.randn(1, NUM_STYLE_TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))
