"""From prompts to the embeddings the UNet reads: the one path that fitting and sampling share."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from acfun.base.loading import Base

logger = logging.getLogger(__name__)


class PromptEmbeds(NamedTuple):
    """Embeddings of prompts and of what to keep away from, both (B,T,D)."""

    prompt_embeds: Tensor
    negative_prompt_embeds: Tensor


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


def encode_tokens(text_encoder: CLIPTextModel, input_ids: Tensor) -> Tensor:
    """Prompt embeddings (B,T,D) of token ids (B,T); gradients reach what is trainable in the text encoder."""
    device = next(text_encoder.parameters()).device
    prompt_embeds: Tensor = text_encoder(input_ids.to(device)).last_hidden_state
    return prompt_embeds


def encode_prompt(base: Base, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] = "") -> PromptEmbeds:
    """Embed prompts and negative prompts; one negative prompt serves all prompts.

    Raises:
        ValueError: the numbers of prompts and of negative prompts differ.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    negatives = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else list(negative_prompt)
    if len(negatives) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts but {len(negatives)} negative prompts: give one, or one for each")
    input_ids = tokenize(base.tokenizer, [*prompts, *negatives])
    prompt_embeds, negative_prompt_embeds = encode_tokens(base.text_encoder, input_ids).chunk(2)
    return PromptEmbeds(prompt_embeds, negative_prompt_embeds)
