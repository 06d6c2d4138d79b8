"""Every kind of picture a user may have: the right pixels, or an error that says what and what to do."""

import struct
import threading
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from acfun import images
from acfun.errors import ImageError
from acfun.images import (
    array_to_tensor,
    contact_sheet,
    load_image,
    pack_image,
    pil_to_tensor,
    resize,
    save_image,
    tensor_to_array,
    tensor_to_pil,
    unpack_image,
)

WIDTH, HEIGHT = 60, 40
ORIENTATION_TAG = 0x0112


def paint_halves(mode: str = "RGB") -> Image.Image:
    """60 × 40 px, red on the left and blue on the right."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (200, 30, 20))
    image.paste((20, 40, 210), (WIDTH // 2, 0, WIDTH, HEIGHT))
    return image.convert(mode)


def pixel(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def write_png_of_size(path: Path, width: int, height: int) -> None:
    """A PNG that only claims its size: header and end, no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.bmp"])
def test_plain_colour_is_read_in_every_format(tmp_path: Path, name: str) -> None:
    save_image(paint_halves(), tmp_path / name)
    image = load_image(tmp_path / name)
    assert (image.mode, image.size) == ("RGB", (WIDTH, HEIGHT))
    assert np.allclose(pixel(image, 10, 20), (200, 30, 20), atol=6)
    assert np.allclose(pixel(image, 50, 20), (20, 40, 210), atol=6)


@pytest.mark.parametrize(("orientation", "size"), [(1, (60, 40)), (3, (60, 40)), (6, (40, 60)), (8, (40, 60))])
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    path = tmp_path / "turned.jpg"
    paint_halves().save(path, exif=exif, quality=95)
    image = load_image(path)
    assert image.size == size
    corners = {1: (5, 5), 3: (55, 5), 6: (5, 5), 8: (5, 55)}  # where the red left half comes to lie
    assert pixel(image, *corners[orientation])[0] > 150


def test_transparent_pixels_lie_on_white(tmp_path: Path) -> None:
    image = paint_halves("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 30, 40))
    image.paste((20, 40, 210, 128), (30, 0, 60, 20))
    image.save(tmp_path / "alpha.png")
    loaded = load_image(tmp_path / "alpha.png")
    assert pixel(loaded, 10, 10) == (255, 255, 255)
    assert np.allclose(pixel(loaded, 50, 10), (137, 147, 232), atol=2)
    assert pixel(loaded, 50, 30) == (20, 40, 210)


def test_transparent_palette_entry_lies_on_white(tmp_path: Path) -> None:
    image = paint_halves().quantize(4)
    index = image.getpixel((5, 5))
    image.save(tmp_path / "palette.png", transparency=index)
    loaded = load_image(tmp_path / "palette.png")
    assert pixel(loaded, 5, 5) == (255, 255, 255)
    assert np.allclose(pixel(loaded, 50, 20), (20, 40, 210), atol=3)


@pytest.mark.parametrize(("mode", "suffix"), [("L", ".png"), ("LA", ".png"), ("P", ".png"), ("1", ".png")])
def test_grey_and_palette_become_colour(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    paint_halves(mode).save(path)
    expected = paint_halves(mode).convert("RGB")
    assert np.array_equal(np.asarray(load_image(path)), np.asarray(expected))


def test_cmyk_keeps_its_colours(tmp_path: Path) -> None:
    paint_halves("CMYK").save(tmp_path / "print.jpg", quality=95)
    image = load_image(tmp_path / "print.jpg")
    assert image.mode == "RGB"
    assert np.allclose(pixel(image, 10, 20), (200, 30, 20), atol=8)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    ramp = np.linspace(0, 65535, 256 * 32).reshape(32, 256).astype(np.uint16)
    path = tmp_path / f"deep{suffix}"
    Image.fromarray(ramp).save(path)
    image = load_image(path)
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image, np.float64)[..., 0] - ramp / 257).max() <= 0.51


