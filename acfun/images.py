"""Pictures in and out: the only place where ranges, colour modes, EXIF, alpha and size limits are handled.

Tensors are (B,3,H,W) float32 in [-1,1]; arrays are (H,W,3) float32 in [0,1].
"""

import struct
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageDraw, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn import functional as F

from acfun.errors import ImageError
from acfun.paths import atomic_write, explain_obstacle

MIN_SIDE = 32
MAX_SIDE = 4096
MAX_PIXELS = 100_000_000
# Pillow also opens formats that run other programs (EPS) or are no pictures: only these are read.
INPUT_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")
OUTPUT_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
# What has a place for a note: PNG a text chunk of its own, the others EXIF.
NOTE_FORMATS = ("PNG", "JPEG", "WEBP")
NOTE_KEY = "acfun"
# How EXIF marks a user comment as plain ASCII, and the most bytes that a JPEG file's EXIF can hold.
_ASCII_MARK = b"ASCII\0\0\0"
_MAX_NOTE_LENGTH = 60_000
JPEG_QUALITY = 95
_SHEET_MARGIN = 4
_CAPTION_HEIGHT = 14
# What Pillow's readers raise on damaged files; the AVIF reader raises RuntimeError.
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, struct.error)
# While a picture is open, Pillow's limit and Python's warnings, which all threads share, are not what they were.
_OPENING = threading.Lock()
LUMA_WEIGHTS = (0.299, 0.587, 0.114)


def load_image(path: Path | str, content: bytes | None = None) -> Image.Image:
    """Read a picture as upright sRGB.

    EXIF rotation is applied, animated pictures give their first frame, what is transparent lies on white, a
    usable colour profile is followed, deeper grey is scaled to 8 bits, and pictures wider or higher than
    `MAX_SIDE` are reduced to it. Baseline JPEG files of any size are decoded at a reduced size.

    Args:
        path: of the file.
        content: of the file, where it has been read already; `path` only names it then.

    Raises:
        ImageError: the file is missing, empty, no picture, cut off, smaller than `MIN_SIDE`, or larger than
            `MAX_PIXELS` in a format that cannot be decoded at a reduced size.
    """
    path = Path(path)
    with _open_image(path, content) as file:
        _check_sides(path, *file.size)
        if not file.info.get("progressive"):  # all coefficients of a progressive JPEG are held in memory
            file.draft(None, (MAX_SIDE, MAX_SIDE))
        _check_pixels(path, *file.size)
        file.load()
        ImageOps.exif_transpose(file, in_place=True)
        image = _to_rgb(file)
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return image


def pil_to_tensor(image: Image.Image) -> Tensor:
    """Any picture, best one of `load_image` → (1,3,H,W) in [-1,1]."""
    return array_to_tensor(np.asarray(_to_rgb(image), np.float32) / np.float32(255))


def tensor_to_pil(tensor: Tensor) -> Image.Image:
    """(3,H,W) or (1,3,H,W) in [-1,1] → RGB picture; values outside are clipped."""
    return Image.fromarray((tensor_to_array(tensor) * 255).round().astype(np.uint8))


def pack_image(image: Tensor) -> Tensor:
    """(1,3,H,W) in [-1,1] → the bytes (N,) of a lossless WebP file, uint8; colours are rounded to 8 bits."""
    content = BytesIO()
    tensor_to_pil(image).save(content, "WEBP", lossless=True)
    return torch.frombuffer(bytearray(content.getvalue()), dtype=torch.uint8)


def unpack_image(packed: Tensor, name: str) -> Tensor:
    """The inverse of `pack_image`.

    Args:
        packed: bytes (N,) of a picture.
        name: what an error calls it.

    Raises:
        ImageError: it is no picture, or damaged.
    """
    pixels = torch.from_numpy(read_pixels(name, packed.numpy().tobytes()).copy())
    return pixels.permute(2, 0, 1)[None] / 127.5 - 1


