"""The benchmark of a fit's speed runs, and what it reports holds together."""

import json
import sys

import pytest

from benchmarks import fit_speed


def test_all_methods_are_timed_on_the_tiny_shape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--config", "tiny", "--rounds", "1", "--sampling-steps", "1", "--device", "cpu", "--json"]
    monkeypatch.setattr(sys, "argv", ["fit_speed", *options])
    fit_speed.main()
    result = json.loads(capsys.readouterr().out)
    rows = {row["method"]: row for row in result["steps"]}
    assert list(rows) == ["acfun", "textual inversion", "DreamBooth LoRA"]
    assert rows["acfun"]["speedup"] == 1
    assert result["sampling_seconds"] > 0
    for row in rows.values():
        assert row["cpu_seconds"] > 0
        assert row["tflop_per_second"] == pytest.approx(row["tflop"] / row["cpu_seconds"])
        assert row["images_per_second"] == pytest.approx(row["rows"] / row["cpu_seconds"])
    # The whole table of words, its gradient and two moments, against LoRA alone.
    assert rows["textual inversion"]["peak_gb"] > rows["DreamBooth LoRA"]["peak_gb"]
