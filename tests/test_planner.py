"""Plans: what is predicted without weights is what a fit takes, and measures change nothing but that."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from acfun import planner
from acfun.base import Base, load_base
from acfun.base.architectures import build_random_base, describe_architecture, find_architecture
from acfun.config import FitConfig
from acfun.costs import CostMeter
from acfun.devices import has_bfloat16
from acfun.errors import BaseNotFoundError, ConfigError
from acfun.fit import FitLoop, fit_style
from acfun.fit_prepare import prepare
from acfun.fit_setup import MEASURES, ROOMY, Measures, build_model, list_measures, set_up
from acfun.images import load_image, save_image
from acfun.paths import mini_dir
from acfun.planner import GB, Plan, choose_plan, plan_tiers, predict
from tests.fitting import make_config
from tests.test_families import CHECKPOINTS
from tests.tiny import build_unet, make_style_embeds, make_tiny_base, save_tiny_checkpoint

CPU = torch.device("cpu")
RECOMPUTING = Measures(name="recomputing", recomputes=True)
STEP_TOLERANCE, PREPARE_TOLERANCE = 0.05, 0.25
SAMPLE = mini_dir() / "samples" / "style.png"


def make_plan(measures: Measures) -> Plan:
    return Plan(measures=measures, prepare_bytes=0, step_bytes=0, step_flops=0)


def sum_weights(base: Base) -> int:
    modules = (base.unet, base.vae, base.image_encoder, *base.text_encoders)
    return sum(p.numel() * p.element_size() for module in modules if module is not None for p in module.parameters())


def measure_step(config: FitConfig, base: Base, measures: Measures) -> tuple[int, int]:
    """Bytes and operations of the second step of a real fit, which has AdamW's moments."""
    from accelerate import Accelerator

    generator, held = torch.Generator().manual_seed(0), sum_weights(base)
    data = prepare(config, base, generator)
    with set_up(base, measures, base.device):
        model = build_model(config, base, make_style_embeds(), generator)
        trained = sum(parameter.numel() for parameter in model.trainable_parameters())
        try:
            loop = FitLoop(config, base, data, model, Accelerator(device_placement=False), generator)
            loop.take_step()
            with CostMeter() as meter:
                loop.take_step()
        finally:
            model.eject()
    return held + 4 * trained + 2 * 4 * trained + meter.peak, meter.flops


@pytest.mark.parametrize("measures", [ROOMY, RECOMPUTING], ids=lambda measures: measures.name)
@pytest.mark.parametrize("family", ["mini", "sdxl"])
def test_a_step_takes_what_was_predicted(family: str, measures: Measures, tmp_path: Path) -> None:
    base = make_tiny_base(**CHECKPOINTS[family])
    config = make_config(tmp_path, objective="pseudo_pair", batch_size=4)
    plan = predict(describe_architecture(base), config, measures, dtype=base.dtype, device=CPU)
    measured, flops = measure_step(config, base, measures)
    assert plan.step_bytes == pytest.approx(measured, rel=STEP_TOLERANCE)
    assert plan.step_flops == pytest.approx(flops, rel=STEP_TOLERANCE)


def test_preparing_takes_what_was_predicted(tmp_path: Path) -> None:
    base = make_tiny_base()
    config = make_config(tmp_path, objective="pseudo_pair")
    with CostMeter() as meter:
        prepare(config, base, torch.Generator().manual_seed(0))
    plan = predict(describe_architecture(base), config, ROOMY, dtype=base.dtype, device=CPU)
    assert plan.prepare_bytes == pytest.approx(sum_weights(base) + meter.peak, rel=PREPARE_TOLERANCE)


@pytest.mark.parametrize(("stretch", "waste"), [pytest.param(1, 0.65, marks=pytest.mark.slow), (2, 0.15)])
def test_no_painting_with_a_face_takes_more_than_was_predicted(stretch: int, waste: float, tmp_path: Path) -> None:
    picture, path = load_image(SAMPLE), tmp_path / "painting.png"
    save_image(picture.resize((stretch * picture.width, picture.height)), path)
    base = replace(make_tiny_base(), unet=build_unet(sample_size=64).requires_grad_(False), resolution=256)
    config = FitConfig(style_path=str(path), face_paths=(str(SAMPLE),))
    with CostMeter() as meter:
        data = prepare(config, base, torch.Generator().manual_seed(0))
    assert data.style.head.landmarks is not None
    measured = sum_weights(base) + meter.peak
    plan = predict(describe_architecture(base), config, ROOMY, dtype=base.dtype, device=CPU)
    assert measured <= plan.prepare_bytes <= (1 + waste) * measured
    # The patches are gone.
    assert meter.live < 0.2 * meter.peak


def test_sampled_faces_count_unless_photographs_are_given(tmp_path: Path) -> None:
    architecture = describe_architecture(make_tiny_base())
    configs = [make_config(tmp_path, face_paths=paths, num_sampled_faces=512) for paths in ((), ("photo.png",))]
    sampling, painting = (predict(architecture, config, ROOMY, dtype=torch.float32, device=CPU) for config in configs)
    assert sampling.prepare_bytes > 2 * painting.prepare_bytes


