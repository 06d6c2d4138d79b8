"""Manifests survive the picture's format, name no folders, and are checked before they are followed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from acfun.errors import ImageError, ManifestError
from acfun.images import read_note, save_image
from acfun.manifest import Input, Manifest, note_inputs, read_manifest, save_with_manifest
from acfun.paths import compute_digest

PICTURE = Image.new("RGB", (40, 40), "red")
DIGEST = "0" * 64


def make_manifest() -> Manifest:
    return Manifest(
        command="apply",
        options={"prompt": "a mañana painting", "strength": 0.4},
        seed=3,
        device="cpu",
        base=Input("mini", DIGEST),
        inputs={"photo": Input("anna.jpg", DIGEST), "style": Input("oil.safetensors", DIGEST)},
    )


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp"])
def test_a_manifest_comes_back_from_the_picture(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture{suffix}"
    save_with_manifest(PICTURE, path, make_manifest())
    assert read_manifest(path) == make_manifest()
    before = path.read_bytes()
    save_with_manifest(PICTURE, path, make_manifest())
    assert path.read_bytes() == before
    save_with_manifest(PICTURE, path, None)
    assert read_note(path) is None
    with pytest.raises(ManifestError, match="holds no manifest"):
        read_manifest(path)


@pytest.mark.parametrize("suffix", [".bmp", ".tif"])
def test_formats_without_a_place_for_a_note_are_refused(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no place for a note"):
        save_image(PICTURE, tmp_path / f"a{suffix}", "note")
    with pytest.raises(ImageError, match="70000 characters is too long"):
        save_image(PICTURE, tmp_path / "a.jpg", "n" * 70_000)
    assert list(tmp_path.iterdir()) == []


def test_other_programs_comments_are_no_notes(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0h\0i\0"
    PICTURE.save(tmp_path / "a.jpg", exif=exif)
    assert read_note(tmp_path / "a.jpg") is None


def test_a_broken_picture_is_explained(tmp_path: Path) -> None:
    save_with_manifest(PICTURE, tmp_path / "a.png", make_manifest())
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(ImageError, match="damaged or cut off"):
        read_manifest(tmp_path / "cut.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"acfun_manifest": 2}, "update acfun"),
        ({"command": "fit"}, "command 'fit'"),
        ({"inputs": {"photo": {"name": "../anna.jpg", "sha256": DIGEST}}}, "anna.jpg"),
        ({"inputs": {"photo": {"name": "anna.jpg", "sha256": DIGEST}}}, "has no style"),
        ({"index": 1}, "index"),
        ({"suffix": "/../a.png"}, "suffix"),
        ({"seed": "0"}, "seed '0'"),
        ({"options": []}, r"options \[\]"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_acfun_never_writes_is_refused(change: dict[str, object], message: str) -> None:
    values = json.loads(make_manifest().to_json()) | change
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["", "[]", "{}", "no json", '{"acfun_manifest": 1}', "3"])
def test_other_texts_are_no_manifests(text: str) -> None:
    with pytest.raises(ManifestError, match="damaged"):
        Manifest.from_json(text)


def test_inputs_are_named_without_their_folder(tmp_path: Path) -> None:
    (tmp_path / "anna.jpg").write_bytes(b"anna")
    noted = note_inputs({"photo": tmp_path / "anna.jpg", "style": None, "face_detector": "mini"})
    assert noted == {"photo": Input("anna.jpg", compute_digest(tmp_path / "anna.jpg"))}


def test_folders_count_by_their_content(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.onnx").write_bytes(b"a")
    assert compute_digest(tmp_path / "one") == compute_digest(tmp_path / "other")
    (tmp_path / "other" / "a.onnx").write_bytes(b"b")
    assert compute_digest(tmp_path / "one") != compute_digest(tmp_path / "other")
    assert compute_digest(tmp_path / "one", ("*.json",)) == compute_digest(tmp_path / "other", ("*.json",))


def test_environments_are_compared_in_words() -> None:
    before = replace(make_manifest(), versions={"torch": "2.0"})
    after = replace(before, versions={"torch": "2.1"}, device="cuda")
    assert before.compare_environment(after) == ["device was cpu, now cuda", "torch was 2.0, now 2.1"]
    assert before.compare_environment(before) == []
