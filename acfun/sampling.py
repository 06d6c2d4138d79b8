"""Denoising and inverting latents with any noise scheduler of diffusers: one loop for all that samples."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from diffusers import DDIMScheduler, PNDMScheduler
from torch import Tensor

from acfun.losses import predict_original_sample

Predict = Callable[[Tensor, Tensor], Tensor]
"""(latents (B,C,h,w), timestep ()) → the UNet's prediction (B,C,h,w), guidance included."""

OnStep = Callable[[int, Tensor, Tensor], Tensor]
"""(index, timestep (), latents after the step (B,C,h,w)) → latents to go on with."""

Measure = Callable[[Tensor], Tensor]
"""Clean latents (B,C,h,w) → how far they are from what is wanted (), a mean over the batch, differentiable."""

# Below 1 − ᾱ = 1e-4 noise cannot be told from float32's own, and below ᾱ = 1e-4 nothing of a picture is left.
_MARGIN = 1e-4


def allow_late_start(scheduler: Any) -> Any:
    """The scheduler; in place of PNDM, whose formulas need a schedule's first steps, DDIM with its noise schedule."""
    if isinstance(scheduler, PNDMScheduler):
        return DDIMScheduler.from_config(scheduler.config, clip_sample=False)
    return scheduler


def select_timesteps(scheduler: Any, num_inference_steps: int, strength: float, device: torch.device) -> Tensor:
    """Timesteps (S,) of a run that starts from a picture noised to `strength`; strength 1 is the whole schedule.

    Raises:
        ValueError: strength outside (0, 1], or so low that no step is left.
    """
    if not 0 < strength <= 1:
        raise ValueError(
            f"strength {strength} is outside (0, 1]: 1 starts from noise, a small value stays near the photo"
        )
    count = round(num_inference_steps * strength)
    if count < 1:
        raise ValueError(
            f"strength {strength} of {num_inference_steps} steps leaves none; raise strength or num_inference_steps"
        )
    scheduler.set_timesteps(num_inference_steps, device=device)
    # Counted from the front: the last step of a schedule of order 2 has one timestep, and PNDM has one too many.
    first = (num_inference_steps - count) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)  # a timestep that stands there twice does not say which is meant
    timesteps: Tensor = scheduler.timesteps[first:]
    return timesteps


def denoise(
    predict: Predict,
    scheduler: Any,
    latents: Tensor,
    timesteps: Iterable[Tensor],
    *,
    step_kwargs: dict[str, Any] | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Run the scheduler over `timesteps`; returns latents (B,C,h,w).

    Args:
        predict: the UNet with its conditions.
        scheduler: after `set_timesteps`.
        latents: (B,C,h,w) at the noise level of the first timestep.
        timesteps: () each, of those that were set; the run ends where they do.
        step_kwargs: passed to `scheduler.step` (generator, eta).
        on_step: called after each step.
    """
    for index, timestep in enumerate(timesteps):
        noisy = scheduler.scale_model_input(latents, timestep)
        model_pred = predict(noisy, timestep)
        latents = scheduler.step(model_pred, timestep, latents, **(step_kwargs or {})).prev_sample
        if on_step is not None:
            latents = on_step(index, timestep, latents)
    return latents


def invert(predict: Predict, scheduler: Any, latents: Tensor, timesteps: Tensor, *, num_refinements: int = 1) -> Tensor:
    """Noise latents deterministically, so that `denoise` with the same conditions returns to them.

    DDIM inversion: Song et al. 2021, https://arxiv.org/abs/2010.02502, eq. 14 run backwards. The noise ε̂(z_t, t) of a
    step is that of latents not known yet: it is predicted from those before the step, then again from the outcome.
    Without that refinement 30 steps lose a tenth of a picture's contrast.

    Args:
        predict: the UNet with the conditions that describe the picture as it is.
        scheduler: with `alphas_cumprod` and a prediction type.
        latents: (B,C,h,w) clean.
        timesteps: (S,) descending, those that `denoise` will run.
        num_refinements: how often each step is predicted again.

    Returns:
        (B,C,h,w) at the noise level of the first timestep.
    """
    alpha_from = latents.new_ones(())
    for timestep in timesteps.flip(0):
        alpha = _find_level(scheduler, timestep, latents).clamp(_MARGIN, 1 - _MARGIN)
        alphas, outcome = alpha.expand(len(latents)), latents
        for _ in range(1 + num_refinements):
            model_pred = predict(outcome, timestep)
            clean = predict_original_sample(model_pred, outcome, alphas, scheduler.config.prediction_type)
            noise = (outcome - alpha.sqrt() * clean) / (1 - alpha).sqrt()
            clean_from = (latents - (1 - alpha_from).sqrt() * noise) / alpha_from.sqrt()
            outcome = alpha.sqrt() * clean_from + (1 - alpha).sqrt() * noise
        latents, alpha_from = outcome, alpha
    return latents


def find_noise(predict: Predict, scheduler: Any, latents: Tensor, timesteps: Tensor) -> Tensor:
    """The noise (B,C,h,w) that `add_noise` needs for `denoise` to return to `latents`; arguments as in `invert`."""
    inverted = invert(predict, scheduler, latents, timesteps)
    alpha = _find_level(scheduler, timesteps[0], latents)
    return (inverted - alpha.sqrt() * latents) / (1 - alpha).sqrt()


def _find_level(scheduler: Any, timestep: Tensor, latents: Tensor) -> Tensor:
    """ᾱ () of a timestep, which some schedulers place between two."""
    alpha: Tensor = scheduler.alphas_cumprod[timestep.round().long().cpu()].to(latents)
    return alpha


def descend(latents: Tensor, measure: Measure, num_moves: int, length: float) -> Tensor:
    """Clean latents (B,C,h,w) moved down a measure.

    The backward part of universal guidance (Bansal et al. 2023, https://arxiv.org/abs/2302.07121), at the end of
    sampling alone. The gradient of each sample has root mean square 1 before it is scaled: with a sign or a moment for
    every latent, as Adam has them, faint gradients turn into grain.

    Args:
        latents: (B,C,h,w).
        measure: what to descend on.
        num_moves: how often.
        length: root mean square of a move, in units of the sample's own deviation.
    """
    deviation = latents.flatten(1).std(dim=1).view(-1, 1, 1, 1)
    for _ in range(num_moves):
        with torch.enable_grad():
            latents = latents.detach().requires_grad_()
            (grad,) = torch.autograd.grad(measure(latents), latents)
        rms = grad.flatten(1).square().mean(dim=1).sqrt().clamp(min=1e-12).view(-1, 1, 1, 1)
        latents = latents.detach() - length * deviation * grad / rms
    return latents
