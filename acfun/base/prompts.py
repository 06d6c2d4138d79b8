"""From prompts to the conditions of a UNet: the one path that fitting and sampling share."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from acfun.base.conditions import Conditions
from acfun.base.families import FAMILIES
from acfun.base.loading import Base

logger = logging.getLogger(__name__)


class PromptEmbeds(NamedTuple):
    """Conditions of prompts and of what to keep away from, B rows each."""

    positive: Conditions
    negative: Conditions


def tokenize(tokenizer: PreTrainedTokenizerBase, prompts: str | Sequence[str]) -> Tensor:
    """Token ids (B,T) of the prompts, padded to the model's length T; a cut prompt is logged as a warning."""
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    length = tokenizer.model_max_length
    input_ids: Tensor = tokenizer(
        texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    for text, ids in zip(texts, input_ids, strict=True):
        # A full row can be cut or just full: only then is the text read again in its whole length.
        if ids[-2] != tokenizer.pad_token_id and len(tokenizer(text, verbose=False).input_ids) > length:
            kept = tokenizer.decode(ids, skip_special_tokens=True)
            logger.warning("the prompt is longer than %d tokens; only this much is read: %r", length, kept)
    return input_ids


def tokenize_all(tokenizers: Sequence[PreTrainedTokenizerBase], prompts: str | Sequence[str]) -> Tensor:
    """Token ids (B,N,T) of the prompts for the tokenizers of N text encoders."""
    return torch.stack([tokenize(tokenizer, prompts) for tokenizer in tokenizers], dim=1)


def encode_tokens(text_encoder: CLIPTextModel, input_ids: Tensor) -> Tensor:
    """Prompt embeddings (B,T,D) of token ids (B,T); gradients reach what is trainable in the text encoder."""
    device = next(text_encoder.parameters()).device
    prompt_embeds: Tensor = text_encoder(input_ids.to(device)).last_hidden_state
    return prompt_embeds


def encode_ids(base: Base, input_ids: Tensor, size: tuple[int, int] | None = None) -> Conditions:
    """Conditions of prompts; gradients reach what is trainable in the text encoders.

    Args:
        base: whose family decides how its text encoders are read.
        input_ids: (B,N,T) for N text encoders, or (B,T) for a single one.
        size: height and width of the pictures, pixels; the base's resolution when None.
    """
    family, device = FAMILIES[base.family], base.text_encoder.device
    ids = (input_ids if input_ids.ndim == 3 else input_ids[:, None]).to(device)
    eos_token_id = base.tokenizers[-1].eos_token_id
    embeds = family.read_text(base.text_encoders, ids, eos_token_id)
    time_ids = None
    if family.describe_size is not None:
        described = family.describe_size(*(size or (base.resolution, base.resolution)))
        time_ids = torch.tensor([described], device=device).expand(len(ids), -1)
    return Conditions(prompt_embeds=embeds.prompt_embeds, add_text_embeds=embeds.pooled, add_time_ids=time_ids)


def blank_empty(base: Base, conditions: Conditions, negatives: Sequence[str]) -> Conditions:
    """Conditions of negative prompts as the base was trained to see them: in some families empty ones are zeros."""
    if not FAMILIES[base.family].zeroes_empty_negatives:
        return conditions
    is_empty = torch.tensor([not text for text in negatives], device=conditions.prompt_embeds.device)

    def blank(embeds: Tensor) -> Tensor:
        return embeds.masked_fill(is_empty.view(-1, *[1] * (embeds.ndim - 1)), 0.0)

    # The sizes of the pictures are told in any case.
    blanked = conditions.map_texts(blank)
    blanked.add_time_ids = conditions.add_time_ids
    return blanked


def encode_prompt(base: Base, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] = "") -> PromptEmbeds:
    """Conditions of prompts and negative prompts at the base's resolution; one negative prompt serves all prompts.

    Raises:
        ValueError: the numbers of prompts and of negative prompts differ.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    negatives = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else list(negative_prompt)
    if len(negatives) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts but {len(negatives)} negative prompts: give one, or one for each")
    both = encode_ids(base, tokenize_all(base.tokenizers, [*prompts, *negatives]))
    positive, negative = both.select(slice(len(prompts))), both.select(slice(len(prompts), None))
    return PromptEmbeds(positive, blank_empty(base, negative, negatives))
