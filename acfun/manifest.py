"""What a picture was made from, kept inside the picture itself, so that it can be made again.

A manifest names files by their last name and their content, never by the folder that they lie in.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Self, get_args

from PIL import Image

from acfun import __version__
from acfun.errors import ManifestError
from acfun.images import read_note, save_image
from acfun.paths import compute_digest

FORMAT_VERSION = 1
Command = Literal["stylize", "apply", "generate"]
Kind = Literal["picture", "sheet"]
REQUIRED_ROLES: dict[Command, tuple[str, ...]] = {
    "stylize": ("photo", "style"),
    "apply": ("photo", "style"),
    "generate": (),
}
LIBRARIES = ("torch", "diffusers", "transformers", "pillow")
# Of a folder that is given for its configs only these files count: it may hold gigabytes that nobody reads.
CONFIG_PATTERNS = ("*.json", "*.txt")


@dataclass(frozen=True)
class Input:
    """A file or folder that went into a picture.

    Attributes:
        name: last part of its path.
        sha256: 64 hex digits, see `compute_digest`; of a base its fingerprint, which is one too.
    """

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What decides a picture.

    Attributes:
        command: of acfun that wrote it.
        options: of the command, by name, as they were given; files are in `inputs`.
        fit: fields of `FitConfig`, where the command fits; without files, seed and device.
        seed: of everything random.
        device: "cpu", "cuda" or "mps".
        base: name and fingerprint of the base.
        inputs: files by their role: "photo", "style", "base" …
        kind: a picture, or the sheet with before, style and after.
        suffix: of the file: ".png".
        index: which of the pictures of one run, from 0.
        count: how many the run gave.
        versions: of acfun and of the libraries that compute.
    """

    command: Command
    options: dict[str, Any]
    seed: int
    device: str
    base: Input
    inputs: dict[str, Input]
    fit: dict[str, Any] | None = None
    kind: Kind = "picture"
    suffix: str = ".png"
    index: int = 0
    count: int = 1
    versions: dict[str, str] = field(default_factory=lambda: find_versions())

    def to_json(self) -> str:
        """ASCII; equal manifests give equal text."""
        return json.dumps({"acfun_manifest": FORMAT_VERSION, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The manifest of a text; what it says is checked as far as it can be without its files.

        Raises:
            ManifestError: the text is no manifest, is of a newer format, or names a path outside its folder.
        """
        try:
            values = json.loads(text)
            found = values.pop("acfun_manifest")
            if found != FORMAT_VERSION:
                raise ManifestError(f"the manifest has format {found!r}, acfun reads {FORMAT_VERSION}: update acfun")
            values["base"] = Input(**values["base"])
            values["inputs"] = {role: Input(**value) for role, value in values["inputs"].items()}
            manifest = cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ManifestError(f"the manifest is damaged ({error}): take the picture as it was written") from error
        _check_manifest(manifest)
        return manifest

    def name_output(self, *, suffix: str, kind: Kind = "picture", index: int = 0, count: int = 1) -> "Manifest":
        """The manifest of one of the files that a run writes."""
        return replace(self, suffix=suffix, kind=kind, index=index, count=count)

    def compare_environment(self, other: "Manifest") -> list[str]:
        """Where base, device and versions of another picture depart from this one's, in words."""
        pairs = {"device": (self.device, other.device), "base": (self.base.sha256[:12], other.base.sha256[:12])}
        names = sorted(self.versions.keys() | other.versions.keys())
        pairs |= {name: (self.versions.get(name, "none"), other.versions.get(name, "none")) for name in names}
        return [f"{name} was {before}, now {now}" for name, (before, now) in pairs.items() if before != now]


def read_manifest(path: Path) -> Manifest:
    """The manifest inside a picture.

    Raises:
        ManifestError: there is none, or it cannot be used.
        ImageError: the file is no picture that can be read.
    """
    note = read_note(path)
    if note is None:
        raise ManifestError(
            f"{path} holds no manifest: give a PNG, JPEG or WebP that acfun wrote without --no-manifest, and that no "
            "other program has saved since"
        )
    try:
        return Manifest.from_json(note)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from error


def save_with_manifest(image: Image.Image, path: Path, manifest: Manifest | None) -> None:
    """Write a picture with its manifest in it, or without one; errors as for `save_image`."""
    save_image(image, path, None if manifest is None else manifest.to_json())


def note_inputs(paths: Mapping[str, str | Path | None]) -> dict[str, Input]:
    """Those of the paths, by role, that lie on this machine, with their content."""
    present = {role: Path(path) for role, path in paths.items() if path is not None and Path(path).exists()}
    return {role: Input(path.name or path.resolve().name, digest_role(role, path)) for role, path in present.items()}


def digest_role(role: str, path: Path) -> str:
    """The digest of a file or folder in its role: of the folder of a base's configs only these count."""
    return compute_digest(path, CONFIG_PATTERNS if role == "base_config" else ("*",))


def find_versions() -> dict[str, str]:
    """Versions of acfun and of the libraries that decide the last bit of a picture."""
    return {"acfun": __version__, **{name: version(name) for name in LIBRARIES}}


def _check_manifest(manifest: Manifest) -> None:
    """Pictures come from anywhere: refuse what could lead out of the folder, or is of another kind than it should."""
    kinds = {"options": dict, "seed": int, "device": str, "inputs": dict, "index": int, "count": int, "suffix": str}
    for name, kind in kinds.items():
        if not isinstance(getattr(manifest, name), kind):
            raise _refuse(f"{name} {getattr(manifest, name)!r}")
    for name, allowed in (("command", get_args(Command)), ("kind", get_args(Kind))):
        if getattr(manifest, name) not in allowed:
            raise _refuse(f"{name} {getattr(manifest, name)!r}")
    if not 0 <= manifest.index < manifest.count or Path(f"a{manifest.suffix}").suffix != manifest.suffix:
        raise _refuse(f"index {manifest.index} of {manifest.count} and suffix {manifest.suffix!r}")
    for role, file in manifest.inputs.items():
        if not isinstance(file.name, str) or not isinstance(file.sha256, str) or Path(file.name).name != file.name:
            raise _refuse(f"{role} {file.name!r}")
    if missing := [role for role in REQUIRED_ROLES[manifest.command] if role not in manifest.inputs]:
        raise _refuse(f"no {', '.join(missing)}")
    if manifest.command == "generate" and "prompt" not in manifest.options:
        raise _refuse("no prompt")
    if manifest.fit is not None and not isinstance(manifest.fit, dict):
        raise _refuse(f"fit {manifest.fit!r}")


def _refuse(what: str) -> ManifestError:
    return ManifestError(f"the manifest has {what}, which acfun does not write: take the picture as it was written")
