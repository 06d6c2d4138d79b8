"""Runs that end early go on to the same bytes, and what else a checkpoint is for."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from acfun import fit
from acfun.base import Base
from acfun.config import FitConfig
from acfun.errors import ConfigError
from acfun.fit import Progress, Report, fit_style
from acfun.fit_checkpoint import CHECKPOINT_NAME
from acfun.losses import total_loss
from acfun.style import Style
from tests.fitting import collect, make_config, save
from tests.tiny import make_tiny_base


@pytest.fixture
def base() -> Base:
    return make_tiny_base()


def test_a_crashed_run_resumes_to_the_same_bytes(base: Base, tmp_path: Path) -> None:
    config = make_config(tmp_path, max_steps=4)
    expected = save(fit_style(config, base=base), tmp_path / "undisturbed")

    def crash(progress: Progress) -> None:
        if progress.step == 3:
            raise OSError("no space left")

    config = replace(config, output_dir=str(tmp_path / "run"), checkpoint_every=2)
    with pytest.raises(OSError, match="no space"):
        fit_style(config, base=base, report=crash)
    torch.manual_seed(99)
    style, reports = collect(replace(config, resume=True), base)
    assert [progress.step for progress in reports] == [3, 4]
    assert save(style, tmp_path / "resumed") == expected
    finished, reports = collect(replace(config, resume=True), base)
    assert reports == []
    assert save(finished, tmp_path / "again") == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_stop_saves_after_the_step_in_hand(base: Base, tmp_path: Path, number: signal.Signals) -> None:
    config = make_config(tmp_path, max_steps=3)
    expected = save(fit_style(config, base=base), tmp_path / "undisturbed")
    handler = signal.getsignal(number)
    steps: list[int] = []

    def interrupt(progress: Progress) -> None:
        steps.append(progress.step)
        signal.raise_signal(number)

    config = replace(config, output_dir=str(tmp_path / "run"))
    style = fit_style(config, base=base, report=interrupt)
    assert steps == [1]
    assert signal.getsignal(number) is handler
    assert save(style, tmp_path / "interrupted") != expected
    assert (style.config["steps_done"], style.config["max_steps"]) == (1, 3)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [CHECKPOINT_NAME]
    resumed, reports = collect(replace(config, resume=True), base)
    assert [progress.step for progress in reports] == [2, 3]
    assert "steps_done" not in resumed.config
    assert save(resumed, tmp_path / "resumed") == expected


def test_a_checkpoint_of_something_else_is_refused(base: Base, tmp_path: Path) -> None:
    config = make_config(tmp_path, max_steps=1, output_dir=str(tmp_path / "run"), checkpoint_every=1)
    fit_style(config, base=base)
    config = replace(config, resume=True)
    with pytest.raises(ConfigError, match=r"another configuration.*\(learning_rate is 0\.01 there, 0\.5 here\)"):
        fit_style(replace(config, learning_rate=0.5), base=base)
    with pytest.raises(ConfigError, match=r"another configuration or base \(base_fingerprint is"):
        fit_style(config, base=make_tiny_base(seed=1))
    path = tmp_path / "run" / CHECKPOINT_NAME
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["format_version"]) == ("acfun-fit", "1")
    for wrong in ({"format": "acfun-style"}, {"format_version": "2"}):
        save_file(load_file(path), path, metadata | wrong)
        with pytest.raises(ConfigError, match=rf"{CHECKPOINT_NAME} has format acfun-\w+ \d, not acfun-fit 1"):
            fit_style(config, base=base)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigError, match="damaged"):
        fit_style(config, base=base)


def test_resuming_without_a_checkpoint_starts_at_the_beginning(base: Base, tmp_path: Path) -> None:
    _, reports = collect(make_config(tmp_path, max_steps=1, output_dir=str(tmp_path / "run"), resume=True), base)
    assert [progress.step for progress in reports] == [1]


def test_a_run_whose_first_step_was_spoilt_resumes_to_the_same_bytes(
    tmp_path: Path, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path, max_steps=3)

    def fit_with(factors: list[float], config: FitConfig, report: Report | None = None) -> Style:
        left = iter(factors)
        monkeypatch.setattr(fit, "total_loss", lambda losses, weights: next(left) * total_loss(losses, weights))
        return fit_style(config, base=base, report=report)

    expected = save(fit_with([float("nan"), 1.0, 1.0], config), tmp_path / "undisturbed")
    config = replace(config, output_dir=str(tmp_path / "run"))
    fit_with([float("nan")], config, lambda progress: signal.raise_signal(signal.SIGINT))
    resumed = fit_with([1.0, 1.0], replace(config, resume=True))
    assert save(resumed, tmp_path / "resumed") == expected


def test_a_run_folder_alone_keeps_what_is_minutes_old(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path, max_steps=4)
    expected = save(fit_style(config, base=base), tmp_path / "undisturbed")

    def crash(progress: Progress) -> None:
        if progress.step == 3:
            raise MemoryError

    monkeypatch.setattr(fit, "SAVE_SECONDS", 0.0)
    config = replace(config, output_dir=str(tmp_path / "run"))
    with pytest.raises(MemoryError):
        fit_style(config, base=base, report=crash)
    style, reports = collect(replace(config, resume=True), base)
    assert [progress.step for progress in reports] == [4]
    assert save(style, tmp_path / "resumed") == expected


def test_a_finished_run_can_be_saved_once_more(base: Base, tmp_path: Path) -> None:
    config = make_config(tmp_path, output_dir=str(tmp_path / "run"))
    style = fit_style(config, base=base)
    again, reports = collect(replace(config, resume=True), base)
    assert reports == []
    assert save(again, tmp_path / "again") == save(style, tmp_path / "style")


def test_a_checkpoint_that_cannot_be_written_costs_no_style(
    base: Base, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    style = fit_style(make_config(tmp_path, output_dir=str(tmp_path / "file")), base=base)
    assert "the checkpoint cannot be written" in caplog.text
    assert save(style, tmp_path / "style") == save(fit_style(make_config(tmp_path), base=base), tmp_path / "plain")
