"""The licensed photographs that everything synthetic starts from, and the fixed split of people: training, held out."""

import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acfun.errors import DataError

DATA_DIR_VARIABLE = "ACFUN_DATA_DIR"
NUM_LANDMARKS = 189
PUPILS = (0, 1)
HOLD_OUT_EVERY = 6
MIN_AGE = 18

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Photo:
    """One photograph on disk.

    Attributes:
        path: image file.
        key: "faces/london_002_neutral.jpg" or "portraits/0002_grey.jpg"; keys tables of landmarks and attributes.
        identity: the person, unique over both collections ("london_002", "portrait_0002").
        kind: "neutral", "smiling", "grey" or "colour".
    """

    path: Path
    key: str
    identity: str
    kind: str


def find_data_dir() -> Path | None:
    """Return the folder with `faces/`, `portraits/` and `styles/`, or None.

    Looks at the environment variable ACFUN_DATA_DIR, then at `shared/data` beside and inside the checkout.
    """
    checkout = Path(__file__).resolve().parents[2]
    candidates = [checkout.parent / "shared" / "data", checkout / "shared" / "data"]
    if os.environ.get(DATA_DIR_VARIABLE):
        candidates.insert(0, Path(os.environ[DATA_DIR_VARIABLE]))
    return next((path for path in candidates if (path / "faces" / "faces.csv").is_file()), None)


def require_data_dir() -> Path:
    """Return `find_data_dir()`.

    Raises:
        DataError: there is none; names the variable to set.
    """
    data_dir = find_data_dir()
    if data_dir is None:
        raise DataError(
            f"no folder with faces/faces.csv found; set {DATA_DIR_VARIABLE} to the one that holds faces/ and portraits/"
        )
    return data_dir


def list_faces(data_dir: Path) -> list[Photo]:
    """List the studio photographs of adults, neutral and smiling, ordered by file name."""
    rows = _read_csv(data_dir / "faces" / "faces.csv")
    rows = [row for row in rows if not row["age"].isdecimal() or int(row["age"]) >= MIN_AGE]
    return [
        Photo(
            path=data_dir / "faces" / "images" / row["file"],
            key=f"faces/{row['file']}",
            identity=f"{row['set']}_{row['identity']}",
            kind=row["expression"],
        )
        for row in sorted(rows, key=lambda row: row["file"])
    ]


def list_portraits(data_dir: Path) -> list[Photo]:
    """List the portraits in the wild, ordered by file name."""
    rows = _read_csv(data_dir / "portraits" / "portraits.csv")
    return [
        Photo(
            path=data_dir / "portraits" / "images" / row["file"],
            key=f"portraits/{row['file']}",
            identity=f"portrait_{row['identity']}",
            kind=row["kind"],
        )
        for row in sorted(rows, key=lambda row: row["file"])
    ]


def load_landmarks(data_dir: Path) -> dict[str, FloatArray]:
    """Read the hand-placed landmarks: key "faces/…" → (189, 2) pixels of the file."""
    table = json.loads((data_dir / "faces" / "landmarks.json").read_text(encoding="utf-8"))
    return {f"faces/{file}": np.asarray(points, np.float32) for file, points in table.items()}


def split_people(data_dir: Path) -> tuple[set[str], set[str]]:
    """Split all identities into (training, held_out), the same for every model and for the benchmark.

    Held out are every sixth person of the studio photographs, and whoever was portrayed twice, years apart.
    """
    # Positions count everybody in the table, so that leaving somebody out moves nobody else across the split.
    studio = sorted({f"{row['set']}_{row['identity']}" for row in _read_csv(data_dir / "faces" / "faces.csv")})
    counts: dict[str, int] = {}
    for photo in list_portraits(data_dir):
        counts[photo.identity] = counts.get(photo.identity, 0) + 1
    held_out = set(studio[::HOLD_OUT_EVERY]) | {identity for identity, count in counts.items() if count > 1}
    return (set(studio) | set(counts)) - held_out, held_out


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
