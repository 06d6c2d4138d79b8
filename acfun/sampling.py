"""Denoising and inverting latents with any noise scheduler of diffusers: one loop for previews, pipelines and sampled faces."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from acfun.losses import predict_original_sample

Predict = Callable[[Tensor, Tensor], Tensor]
"""(latents (B,C,h,w), timestep ()) → the UNet's prediction (B,C,h,w), guidance included."""


def select_timesteps(scheduler: Any, num_inference_steps: int, strength: float, device: torch.device) -> Tensor:
    """Timesteps (S,) of a run that starts from a picture noised to `strength`; strength 1 is the whole schedule.

    Raises:
        ValueError: strength outside (0, 1], or so low that no step is left.
    """
    if not 0 < strength <= 1:
        raise ValueError(
            f"strength {strength} is outside (0, 1]: 1 starts from noise, a small value stays near the photo"
        )
    scheduler.set_timesteps(num_inference_steps, device=device)
    count = min(round(num_inference_steps * strength), num_inference_steps)
    if count == 0:
        raise ValueError(
            f"strength {strength} of {num_inference_steps} steps leaves none; raise strength or num_inference_steps"
        )
    timesteps: Tensor = scheduler.timesteps[-count * scheduler.order :]
    return timesteps


def denoise(
    predict: Predict,
    scheduler: Any,
    latents: Tensor,
    timesteps: Tensor,
    *,
    step_kwargs: dict[str, Any] | None = None,
    on_step: Callable[[int, Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Run the scheduler over `timesteps`.

    Args:
        predict: the UNet with its conditions.
        scheduler: after `set_timesteps`.
        latents: (B,C,h,w) at the noise level of the first timestep.
        timesteps: (S,).
        step_kwargs: passed to `scheduler.step` (generator, eta).
        on_step: (index, timestep, latents) → latents, called after each step.
    """
    for index, timestep in enumerate(timesteps):
        model_pred = predict(scheduler.scale_model_input(latents, timestep), timestep)
        latents = scheduler.step(model_pred, timestep, latents, **(step_kwargs or {}), return_dict=False)[0]
        if on_step is not None:
            latents = on_step(index, timestep, latents)
    return latents


def invert(predict: Predict, scheduler: Any, latents: Tensor, timesteps: Tensor) -> Tensor:
    """Noise latents deterministically, so that `denoise` with the same conditions returns to them (DDIM inversion; Song et al. 2021, eq. 14 reversed).

    Args:
        predict: the UNet with the conditions that describe the picture as it is.
        scheduler: with `alphas_cumprod` and a prediction type.
        latents: (B,C,h,w) clean.
        timesteps: (S,) descending, those that `denoise` will run.
    """
    alphas_cumprod = scheduler.alphas_cumprod.to(latents.device, latents.dtype)
    prediction_type = scheduler.config.prediction_type
    previous = torch.zeros_like(timesteps[0])
    for timestep in timesteps.flip(0):
        alpha_from = alphas_cumprod[previous.long()] if previous > 0 else alphas_cumprod.new_ones(())
        alpha_to = alphas_cumprod[timestep.long()].clamp(min=1e-4)
        model_pred = predict(latents, previous if previous > 0 else timesteps[-1])
        clean = predict_original_sample(
            model_pred, latents, alpha_from.clamp(max=0.9999).expand(len(latents)), prediction_type
        )
        noise = (latents - alpha_from.sqrt() * clean) / (1 - alpha_from).clamp(min=1e-4).sqrt()
        latents = alpha_to.sqrt() * clean + (1 - alpha_to).sqrt() * noise
        previous = timestep
    return latents
