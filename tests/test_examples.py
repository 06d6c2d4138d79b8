"""The examples run as they stand, in a folder of their own, with the embedded base."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from acfun.paths import mini_dir

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.skipif(not (mini_dir() / "unet").is_dir(), reason="the embedded base has no weights")


@pytest.mark.slow
def test_the_script_paints_a_portrait(tmp_path: Path) -> None:
    subprocess.run([sys.executable, EXAMPLES / "stylize.py"], cwd=tmp_path, check=True)
    assert (tmp_path / "stylized.png").stat().st_size > 10_000
    assert (tmp_path / "swirl.safetensors").stat().st_size < 4 * 2**20


def read_notebook() -> Any:
    return nbformat.read(EXAMPLES / "01_fit_and_stylize.ipynb", as_version=4)  # type: ignore[no-untyped-call]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACFUN_EXAMPLE_STEPS", "2")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")]))
    notebook = read_notebook()
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "style.safetensors").is_file()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 3


def test_the_committed_notebook_was_executed() -> None:
    notebook = read_notebook()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    # What a library says on stderr names the places of the machine that it was executed on.
    assert all(output.get("name") != "stderr" for cell in notebook.cells for output in cell.get("outputs", []))
