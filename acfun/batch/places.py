"""Folders on local disks and in object stores, by path or URL, through the file systems of pyarrow."""

import secrets
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

from pyarrow import ArrowException
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from acfun.errors import ConfigError
from acfun.paths import is_url

# Half-written files lie here, under the folder that they are for, and marks of what was begun.
PARTIAL_DIR = ".partial"


@lru_cache
def open_place(location: str) -> tuple[FileSystem, str]:
    """The file system of a path or URL, and the path in it.

    Raises:
        ConfigError: pyarrow has no file system for it.
    """
    if not is_url(location):
        return LocalFileSystem(), str(Path(location).absolute())
    try:
        filesystem, path = FileSystem.from_uri(location)
    except (ArrowException, OSError) as error:
        raise ConfigError(
            f"{location} cannot be opened ({error}): check the URL and its credentials; s3, gs, abfs, hdfs and file "
            "are understood"
        ) from error
    return filesystem, path


def list_files(location: str) -> list[tuple[str, FileInfo]]:
    """The file at a location, or all files in the folder there, each with its path in that folder, sorted by it.

    Files and folders whose names begin with a dot are left out.

    Raises:
        ConfigError: there is nothing, or it cannot be listed.
    """
    filesystem, path = open_place(location)
    try:
        root = filesystem.get_file_info(path)
        if root.type == FileType.File:
            return [(root.base_name, root)]
        found = filesystem.get_file_info(FileSelector(path, recursive=True))
    except OSError as error:
        raise ConfigError(f"{location} cannot be listed ({error}): check the path, and that you may read it") from error
    prefix = path.rstrip("/") + "/"
    named = ((info.path.removeprefix(prefix), info) for info in found if info.type == FileType.File)
    return sorted((pair for pair in named if not _is_hidden(pair[0])), key=lambda pair: pair[0])


@dataclass(frozen=True)
class Folder:
    """A folder to write to.

    Attributes:
        filesystem: of pyarrow.
        path: in it.
    """

    filesystem: FileSystem
    path: str

    @classmethod
    def open(cls, location: str) -> Self:
        """The folder at a path or URL; errors as for `open_place`."""
        filesystem, path = open_place(location)
        return cls(filesystem, path.rstrip("/"))

    def list_names(self, under: str = "") -> list[str]:
        """Paths, from this folder on, of all files in it or below one of its folders; none where there is none."""
        selector = FileSelector(f"{self.path}/{under}".rstrip("/"), recursive=True, allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return sorted(info.path.removeprefix(f"{self.path}/") for info in found if info.type == FileType.File)

    def read(self, name: str) -> bytes:
        """A file's content; OSError where it cannot be read."""
        return read_bytes(self.filesystem, f"{self.path}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all, in place of one of that name; OSError where that fails."""
        target, partial = f"{self.path}/{name}", f"{self.path}/{PARTIAL_DIR}/{secrets.token_hex(8)}"
        for path in (target, partial):
            self.filesystem.create_dir(path.rpartition("/")[0])
        with self.filesystem.open_output_stream(partial) as stream:
            stream.write(content)
        self.filesystem.move(partial, target)

    def delete(self, name: str) -> None:
        """Remove a file; OSError where that fails."""
        self.filesystem.delete_file(f"{self.path}/{name}")

    def begin(self, name: str) -> bool:
        """Mark a file as begun; whether it had been already, in this run."""
        mark = f"{PARTIAL_DIR}/{name.replace('/', '-')}"
        try:
            self.read(mark)
        except FileNotFoundError:
            self.write(mark, b"begun")
            return False
        return True

    def delete_partial(self) -> None:
        """Remove what runs left half-written when they were killed, and their marks."""
        for name in self.list_names(PARTIAL_DIR):
            self.delete(name)


def read_bytes(filesystem: FileSystem, path: str) -> bytes:
    """A file's content; OSError where it cannot be read."""
    with filesystem.open_input_stream(path) as stream:
        content: bytes = stream.read()
    return content


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))