def array_to_tensor(array: NDArray[np.float32]) -> Tensor:
    """(H,W,3) in [0,1] → (1,3,H,W) in [-1,1]."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))[None].float() * 2 - 1


def tensor_to_array(tensor: Tensor) -> NDArray[np.float32]:
    """(3,H,W) or (1,3,H,W) in [-1,1] → (H,W,3) float32 in [0,1], clipped."""
    single = tensor.detach().reshape(tensor.shape[-3:]).float().cpu()
    array: NDArray[np.float32] = ((single.clamp(-1, 1) + 1) / 2).permute(1, 2, 0).numpy()
    return array


def compute_luma(images: Tensor) -> Tensor:
    """Rec. 601 luma (B,H,W) of images (B,3,H,W), in their range."""
    weights = images.new_tensor(LUMA_WEIGHTS)[:, None, None]
    return (images * weights).sum(1)


def resize(tensor: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Resample (B,3,H,W) to a square of `size`, or to (height, width), with antialiasing; stays in [-1,1]."""
    target = (size, size) if isinstance(size, int) else size
    return F.interpolate(tensor, target, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)


def blur(maps: Tensor, deviation: float) -> Tensor:
    """Maps (B,C,h,w) blurred by a normal distribution, edges repeated outwards; deviation in pixels."""
    radius = int(3 * deviation) + 1
    along = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-0.5 * (along / deviation).square())
    kernel = (kernel / kernel.sum()).expand(maps.shape[1], 1, -1)
    padded = F.pad(maps, (radius, radius, radius, radius), mode="replicate")
    across = F.conv2d(padded, kernel[:, :, None], groups=maps.shape[1])
    return F.conv2d(across, kernel[..., None], groups=maps.shape[1])


def save_image(image: Image.Image, path: Path | str, note: str | None = None) -> None:
    """Write a picture, whole or not at all, in the format of its ending.

    Args:
        image: the picture.
        path: where to; its folder exists.
        note: ASCII text to be kept in the file, for `read_note`; up to 60,000 characters.

    Raises:
        ImageError: the ending is not one of `OUTPUT_FORMATS`, its format has no place for the note, the note is too
            long, or the file cannot be written there.
    """
    path = Path(path)
    check_output_path(path)
    image_format = OUTPUT_FORMATS[path.suffix.lower()]
    options = {} if note is None else _place_note(path, image_format, note)
    try:
        with atomic_write(path) as temporary:
            image.save(temporary, format=image_format, quality=JPEG_QUALITY, **options)
    except OSError as error:
        raise ImageError(f"{path}: the image cannot be written ({error}); choose another place") from error


def can_hold_note(path: Path) -> bool:
    """Whether `save_image` can keep a note in a file of this name."""
    return OUTPUT_FORMATS.get(path.suffix.lower()) in NOTE_FORMATS


def read_note(path: Path | str) -> str | None:
    """The note that `save_image` kept in a picture; None where there is none.

    Raises:
        ImageError: the file is missing, empty, damaged, or no picture.
    """
    with _open_image(Path(path)) as file:
        if file.format == "PNG":
            file.load()  # text may stand after the pixels
            note = file.info.get(NOTE_KEY)
            return note if isinstance(note, str) else None
        comment = file.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if not isinstance(comment, bytes) or not comment.startswith(_ASCII_MARK):
        return None
    return comment[len(_ASCII_MARK) :].decode("ascii", errors="replace")


def read_pixels(path: Path | str, content: bytes | None = None) -> NDArray[np.uint8]:
    """(H,W,3) of a picture as it is in the file: not reduced, not turned, profile left alone.

    Args:
        path: of the file, or what messages call it.
        content: of the file, where it is not read from `path`.

    Raises:
        ImageError: the file is missing, empty, damaged, no picture, or larger than `MAX_PIXELS`.
    """
    path = Path(path)
    with _open_image(path, content) as file:
        _check_pixels(path, *file.size)
        return np.asarray(file.convert("RGB"))


def check_output_path(path: Path) -> None:
    """Refuse, before any work is done, a path that `save_image` could not write to.

    Raises:
        ImageError: the ending is not one of `OUTPUT_FORMATS`, the folder does not exist, or nothing can be written
            there.
    """
    if obstacle := explain_obstacle(path, tuple(OUTPUT_FORMATS)):
        raise ImageError(obstacle)


