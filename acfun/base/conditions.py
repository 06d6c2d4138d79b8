"""What a UNet is told besides latents and time, as one object, and the one call of the UNet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(kw_only=True)
class Conditions:
    """The conditions of B rows, under the names that callbacks of diffusers know; those may change them.

    Attributes:
        prompt_embeds: (B,T,D).
        add_text_embeds: (B,P) pooled prompt embeddings; None where the family has none.
        add_time_ids: (B,6) sizes of the pictures; likewise.
        negative_prompt_embeds: (B,T,D), for callbacks to look at; None without guidance.
        image_embeds: of loaded IP-Adapters, one tensor with B rows each; None without.
    """

    prompt_embeds: Tensor
    add_text_embeds: Tensor | None = None
    add_time_ids: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    image_embeds: list[Tensor] | None = None

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def map_texts(self, change: Callable[[Tensor], Tensor]) -> Self:
        """New conditions with `change` done to what is known of the texts and sizes, row by row."""
        return type(self)(
            prompt_embeds=change(self.prompt_embeds),
            add_text_embeds=None if self.add_text_embeds is None else change(self.add_text_embeds),
            add_time_ids=None if self.add_time_ids is None else change(self.add_time_ids),
        )

    def select(self, rows: slice) -> Self:
        """The texts and sizes of some rows."""
        return self.map_texts(lambda values: values[rows])

    def expand(self, count: int) -> Self:
        """The texts and sizes of `count` rows: these, or a single one again and again."""
        return self.map_texts(lambda values: values.expand(count, *values.shape[1:]))

    def added_cond_kwargs(self, dtype: torch.dtype) -> dict[str, Any] | None:
        """What UNets of diffusers take under this name; None where there is nothing to add."""
        pooled = None if self.add_text_embeds is None else self.add_text_embeds.to(dtype)
        images = None if self.image_embeds is None else [embeds.to(dtype) for embeds in self.image_embeds]
        # Sizes keep their precision; the UNet embeds them in float32.
        added = {"text_embeds": pooled, "time_ids": self.add_time_ids, "image_embeds": images}
        return {name: values for name, values in added.items() if values is not None} or None


def concatenate(parts: Sequence[Conditions]) -> Conditions:
    """The texts and sizes of several conditions of one base, one below the other."""

    def join(name: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)

    prompt_embeds = join("prompt_embeds")
    assert prompt_embeds is not None
    return Conditions(
        prompt_embeds=prompt_embeds, add_text_embeds=join("add_text_embeds"), add_time_ids=join("add_time_ids")
    )


def predict(
    unet: Any,
    latents: Tensor,
    timesteps: Tensor,
    conditions: Conditions,
    cross_attention_kwargs: dict[str, Any] | None = None,
) -> Tensor:
    """The UNet's prediction (B,C,h,w) in the dtype of the latents.

    Args:
        unet: with or without adapters.
        latents: (B,C,h,w).
        timesteps: () or (B,).
        conditions: B rows.
        cross_attention_kwargs: for the attention processors.
    """
    dtype = next(unet.parameters()).dtype
    model_pred: Tensor = unet(
        latents.to(dtype),
        timesteps,
        encoder_hidden_states=conditions.prompt_embeds.to(dtype),
        added_cond_kwargs=conditions.added_cond_kwargs(dtype),
        cross_attention_kwargs=cross_attention_kwargs,
        return_dict=False,
    )[0]
    return model_pred.to(latents.dtype)
