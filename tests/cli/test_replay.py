"""Pictures made again from what they say about themselves."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from acfun.images import read_note
from acfun.manifest import read_manifest
from tests.cli.tools import check_explained, draw, run, run_well

SAMPLING = ("--faces", "whole", "--steps", 3, "--seed", 5)


@pytest.fixture
def desk(folder: Path, style: Path, tmp_path: Path) -> Path:
    """A folder of the test's own with the base, the pictures and the fitted style."""
    shutil.copytree(folder, tmp_path / "desk")
    return tmp_path / "desk"


def replay(picture: Path, *arguments: object) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run_well("replay", picture, *arguments, "--json").stdout)
    return answer


def stylize(desk: Path, *arguments: object) -> None:
    fitting = ("--base", desk / "base", "--config", desk / "fit.toml")
    run_well("stylize", desk / "photo.png", "--style", desk / "style.png", *SAMPLING, *fitting, *arguments)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_stylized_photograph_and_its_sheet_are_made_again(desk: Path, cache: Path, suffix: str) -> None:
    output, sheet = desk / f"out{suffix}", desk / "sheet.png"
    stylize(desk, "-o", output, "--sheet", sheet, "--strength", 0.6)
    shutil.rmtree(cache)  # so that the style is fitted again too
    for picture in (output, sheet):
        answer = replay(picture)
        target = picture.with_name(f"{picture.stem}-replay{picture.suffix}")
        assert answer == {"output": str(target), "is_equal": True, "differences": []}
        assert target.read_bytes() == picture.read_bytes()


def test_applied_styles_are_made_again_elsewhere(desk: Path, folder: Path, style: Path, tmp_path: Path) -> None:
    run_well("apply", style, desk / "photo.png", "-o", desk / "out", *SAMPLING, "--paint", "portraits")
    picture, moved = desk / "out" / "photo.png", tmp_path / "moved.png"
    missing = run("replay", picture)
    assert missing.exit_code == 1
    for part in ("photo 'photo.png', style 'fitted.safetensors'", "--photo PATH, --style PATH"):
        assert part in missing.stderr
    shutil.copy(desk / "photo.png", tmp_path / "other_name.png")
    answer = replay(picture, "--photo", tmp_path / "other_name.png", "--style", style, "-o", moved)
    assert answer == {"output": str(moved), "is_equal": True, "differences": []}


def test_one_of_several_pictures_is_made_again(desk: Path, style: Path) -> None:
    options = ("-o", desk / "man.png", "--count", 2, "--steps", 3, "--style", style)
    run_well("generate", *options, "--", "--a dashing man")
    shutil.copy(style, desk)
    assert replay(desk / "man-2.png")["is_equal"]
    result = run_well("replay", desk / "man-2.png")
    assert "bit-equal" in result.stdout


def test_what_differs_is_named(desk: Path) -> None:
    stylize(desk, "-o", desk / "out.png")
    other = draw(desk / "other.png", 7)
    answer = replay(desk / "out.png", "--photo", other, "--base", desk / "other")
    assert not answer["is_equal"]
    photo, base = answer["differences"]
    assert photo == f"photo {other} differs from photo.png, which the picture was made from"
    assert base.startswith("base was ")
    draw(other, 7, (80, 60))
    assert "not equal: 85x64 px in place of 96x64" in run_well("replay", desk / "out.png", "--photo", other).stdout


def test_manifests_hold_no_folders_and_can_be_left_out(desk: Path) -> None:
    stylize(desk, "-o", desk / "out.png")
    note = read_note(desk / "out.png")
    assert note is not None
    assert str(desk.parent) not in note
    manifest = read_manifest(desk / "out.png")
    assert (manifest.command, manifest.seed, manifest.options["steps"]) == ("stylize", 5, 3)
    assert manifest.fit is not None
    assert manifest.fit["max_steps"] == 2
    stylize(desk, "-o", desk / "plain.png", "--no-manifest")
    assert read_note(desk / "plain.png") is None
    with Image.open(desk / "plain.png") as plain:
        assert plain.info == {}
    refused = run("replay", desk / "plain.png")
    assert refused.exit_code == 1
    assert "--no-manifest" in refused.stderr


def test_formats_without_a_place_are_named(desk: Path) -> None:
    result = run("generate", "a man", "-o", desk / "man.bmp", "--steps", 3, "--base", desk / "base")
    assert result.exit_code == 0
    assert "no place for a manifest" in result.stderr


def test_wrong_replays_are_explained(desk: Path) -> None:
    picture = desk / "man.png"
    run_well("generate", "a man", "-o", picture, "--steps", 3, "--base", desk / "base")
    before = picture.read_bytes()
    cases: dict[tuple[object, ...], str] = {
        ("-o", picture): "would replace the picture",
        ("-o", desk / "man.jpg"): "end the name so",
        ("-o", desk / "none" / "man.png"): "does not exist",
        ("--photo", desk / "photo.png"): "leave out --photo",
        ("--base", desk / "absent"): "no base",
    }
    for arguments, message in cases.items():
        result = run("replay", picture, *arguments)
        assert result.exit_code == 1
        assert message in result.stderr
    assert picture.read_bytes() == before


def test_a_replay_replaces_nothing_that_the_picture_was_made_from(desk: Path) -> None:
    stylize(desk, "-o", desk / "out.png")
    before = (desk / "photo.png").read_bytes()
    result = run("replay", desk / "out.png", "-o", desk / "photo.png")
    check_explained(result, "photo.png", "another name")
    assert (desk / "photo.png").read_bytes() == before
