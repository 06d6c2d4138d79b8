"""Fitting a tiny base: styles come back, runs repeat and resume to the byte, and nothing else is changed."""

import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from acfun import fit, fit_prepare
from acfun.base import Base
from acfun.cfun import VARIANTS
from acfun.errors import ConfigError, FaceModelError, FitDivergedError, NoFaceFoundError
from acfun.face.identity import load_identity_encoder
from acfun.fit import Progress, fit_style
from acfun.images import load_image, pil_to_tensor
from acfun.losses import total_loss
from acfun.objectives import OBJECTIVES
from acfun.pipelines import build_pipeline
from acfun.portrait import STYLE_SIDE
from acfun.style import Style
from tests.fitting import build_face_finder, build_identity_encoder, collect, make_config, save
from tests.tiny import RESOLUTION, make_tiny_base


@pytest.fixture
def base() -> Base:
    return make_tiny_base()


def test_without_steps_the_style_is_its_image_and_nothing_is_learned(base: Base, tmp_path: Path) -> None:
    config = replace(make_config(tmp_path, cfun="lora"), max_steps=0, memory="6gb", face_paths=("nobody.png",))
    style, reports = collect(config, base)
    assert not reports
    fitted = fit_style(make_config(tmp_path, cfun="lora"), base=base)
    assert style.image is not None and fitted.image is not None
    assert torch.equal(style.image.painting.image, fitted.image.painting.image)
    moved = {name for name, tensor in style.tensors.items() if not torch.equal(tensor, fitted.tensors[name])}
    assert {"token.offset", "afun.proj_out.weight"} <= moved
    assert not any(style.tensors[name].any() for name in ("token.offset", "afun.proj_out.weight"))
    face = torch.zeros(1, 3, RESOLUTION, RESOLUTION)
    pipe = build_pipeline(base)
    pipe.load_style(style)
    pictures = [
        pipe(face=face, style_scale=scale, num_inference_steps=2, imagery_scale=0, output_type="pt").images
        for scale in (0.0, 1.0)
    ]
    pipe.unload_style()
    torch.testing.assert_close(*pictures)


def test_a_fit_returns_a_style_and_leaves_the_base_as_it_was(base: Base, tmp_path: Path) -> None:
    modules = {"unet": base.unet, "text_encoder": base.text_encoder, "vae": base.vae}
    before = {name: {k: t.clone() for k, t in module.state_dict().items()} for name, module in modules.items()}
    global_state = torch.random.get_rng_state()
    style, reports = collect(make_config(tmp_path, cfun="lora"), base)
    assert torch.equal(torch.random.get_rng_state(), global_state)
    for name, module in modules.items():
        state = module.state_dict()
        assert list(state) == list(before[name])
        assert all(torch.equal(state[key], tensor) for key, tensor in before[name].items())
        assert not any(parameter.requires_grad for parameter in module.parameters())
    assert [progress.step for progress in reports] == [1, 2]
    assert style.metadata["base_fingerprint"] == base.fingerprint
    assert style.config["style_path"] == "painting.png"
    assert style.config["face_paths"] == 2
    style.apply_to(base).eject()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_fits_and_repeats(objective: str, base: Base, tmp_path: Path) -> None:
    config = make_config(tmp_path, objective=objective, batch_size=2)
    style, reports = collect(config, base)
    assert reports[-1].losses.keys() == config.loss_weights().keys()
    assert reports[-1].seconds_left == 0
    assert any(bool(style.tensors[name].any()) for name in style.tensors if name == "token.offset")
    assert save(style, tmp_path / "a") == save(fit_style(config, base=base), tmp_path / "b")
    other = fit_style(replace(config, seed=1), base=base)
    assert save(other, tmp_path / "c") != save(style, tmp_path / "a")


@pytest.mark.parametrize("cfun", [*VARIANTS, "none"])
def test_every_variant_fits(cfun: str, base: Base, tmp_path: Path) -> None:
    style = fit_style(make_config(tmp_path, objective="two_target", cfun=cfun), base=base)
    parts = {name.split(".")[0] for name in style.tensors}
    assert ("cfun" in parts) == (cfun != "none")
    assert all(tensor.isfinite().all() for tensor in style.tensors.values())


def test_the_first_fit_of_a_process_is_like_the_later_ones(base: Base, tmp_path: Path) -> None:
    config = make_config(tmp_path)
    load_identity_encoder.cache_clear()  # read again in the middle of the fit
    first = save(fit_style(config, base=base), tmp_path / "first")
    assert save(fit_style(config, base=base), tmp_path / "second") == first


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN], ids=["foreground", "background"])
def test_a_second_ctrl_c_interrupts_at_once(base: Base, tmp_path: Path, handler: Any) -> None:
    def interrupt(progress: Progress) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    previous = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit_style(make_config(tmp_path), base=base, report=interrupt)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, previous)
    fit_style(make_config(tmp_path, max_steps=1), base=base)  # the base is free again


def test_faces_are_sampled_where_none_are_given(base: Base, tmp_path: Path) -> None:
    config = make_config(tmp_path, face_paths=(), num_sampled_faces=2, max_steps=1)
    data = fit_prepare.prepare(config, base, torch.Generator().manual_seed(0))
    assert len(data.faces) == 2
    assert not torch.equal(data.face_latents[0], data.face_latents[1])
    assert fit_style(config, base=base).config["face_paths"] == 0