def contact_sheet(images: Sequence[Image.Image], columns: int, labels: Sequence[str] | None = None) -> Image.Image:
    """Lay pictures out on white in rows of `columns`, labels below them; all get the first one's size."""
    width, height = images[0].size
    caption = _CAPTION_HEIGHT if labels else 0
    step_x, step_y = width + _SHEET_MARGIN, height + caption + _SHEET_MARGIN
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * step_x + _SHEET_MARGIN, rows * step_y + _SHEET_MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        left, top = index % columns * step_x + _SHEET_MARGIN, index // columns * step_y + _SHEET_MARGIN
        sheet.paste(ImageOps.pad(image.convert("RGB"), (width, height), color="white"), (left, top))
        if labels:
            draw.text((left + 2, top + height + 1), labels[index][: width // 6], fill="black")
    return sheet


@contextmanager
def _open_image(path: Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """The opened file; what its reader raises inside the block becomes an `ImageError`. One thread at a time."""
    if content is None:
        _check_file(path)
    else:
        _check_size(path, len(content))
    source = path if content is None else BytesIO(content)
    try:
        with _OPENING, _without_limit(), Image.open(source, formats=INPUT_FORMATS) as file:
            yield file
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: this is not an image that can be read; convert it to PNG or JPEG") from error
    except PermissionError as error:
        raise ImageError(f"{path}: reading is not permitted; change the file's permissions") from error
    except _DECODING_ERRORS as error:
        raise ImageError(f"{path}: the image is damaged or cut off ({error}); copy or download it again") from error


@contextmanager
def _without_limit() -> Iterator[None]:
    """Inside the block Pillow opens pictures of any size: our own limit names size and remedy, and spares JPEG."""
    limit = Image.MAX_IMAGE_PIXELS
    # Pillow warns of broken metadata beside sound pixels.
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _place_note(path: Path, image_format: str, note: str) -> dict[str, Any]:
    """Arguments of Pillow's `save` that keep a note."""
    if image_format not in NOTE_FORMATS:
        raise ImageError(f"{path}: {image_format} has no place for a note; write {', '.join(NOTE_FORMATS)}")
    if len(note) > _MAX_NOTE_LENGTH:
        raise ImageError(f"{path}: a note of {len(note)} characters is too long; {_MAX_NOTE_LENGTH} fit in")
    if image_format == "PNG":
        chunks = PngInfo()
        chunks.add_text(NOTE_KEY, note)
        return {"pnginfo": chunks}
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = _ASCII_MARK + note.encode("ascii")
    return {"exif": exif}


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ImageError(f"{path}: this is a folder; give the image files in it")
    if not path.is_file():
        raise ImageError(f"{path}: there is no such file; check the path")
    _check_size(path, path.stat().st_size)


def _check_size(path: Path, size: int) -> None:
    if size == 0:
        raise ImageError(f"{path}: the file is empty (0 bytes); copy or download it again")


def _check_sides(path: Path, width: int, height: int) -> None:
    reduction = max(1.0, max(width, height) / MAX_SIDE)
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"{path}: {width}x{height} px is too small; an image of at least {MIN_SIDE} px a side is needed"
        )
    if min(width, height) / reduction < MIN_SIDE:
        raise ImageError(f"{path}: {width}x{height} px is too narrow a strip; cut a portrait out of it")


def _check_pixels(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{path}: {width}x{height} px is more than {MAX_PIXELS // 10**6} megapixels; make it smaller "
            f"first ({MAX_SIDE} px a side are enough), or save it as baseline JPEG"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _reduce_depth(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return _follow_profile(image) or image.convert("RGB")


def _reduce_depth(image: Image.Image) -> Image.Image:
    """Deep grey → 8 bits; white is the largest value of the smallest usual range that holds all values."""
    values = np.nan_to_num(np.asarray(image, np.float32))
    highest = float(values.max())
    ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    white = next((value for value in ranges if highest <= value), highest)
    return Image.fromarray((np.clip(values / white, 0, 1) * 255).round().astype(np.uint8))


def _follow_profile(image: Image.Image) -> Image.Image | None:
    """Colours by the embedded ICC profile; None without one that fits, as browsers do."""
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    return converted
