"""What UNet and identity adapter share in training: noise schedule, batches, loss, and pictures to look at.

v-prediction (Salimans & Ho 2022, https://arxiv.org/abs/2202.00512), min-SNR weights (Hang et al. 2023,
https://arxiv.org/abs/2303.09556), zero terminal SNR (Lin et al. 2024, https://arxiv.org/abs/2305.08891).
"""

from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor

from acfun.base.conditions import Conditions, predict
from acfun.base.vae_features import decode_latents
from acfun.conditioning import predict_guided
from acfun.sampling import denoise, select_timesteps
from train.latents import Latents


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule with zero terminal SNR, for v-prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # without effect at this spacing, but Stable Diffusion's pipelines ask for it
    )


def draw_batch(
    data: Latents,
    empty_ids: Tensor,
    batch_size: int,
    caption_dropout: float,
    timestep_power: float,
    scheduler: DDIMScheduler,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Indices (B,) of random rows, token ids (B,T) of their captions, some of them empty, noise, and timesteps (B,)."""
    indices = torch.randint(len(data.latents), (batch_size,), generator=generator)
    noise = torch.randn((batch_size, *data.latents.shape[1:]), generator=generator)
    levels = torch.rand(batch_size, generator=generator) ** timestep_power
    timesteps = (levels * len(scheduler.alphas_cumprod)).long()
    ids = data.input_ids[indices].clone()
    ids[torch.rand(batch_size, generator=generator) < caption_dropout] = empty_ids[0]
    return indices, ids, noise, timesteps


def compute_velocity_loss(
    unet: Any,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    conditions: Conditions,
    alphas_cumprod: Tensor,
    snr_gamma: float,
) -> Tensor:
    """min-SNR weighted squared error of the velocity, mean over the batch, ().

    An error of the velocity is SNR + 1 times the one of x̂0, so the paper's min(SNR, γ) becomes
    (min(SNR, γ) + 1) / (SNR + 1); without that one, the pure noise that sampling starts from is never trained on.

    Args:
        unet: predicts velocities.
        latents: (B,C,h,w) clean.
        noise: (B,C,h,w).
        timesteps: (B,).
        conditions: B rows.
        alphas_cumprod: of all timesteps.
        snr_gamma: γ.
    """
    alphas = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    signal, sigma = alphas.sqrt(), (1 - alphas).sqrt()
    velocity = signal * noise - sigma * latents
    model_pred = predict(unet, signal * latents + sigma * noise, timesteps, conditions)
    snr = (alphas / (1 - alphas)).flatten()
    weights = (snr.clamp(max=snr_gamma) + 1) / (snr + 1)
    return (weights * (model_pred.float() - velocity).square().flatten(1).mean(1)).mean()


@torch.no_grad()
def sample_pictures(
    unet: Any, vae: AutoencoderKL, scheduler: DDIMScheduler, conditions: Conditions, guidance_scale: float, steps: int
) -> Tensor:
    """Pictures (B,3,H,W) in [-1,1], on the CPU, always from the same noise.

    Args:
        unet: predicts velocities.
        vae: decodes.
        scheduler: of `build_scheduler`.
        conditions: 2B rows, those without a prompt first.
        guidance_scale: classifier-free guidance.
        steps: of the schedule.
    """
    device, count = conditions.prompt_embeds.device, len(conditions) // 2
    shape = (count, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)

    def predict_velocity(latents: Tensor, timestep: Tensor) -> Tensor:
        return predict_guided(unet, latents, timestep, conditions, guidance_scale)

    latents = denoise(predict_velocity, scheduler, noise, select_timesteps(scheduler, steps, 1.0, device))
    return decode_latents(vae, latents).clamp(-1, 1).cpu()
