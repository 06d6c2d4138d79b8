"""Sampling guided by imagery: in the pipeline with a style in it, and before a fit with the bare base."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from acfun.base import Base, encode_prompt
from acfun.base.vae_features import decode_latents, encode_latents
from acfun.conditioning import predict_guided
from acfun.imagery import FaceTargets, Imagery
from acfun.portrait import Portrait
from acfun.sampling import OnStep, build_guidance, denoise, find_noise, select_timesteps

WEIGHTS = {"statistics": 0.2, "structure": 4.0, "shading": 4.0, "identity": 2.0}
# Large moves while predictions still smooth them, many small ones at the end: large ones there are grain.
MOVE, LAST_MOVE, NUM_LAST_MOVES = 0.1, 0.01, 12
NUM_STEPS = 1
BARE_PROMPT = "a photo"
PAIR_STEPS, PAIR_STRENGTH = 20, 0.4


def build_imagery_guidance(
    imagery: Imagery,
    faces: Sequence[FaceTargets],
    scheduler: Any,
    timesteps: Tensor,
    scales: Mapping[str, float] | None = None,
    num_steps: int = NUM_STEPS,
) -> OnStep:
    """For `denoise`: moves after each step towards a style's imagery of the faces.

    Args:
        imagery: of the style.
        faces: those that are painted.
        scheduler: after `set_timesteps`.
        timesteps: (S,) those that `denoise` will run.
        scales: factors of some of the `WEIGHTS`.
        num_steps: moves after each sampling step, and `NUM_LAST_MOVES` times as many after the last.
    """
    weights = {name: weight * (scales or {}).get(name, 1.0) for name, weight in WEIGHTS.items()}
    return build_guidance(
        imagery.build_measure(faces, weights, torch.Generator().manual_seed(0)),
        scheduler,
        timesteps,
        move=MOVE,
        num_moves=num_steps,
        last_move=LAST_MOVE,
        num_last_moves=NUM_LAST_MOVES * num_steps,
    )


@torch.no_grad()
def paint_pairs(base: Base, imagery: Imagery, portraits: Sequence[Portrait], faces: Sequence[FaceTargets]) -> Tensor:
    """Latents (F,C,h,w) of portraits as the bare base paints them under guidance: pseudo-pairs to the photographs."""
    embeds = encode_prompt(base, [BARE_PROMPT]).prompt_embeds

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        return predict_guided(base.unet, latents, timestep, embeds, 1.0)

    painted = []
    timesteps = select_timesteps(base.scheduler, PAIR_STEPS, PAIR_STRENGTH, base.device)
    for portrait, face in zip(portraits, faces, strict=True):
        clean = encode_latents(base.vae, imagery.sketch(portrait, face))
        noise = find_noise(predict, base.scheduler, clean, timesteps)
        noised = base.scheduler.add_noise(clean, noise, timesteps[:1])
        guidance = build_imagery_guidance(imagery, [face], base.scheduler, timesteps)
        latents = denoise(predict, base.scheduler, noised, timesteps, on_steps=[guidance])
        finished = imagery.finish(decode_latents(base.vae, latents).clamp(-1, 1), face)
        painted.append(encode_latents(base.vae, finished))
    return torch.cat(painted)
