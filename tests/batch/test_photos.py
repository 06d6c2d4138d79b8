"""Which photographs there are, and which of them are left to paint."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="needs the extra scale")

from acfun.batch.photos import Photo, find_current, list_photos, select_remaining
from acfun.errors import ConfigError
from tests.batch.tools import MADE_BY, describe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("in/anna.jpg", "in/anna.png", "in/deep/anna.jpg", "other/bert.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"a photograph")
    return tmp_path


def test_every_file_has_an_output_of_its_own(folder: Path) -> None:
    photos = list_photos([str(folder / "in"), str(folder / "other" / "bert.jpg")], str(folder / "out"))
    outputs = ["anna.jpg.png", "anna.png.png", "deep/anna.jpg.png", "bert.jpg.png"]
    assert [photo.output for photo in photos] == outputs
    assert [photo.read() for photo in photos] == [b"a photograph"] * 4


def test_a_url_of_a_disk_is_the_same_as_its_path(folder: Path) -> None:
    places = str(folder / "in"), (folder / "in").as_uri()
    by_path, by_url = (list_photos([place], str(folder / "out")) for place in places)
    assert [photo.version for photo in by_path] == [photo.version for photo in by_url]
    assert [photo.read() for photo in by_url] == [b"a photograph"] * 3


def test_photographs_in_an_object_store_keep_their_url() -> None:
    photo = Photo(source="s3://bucket/in?region=eu", path="bucket/in/a.jpg", name="a.jpg", size=1, modified=None)
    assert photo.url == "s3://bucket/in/a.jpg"


def test_what_cannot_be_dealt_with_is_explained(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "in2").mkdir()
    (folder / "in2" / "anna.jpg").write_bytes(b"another one")
    for sources, output, message in (
        (["in", "in2"], "out", "would both be painted as anna.jpg.png"),
        (["in"], "in/out", "lies in .*in, and its pictures would be painted"),
        (["in"], "in", "lies in"),
        (["empty"], "out", "empty has no files"),
    ):
        with pytest.raises(ConfigError, match=message):
            list_photos([str(folder / source) for source in sources], str(folder / output))
    assert len(list_photos([str(folder / "in")], str(folder / "in-painted"))) == 3


def test_what_is_done_is_left_out(folder: Path) -> None:
    photos = list_photos([str(folder / "in")], str(folder / "out"))
    present = {photo.output for photo in photos}
    rows = [asdict(describe(photo)) for photo in photos]
    assert select_remaining(photos, [], MADE_BY, present) == photos
    assert select_remaining(photos, rows, MADE_BY, present) == []
    assert select_remaining(photos, rows, MADE_BY, present - {photos[1].output}) == [photos[1]]


@pytest.mark.parametrize(
    ("fields", "is_done"),
    [
        ({"status": "set_aside", "outputs": []}, True),
        ({"status": "failed", "outputs": []}, False),
        ({"style_sha256": "3" * 64}, False),
        ({"settings_sha256": "3" * 64}, False),
    ],
)
def test_only_failures_and_other_settings_are_painted_again(
    folder: Path, fields: dict[str, Any], is_done: bool
) -> None:
    (photo,) = list_photos([str(folder / "other")], str(folder / "out"))
    left = select_remaining([photo], [asdict(describe(photo, **fields))], MADE_BY, {photo.output})
    assert left == ([] if is_done else [photo])


def test_a_replaced_file_is_painted_again(folder: Path) -> None:
    path = folder / "other" / "bert.jpg"
    (before,) = list_photos([str(path)], str(folder / "out"))
    rows = [asdict(describe(before))]
    os.utime(path, (1, 1))
    (after,) = list_photos([str(path)], str(folder / "out"))
    assert select_remaining([after], rows, MADE_BY, {after.output}) == [after]
    assert list(find_current([after], rows, MADE_BY)) == []
    assert list(find_current([before], rows, MADE_BY)) == [(before, rows[0])]
