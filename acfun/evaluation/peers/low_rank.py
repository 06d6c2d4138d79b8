"""Peers that learn a style as low-rank updates of the UNet's attention (LoRA, through PEFT).

The recipes are those of the papers, and for DreamBooth that of diffusers' example script; the code is our own. What
differs from them is the length, and the rate that goes with it, which suit a small base on a CPU.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from acfun.base import Base
from acfun.cfun import ConcreteFusion, Site, find_attention_blocks, place
from acfun.cfun.lora import ATTENTION_LORA, PROJECTIONS
from acfun.cfun.sites import find_children
from acfun.devices import fork_seed
from acfun.errors import ConfigError
from acfun.evaluation.contract import Painter
from acfun.evaluation.peers.editing import PROMPT, build_prediction, edit, encode_text
from acfun.evaluation.peers.training import Recipe, train
from acfun.evaluation.suites import Scene

RARE_WORD = "sks"
STYLED_PROMPT = f"{PROMPT} in {RARE_WORD} style"
DREAMBOOTH_RANK, BLOCK_RANK = 4, 64
DREAMBOOTH_PROMPT, BLOCK_PROMPT = f"a painting in {RARE_WORD} style", f"a {RARE_WORD}"
DREAMBOOTH_RECIPE = Recipe(num_steps=200, learning_rate=3e-3)
BLOCK_RECIPE = Recipe(num_steps=200, learning_rate=2e-3)


def tune_attention(base: Base, scene: Scene, seed: int, recipe: Recipe | None = None) -> Painter:
    """DreamBooth (Ruiz et al. 2023, https://arxiv.org/abs/2208.12242) with LoRA in every attention, image to image.

    A prompt with a rare word stands for the picture; no pictures of its class are kept, as in the recipe for LoRA.
    """
    sites = find_children(find_attention_blocks(base.unet), PROJECTIONS)
    tensors = learn_update(base, scene, sites, DREAMBOOTH_RANK, DREAMBOOTH_PROMPT, recipe or DREAMBOOTH_RECIPE, seed)
    return _build_painter(base, scene, sites, DREAMBOOTH_RANK, tensors, seed)


def separate_blocks(base: Base, scene: Scene, seed: int) -> Painter:
    """B-LoRA (Frenkel et al. 2024, https://arxiv.org/abs/2403.14572): two blocks learn the picture, one is kept.

    In SDXL the authors find the block for content right before the block for style, early in the decoder, where its few
    blocks with attention lie. Here the style block is the decoder's last one, its finest, and the content block the one
    before it. Both learn the picture as "a [v]"; only the style block's update is used, image to image.
    """
    content, style = find_block_pair(base)
    tensors = learn_update(base, scene, [*content, *style], BLOCK_RANK, BLOCK_PROMPT, BLOCK_RECIPE, seed)
    prefixes = tuple(f"{site.name}." for site in style)
    kept = {name: tensor for name, tensor in tensors.items() if name.startswith(prefixes)}
    return _build_painter(base, scene, style, BLOCK_RANK, kept, seed)


def find_block_pair(base: Base) -> tuple[list[Site], list[Site]]:
    """Projections in the decoder's last blocks with attention, the last but one (content) and the last (style).

    Raises:
        ConfigError: there are fewer than two.
    """
    blocks: dict[str, list[Site]] = {}
    for site in find_attention_blocks(base.unet, ("decoder",)):
        blocks.setdefault(site.name.partition(".transformer_blocks.")[0], []).append(site)
    if len(blocks) < 2:
        raise ConfigError(f"B-LoRA needs two attention blocks in the UNet's decoder, this one has {len(blocks)}")
    content, style = list(blocks.values())[-2:]
    return find_children(content, PROJECTIONS), find_children(style, PROJECTIONS)


def learn_update(
    base: Base, scene: Scene, sites: list[Site], rank: int, prompt: str, recipe: Recipe, seed: int
) -> dict[str, Tensor]:
    """Low-rank updates of linear layers, trained on the scene's style image under one prompt, by name."""
    prompt_embeds = encode_text(base, prompt)
    generator = torch.Generator().manual_seed(seed)
    with fork_seed(seed, base.device), placed_update(base, sites, rank) as update:
        parameters = [parameter for _, parameter in update.named_parameters()]
        train(base, parameters, scene, lambda steps, _: prompt_embeds.expand(len(steps), -1, -1), recipe, generator)
        return update.state_dict()


@contextmanager
def placed_update(base: Base, sites: list[Site], rank: int) -> Iterator[ConcreteFusion]:
    """Fresh updates in the base's UNet, which is bit-equal to what it was afterwards.

    Raises:
        ConfigError: another adapter stands there.
    """
    update = place(base.unet, ATTENTION_LORA, sites, rank)
    try:
        yield update
    finally:
        update.eject()


def _build_painter(
    base: Base, scene: Scene, sites: list[Site], rank: int, tensors: Mapping[str, Tensor], seed: int
) -> Painter:
    prompt_embeds = encode_text(base, STYLED_PROMPT)
    predict = build_prediction(base, lambda timestep: prompt_embeds)

    def paint(setting: float) -> Tensor:
        with fork_seed(seed, base.device), placed_update(base, sites, rank) as update:
            update.load_state_dict(tensors)
            return edit(base, scene.faces, setting, predict, seed)

    return paint
