"""`acfun apply` on folders: what a worker does with good and bad files, and whole runs on Ray."""

import inspect
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from acfun.commands.apply import apply
from acfun.commands.session import Session
from acfun.images import read_pixels
from tests.cli.tools import check_explained, draw, run, run_well

needs_pyarrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="needs the extra scale")
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra scale")

FAST = ("--faces", "whole", "--paint", "portraits", "--steps", 3, "--device", "cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three good files and the usual bad ones."""
    directory = tmp_path / "photos"
    (directory / "deep").mkdir(parents=True)
    for seed, name in enumerate(("anna.png", "bert.jpg", "deep/anna.png")):
        draw(directory / name, seed)
    (directory / "zero.jpg").touch()
    (directory / "text.jpg").write_text("this is no image", encoding="utf-8")
    (directory / "cut.png").write_bytes((directory / "anna.png").read_bytes()[:600])
    (directory / "huge.png").write_bytes(claim_size((directory / "anna.png").read_bytes(), 30_000))
    return directory


def claim_size(png: bytes, side: int) -> bytes:
    """A PNG file whose header says that it is a square of `side` pixels."""
    header = b"IHDR" + struct.pack(">II", side, side) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


GOOD = ("anna.png", "bert.jpg", "deep/anna.png")
REASONS = {
    "cut.png": "the image is damaged or cut off",
    "huge.png": "30000x30000 px is more than 100 megapixels",
    "text.jpg": "this is not an image",
    "zero.jpg": "the file is empty (0 bytes)",
}


def build_painter(style: Path, output: Path, **options: Any) -> Any:
    """A worker's painter with the options of `FAST`, and with others."""
    from acfun.batch.painter import Job, Painter

    given = {name: parameter.default for name, parameter in inspect.signature(apply).parameters.items()}
    given |= {"faces": "whole", "paint": "portraits", "steps": 3, **options}
    session = Session(device="cpu", quiet=True)
    content = style.read_bytes()
    return Painter(Job(session=session, options=given, style_name=style.name, style=content, output=str(output)))


@needs_pyarrow
def test_a_worker_paints_what_apply_paints_and_sets_the_rest_aside(style: Path, photos: Path, tmp_path: Path) -> None:
    from acfun.batch.photos import list_photos
    from acfun.manifest import read_manifest

    output = tmp_path / "out"
    files = list_photos([str(photos)], str(output))
    rows = {Path(row["path"]): row for row in build_painter(style, output).paint_batch(files)}
    assert set(rows) == {photos / name for name in (*GOOD, *REASONS)}
    for name, reason in REASONS.items():
        assert rows[photos / name]["status"] == "set_aside"
        assert rows[photos / name]["reason"].startswith(reason)
    run_well("apply", style, *(photos / name for name in GOOD[1:]), "-o", tmp_path / "plain", *FAST)
    for name in GOOD[1:]:
        assert rows[photos / name]["outputs"] == [f"{name}.png"]
        painted, plain = output / f"{name}.png", tmp_path / "plain" / f"{Path(name).stem}.png"
        assert np.array_equal(read_pixels(painted), read_pixels(plain))
        assert read_manifest(painted) == read_manifest(plain)


@needs_pyarrow
def test_a_file_without_a_face_is_set_aside(style: Path, tmp_path: Path) -> None:
    from acfun.batch.photos import list_photos

    photo = tmp_path / "photos" / "wall.png"
    photo.parent.mkdir()
    Image.new("RGB", (64, 64), "grey").save(photo)
    painter = build_painter(style, tmp_path / "out", faces="all")
    entry = painter.paint(*list_photos([str(photo)], str(tmp_path / "out")))
    assert (entry.status, entry.outputs) == ("set_aside", [])
    assert entry.reason.startswith("no face was found")


@needs_pyarrow
def test_a_batch_is_painted_once_and_one_that_killed_its_worker_singly(
    style: Path, photos: Path, tmp_path: Path
) -> None:
    from acfun.batch.ledger import name_part
    from acfun.batch.photos import list_photos

    output = tmp_path / "out"
    painter = build_painter(style, output)
    files = list_photos([str(photos / name) for name in GOOD[:2]], str(output))
    # As if a worker had died in the batch, and another one of its second photograph.
    for batch in (files, files[1:]):
        painter.folder.begin(name_part(batch, painter.job.made_by))
    rows = painter.paint_batch(files)
    assert [row["status"] for row in rows] == ["painted", "failed"]
    assert "the worker died" in rows[1]["reason"]
    before = (output / "anna.png.png").stat().st_mtime_ns
    again = painter.paint_batch(files)
    assert [row["reason"] for row in again] == [row["reason"] for row in rows]
    assert (output / "anna.png.png").stat().st_mtime_ns == before


@needs_pyarrow
def test_an_output_folder_that_is_none_ends_the_run(style: Path, photos: Path, tmp_path: Path) -> None:
    from acfun.batch.photos import list_photos
    from acfun.errors import ConfigError

    (tmp_path / "file").touch()
    painter = build_painter(style, tmp_path / "file")
    with pytest.raises(ConfigError, match="file cannot be written to"):
        painter.paint_batch(list_photos([str(photos / "zero.jpg")], str(tmp_path / "file")))


@needs_pyarrow
def test_settings_tell_pictures_apart(style: Path, tmp_path: Path) -> None:
    jobs = [build_painter(style, tmp_path, **options).job.made_by for options in ({}, {"workers": 5}, {"steps": 4})]
    assert jobs[0] == jobs[1]
    assert jobs[0]["settings_sha256"] != jobs[2]["settings_sha256"]


@pytest.mark.parametrize(
    "arguments",
    [("--workers", 2), ("--batch-size", 4), ("--cluster", "auto"), ("s3://bucket/photos",), ("-o", "s3://bucket/out")],
)
def test_without_ray_the_extra_is_named(
    arguments: Sequence[object], folder: Path, style: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run("apply", style, folder / "photo.png", "-o", tmp_path / "out", *arguments)
    check_explained(result, "ray is missing", 'pip install "acfun-stylization[scale]"')
    assert not (tmp_path / "out").exists()


def run_apart(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, as Ray needs it."""
    command = [sys.executable, "-m", "acfun", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@needs_ray
@pytest.mark.network
def test_two_workers_paint_a_folder_and_a_second_run_goes_on(style: Path, photos: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    output = tmp_path / "out"
    command = ("apply", style, photos.as_uri(), "-o", output, "--workers", 2, "--batch-size", 2, "--json", *FAST)
    first = run_apart(*command)
    counts = {"painted": len(GOOD), "set_aside": len(REASONS), "failed": 0}
    assert first.returncode == 1, first.stderr
    assert json.loads(first.stdout) == {"manifest": str(output / "manifest.parquet"), **counts}
    pictures = {f"{name}.png": (output / f"{name}.png").stat().st_mtime_ns for name in GOOD}
    rows = parquet.read_table(output / "manifest.parquet").to_pylist()
    assert {row["path"] for row in rows} == {str(photos / name) for name in (*GOOD, *REASONS)}
    for name in REASONS:
        assert f"{photos / name}: {REASONS[name]}" in first.stderr

    (output / "bert.jpg.png").unlink()
    draw(photos / "zero.jpg", 7)
    second = run_apart(*command)
    assert json.loads(second.stdout)["painted"] == len(GOOD) + 1
    assert "7 files, 5 of them done before" in second.stderr
    changed = {name for name, time in pictures.items() if (output / name).stat().st_mtime_ns != time}
    assert changed == {"bert.jpg.png"}
    assert not list((output / "manifest_parts").iterdir())


@needs_ray
@pytest.mark.parametrize("cluster", ["127.0.0.1:1", "ray://127.0.0.1:1", "somewhere"])
def test_a_cluster_that_is_not_there_is_explained(cluster: str, style: Path, photos: Path, tmp_path: Path) -> None:
    result = run("apply", style, photos, "-o", tmp_path / "out", "--cluster", cluster)
    check_explained(result, f"no Ray cluster answers at '{cluster}'", "ray start --head")


@needs_ray
@pytest.mark.network
def test_what_the_workers_lack_is_explained(style: Path, photos: Path, tmp_path: Path) -> None:
    result = run_apart("apply", style, photos, "-o", tmp_path / "out", "--quiet", "--workers", 1, "--base", "minni")
    assert result.returncode == 1
    assert "'minni'" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
