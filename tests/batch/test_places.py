"""Folders by path and by URL, and files in them that are whole or not there."""

from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs the extra scale")

from acfun.batch.places import PARTIAL_DIR, Folder, list_files, open_place
from acfun.errors import ConfigError


@pytest.fixture(params=["path", "URL"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "out") if request.param == "path" else (tmp_path / "out").as_uri()


def test_files_are_written_into_folders_of_their_own(place: str, tmp_path: Path) -> None:
    folder = Folder.open(place)
    folder.write("a/b/c.png", b"first")
    folder.write("a/b/c.png", b"second")
    assert (tmp_path / "out" / "a" / "b" / "c.png").read_bytes() == b"second"
    assert folder.read("a/b/c.png") == b"second"
    assert folder.list_names() == ["a/b/c.png"]
    assert (folder.list_names("a"), folder.list_names("b")) == (["a/b/c.png"], [])


def test_a_write_that_fails_leaves_what_there_was(tmp_path: Path) -> None:
    folder = Folder.open(str(tmp_path))
    folder.write("a.png/b", b"kept")
    with pytest.raises(OSError, match=r"a\.png"):
        folder.write("a.png", b"never there")
    assert folder.read("a.png/b") == b"kept"
    folder.delete_partial()
    assert folder.list_names() == ["a.png/b"]


def test_what_was_begun_is_known_until_the_next_run(place: str) -> None:
    folder = Folder.open(place)
    assert not folder.begin("parts/one")
    assert folder.begin("parts/one")
    assert not folder.begin("parts/two")
    assert all(name.startswith(PARTIAL_DIR) for name in folder.list_names())
    folder.delete_partial()
    assert not folder.begin("parts/one")


def test_folders_are_listed_without_hidden_files(place: str, tmp_path: Path) -> None:
    for name in ("b.jpg", "a/z.jpg", ".DS_Store", "a/.cache/x.jpg"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(b"12345")
    assert [(name, info.size) for name, info in list_files(place)] == [("a/z.jpg", 5), ("b.jpg", 5)]
    assert [name for name, _ in list_files(f"{place}/a/z.jpg")] == ["z.jpg"]


def test_places_that_cannot_be_opened_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ftp://somewhere/photos cannot be opened"):
        open_place("ftp://somewhere/photos")
    with pytest.raises(ConfigError, match="absent cannot be listed"):
        list_files(str(tmp_path / "absent"))
