"""Image to image by a prompt (SDEdit), which most peers that learn a style end with."""

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from acfun.base import Base, encode_prompt
from acfun.base.conditions import Conditions
from acfun.base.vae_features import decode_latents, encode_latents
from acfun.conditioning import predict_guided
from acfun.errors import ConfigError
from acfun.evaluation.contract import Painter
from acfun.evaluation.suites import Scene
from acfun.losses import predict_original_sample
from acfun.sampling import Predict, denoise, select_timesteps

NUM_STEPS, GUIDANCE_SCALE = 20, 3.0
PROMPT = "a painting of a person"

Embed = Callable[[Tensor], Tensor]
"""Timestep () → prompt embeddings (1,T,D)."""

ChooseNoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(clean latents (B,C,h,w), random noise (B,C,h,w), first timestep ()) → the noise to start from (B,C,h,w)."""


def edit_by_text(base: Base, scene: Scene, seed: int) -> Painter:
    """Noise the face and denoise it as `PROMPT` (SDEdit, Meng et al. 2022, https://arxiv.org/abs/2108.01073)."""
    prompt_embeds = encode_text(base, PROMPT)
    predict = build_prediction(base, lambda timestep: prompt_embeds)
    return lambda setting: edit(base, scene.faces, setting, predict, seed)


@torch.no_grad()
def encode_text(base: Base, prompt: str) -> Tensor:
    """Prompt embeddings (1,T,D).

    Raises:
        ConfigError: the base has several text encoders; the recipes of the peers are for one.
    """
    if len(base.text_encoders) > 1:
        raise ConfigError(
            f"base {base.name!r} of family {base.family} has {len(base.text_encoders)} text encoders, and this method "
            "is there for bases with one: choose such a base, or other methods"
        )
    return encode_prompt(base, prompt).positive.prompt_embeds


def build_prediction(base: Base, embed: Embed, guidance_scale: float = GUIDANCE_SCALE) -> Predict:
    """The UNet under a prompt that may change with the timestep, guided away from the empty prompt."""
    empty = encode_text(base, "")

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        parts = [empty, embed(timestep)] if guidance_scale > 1 else [embed(timestep)]
        conditions = Conditions(prompt_embeds=torch.cat([part.expand(len(latents), -1, -1) for part in parts]))
        return predict_guided(base.unet, latents, timestep, conditions, guidance_scale)

    return predict


@torch.no_grad()
def edit(
    base: Base, faces: Tensor, strength: float, predict: Predict, seed: int, choose_noise: ChooseNoise | None = None
) -> Tensor:
    """Noise faces (B,3,S,S) in [-1,1] to `strength` in (0, 1] and denoise them with DDIM; the same shape.

    Args:
        base: its VAE and noise schedule.
        faces: to be painted.
        strength: share of the schedule.
        predict: the UNet with its conditions.
        seed: of the noise.
        choose_noise: puts other noise in place of the random one.

    Raises:
        ValueError: strength out of range.
    """
    scheduler = DDIMScheduler.from_config(base.scheduler.config)
    timesteps = select_timesteps(scheduler, NUM_STEPS, strength, base.device)
    latents = encode_latents(base.vae, faces)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
    if choose_noise is not None:
        noise = choose_noise(latents, noise, timesteps[0])
    noisy_latents = scheduler.add_noise(latents, noise, timesteps[:1].repeat(len(latents)))
    return decode_latents(base.vae, denoise(predict, scheduler, noisy_latents, timesteps)).clamp(-1, 1)


def build_stochastic_inversion(base: Base, predict: Predict) -> ChooseNoise:
    """The noise that the UNet sees in the noised picture (InST, Zhang et al. 2023, section 3.3).

    ε̂ = (z_t − √ᾱ x̂0) / √(1−ᾱ), with x̂0 predicted from z_t = √ᾱ z + √(1−ᾱ) ε.
    """

    def choose_noise(latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        alpha = base.scheduler.alphas_cumprod[int(timestep)].to(latents)
        noisy_latents = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        model_pred = predict(noisy_latents, timestep)
        alphas = alpha.expand(len(latents))
        clean = predict_original_sample(model_pred, noisy_latents, alphas, base.scheduler.config.prediction_type)
        predicted: Tensor = (noisy_latents - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        return predicted

    return choose_noise
