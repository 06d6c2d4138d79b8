"""The sampling loop and its inversion, on a case whose answer is known: data that are normally distributed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
)
from torch import Tensor

from acfun.sampling import Predict, allow_late_start, denoise, descend, find_noise, invert, select_timesteps

CPU = torch.device("cpu")
DEVIATION = 0.5
NUMPY_IN_DIFFUSERS = "ignore:__array_:DeprecationWarning"
SCHEDULE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def build_ddim(prediction_type: str = "epsilon", **options: Any) -> DDIMScheduler:
    return DDIMScheduler(**SCHEDULE, prediction_type=prediction_type, clip_sample=False, **options)


def build_predict(scheduler: Any) -> Predict:
    """The best prediction for latents of mean 0 and standard deviation `DEVIATION`: ε̂ = σ z / (ᾱ s² + σ²)."""
    alphas_cumprod, prediction_type = scheduler.alphas_cumprod, scheduler.config.prediction_type

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        alpha = alphas_cumprod[timestep.round().long()]
        sigma = (1 - alpha).sqrt()
        noise = sigma * latents / (alpha * DEVIATION**2 + sigma**2)
        clean = (latents - sigma * noise) / alpha.sqrt()
        predictions = {"epsilon": noise, "v_prediction": alpha.sqrt() * noise - sigma * clean, "sample": clean}
        prediction: Tensor = predictions[prediction_type]
        return prediction

    return predict


def make_latents() -> Tensor:
    return DEVIATION * torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(("strength", "count"), [(1.0, 10), (0.5, 5), (0.26, 3), (0.1, 1)])
def test_strength_takes_the_last_part_of_the_schedule(strength: float, count: int) -> None:
    scheduler = build_ddim()
    timesteps = select_timesteps(scheduler, 10, strength, CPU)
    assert torch.equal(timesteps, scheduler.timesteps[10 - count :])


@pytest.mark.filterwarnings(NUMPY_IN_DIFFUSERS)
@pytest.mark.parametrize("build", [HeunDiscreteScheduler, KDPM2DiscreteScheduler], ids=lambda build: build.__name__)
def test_a_second_order_scheduler_keeps_whole_steps(build: Callable[..., Any]) -> None:
    """Two timesteps a step but for the last one, each pair beginning where a scheduler of order 1 has its step."""
    scheduler, plain = build(**SCHEDULE), EulerDiscreteScheduler(**SCHEDULE)
    timesteps, expected = (select_timesteps(each, 10, 0.5, CPU) for each in (scheduler, plain))
    assert len(timesteps) == 2 * 5 - 1
    torch.testing.assert_close(timesteps[::2], expected.to(timesteps))
    assert scheduler.begin_index == 10


@pytest.mark.filterwarnings(NUMPY_IN_DIFFUSERS)
@pytest.mark.parametrize("skip_prk_steps", [True, False])
def test_the_whole_schedule_is_all_timesteps(skip_prk_steps: bool) -> None:
    scheduler = PNDMScheduler(**SCHEDULE, skip_prk_steps=skip_prk_steps)
    timesteps = select_timesteps(scheduler, 10, 1.0, CPU)
    assert len(timesteps) > 10
    assert torch.equal(timesteps, scheduler.timesteps)


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.01, 0.01])
def test_a_strength_without_meaning_is_refused(strength: float) -> None:
    scheduler = build_ddim()
    with pytest.raises(ValueError, match=f"strength {strength}"):
        select_timesteps(scheduler, 10, strength, CPU)
    assert scheduler.num_inference_steps is None


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_inversion_leads_back(prediction_type: str) -> None:
    scheduler = build_ddim(prediction_type)
    predict, latents = build_predict(scheduler), make_latents()
    timesteps = select_timesteps(scheduler, 50, 0.6, CPU)
    inverted = invert(predict, scheduler, latents, timesteps)
    assert relative_error(inverted, latents) > 0.3
    assert relative_error(denoise(predict, scheduler, inverted, timesteps), latents) < 0.01
    rough = invert(predict, scheduler, latents, timesteps, num_refinements=0)
    assert relative_error(denoise(predict, scheduler, rough, timesteps), latents) > 0.02


def test_inversion_follows_the_known_flow() -> None:
    """The deterministic flow of normal data only scales: to the standard deviation at that noise level."""
    scheduler = build_ddim()
    timesteps = select_timesteps(scheduler, 200, 0.5, CPU)
    latents, alpha = make_latents(), scheduler.alphas_cumprod[timesteps[0]]
    inverted = invert(build_predict(scheduler), scheduler, latents, timesteps)
    expected = latents * (alpha * DEVIATION**2 + 1 - alpha).sqrt() / DEVIATION
    assert relative_error(inverted, expected) < 0.02


def test_inversion_survives_a_schedule_that_ends_in_pure_noise() -> None:
    scheduler = build_ddim("v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    timesteps = select_timesteps(scheduler, 20, 1.0, CPU)
    assert scheduler.alphas_cumprod[timesteps[0]] == 0

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        return torch.zeros_like(latents)

    assert invert(predict, scheduler, make_latents(), timesteps).isfinite().all()
    assert find_noise(predict, scheduler, make_latents(), timesteps).isfinite().all()


@pytest.mark.filterwarnings(NUMPY_IN_DIFFUSERS)
@pytest.mark.parametrize(
    ("build", "tolerance"),
    [
        (DDIMScheduler, 0.05),
        (PNDMScheduler, 0.05),
        (EulerDiscreteScheduler, 0.05),
        (DPMSolverMultistepScheduler, 0.05),
        (KDPM2DiscreteScheduler, 0.05),
        (HeunDiscreteScheduler, 0.06),  # more exact than the inversion, whose error it does not undo
    ],
    ids=str,
)
def test_found_noise_serves_every_scheduler(build: Callable[..., Any], tolerance: float) -> None:
    """Schedulers scale noisy latents in their own ways, but all of them can add noise."""
    scheduler, latents = allow_late_start(build(**SCHEDULE, prediction_type="epsilon")), make_latents()
    if isinstance(scheduler, DDIMScheduler):
        scheduler = build_ddim()
    predict = build_predict(build_ddim())
    timesteps = select_timesteps(scheduler, 50, 0.6, CPU)
    noise = find_noise(predict, build_ddim(), latents, timesteps)
    noised = scheduler.add_noise(latents, noise, timesteps[:1].repeat(len(latents)))
    assert relative_error(denoise(predict, scheduler, noised, timesteps), latents) < tolerance


def test_a_hook_is_called_after_every_step_and_changes_the_latents() -> None:
    scheduler = build_ddim()
    timesteps, calls = select_timesteps(scheduler, 10, 0.3, CPU), []

    def add(index: int, timestep: Tensor, latents: Tensor) -> Tensor:
        calls.append((index, int(timestep)))
        return latents + 1

    predict, latents = build_predict(scheduler), make_latents()
    result = denoise(predict, scheduler, latents, timesteps[:1], on_step=add)
    torch.testing.assert_close(result, denoise(predict, scheduler, latents, timesteps[:1]) + 1)
    denoise(predict, scheduler, latents, timesteps, on_step=add)
    assert calls[1:] == list(enumerate(timesteps.tolist()))


def test_step_arguments_reach_the_scheduler() -> None:
    scheduler = build_ddim()
    timesteps = select_timesteps(scheduler, 10, 0.5, CPU)

    def sample(seed: int) -> Tensor:
        step_kwargs = {"eta": 1.0, "generator": torch.Generator().manual_seed(seed)}
        return denoise(build_predict(scheduler), scheduler, make_latents(), timesteps, step_kwargs=step_kwargs)

    assert torch.equal(sample(0), sample(0))
    assert not torch.equal(sample(0), sample(1))


def test_a_descent_moves_each_sample_by_its_own_measure() -> None:
    latents, target = make_latents() * torch.tensor([1.0, 3.0])[:, None, None, None], 5.0
    moved = descend(latents, lambda part: (part - target).square().mean(), 3, 0.1)
    move = moved - latents
    assert (move * (target - latents) > 0).all()
    rms = move.flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(rms, 0.3 * latents.flatten(1).std(dim=1), rtol=0.02, atol=0)
    assert not moved.requires_grad
    assert torch.equal(descend(latents, torch.sum, 0, 0.1), latents)
