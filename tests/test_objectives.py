"""What a fit minimises: names, gradients, and the formulas that set the objectives apart."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from acfun.base import Base, tokenize
from acfun.config import FitConfig
from acfun.fit_data import FitData
from acfun.fit_prepare import prepare
from acfun.fit_setup import build_model
from acfun.losses import compute_timestep_weights, predict_original_sample, total_loss
from acfun.objectives import OBJECTIVES, TIME_SPLIT_CENTRE, TIME_SPLIT_WIDTH, Batch
from tests.fitting import make_config
from tests.tiny import LATENT_CHANNELS, LATENT_SIZE, make_style_embeds, make_tiny_base

ALL = frozenset({"style", "face", "denoise"})


@pytest.fixture
def base() -> Base:
    return make_tiny_base()


def make_data(config: FitConfig, base: Base) -> FitData:
    """Encoded pictures, and pairs as those that the default objective learns from."""
    data = prepare(config, base, torch.Generator().manual_seed(0))
    return replace(data, pair_latents=data.face_latents.flip(0) + 0.5)


def imagery_of(data: FitData) -> Tensor:
    return data.face_latents.clone()


def make_pred(batch: Batch) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return (batch.latents + 0.1 * torch.randn(batch.latents.shape, generator=generator)).requires_grad_()


def alphas_of(batch: Batch, base: Base) -> Tensor:
    alphas: Tensor = base.scheduler.alphas_cumprod[batch.timesteps]
    return alphas


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses_are_those_that_have_a_weight(objective: str, base: Base, tmp_path: Path) -> None:
    config = make_config(tmp_path, objective=objective)
    data = make_data(config, base)
    batch = OBJECTIVES[objective].sample(data, 2, torch.Generator().manual_seed(0), ALL, imagery_of(data))
    names = config.loss_weights().keys()
    pred, alphas = make_pred(batch), alphas_of(batch, base)
    losses = OBJECTIVES[objective].compute(data, batch, pred, alphas, frozenset(names))
    assert losses.keys() == names
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    total_loss(losses, config.loss_weights()).backward()
    assert pred.grad is not None
    assert pred.grad.abs().sum() > 0
    for name in names:
        alone = OBJECTIVES[objective].compute(data, batch, pred, alphas, frozenset({name}))
        assert alone.keys() == {name}
        torch.testing.assert_close(alone[name], losses[name])


def test_some_faces_start_from_the_imagery_where_the_objective_says_so(base: Base, tmp_path: Path) -> None:
    data = make_data(make_config(tmp_path), base)
    painted = imagery_of(data) + 1
    for objective in OBJECTIVES.values():
        batch = objective.sample(data, 40, torch.Generator().manual_seed(0), frozenset(), painted)
        is_painted = [torch.equal(row, painted[index]) for row, index in zip(batch.latents, batch.indices, strict=True)]
        is_photo = [torch.equal(row, data.face_latents[i]) for row, i in zip(batch.latents, batch.indices, strict=True)]
        assert all(one != other for one, other in zip(is_painted, is_photo, strict=True))
        assert sum(is_painted) / 40 == pytest.approx(objective.imagery_share, abs=0.2)


def test_style_rows_are_drawn_only_for_a_loss_on_them(base: Base, tmp_path: Path) -> None:
    data = make_data(make_config(tmp_path), base)
    for name, objective in OBJECTIVES.items():
        rows = [
            len(objective.sample(data, 2, torch.Generator().manual_seed(0), names, imagery_of(data)).latents)
            for names in (frozenset({"identity"}), objective.style_losses)
        ]
        assert rows == [2, 2 if name == "shared" else 4]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_reach_only_what_is_trained(objective: str, base: Base, tmp_path: Path) -> None:
    config = make_config(tmp_path, objective=objective)
    data = make_data(config, base)
    model = build_model(config, base, make_style_embeds(), torch.Generator().manual_seed(0))
    batch = OBJECTIVES[objective].sample(data, 1, torch.Generator().manual_seed(0), ALL, imagery_of(data))
    assert model.token is not None
    input_ids = tokenize(model.token.tokenizer, config.prompt()).expand(len(batch.latents), -1)
    model_pred = model(batch.noise, batch.timesteps, input_ids=input_ids)
    alphas = alphas_of(batch, base)
    pred = predict_original_sample(model_pred, batch.noise, alphas, "v_prediction")
    losses = OBJECTIVES[objective].compute(data, batch, pred, alphas, frozenset(config.loss_weights()))
    total_loss(losses, config.loss_weights()).backward()
    assert all(parameter.grad is not None for parameter in model.trainable_parameters())
    trained = {id(parameter) for parameter in model.trainable_parameters()}
    frozen = [p for module in (base.unet, base.text_encoder, base.vae) for p in module.parameters()]
    assert all(parameter.grad is None for parameter in frozen if id(parameter) not in trained)
    model.eject()


def test_batches_hold_faces_first_and_noise_where_it_belongs(base: Base, tmp_path: Path) -> None:
    data = make_data(make_config(tmp_path), base)
    objective = OBJECTIVES["imagery"]
    batch = objective.sample(data, 3, torch.Generator().manual_seed(0), ALL, imagery_of(data))
    assert batch.latents.shape == batch.noise.shape == (6, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
    assert all(torch.equal(batch.latents[row], data.face_latents[index]) for row, index in enumerate(batch.indices))
    assert all(any(torch.equal(row, style) for style in data.style_latents) for row in batch.latents[3:])
    draws = [objective.sample(data, 20, torch.Generator().manual_seed(s), ALL, imagery_of(data)) for s in range(3)]
    many = torch.cat([draw.timesteps for draw in draws])
    faces, styles = many.view(3, 2, 20).unbind(1)
    assert 150 <= faces.min() < faces.max() < 800
    assert 0 <= styles.min() < styles.max() < 400
    again = objective.sample(data, 3, torch.Generator().manual_seed(0), ALL, imagery_of(data))
    assert torch.equal(again.noise, batch.noise)
    assert torch.equal(again.directions, batch.directions)


def test_the_shared_optimum_is_the_weighted_mean_of_both_pictures(base: Base, tmp_path: Path) -> None:
    """Why the printed objective cannot blend: its best answer is a double exposure."""
    config = make_config(tmp_path, objective="shared", style_weight=0.8, face_weight=1.0, identity_weight=0.0)
    data, weights = make_data(config, base), config.loss_weights()
    batch = OBJECTIVES["shared"].sample(data, 2, torch.Generator().manual_seed(0), ALL, imagery_of(data))
    mean = (0.8 * data.style_latents[:1] + 1.0 * batch.latents) / 1.8
    alphas, names = alphas_of(batch, base), frozenset(weights)

    def compute(pred: Tensor) -> Tensor:
        return total_loss(OBJECTIVES["shared"].compute(data, batch, pred, alphas, names), weights)

    pred = mean.clone().requires_grad_()
    (grad,) = torch.autograd.grad(compute(pred), pred)
    torch.testing.assert_close(grad, torch.zeros_like(grad), atol=1e-7, rtol=0)
    for other in (batch.latents, data.style_latents[:1].expand_as(mean), mean + 0.1):
        assert compute(other) > compute(mean)


def test_two_targets_are_measured_each_by_itself(base: Base, tmp_path: Path) -> None:
    data = make_data(make_config(tmp_path), base)
    batch = OBJECTIVES["two_target"].sample(data, 2, torch.Generator().manual_seed(0), ALL, imagery_of(data))
    alphas, names = alphas_of(batch, base), frozenset({"face", "style"})
    exact = OBJECTIVES["two_target"].compute(data, batch, batch.latents, alphas, names)
    assert exact == {"style": 0, "face": 0}
    wrong_style = torch.cat([batch.latents[:2], batch.latents[2:] + 1])
    losses = OBJECTIVES["two_target"].compute(data, batch, wrong_style, alphas, names)
    assert losses["face"] == 0
    torch.testing.assert_close(losses["style"], compute_timestep_weights(alphas[2:]).mean())


@pytest.mark.parametrize("timestep", [50, 450, 900])
def test_time_split_weighs_faces_by_noise_and_styles_by_its_absence(timestep: int, base: Base, tmp_path: Path) -> None:
    data = make_data(make_config(tmp_path), base)
    batch = OBJECTIVES["time_split"].sample(data, 1, torch.Generator().manual_seed(0), ALL, imagery_of(data))
    batch = replace(batch, timesteps=torch.full((2,), timestep))
    alphas, names = alphas_of(batch, base), frozenset({"face", "style"})
    split = OBJECTIVES["time_split"].compute(data, batch, batch.latents + 1, alphas, names)
    whole = OBJECTIVES["two_target"].compute(data, batch, batch.latents + 1, alphas, names)
    share = torch.sigmoid(torch.tensor((timestep / 1000 - TIME_SPLIT_CENTRE) / TIME_SPLIT_WIDTH))
    torch.testing.assert_close(split["face"], share * whole["face"])
    torch.testing.assert_close(split["style"], (1 - share) * whole["style"])


def test_imagery_is_content_with_the_style_image_itself(base: Base, tmp_path: Path) -> None:
    """Statistics of the painting are matched by the painting; its denoising by its latents."""
    config = make_config(tmp_path, face_paths=())
    config = replace(config, face_paths=(config.style_path,), framing="whole")
    data = make_data(config, base)
    batch = OBJECTIVES["imagery"].sample(data, 1, torch.Generator().manual_seed(0), ALL, imagery_of(data))
    names = frozenset({"statistics", "gram", "structure", "denoise"})
    losses = OBJECTIVES["imagery"].compute(data, batch, batch.latents, alphas_of(batch, base), names)
    assert losses["denoise"] == 0
    moved = OBJECTIVES["imagery"].compute(data, batch, batch.latents + 2, alphas_of(batch, base), names)
    assert all(moved[name] > 0 for name in ("denoise", "structure", "gram", "statistics"))


def test_pseudo_pairs_are_what_is_predicted_from_photograph_and_pair(base: Base, tmp_path: Path) -> None:
    data = make_data(make_config(tmp_path), base)
    assert data.pair_latents is not None
    objective, names = OBJECTIVES["pseudo_pair"], frozenset({"pair", "denoise"})
    batch = objective.sample(data, 2, torch.Generator().manual_seed(0), names, data.pair_latents)
    exact = torch.cat([data.pair_latents[list(batch.indices)], batch.latents[2:]])
    alphas = alphas_of(batch, base)
    assert objective.compute(data, batch, exact, alphas, names) == {"pair": 0, "denoise": 0}
    off = objective.compute(data, batch, exact + 1, alphas, names)
    torch.testing.assert_close(off["pair"], compute_timestep_weights(alphas[:2]).mean())


def test_pairs_are_painted_before_the_fit_where_the_objective_learns_from_them(base: Base, tmp_path: Path) -> None:
    config = make_config(tmp_path, objective="pseudo_pair")
    data = prepare(config, base, torch.Generator().manual_seed(0))
    assert data.pair_latents is not None
    assert data.pair_latents.shape == data.face_latents.shape
    again, other = (
        prepare(replace(config, style_path=path), base, torch.Generator().manual_seed(0)).pair_latents
        for path in (config.style_path, config.face_paths[1])
    )
    assert again is not None
    assert other is not None
    assert torch.equal(again, data.pair_latents)
    assert not torch.allclose(other, data.pair_latents, atol=0.01)
    assert prepare(make_config(tmp_path), base, torch.Generator()).pair_latents is None