def test_float_tiff_is_scaled_by_its_range(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    for name, top in (("unit.tif", 1.0), ("byte.tif", 255.0)):
        Image.fromarray(ramp * top).save(tmp_path / name)
        assert np.abs(np.asarray(load_image(tmp_path / name))[..., 1] / 255 - ramp).max() < 0.003


def test_animated_gives_the_first_frame(tmp_path: Path) -> None:
    frames = [paint_halves(), Image.new("RGB", (WIDTH, HEIGHT), "lime")]
    for name in ("a.gif", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=50, loop=0)
        assert np.allclose(pixel(load_image(tmp_path / name), 10, 20), (200, 30, 20), atol=12)


def test_colour_profile_is_followed_and_a_broken_one_ignored(tmp_path: Path) -> None:
    lab_white = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    paint_halves().save(tmp_path / "srgb.png", icc_profile=lab_white)
    paint_halves().save(tmp_path / "broken.png", icc_profile=b"no profile at all")
    for name in ("srgb.png", "broken.png"):
        assert np.allclose(pixel(load_image(tmp_path / name), 10, 20), (200, 30, 20), atol=2)


def test_huge_jpeg_is_decoded_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_SIDE", 300)
    monkeypatch.setattr(images, "MAX_PIXELS", 300_000)
    paint_halves().resize((1800, 1200)).save(tmp_path / "huge.jpg")
    image = load_image(tmp_path / "huge.jpg")
    assert image.size == (300, 200)
    assert np.allclose(pixel(image, 50, 100), (200, 30, 20), atol=8)


@pytest.mark.parametrize("size", [(30_000, 30_000), (90_000, 2_000)])
def test_huge_png_is_refused_before_decoding(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "bomb.png"
    write_png_of_size(path, *size)
    with pytest.raises(ImageError, match=rf"bomb\.png: {size[0]}x{size[1]} px is more than 100 megapixels; .*smaller"):
        load_image(path)


def test_large_png_is_reduced(tmp_path: Path) -> None:
    paint_halves("L").resize((6000, 400)).save(tmp_path / "wide.png")
    assert load_image(tmp_path / "wide.png").size == (4096, 273)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"the file is empty \(0 bytes\); copy or download it again"),
        (b"hello, I am a text", "not an image that can be read; convert it to PNG or JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "not an image that can be read; convert"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "not an image that can be read|damaged or cut off"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "face.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"face\.jpg: .*({message})"):
        load_image(path)


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut.webp", "cut.gif", "cut.tif"])
def test_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / name
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=rf"{name}: .*; (copy or download it again|convert it)"):
        load_image(path)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "AVIF"])
def test_damaged_bytes_give_an_image_or_our_error(tmp_path: Path, image_format: str) -> None:
    generator = np.random.default_rng(0)
    buffer = BytesIO()
    Image.fromarray(generator.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(buffer, image_format)
    path = tmp_path / "damaged"
    num_refused = 0
    for count in [1, 3, 20] * 10:
        content = np.frombuffer(buffer.getvalue(), np.uint8).copy()
        content[generator.integers(0, min(len(content), 400), count)] = generator.integers(0, 255, count)
        path.write_bytes(content.tobytes())
        try:
            assert load_image(path).mode == "RGB"
        except ImageError:
            num_refused += 1
    assert num_refused > 0


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nobody\.png: there is no such file; check the path"):
        load_image(tmp_path / "nobody.png")
    with pytest.raises(ImageError, match="this is a folder; give the image files in it"):
        load_image(tmp_path)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((31, 200), "31x200 px is too small; .* at least 32 px"),
        ((1, 1), "too small"),
        ((9000, 40), "strip; cut"),
    ],
)
def test_tiny_images_are_refused(tmp_path: Path, size: tuple[int, int], message: str) -> None:
    Image.new("RGB", size).save(tmp_path / "tiny.png")
    with pytest.raises(ImageError, match=message):
        load_image(tmp_path / "tiny.png")


