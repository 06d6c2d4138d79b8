"""The manifest of a batch run: a parquet table with a row for each photograph, written as the run goes on.

Every batch adds a part, whole or not at all; `merge_parts` makes one file of all parts.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa
from pyarrow import parquet

from acfun.batch.photos import Photo
from acfun.batch.places import Folder
from acfun.errors import ConfigError

MANIFEST_NAME = "manifest.parquet"
PARTS_DIR = "manifest_parts"
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("modified", pa.timestamp("us", "UTC")),
        ("status", pa.string()),
        ("outputs", pa.list_(pa.string())),
        ("reason", pa.string()),
        ("seconds", pa.float32()),
        ("content_sha256", pa.string()),
        ("style_sha256", pa.string()),
        ("settings_sha256", pa.string()),
        ("finished", pa.timestamp("us", "UTC")),
    ]
)
Status = Literal["painted", "set_aside", "failed"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What became of a photograph.

    Attributes:
        path: or URL.
        size: bytes of the file.
        modified: when it was written last; None where that is not known.
        status: painted; set aside, as it will be again until the file is another one; or failed, for a reason that
            may pass: the next run tries again.
        outputs: the pictures, as paths from the output folder on.
        reason: why there is no picture; None where there is.
        seconds: from reading to writing; None where the worker died.
        content_sha256: of the file, 64 hex digits; None where it was not read.
        style_sha256: of the style file.
        settings_sha256: of the options that decide a picture.
        finished: when.
    """

    path: str
    size: int
    modified: datetime | None
    status: Status
    outputs: Sequence[str] = ()
    reason: str | None = None
    seconds: float | None = None
    content_sha256: str | None = None
    style_sha256: str
    settings_sha256: str
    finished: datetime


def name_part(photos: Sequence[Photo], made_by: dict[str, str]) -> str:
    """The part of a batch; a batch that Ray runs twice has the same one."""
    text = repr(([photo.version for photo in photos], sorted(made_by.items())))
    return f"{PARTS_DIR}/{hashlib.sha256(text.encode()).hexdigest()[:32]}.parquet"


def write_part(folder: Folder, name: str, entries: Sequence[Entry]) -> None:
    """Add the rows of a batch; OSError where that fails."""
    _write(folder, name, pa.Table.from_pylist([asdict(entry) for entry in entries], SCHEMA))


def read_part(folder: Folder, name: str) -> pa.Table | None:
    """The rows of a batch; None where it has none yet."""
    try:
        return parquet.read_table(pa.BufferReader(folder.read(name)), use_threads=False).cast(SCHEMA)
    except FileNotFoundError:
        return None


def merge_parts(folder: Folder) -> pa.Table:
    """Make one file of the manifest and its parts, and return its rows: the latest of each photograph.

    Raises:
        ConfigError: the folder cannot be written to, or has a file of that name that is no manifest of a batch.
    """
    try:
        parts = folder.list_names(PARTS_DIR)
        tables = [read_part(folder, name) for name in (MANIFEST_NAME, *parts)]
        table = pa.concat_tables([SCHEMA.empty_table(), *filter(None, tables)]).sort_by("finished")
        latest = {path: row for row, path in enumerate(table["path"].to_pylist())}
        table = table.take(pa.array(list(latest.values()), pa.int64())).sort_by("path")
        _write(folder, MANIFEST_NAME, table)
        for name in parts:
            folder.delete(name)
    except OSError as error:
        raise ConfigError(f"{folder.path} cannot be written to ({error}): give another folder") from error
    except ValueError as error:  # what pyarrow raises on other columns, and on what is no parquet
        raise ConfigError(
            f"{folder.path}/{MANIFEST_NAME} is no manifest of a batch ({error}): give another folder, or move it away"
        ) from error
    return table


def iterate_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows one by one, of which few are in memory as Python's objects."""
    for batch in table.to_batches(max_chunksize=1000):
        yield from batch.to_pylist()


def _write(folder: Folder, name: str, table: pa.Table) -> None:
    stream = pa.BufferOutputStream()
    parquet.write_table(table, stream)
    folder.write(name, stream.getvalue().to_pybytes())
