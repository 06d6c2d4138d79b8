"""What can go wrong for a user. Every message names the value, where it was found, and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class AcfunError(Exception):
    """Any error that acfun explains."""


class ConfigError(AcfunError, ValueError):
    """An option or a config file cannot be used as it stands."""


class DataError(AcfunError):
    """Training data are missing or incomplete."""


class ImageError(AcfunError):
    """An image file cannot be read, or is too small or too large."""


class NoFaceFoundError(AcfunError):
    """No face was found where one is needed."""


@contextmanager
def naming_photo(path: Path | str) -> Iterator[None]:
    """Begin the message of a `NoFaceFoundError` with the path of the photograph."""
    try:
        yield
    except NoFaceFoundError as error:
        raise NoFaceFoundError(f"{path}: {error}") from error


class FitDivergedError(AcfunError):
    """A fit's losses are no numbers any more."""


class StyleFileError(AcfunError):
    """A style file is missing, damaged, or from a newer acfun."""


class StyleWriteError(StyleFileError, OSError):
    """A style file cannot be written."""


class ManifestError(AcfunError):
    """A picture has no manifest, or one that it cannot be made again from."""


class BaseNotFoundError(AcfunError):
    """A base model is neither embedded, nor a folder, nor reachable."""


class HubError(AcfunError):
    """The hub cannot be reached, or refuses what is asked of it."""


class FaceModelError(AcfunError):
    """A file or a pack of face models, or the library that runs it, cannot be used.

    Args:
        problem: what is wrong, with the path.
        remedy: what to do.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}: {remedy}")
        self.problem, self.remedy = problem, remedy


class BaseFamilyMismatchError(AcfunError):
    """A style was made for another base."""


class MissingExtraError(AcfunError, ImportError):
    """An optional library is needed; the message is the pip line."""