def test_loading_leaves_pillows_own_limit_alone(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError):
        load_image(tmp_path / "nobody.png")
    save_image(paint_halves(), tmp_path / "a.png")
    load_image(tmp_path / "a.png")
    assert before == Image.MAX_IMAGE_PIXELS is not None


def test_threads_that_read_at_once_leave_no_trace_in_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_image(paint_halves(), tmp_path / "a.png")
    before, to_rgb, inside = (Image.MAX_IMAGE_PIXELS, warnings.filters[:]), images._to_rgb, threading.Semaphore(0)

    def linger(image: Image.Image) -> Image.Image:
        """The first thread leaves once the second is in, or cannot come in; the second once the first has left."""
        inside.release()
        if threading.current_thread() is first:
            second.start()
            inside.acquire()
            inside.acquire(timeout=0.5)
        else:
            first.join(timeout=10)
        return to_rgb(image)

    monkeypatch.setattr(images, "_to_rgb", linger)
    first, second = (threading.Thread(target=load_image, args=(tmp_path / "a.png",)) for _ in range(2))
    first.start()
    first.join()
    second.join()
    assert (Image.MAX_IMAGE_PIXELS, warnings.filters) == before


def test_conversions_are_inverse_and_clip() -> None:
    image = paint_halves()
    tensor = pil_to_tensor(image)
    assert tensor.shape == (1, 3, HEIGHT, WIDTH)
    assert -1 <= float(tensor.min()) < float(tensor.max()) <= 1
    assert np.array_equal(np.asarray(tensor_to_pil(tensor)), np.asarray(image))
    assert torch.allclose(array_to_tensor(tensor_to_array(tensor)), tensor, atol=1e-6)
    assert np.asarray(tensor_to_pil(torch.full((3, 2, 2), 7.0))).min() == 255


def test_alpha_lies_on_white_in_tensors_too() -> None:
    assert float(pil_to_tensor(Image.new("RGBA", (2, 2), (0, 0, 0, 0))).min()) == 1


def test_packed_pictures_come_back_exactly_and_small() -> None:
    noise = torch.randint(0, 256, (1, 3, 33, 70)) / 127.5 - 1
    assert torch.equal(unpack_image(pack_image(noise), "noise"), noise)
    flat = torch.zeros(1, 3, 512, 512)
    assert pack_image(flat).numel() < flat.numel() / 100


@pytest.mark.parametrize("length", [0, 10, -5])
def test_packed_pictures_that_are_damaged_are_named(length: int) -> None:
    packed = pack_image(torch.rand(1, 3, 40, 40))
    with pytest.raises(ImageError, match=r"the sky: "):
        unpack_image(packed[:length], "the sky")


def test_resize_keeps_range_and_mean() -> None:
    noise = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    small = resize(noise, 16)
    assert small.shape == (2, 3, 16, 16)
    assert resize(noise, (10, 20)).shape == (2, 3, 10, 20)
    assert float(small.abs().max()) <= 1
    assert float((small.mean() - noise.mean()).abs()) < 0.02


def test_saving_refuses_unknown_endings_and_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot be written as '\.txt'; end the name in \.png"):
        save_image(paint_halves(), tmp_path / "a.txt")
    with pytest.raises(ImageError, match="does not exist; create it first"):
        save_image(paint_halves(), tmp_path / "nowhere" / "a.png")


def test_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    save_image(paint_halves(), path)
    before = path.read_bytes()
    with pytest.raises(ImageError, match=r"a\.jpg: the image cannot be written"):
        save_image(Image.new("RGBA", (40, 40)), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.jpg"]


def test_contact_sheet_lays_out_rows_and_labels() -> None:
    sheet = contact_sheet([paint_halves()] * 3, columns=2, labels=["before", "style", "after"])
    assert sheet.size == (2 * (WIDTH + 4) + 4, 2 * (HEIGHT + 14 + 4) + 4)
    assert pixel(sheet, 14, 24) == (200, 30, 20)
    assert pixel(sheet, WIDTH + 18, HEIGHT + 18 + 24) == (255, 255, 255)
