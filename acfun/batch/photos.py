"""The photographs of a batch run: which there are, which of them are left, and how they are dealt out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from acfun.batch.places import list_files, open_place, read_bytes
from acfun.errors import ConfigError
from acfun.paths import URL_MARK, is_url

# No photograph; reading it would only fill the memory.
MAX_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Photo:
    """A file that may be a photograph.

    Attributes:
        source: the path or URL that the user gave, of the file or of a folder with it.
        path: in the source's file system.
        name: its path in the folder; its own name where the source is the file itself.
        size: bytes.
        modified: when it was written last; None where the file system does not know.
    """

    source: str
    path: str
    name: str
    size: int
    modified: datetime | None

    @property
    def url(self) -> str:
        """Where it is: a path on local disks, else a URL."""
        scheme = self.source.partition(URL_MARK)[0] if is_url(self.source) else "file"
        return self.path if scheme == "file" else f"{scheme}{URL_MARK}{self.path}"

    @property
    def output(self) -> str:
        """Path of the painted copy in the output folder: no other photograph of the source has the same."""
        return f"{self.name}.png"

    @property
    def version(self) -> tuple[str, int, datetime | None]:
        """Another one when the file was replaced."""
        return self.url, self.size, self.modified

    def read(self) -> bytes:
        """The file's content; OSError where it cannot be read."""
        return read_bytes(open_place(self.source)[0], self.path)


def list_photos(sources: Sequence[str], output: str) -> list[Photo]:
    """All files of files and folders, but for hidden ones; which of them are photographs shows when they are read.

    Raises:
        ConfigError: a source has no files or cannot be listed, two results would have one name, or the output folder
            lies in a source, where the next run would find its pictures.
    """
    photos: dict[str, Photo] = {}
    for source in dict.fromkeys(sources):
        _check_apart(source, output)
        files = list_files(source)
        if not files:
            raise ConfigError(f"{source} has no files: give a folder with photographs")
        for name, info in files:
            photo = Photo(source=source, path=info.path, name=name, size=info.size or 0, modified=info.mtime)
            other = photos.setdefault(photo.output, photo)
            if other is not photo:
                raise ConfigError(
                    f"{photo.url} and {other.url} would both be painted as {photo.output}: paint {source} into "
                    "another folder"
                )
    return list(photos.values())


def find_current(
    photos: Sequence[Photo], rows: Iterable[dict[str, Any]], made_by: dict[str, str]
) -> Iterator[tuple[Photo, dict[str, Any]]]:
    """Photographs with their rows, as far as these are of the same file, style and settings.

    Args:
        photos: of the run.
        rows: of the manifest.
        made_by: `Job.made_by` of what is wanted now.
    """
    wanted = {photo.version: photo for photo in photos}
    for row in rows:
        photo = wanted.get((row["path"], row["size"], row["modified"]))
        if photo is not None and all(row[name] == value for name, value in made_by.items()):
            yield photo, row


def select_remaining(
    photos: Sequence[Photo], rows: Iterable[dict[str, Any]], made_by: dict[str, str], present: set[str]
) -> list[Photo]:
    """The photographs that are still to be painted.

    Left out are those whose pictures are all there, and those that were set aside. What failed for another reason is
    tried again. Arguments are those of `find_current`, and the names of the files in the output folder.
    """
    done = {
        photo.url
        for photo, row in find_current(photos, rows, made_by)
        if row["status"] != "failed" and present.issuperset(row["outputs"])
    }
    return [photo for photo in photos if photo.url not in done]


def _check_apart(source: str, output: str) -> None:
    (filesystem, path), (other, target) = open_place(source), open_place(output)
    if filesystem == other and f"{target.rstrip('/')}/".startswith(f"{path.rstrip('/')}/"):
        raise ConfigError(
            f"{output} lies in {source}, and its pictures would be painted next time: give another folder"
        )
