"""The manifest: parts that become one table."""

from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs the extra scale")

import pyarrow as pa
from pyarrow import parquet

from acfun.batch.ledger import (
    MANIFEST_NAME,
    PARTS_DIR,
    SCHEMA,
    iterate_rows,
    merge_parts,
    name_part,
    read_part,
    write_part,
)
from acfun.batch.photos import Photo, list_photos
from acfun.batch.places import Folder
from acfun.errors import ConfigError
from tests.batch.tools import MADE_BY, describe


@pytest.fixture
def photos(tmp_path: Path) -> list[Photo]:
    (tmp_path / "in").mkdir()
    for name in "abc":
        (tmp_path / "in" / f"{name}.jpg").write_bytes(b"1")
    return list_photos([str(tmp_path / "in")], str(tmp_path / "out"))


def test_parts_become_one_table_of_the_latest_rows(tmp_path: Path, photos: list[Photo]) -> None:
    folder = Folder.open(str(tmp_path / "out"))
    assert merge_parts(folder).num_rows == 0
    write_part(folder, f"{PARTS_DIR}/2.parquet", [describe(photos[0], status="failed", reason="too early")])
    write_part(folder, f"{PARTS_DIR}/1.parquet", [describe(photo) for photo in photos[:2]])
    assert [row["status"] for row in iterate_rows(merge_parts(folder))] == ["painted", "painted"]
    write_part(folder, f"{PARTS_DIR}/3.parquet", [describe(photos[2]), describe(photos[1], status="set_aside")])
    table = merge_parts(folder)
    assert [row["status"] for row in iterate_rows(table)] == ["painted", "set_aside", "painted"]
    assert folder.list_names() == [MANIFEST_NAME]
    assert parquet.read_table(tmp_path / "out" / MANIFEST_NAME).equals(table)


def test_times_come_back_as_they_were(tmp_path: Path, photos: list[Photo]) -> None:
    folder = Folder.open(str(tmp_path))
    assert read_part(folder, "part.parquet") is None
    write_part(folder, "part.parquet", [describe(photo) for photo in photos])
    table = read_part(folder, "part.parquet")
    assert table is not None
    assert [(row["path"], row["size"], row["modified"]) for row in iterate_rows(table)] == [
        photo.version for photo in photos
    ]


def test_a_batch_has_one_name_and_others_have_others(photos: list[Photo]) -> None:
    other = MADE_BY | {"settings_sha256": "3" * 64}
    names = [name_part(*batch) for batch in ((photos, MADE_BY), (photos[:2], MADE_BY), (photos, other))]
    assert len(set(names)) == 3
    assert name_part(list(photos), dict(reversed(MADE_BY.items()))) == names[0]


def test_a_table_of_another_program_is_left_alone(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"x": [1]}), tmp_path / MANIFEST_NAME)
    before = (tmp_path / MANIFEST_NAME).read_bytes()
    with pytest.raises(ConfigError, match="no manifest of a batch"):
        merge_parts(Folder.open(str(tmp_path)))
    assert (tmp_path / MANIFEST_NAME).read_bytes() == before


def test_a_folder_that_cannot_be_written_to_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file cannot be written to"):
        merge_parts(Folder.open(str(tmp_path / "file")))


def test_every_field_of_an_entry_has_its_column(photos: list[Photo]) -> None:
    assert list(vars(describe(photos[0]))) == SCHEMA.names
