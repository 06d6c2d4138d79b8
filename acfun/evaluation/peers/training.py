"""The denoising loss on one picture, which every peer that learns its style minimises."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acfun.base import Base
from acfun.base.conditions import Conditions
from acfun.base.vae_features import encode_latents
from acfun.conditioning import predict_guided
from acfun.evaluation.suites import Scene
from acfun.portrait import cut_middle

EmbedBatch = Callable[[Tensor, torch.Generator], Tensor]
"""(timesteps (B,), source of chance) → prompt embeddings (B,T,D), with gradients."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast a peer learns.

    Attributes:
        num_steps: of the optimizer.
        learning_rate: of AdamW, constant.
        batch_size: pictures a step.
        is_mirrored: whether every other picture is mirrored.
        weight_decay: of AdamW.
    """

    num_steps: int
    learning_rate: float
    batch_size: int = 1
    is_mirrored: bool = False
    weight_decay: float = 1e-2


def cut_style(scene: Scene) -> Tensor:
    """The middle square of the scene's style image at the resolution of its faces, (1,3,S,S) in [-1,1]."""
    return cut_middle(scene.picture, scene.faces.shape[-1]).image


def train(
    base: Base,
    parameters: Iterable[nn.Parameter],
    scene: Scene,
    embed: EmbedBatch,
    recipe: Recipe,
    generator: torch.Generator,
) -> None:
    """Let `parameters` lower the denoising loss on the scene's style image; nothing else of the base gets gradients.

    Args:
        base: with the parameters in it, or in its prompts.
        parameters: float32.
        scene: whose style image is learned.
        embed: prompts.
        recipe: how long and how fast.
        generator: of everything drawn.
    """
    trained = list(parameters)
    style = cut_style(scene)
    pictures = encode_latents(base.vae, torch.cat([style, style.flip(-1)]) if recipe.is_mirrored else style)
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    num_timesteps = base.scheduler.config.num_train_timesteps
    for _ in range(recipe.num_steps):
        rows = torch.randint(len(pictures), (recipe.batch_size,), generator=generator)
        clean = pictures[rows.to(pictures.device)]
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        timesteps = torch.randint(num_timesteps, (recipe.batch_size,), generator=generator).to(clean.device)
        loss = compute_denoising_loss(base, clean, noise, timesteps, embed(timesteps, generator))
        for parameter, grad in zip(trained, torch.autograd.grad(loss, trained), strict=True):
            parameter.grad = grad
        optimizer.step()


def compute_denoising_loss(
    base: Base, latents: Tensor, noise: Tensor, timesteps: Tensor, prompt_embeds: Tensor
) -> Tensor:
    """‖prediction − target‖², a mean, in the base's own prediction type (Ho et al. 2020, arXiv:2006.11239).

    Args:
        base: its UNet and noise schedule.
        latents: (B,C,h,w) clean.
        noise: (B,C,h,w).
        timesteps: (B,).
        prompt_embeds: (B,T,D).
    """
    scheduler = base.scheduler
    targets = {"epsilon": noise, "sample": latents, "v_prediction": scheduler.get_velocity(latents, noise, timesteps)}
    noisy_latents = scheduler.add_noise(latents, noise, timesteps)
    model_pred = predict_guided(base.unet, noisy_latents, timesteps, Conditions(prompt_embeds=prompt_embeds), 1.0)
    return F.mse_loss(model_pred.float(), targets[scheduler.config.prediction_type])
