"""The frozen latent diffusion model a style is fitted on: families, loading, prompts and image embeddings."""

from acfun.base.conditions import Conditions, predict
from acfun.base.families import FAMILIES, Family
from acfun.base.image_embeds import ImageEmbeds, encode_image, encode_style_image
from acfun.base.loading import Base, assemble_base, load_base
from acfun.base.prompts import PromptEmbeds, encode_ids, encode_prompt, encode_tokens, tokenize, tokenize_all
from acfun.descriptions import Attributes, describe_face

__all__ = [
    "FAMILIES",
    "Attributes",
    "Base",
    "Conditions",
    "Family",
    "ImageEmbeds",
    "PromptEmbeds",
    "assemble_base",
    "describe_face",
    "encode_ids",
    "encode_image",
    "encode_prompt",
    "encode_style_image",
    "encode_tokens",
    "load_base",
    "predict",
    "tokenize",
    "tokenize_all",
]
