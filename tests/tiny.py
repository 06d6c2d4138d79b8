"""A whole base of the real classes, tiny: random weights, byte-level tokenizer."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from acfun.base import Base

RESOLUTION = 32
LATENT_CHANNELS = 4
LATENT_SIZE = 8
WIDTH = 16
NUM_STYLE_TOKENS = 17
MAX_LENGTH = 77


def build_tokenizer() -> CLIPTokenizer:
    """One token per byte; the last byte of a word has a token of its own, as in CLIP's vocabulary."""
    characters = sorted(ByteLevel.alphabet())
    words = [
        *characters,
        *(f"{character}</w>" for character in characters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocab = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=MAX_LENGTH)


def build_unet(*, width: int = WIDTH) -> UNet2DConditionModel:
    """Two stages, ResBlocks in all three groups, attention in all three groups."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=width,
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


def build_text_encoder(tokenizer: CLIPTokenizer, *, width: int = WIDTH) -> CLIPTextModel:
    """Two layers of two heads."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
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
) -> Base:
    """A frozen base in eval mode; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer()
        unet, vae = build_unet(width=width), build_vae()
        text_encoder, image_encoder = build_text_encoder(tokenizer, width=width), build_image_encoder()
    modules: tuple[nn.Module, ...] = (unet, vae, text_encoder, image_encoder)
    for module in modules:
        module.to(dtype=dtype).eval().requires_grad_(False)
    return Base(
        family="mini",
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
    )


def save_tiny_checkpoint(directory: Path, **options: Any) -> None:
    """Writes `make_tiny_base(**options)` in the folder layout that diffusers uses."""
    base = make_tiny_base(**options)
    pipeline = StableDiffusionPipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=base.unet,
        scheduler=base.scheduler,
        safety_checker=None,
        feature_extractor=base.image_processor,
        image_encoder=base.image_encoder,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(directory)


def make_style_embeds(*, seed: int = 0) -> torch.Tensor:
    """(1,17,16): random tokens in place of a style image's."""
    return torch.randn(1, NUM_STYLE_TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))
