"""A pack of face models as it lies on disk."""

from pathlib import Path

import pytest


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """The five files of buffalo_l where insightface unpacks them."""
    packs = pytest.importorskip("tests.packs", reason="needs the package onnx")
    folder: Path = packs.write_pack(tmp_path / ".insightface" / "models" / "buffalo_l")
    return folder
