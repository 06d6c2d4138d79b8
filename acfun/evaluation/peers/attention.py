"""Peers that learn nothing: the photograph is denoised with the style image's self-attention.

Both are inverted with DDIM first. Then they and the results are denoised together, the style image in the first row of
the batch, so that its queries, keys and values of every step are at hand; authors keep those of the inversion.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from acfun.base import Base
from acfun.base.vae_features import decode_latents, encode_latents
from acfun.cfun import Site, find_attention_blocks
from acfun.evaluation.contract import Painter
from acfun.evaluation.peers.classic import match_moments
from acfun.evaluation.peers.editing import PROMPT, build_prediction, encode_text
from acfun.evaluation.peers.training import cut_style
from acfun.evaluation.suites import Scene
from acfun.sampling import Predict, denoise, invert, select_timesteps

NUM_STEPS = 50
SHARED_SHIFT = math.log(2)
TEMPERATURE = 1.5
NUM_INJECTED_BLOCKS = 2

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values (R,heads,L,d) of all rows → attended values (R,heads,L,d)."""


def align_style(base: Base, scene: Scene, seed: int) -> Painter:
    """StyleAligned (Hertz et al. 2024, https://arxiv.org/abs/2312.02133): all self-attention is shared with it.

    The dial is the share of the schedule that photographs are inverted to; the paper, which paints from text, has none.
    """

    @torch.no_grad()
    def paint(setting: float) -> Tensor:
        start = invert_scene(base, scene, PROMPT, setting)
        rows = torch.cat([start.style, start.contents])
        painted = denoise_together(base, start, rows, find_self_attention(base), share_attention)
        return decode_latents(base.vae, painted[1:]).clamp(-1, 1)

    return paint


def inject_style(base: Base, scene: Scene, seed: int) -> Painter:
    """StyleID (Chung et al. 2024, https://arxiv.org/abs/2312.09008): photographs ask with their queries, paint answers.

    The dial is γ, the share of the photograph's own queries. Keys and values are replaced in the decoder's last two
    blocks with attention, which in Stable Diffusion are the authors' layers 6 to 11.
    """
    with torch.no_grad():
        start = invert_scene(base, scene, "", 1.0)
    sites = find_decoder_attention(base)

    @torch.no_grad()
    def paint(setting: float) -> Tensor:
        count = len(start.contents)
        results = match_moments(start.contents, start.style, (2, 3))
        rows = torch.cat([start.style, start.contents, results])
        painted = denoise_together(base, start, rows, sites, build_injection(count, setting))
        return decode_latents(base.vae, painted[-count:]).clamp(-1, 1)

    return paint


@dataclass(frozen=True)
class Inverted:
    """Style image and photographs at the noise level of a schedule's first timestep.

    Attributes:
        style: (1,C,h,w).
        contents: (B,C,h,w).
        predict: the UNet with the prompt that both were inverted with.
        scheduler: after `set_timesteps`.
        timesteps: (S,) to be denoised.
    """

    style: Tensor
    contents: Tensor
    predict: Predict
    scheduler: Any
    timesteps: Tensor


@torch.no_grad()
def invert_scene(base: Base, scene: Scene, prompt: str, strength: float) -> Inverted:
    """Invert a scene's style image and photographs to `strength` in (0, 1] of the schedule; without guidance.

    Raises:
        ValueError: strength out of range.
    """
    prompt_embeds = encode_text(base, prompt)
    predict = build_prediction(base, lambda timestep: prompt_embeds, guidance_scale=1.0)
    scheduler = DDIMScheduler.from_config(base.scheduler.config)
    timesteps = select_timesteps(scheduler, NUM_STEPS, strength, base.device)
    latents = encode_latents(base.vae, torch.cat([cut_style(scene), scene.faces]))
    inverted = invert(predict, scheduler, latents, timesteps)
    return Inverted(inverted[:1], inverted[1:], predict, scheduler, timesteps)


