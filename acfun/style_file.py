"""The format of style files: what stands in their header, and how it is read and written."""

import json
from pathlib import Path
from typing import Any

from acfun.errors import StyleFileError

FORMAT = "acfun-style"
FORMAT_VERSION = 2  # 1 kept style images as pixels; it is still read

REQUIRED_KEYS = (
    "format",
    "format_version",
    "acfun_version",
    "family",
    "base_name",
    "base_fingerprint",
    "placeholder",
    "architecture",
    "config",
    "licence",
)

# What people give for a style that has still to be fitted.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".jp2", ".avif")

# The safetensors format: 8 bytes of little-endian header length, the header as JSON, the tensors.
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000


def to_json(value: Any) -> str:
    """Equal values give equal text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a style file, without reading a tensor.

    Raises:
        StyleFileError: the file is missing, empty, damaged, no style, or of a newer format.
    """
    header = _read_header(path)
    metadata = header.get("__metadata__", {})
    if metadata.get("format") != FORMAT:
        if any("lora" in name for name in header):
            raise StyleFileError(
                f"{path} is no style file but a LoRA: make one of it by acfun import-lora {path} -o STYLE.safetensors"
            )
        raise _no_style(path, f"its format is {metadata.get('format')!r}")
    version = metadata.get("format_version", "")
    if not version.isdecimal() or int(version) > FORMAT_VERSION:
        raise StyleFileError(f"{path} has format {version!r}, newer than {FORMAT_VERSION}: update acfun")
    if missing := [key for key in REQUIRED_KEYS if key not in metadata]:
        raise StyleFileError(f"{path} lacks the metadata {', '.join(missing)}: copy or fit it again")
    return dict(metadata)


def is_style(path: Path) -> bool:
    """Whether a file is a style, of whatever format version."""
    try:
        metadata = _read_header(path).get("__metadata__", {})
    except StyleFileError:
        return False
    return bool(metadata.get("format") == FORMAT)


def sort_header(content: bytes) -> bytes:
    """safetensors writes the metadata in an order that changes from run to run; sorts it."""
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = to_json(json.loads(content[_LENGTH_BYTES:start])).encode()
    header += b" " * (-len(header) % _LENGTH_BYTES)
    return len(header).to_bytes(_LENGTH_BYTES, "little") + header + content[start:]


def _read_header(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise StyleFileError(f"{path} is not a file: check the path of the style")
    size = path.stat().st_size
    if size == 0:
        raise StyleFileError(f"{path} is empty (0 bytes): copy or fit it again")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise StyleFileError(
            f"{path} is no style file but an image: fit it first, by acfun fit {path} -o STYLE.safetensors"
        )
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or length > _MAX_HEADER_BYTES:
            raise _no_style(path, "it does not begin as a safetensors file does")
        content = file.read(length)
    if len(content) < length:
        raise StyleFileError(f"{path} is cut off in its header ({size} bytes): copy or fit it again")
    try:
        header = json.loads(content)
    except ValueError as error:
        raise _no_style(path, f"its header cannot be read, {error}") from error
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise _no_style(path, "its header is no table")
    return header


def _no_style(path: Path, reason: str) -> StyleFileError:
    return StyleFileError(f"{path} is no style file ({reason}): give a file that acfun saved")
