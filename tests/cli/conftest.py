"""A tiny base with pictures and a fitted style; the cache of styles is the test's own."""

from pathlib import Path

import pytest

from acfun.paths import CACHE_DIR_VARIABLE
from tests.cli.tools import draw, fit
from tests.tiny import save_tiny_checkpoint


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_DIR_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base, another one, two pictures, and a config that needs no trained networks."""
    directory = tmp_path_factory.mktemp("cli")
    save_tiny_checkpoint(directory / "base")
    save_tiny_checkpoint(directory / "other", seed=1)
    draw(directory / "photo.png", 0)
    draw(directory / "style.png", 1)
    (directory / "fit.toml").write_text("identity_weight = 0\nmax_steps = 2\n", encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def style(folder: Path) -> Path:
    path = folder / "fitted.safetensors"
    result = fit(folder, path, "--quiet")
    assert result.exit_code == 0, result.stderr
    return path