def denoise_together(base: Base, start: Inverted, rows: Tensor, sites: Sequence[Site], attend: Attend) -> Tensor:
    """Denoise latents (R,C,h,w) as one batch, with `attend` in the attention at `sites`; clean ones (R,C,h,w)."""
    with placed_attention(sites, attend):
        return denoise(start.predict, start.scheduler, rows, start.timesteps)


def share_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The first row attends to itself, the others to it and to themselves, with its statistics.

    Queries and keys are normalised to the mean and deviation of the first row's, per channel, over positions. The first
    row's share is doubled (`SHARED_SHIFT`), as the authors do for pictures that are given.
    """
    others = query.shape[0] - 1
    queries, keys = (match_moments(part[1:], part[:1], (2,)) for part in (query, key))
    shared_keys, shared_values = (
        torch.cat([part[:1].expand(others, -1, -1, -1), rest], 2) for part, rest in ((key, keys), (value, value[1:]))
    )
    shift = query.new_zeros(1, shared_keys.shape[2])
    shift[:, : key.shape[2]] = SHARED_SHIFT
    own = scaled_dot_product_attention(query[:1], key[:1], value[:1])
    return torch.cat([own, scaled_dot_product_attention(queries, shared_keys, shared_values, attn_mask=shift)])


def build_injection(count: int, gamma: float, temperature: float = TEMPERATURE) -> Attend:
    """For rows of one style image, `count` photographs and as many results: the results attend to the style image.

    Q̃ = γ Q_content + (1 − γ) Q_result;  softmax(τ Q̃ K_styleᵀ / √d) V_style.

    Raises:
        ValueError: gamma outside [0, 1].
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma {gamma} is outside [0, 1]: 1 takes the photograph's queries, 0 the result's own")

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        given = scaled_dot_product_attention(query[:-count], key[:-count], value[:-count])
        queries = gamma * query[-2 * count : -count] + (1 - gamma) * query[-count:]
        keys, values = (part[:1].expand(count, -1, -1, -1) for part in (key, value))
        scale = temperature / math.sqrt(query.shape[-1])
        return torch.cat([given, scaled_dot_product_attention(queries, keys, values, scale=scale)])

    return attend


def find_self_attention(base: Base) -> list[Site]:
    """Every self-attention of the base's UNet."""
    return [site for site in find_attention_blocks(base.unet) if site.name.endswith(".attn1")]


def find_decoder_attention(base: Base, num_blocks: int = NUM_INJECTED_BLOCKS) -> list[Site]:
    """The self-attention of the decoder's last blocks that have any, in module order."""
    sites = [site for site in find_self_attention(base) if site.group == "decoder"]
    kept = sorted({_find_block(site) for site in sites})[-num_blocks:]
    return [site for site in sites if _find_block(site) in kept]


class SelfAttention:
    """An attention processor of diffusers, for self-attention in transformer blocks, that leaves rows to `attend`."""

    def __init__(self, attend: Attend) -> None:
        self.attend = attend

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Hidden states (R,L,D) → (R,L,D)."""
        projected = (layer(hidden_states) for layer in (attn.to_q, attn.to_k, attn.to_v))
        attended = self.attend(*(part.unflatten(2, (attn.heads, -1)).transpose(1, 2) for part in projected))
        output: Tensor = attended.transpose(1, 2).flatten(2)
        for layer in attn.to_out:
            output = layer(output)
        return output


@contextmanager
def placed_attention(sites: Sequence[Site], attend: Attend) -> Iterator[None]:
    """Inside the block the attention at `sites` is `attend`'s, afterwards what it was."""
    modules: list[Any] = [site.module for site in sites]
    processors = [module.processor for module in modules]
    try:
        for module in modules:
            module.set_processor(SelfAttention(attend))
        yield
    finally:
        for module, processor in zip(modules, processors, strict=True):
            module.set_processor(processor)


def _find_block(site: Site) -> int:
    """Index of the UNet's up block that a site of the decoder lies in."""
    return int(site.name.split(".")[1])
