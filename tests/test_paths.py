"""Files are written whole or not at all."""

import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from acfun.paths import CACHE_DIR_VARIABLE, atomic_write, cache_dir, mini_dir


def test_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "style.safetensors"
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
        assert temporary.parent == tmp_path
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "style.safetensors"
    path.write_bytes(b"old")

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "atomic") as temporary:
        safetensors.torch.save_file({"values": torch.zeros(2)}, temporary)
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.delenv(CACHE_DIR_VARIABLE, raising=False)
    assert cache_dir() == tmp_path / "caches" / "acfun"
    monkeypatch.setenv(CACHE_DIR_VARIABLE, str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    assert not cache_dir().exists()


def test_embedded_base_lies_in_the_package() -> None:
    assert mini_dir().parts[-3:] == ("acfun", "base", "mini")
