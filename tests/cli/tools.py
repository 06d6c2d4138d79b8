"""Running commands in this process, and pictures for them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from acfun.cli import app
from acfun.paths import mini_dir

WEIGHTS = ("vae", "unet", "text_encoder", "image_encoder", "face_finder", "identity_encoder")
needs_weights = pytest.mark.skipif(
    not all((mini_dir() / part / "config.json").is_file() for part in WEIGHTS),
    reason="the embedded base has no weights",
)


def run(*arguments: object) -> Result:
    """The result of a command line, whatever its exit code."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run_well(*arguments: object) -> Result:
    """The result of a command line that must end with 0."""
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


def check_explained(result: Result, *parts: str) -> None:
    """The command ended with an explained error that has these parts, and without a result."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    for part in parts:
        assert part in result.stderr


def draw(path: Path, seed: int, size: tuple[int, int] = (90, 60)) -> Path:
    """Write a picture of coloured patches, (width, height) pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def fit(folder: Path, output: Path, *arguments: object) -> Result:
    """Fit the folder's style to its photograph, both taken whole."""
    common = (
        "--face",
        folder / "photo.png",
        "--faces",
        "whole",
        "--base",
        folder / "base",
        "--config",
        folder / "fit.toml",
    )
    return run("fit", folder / "style.png", "-o", output, *common, *arguments)
