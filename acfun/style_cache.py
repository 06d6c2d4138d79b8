"""Styles that were fitted before, found again by the content of what they were fitted from."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from acfun import __version__
from acfun.config import FitConfig
from acfun.config_fields import select_fields
from acfun.errors import ConfigError, StyleFileError
from acfun.paths import CACHE_DIR_VARIABLE, cache_dir, mini_dir

if TYPE_CHECKING:
    from acfun.style import Style

# What says where a fit reads, writes and computes, not what comes out of it; the pictures count by content.
FIT_REVISION = 2  # raised whenever the same fit learns or keeps something else than before, within a version
_WHERE_FIELDS = select_fields("painting", "photos", "base", "device", "memory", "run")


def styles_dir() -> Path:
    """Folder of the cached styles; not created here."""
    return cache_dir() / "styles"


def compute_style_key(config: FitConfig, *, style: bytes, faces: bytes, base_fingerprint: str) -> str:
    """sha256 (64 hex digits) of all that decides what a fit gives.

    Args:
        config: of the fit; its paths, folders and device do not count.
        style: content of the style image's file.
        faces: the portraits that it is fitted with.
        base_fingerprint: of the base.
    """
    from acfun.face.packs import compute_fingerprint

    options = {name: value for name, value in asdict(config).items() if name not in _WHERE_FIELDS}
    options |= {name: compute_fingerprint(options[name]) for name in select_fields("face_model")}
    options |= {f"mini/{name}": compute_fingerprint(mini_dir() / name) for name in ("face_finder", "identity_encoder")}
    decided = [__version__, FIT_REVISION, base_fingerprint, options]
    digest = hashlib.sha256(json.dumps(decided, sort_keys=True).encode())
    for content in (style, faces):
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def find_style(key: str) -> "Style | None":
    """The cached style of a key; None where there is none, or only a damaged file."""
    from acfun.style import Style

    path = styles_dir() / f"{key}.safetensors"
    if not path.is_file():
        return None
    try:
        return Style.load(path)
    except StyleFileError:
        return None


def store_style(key: str, style: "Style") -> Path:
    """Save a style under its key.

    Raises:
        ConfigError: the cache folder cannot be written to.
    """
    path = styles_dir() / f"{key}.safetensors"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        style.save(path)
    except OSError as error:
        raise ConfigError(
            f"{path.parent}: styles cannot be cached there ({error}); set {CACHE_DIR_VARIABLE} to a folder that can be "
            "written to"
        ) from error
    return path
