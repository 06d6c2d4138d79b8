"""Where things lie on disk, and how they are written: whole or not at all."""

import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from acfun.errors import ManifestError

CACHE_DIR_VARIABLE = "ACFUN_CACHE_DIR"
URL_MARK = "://"


def mini_dir() -> Path:
    """Folder of the embedded base `mini`."""
    return Path(__file__).parent / "base" / "mini"


def cache_dir() -> Path:
    """Folder for fitted styles: ACFUN_CACHE_DIR, or `acfun` in the user's cache folder. Not created here."""
    if os.environ.get(CACHE_DIR_VARIABLE):
        return Path(os.environ[CACHE_DIR_VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "acfun"


def is_url(place: str) -> bool:
    """Whether it is a URL (`s3://…`, `gs://…`, `file://…`), not a path."""
    return URL_MARK in place


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; the file takes the place of `path` if the block ends normally.

    The folder must exist. After an error `path` is as it was and nothing else is left. Who may read the file is what
    the user's umask says, whatever mode a library gave it (safetensors lets nobody else).
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def explain_obstacle(path: Path, endings: Sequence[str]) -> str | None:
    """Why no file with one of these endings can be written at a path, and what helps; None where one can."""
    if path.is_dir():
        return f"{path} is a folder: name a file in it, such as {path / f'name{endings[0]}'}, or choose another place"
    if path.suffix.lower() not in endings:
        found = f"cannot be written as {path.suffix!r}" if path.suffix else "has no ending"
        return f"{path} {found}; end the name in {', '.join(endings)}"
    if not path.parent.is_dir():
        return f"{path}: the folder {path.parent} does not exist; create it first"
    if not os.access(path.parent, os.W_OK):
        return f"{path}: no file can be written there; choose another place"
    return None


def compute_digest(path: Path, patterns: tuple[str, ...] = ("*",)) -> str:
    """sha256 (64 hex digits) of a file, or of names and contents of a folder's files that match `patterns`.

    Raises:
        ManifestError: it cannot be read.
    """
    try:
        if path.is_file():
            return _digest_file(path)
        files = sorted({file for pattern in patterns for file in path.rglob(pattern) if file.is_file()})
        lines = (f"{file.relative_to(path).as_posix()} {_digest_file(file)}\n" for file in files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    except OSError as error:
        raise ManifestError(f"{path} cannot be read ({error.strerror}): check the path") from error


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
