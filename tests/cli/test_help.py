"""Help, versions and the doctor, and results that machines can read."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from acfun.cli import app
from acfun.commands import options
from acfun.commands.session import SAMPLING_OPTIONS
from acfun.photo import SHAPE_SCALE
from acfun.pipelines.face_stylization import FaceStylizationPipeline
from tests.cli.tools import run, run_well

COMMANDS = tuple(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    assert "--help" in run_well(command, "--help").stdout


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys, acfun.cli; print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_defaults_in_the_help_are_those_of_the_pipeline() -> None:
    parameters = inspect.signature(FaceStylizationPipeline.__call__).parameters
    for name, argument in SAMPLING_OPTIONS.items():
        (option,) = options.SAMPLING[name].__metadata__
        assert isinstance(option, typer.models.OptionInfo)
        if isinstance(option.show_default, str):
            default = SHAPE_SCALE if name == "shape_scale" else parameters[argument].default
            assert float(option.show_default) == default


def test_doctor_answers_in_json(cache: Path) -> None:
    result = run("doctor", "--json")
    answer = json.loads(result.stdout)
    checks = {check["name"]: check for check in answer["checks"]}
    assert checks["torch"]["status"] == "ok"
    assert str(cache) in checks["cache"]["detail"]
    assert result.exit_code == (0 if answer["is_healthy"] else 1)
    assert answer["is_healthy"] == all(check["status"] != "problem" for check in checks.values())


def test_doctor_looks_at_face_models(tmp_path: Path) -> None:
    result = run("doctor", "--faces", tmp_path, "--json")
    assert result.exit_code == 1
    (check,) = (check for check in json.loads(result.stdout)["checks"] if check["name"] == "face models")
    assert check["status"] == "problem"
    assert check["remedy"] == "unpack the pack's zip file there once more"


def test_version_is_printed() -> None:
    assert run_well("--version").stdout.strip()