def test_previews_come_when_due(base: Base, tmp_path: Path) -> None:
    config = make_config(tmp_path, batch_size=2, preview_every=2, output_dir=str(tmp_path / "run"))
    _, reports = collect(config, base)
    assert reports[0].preview is None
    preview = reports[1].preview
    assert preview is not None
    assert preview.shape == (2, 3, RESOLUTION, RESOLUTION)
    assert preview.abs().max() <= 1


def test_every_vector_of_the_pseudo_word_is_trained(base: Base, tmp_path: Path) -> None:
    style = fit_style(make_config(tmp_path, objective="two_target", num_token_vectors=3), base=base)
    assert style.tensors["token.offset"].any(dim=1).tolist() == [True, True, True]


def test_a_bfloat16_base_is_fitted_in_float32(tmp_path: Path) -> None:
    style, reports = collect(make_config(tmp_path), make_tiny_base(dtype=torch.bfloat16))
    assert all(torch.tensor(list(progress.losses.values())).isfinite().all() for progress in reports)
    assert {tensor.dtype for tensor in style.fitted_tensors.values()} == {torch.float32}


def test_a_float16_base_is_not_fitted(tmp_path: Path) -> None:
    base = make_tiny_base(dtype=torch.float16)
    with pytest.raises(ConfigError, match=r"'tiny' is in float16.*float32 or bfloat16"):
        fit_style(make_config(tmp_path), base=base)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "two_target", "face_weight": 0.0},
        {"objective": "shared", "style_weight": 0.0},
        {"objective": "imagery", "denoise_weight": 0.0, "gram_weight": 0.0},
    ],
)
def test_a_loss_without_weight_is_left_out(options: dict[str, Any], base: Base, tmp_path: Path) -> None:
    config = make_config(tmp_path, max_steps=1, **options)
    _, reports = collect(config, base)
    assert reports[0].losses.keys() == config.loss_weights().keys()


def test_faces_are_looked_for_and_needed(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_prepare, "load_finder", lambda source, device: build_face_finder())
    with pytest.raises(
        NoFaceFoundError, match=r"first\.png: no face"
    ):  # a finder that was never trained finds nothing in noise
        fit_style(make_config(tmp_path, framing="find"), base=base)
    _, reports = collect(make_config(tmp_path, framing="find", face_paths=(), max_steps=1), base)
    assert 0 <= reports[0].losses["identity"] <= 2


def test_another_identity_encoder_is_asked_and_named_without_its_folder(base: Base, tmp_path: Path) -> None:
    build_identity_encoder().save_pretrained(tmp_path / "ours")
    config = make_config(tmp_path, max_steps=1)
    own, other = (collect(replace(config, identity_encoder=name), base) for name in ("mini", str(tmp_path / "ours")))
    assert own[1][0].losses["identity"] != other[1][0].losses["identity"]
    assert own[1][0].losses["structure"] == other[1][0].losses["structure"]
    assert (own[0].config["identity_encoder"], other[0].config["identity_encoder"]) == ("mini", "ours")
    with pytest.raises(FaceModelError, match=r"nowhere: there is no such folder"):
        fit_style(replace(config, identity_encoder=str(tmp_path / "nowhere")), base=base)


def test_the_style_keeps_its_picture(base: Base, tmp_path: Path) -> None:
    style = fit_style(make_config(tmp_path, max_steps=1), base=base)
    style.save(tmp_path / "style.safetensors")
    loaded = Style.load(tmp_path / "style.safetensors").image
    assert style.image is not None
    assert loaded is not None
    assert loaded.head.image.shape == (1, 3, STYLE_SIDE, STYLE_SIDE)
    assert torch.equal(loaded.painting.image, style.image.painting.image)
    painting = pil_to_tensor(load_image(tmp_path / "painting.png"))
    assert abs(float(loaded.painting.image.mean() - painting.mean())) < 0.02


def test_a_fit_runs_outside_the_main_thread(base: Base, tmp_path: Path) -> None:
    styles: list[Style] = []
    config = make_config(tmp_path, max_steps=1)
    thread = threading.Thread(target=lambda: styles.append(fit_style(config, base=base)))
    thread.start()
    thread.join()
    assert len(styles) == 1


def test_a_fit_that_comes_apart_says_so(tmp_path: Path, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "total_loss", lambda losses, weights: float("nan") * total_loss(losses, weights))
    with pytest.raises(FitDivergedError, match="lower learning_rate, which is"):
        fit_style(make_config(tmp_path, max_steps=20), base=base)


def test_a_single_spoilt_step_is_left_out(tmp_path: Path, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    factors = iter([1.0, float("nan"), 1.0])
    monkeypatch.setattr(fit, "total_loss", lambda losses, weights: next(factors) * total_loss(losses, weights))
    style = fit_style(make_config(tmp_path, max_steps=3), base=base)
    assert all(tensor.isfinite().all() for tensor in style.tensors.values())


def test_a_fitted_style_is_exact_in_half_precision(tmp_path: Path, base: Base) -> None:
    style = fit_style(make_config(tmp_path, max_steps=2), base=base)
    style.save(tmp_path / "style.safetensors")
    dtypes = {name: tensor.dtype for name, tensor in load_file(tmp_path / "style.safetensors").items()}
    pictures = {"image.head", "image.painting"}
    assert {dtypes[name] for name in dtypes.keys() - pictures} == {torch.float16}
    assert {dtypes[name] for name in pictures} == {torch.uint8}
    loaded = Style.load(tmp_path / "style.safetensors")
    assert all(torch.equal(loaded.tensors[name].float(), tensor) for name, tensor in style.tensors.items())
