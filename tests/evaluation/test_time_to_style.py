"""The benchmark of the time to a style: all learn for as long as they are told, and the table holds the means."""

import sys
from dataclasses import replace

import pytest
import torch

from acfun.evaluation.methods import AcfunVariant
from benchmarks import time_to_style
from tests.evaluation.test_benchmark import make_scene
from tests.fitting import build_identity_encoder
from tests.tiny import make_tiny_base


def test_every_contender_learns_for_its_steps_and_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(time_to_style, "load_base", lambda name: make_tiny_base())
    monkeypatch.setattr(time_to_style, "load_identity_encoder", build_identity_encoder)
    monkeypatch.setattr(time_to_style, "build_paired", lambda *scene: make_scene().select(0))
    monkeypatch.setattr(time_to_style, "AcfunVariant", lambda fit: AcfunVariant(fit={**fit, "framing": "whole"}))
    steps = {"acfun": (0, 2)}
    contenders = {name: replace(one, steps=steps.get(name, (1, 3))) for name, one in time_to_style.CONTENDERS.items()}
    monkeypatch.setattr(time_to_style, "CONTENDERS", contenders)
    monkeypatch.setattr(sys, "argv", ["time_to_style", "--styles", "oil"])
    torch.manual_seed(0)
    time_to_style.main()
    lines = capsys.readouterr().out.splitlines()
    trials = [line.split(":")[0] for line in lines if ", " in line]
    assert trials == ["oil"] * 6
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert rows[0][:3] == ["method", "steps", "CPU s"]
    assert [(row[0], int(row[1])) for row in rows[2:]] == [
        (name, steps) for name, one in contenders.items() for steps in one.steps
    ]
    assert all(float(cell) > 0 for row in rows[2:] for cell in row[2:5])
    seconds = {(row[0], int(row[1])): float(row[2]) for row in rows[2:]}
    assert seconds["acfun", 0] < seconds["acfun", 2]
