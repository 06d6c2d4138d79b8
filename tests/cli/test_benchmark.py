"""`acfun benchmark` explains what it cannot do."""

from pathlib import Path

import pytest

from acfun.commands.benchmark import choose_methods
from tests.cli.tools import check_explained, draw, run, run_well


def test_an_unknown_method_is_named_with_those_there_are(tmp_path: Path) -> None:
    result = run("benchmark", "--methods", "magic", "--output", str(tmp_path))
    assert result.exit_code == 1
    assert "magic" in result.stderr
    assert "transport" in result.stderr


def test_paintings_need_their_folders(tmp_path: Path) -> None:
    result = run("benchmark", "--suite", "paintings", "--output", str(tmp_path / "run"))
    assert result.exit_code == 1
    assert "--photos" in result.stderr


def test_settings_are_not_chosen_with_what_is_held_out(tmp_path: Path) -> None:
    result = run("benchmark", "--suite", "development", "--renderers", "etching", "--output", str(tmp_path / "run"))
    assert result.exit_code == 1
    assert "no renderer etching" in " ".join(result.stderr.split())
    assert not (tmp_path / "run").exists()


def test_an_empty_folder_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "paintings").mkdir()
    (tmp_path / "paintings" / "noise.png").write_bytes((folder / "style.png").read_bytes())
    (tmp_path / "none").mkdir()
    arguments = ["--suite", "paintings", "--paintings", str(tmp_path / "paintings"), "--photos", str(tmp_path / "none")]
    result = run("benchmark", *arguments, "--base", str(folder / "base"), "--output", str(tmp_path / "run"))
    assert result.exit_code == 1
    assert "none is no folder with pictures" in " ".join(result.stderr.split())


def test_rows_of_pictures_that_were_replaced_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acfun.evaluation.runner.run", lambda *arguments, **judges: None)
    monkeypatch.setattr("acfun.evaluation.report.write_report", lambda *arguments: [])
    command: list[object] = ["benchmark", "--suite", "paintings", "--base", folder / "base", "-o", tmp_path / "run"]
    for kind, seed in (("paintings", 0), ("photos", 1)):
        (tmp_path / kind).mkdir()
        draw(tmp_path / kind / "one.png", seed)
        command += [f"--{kind}", tmp_path / kind]
    run_well(*command)
    run_well(*command)
    draw(tmp_path / "photos" / "one.png", 2)
    check_explained(run(*command), "with photos", "take another folder")


def test_without_dials_each_method_has_its_default_alone() -> None:
    full, short = (choose_methods("paintings", None, use_dials=use_dials) for use_dials in (True, False))
    assert full.keys() == short.keys()
    assert len(full["gatys"].settings) > 1
    assert all(method.settings == (full[name].default,) for name, method in short.items())