def test_each_measure_takes_less_memory_and_recomputing_more_work(tmp_path: Path) -> None:
    architecture = describe_architecture(make_tiny_base())
    config = make_config(tmp_path, objective="pseudo_pair", batch_size=4)
    plans = [predict(architecture, config, one, dtype=torch.float32, device=torch.device("cuda")) for one in MEASURES]
    peaks = [plan.step_bytes for plan in plans]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == len(MEASURES)
    assert plans[0].step_flops == plans[1].step_flops < plans[2].step_flops == plans[3].step_flops


@pytest.mark.parametrize("measures", [RECOMPUTING, *MEASURES], ids=lambda measures: measures.name)
def test_measures_change_no_style_and_leave_the_base_as_it_was(measures: Measures, tmp_path: Path) -> None:
    base = make_tiny_base()
    config = make_config(tmp_path, objective="pseudo_pair")
    expected = fit_style(config, base=base)
    before = {name: tensor.clone() for name, tensor in base.unet.state_dict().items()}
    style = fit_style(config, base=base, plan=make_plan(measures))
    assert style.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(style.tensors[name], tensor) for name, tensor in expected.tensors.items())
    assert all(torch.equal(before[name], tensor) for name, tensor in base.unet.state_dict().items())
    assert not base.unet.is_gradient_checkpointing
    assert not any(module._forward_pre_hooks for module in base.unet.modules())


def test_attention_suits_the_cpu_while_a_fit_runs() -> None:
    base = make_tiny_base(dtype=torch.bfloat16)
    before = dict(base.unet.attn_processors)
    with set_up(base, ROOMY, CPU):
        assert {type(processor) for processor in base.unet.attn_processors.values()} == {AttnProcessor}
    assert dict(base.unet.attn_processors) == before
    full = make_tiny_base()
    with set_up(full, ROOMY, CPU):
        assert AttnProcessor not in {type(processor) for processor in full.unet.attn_processors.values()}


@pytest.mark.parametrize(
    ("family", "parameters"), [("sd1", 859_520_964), ("sd2", 865_910_724), ("sdxl", 2_567_463_684)]
)
def test_the_written_shapes_are_those_of_the_models(family: str, parameters: int) -> None:
    base = build_random_base(find_architecture(family), dtype=torch.bfloat16, device=torch.device("meta"))
    assert sum(parameter.numel() for parameter in base.unet.parameters()) == parameters
    assert (base.family, base.dtype) == (family, torch.bfloat16)


def test_stable_diffusion_fits_on_small_cards() -> None:
    plans = [
        predict(
            find_architecture("sd1"),
            FitConfig(style_path=""),
            measures,
            dtype=torch.bfloat16,
            device=torch.device("cuda"),
        )
        for measures in (MEASURES[0], MEASURES[2])
    ]
    assert plans[0].peak_bytes <= 7.5 * GB
    assert plans[1].peak_bytes <= 5.5 * GB


def test_every_tier_has_the_fastest_measures_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = describe_architecture(make_tiny_base())
    config = FitConfig(style_path="")
    plans = plan_tiers(architecture, config, CPU)
    assert {tier: plan and plan.measures for tier, plan in plans.items()} == dict.fromkeys(
        [*planner.TIERS, "auto"], ROOMY
    )
    monkeypatch.setitem(planner.TIERS, "6gb", planner.RESERVE)
    assert plan_tiers(architecture, config, CPU)["6gb"] is None


def test_a_fit_that_cannot_fit_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, config = make_tiny_base(), make_config(tmp_path, memory="6gb")
    plan = choose_plan(config, base)
    assert plan is not None
    assert plan.measures == ROOMY
    monkeypatch.setitem(planner.TIERS, "6gb", planner.RESERVE)
    with pytest.raises(ConfigError, match="memory is '6gb'"):
        fit_style(config, base=base)


def test_only_large_bases_are_planned_unasked(tmp_path: Path) -> None:
    assert choose_plan(make_config(tmp_path), make_tiny_base()) is None
    plan = choose_plan(make_config(tmp_path), make_tiny_base(**CHECKPOINTS["sd1"]))
    assert plan is not None
    assert plan.measures in list_measures(CPU)


@pytest.mark.parametrize("family", ["mini", "sd1"])
def test_large_bases_compute_in_half_precision_where_the_device_does(family: str, tmp_path: Path) -> None:
    options: dict[str, Any] = CHECKPOINTS[family]
    save_tiny_checkpoint(tmp_path, **options)
    expected = torch.bfloat16 if family == "sd1" and has_bfloat16(CPU) else torch.float32
    assert load_base(tmp_path, dtype=None).dtype is expected
    assert find_architecture(tmp_path).family == family


def test_shapes_that_are_nowhere_are_named() -> None:
    with pytest.raises(BaseNotFoundError, match="no shape of 'nobody/nothing'"):
        find_architecture("nobody/nothing")
