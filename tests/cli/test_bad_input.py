"""Every bad input is an explained error or wrong usage, never a traceback."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from acfun.errors import AcfunError
from acfun.export import LORA_NAME
from acfun.face.finder import Face
from acfun.portrait import place_mean_face
from tests.cli.tools import check_explained, draw, needs_weights, run
from tests.manual import require_documented


def break_image(kind: str, directory: Path) -> Path:
    path = directory / f"{kind}.png"
    whole = draw(directory / "whole.png", 3, (200, 200)).read_bytes()
    if kind == "directory":
        path.mkdir()
    elif kind == "tiny":
        draw(path, 3, (8, 8))
    elif kind != "missing":
        path.write_bytes({"zero": b"", "text": b"this is no image" * 9, "truncated": whole[: len(whole) // 2]}[kind])
    return path


BAD_IMAGES = {
    "zero": "0 bytes",
    "text": "not an image",
    "missing": "no such file",
    "directory": "folder",
    "truncated": "damaged or cut off",
    "tiny": "8x8 px is too small",
}


@pytest.mark.parametrize(("kind", "message"), BAD_IMAGES.items())
def test_bad_pictures_are_explained_before_anything_is_loaded(
    kind: str, message: str, folder: Path, tmp_path: Path
) -> None:
    bad, good, output = break_image(kind, tmp_path), folder / "photo.png", tmp_path / "out.png"
    for photo, picture in ((bad, good), (good, bad)):
        result = run("stylize", photo, "--style", picture, "-o", output, "--base", "no/such/base")
        check_explained(result, str(bad), message)
    result = run("fit", good, "--face", bad, "-o", tmp_path / "s.safetensors", "--base", "no/such/base")
    check_explained(result, str(bad), message)
    assert not output.exists()


def test_wrong_style_files_are_explained(folder: Path, style: Path, tmp_path: Path) -> None:
    (tmp_path / "zero.safetensors").write_bytes(b"")
    (tmp_path / "cut.safetensors").write_bytes(style.read_bytes()[:-50])
    photo = folder / "photo.png"
    cases = {
        folder / "style.png": "no style file",
        tmp_path / "zero.safetensors": "0 bytes",
        tmp_path / "cut.safetensors": "damaged or cut off",
        tmp_path / "absent.safetensors": "not a file",
    }
    for path, message in cases.items():
        check_explained(run("show", path), str(path), message)
        check_explained(run("apply", path, photo, "-o", tmp_path / "out"), str(path), message)
        check_explained(run("generate", "a man", "--style", path, "-o", tmp_path / "o.png"), str(path), message)


def test_files_of_another_kind_are_told_with_the_command_for_them(folder: Path, style: Path, tmp_path: Path) -> None:
    photo, lora, out = folder / "photo.png", tmp_path / "lora.safetensors", tmp_path / "out.png"
    save_file({"unet.mid_block.resnets.0.conv1.lora_A.weight": torch.ones(2, 16, 3, 3)}, lora)
    base = ("--base", "no/such/base")
    cases = {
        ("stylize", photo, "--style", style, "-o", out, *base): f"acfun apply {style}",
        ("fit", style, "-o", tmp_path / "s.safetensors", *base): f"acfun apply {style}",
        ("apply", lora, photo, "-o", tmp_path, *base): f"acfun import-lora {lora}",
        ("generate", "a man", "--style", lora, "-o", out, *base): f"acfun import-lora {lora}",
        ("apply", photo, photo, "-o", tmp_path, *base): f"acfun fit {photo}",
        ("import-lora", style, "-o", tmp_path / "s.safetensors", *base): "is a style file already",
        ("import-lora", "nope.safetensors", "-o", tmp_path / "s.safetensors", *base): "check the path",
        ("push", style, "--repo", "painting"): "'painting'; give user/name",
    }
    for arguments, remedy in cases.items():
        result = run(*arguments)
        check_explained(result, remedy)
        assert "loading base" not in result.stderr


def test_a_style_of_another_base_is_explained(folder: Path, style: Path, tmp_path: Path) -> None:
    result = run("apply", style, folder / "photo.png", "-o", tmp_path, "--base", folder / "other")
    assert result.exit_code == 1
    assert "made for base" in result.stderr
    assert "fit the style on this one" in result.stderr


def explained_cases(folder: Path, style: Path, tmp_path: Path) -> dict[tuple[Any, ...], tuple[str, ...]]:
    photo, out, model = folder / "photo.png", tmp_path / "out.png", tmp_path / "model.safetensors"
    lora = tmp_path / LORA_NAME
    stylize = ("stylize", photo, "--style", folder / "style.png", "-o")
    (tmp_path / "wrong.toml").write_text("max_step = 3\n", encoding="utf-8")
    (tmp_path / "file").write_bytes(b"")
    model.write_bytes(b"a model")
    (tmp_path / "taken.safetensors").mkdir()
    return {
        (*stylize, out, "-q", "--base", "minni"): ("'minni'", "diffusers folder"),
        (*stylize, out, "--steps", 3, "--strength", 0.1): ("0.1", "raise one of them"),
        (*stylize, out, "--steps", 1): ("0.4", "raise one of them"),
        (*stylize, tmp_path / "out.xyz"): ("'.xyz'", ".png"),
        (*stylize, tmp_path / "painted"): ("painted has no ending; end the name in .png",),
        (*stylize, folder): (f"{folder} is a folder: name a file in it", "name.png"),
        (*stylize, out, "--image-encoder", "nowhere"): ("'nowhere' is no folder here, and no hub id", "give a folder"),
        (*stylize, out, "--base-config", "nowhere"): ("'nowhere'", "leave config out", "--base-config"),
        (*stylize, tmp_path / "none" / "out.png"): ("does not exist", "create it"),
        (*stylize, photo, "--base", "no/such/base"): ("photo.png", "another name"),
        (*stylize, out, "--sheet", out, "--base", "no/such/base"): ("out.png", "another name"),
        (*stylize, out, "--config", tmp_path / "wrong.toml"): ("'max_step'", "'max_steps'"),
        (*stylize, out, "--config", tmp_path / "absent.toml"): ("absent.toml", "check the path"),
        (*stylize, out, "--base", folder / "base", "--face-detector", tmp_path / "pack"): (
            "no such folder",
            "download",
        ),
        (*stylize, out, "--base", folder / "base", "--faces", "whole", "--identity-encoder", photo): ("ONNX", "give a"),
        ("apply", style, photo, "-o", tmp_path, "--identity-encoder", tmp_path / "a.onnx"): (
            "a.onnx",
            "check the path",
        ),
        ("generate", "a man", "-o", out, "--style-scale", 0.5): ("--style-scale", "are for --style: give that"),
        ("generate", "a man", "-o", out, "--color-scale", 0): ("--color-scale", "are for --style: give that"),
        (*stylize, out, "--min-side", 99, "--paint", "portraits"): (
            "--min-side is for --paint photo or faces: give that",
        ),
        ("doctor", "--device", "cpu"): ("--device is for --base: give that",),
        ("push", style, "--repo", "me/style", "--device", "auto"): ("--device are for --export: give that",),
        ("push", style, "--repo", "me/style", "--base", "mini"): ("--device are for --export: give that",),
        ("benchmark", "-o", tmp_path / "b", "--photos", folder): ("are for --suite paintings: give that",),
        ("benchmark", "-o", tmp_path / "b", "--base", "no/such/base"): ("no/such/base",),
        ("benchmark", "-o", tmp_path / "b", "--methods", "foo"): ("no method foo",),
        ("benchmark", "-o", tmp_path / "b", "--suite", "paintings", "--people", 8): (
            "--people are for --suite paired",
        ),
        ("fit", photo, "-o", tmp_path / "style.png"): ("style.png", ".safetensors"),
        ("fit", photo, "-o", model, "--base", model): ("model.safetensors", "another name"),
        ("fit", photo, "-o", tmp_path / "fit.safetensors", "--run-dir", tmp_path): ("fit.safetensors", "another name"),
        ("export", shutil.copy(style, lora), "-o", tmp_path): (lora.name, "another name"),
        ("import-lora", model, "-o", model): ("model.safetensors", "another name"),
        ("import-lora", photo, "-o", model, "--base", model): ("model.safetensors", "another name"),
        ("fit", photo, "-o", tmp_path / "no" / "s.safetensors"): ("does not exist", "create it"),
        ("fit", photo, "-o", tmp_path / "taken.safetensors", "--base", "no/such/base"): ("taken", "another place"),
        ("fit", photo, "-o", tmp_path / "s.safetensors", "--resume"): ("run folder", "output_dir"),
        ("apply", style, photo, "-o", folder): ("photo.png", "another folder"),
        ("apply", style, photo, tmp_path / "photo.jpg", "-o", tmp_path): ("photo.jpg", "rename"),
        ("apply", style, photo, "-o", tmp_path / "file"): ("file is a file", "into a folder"),
        ("apply", style, photo, "-o", tmp_path / "file" / "out"): ("file is a file", "into a folder"),
        ("export", style, "-o", tmp_path / "file"): ("file is a file", "into a folder"),
        ("apply", style, photo, "photo-1.jpg", "-o", tmp_path, "--paint", "portraits"): ("photo-1.jpg", "rename"),
    }


def test_values_that_cannot_be_used_are_explained(folder: Path, style: Path, tmp_path: Path) -> None:
    for arguments, parts in explained_cases(folder, style, tmp_path).items():
        check_explained(run(*arguments), *parts)
    assert (tmp_path / "model.safetensors").read_bytes() == b"a model"
    assert not (tmp_path / "b").exists()


def test_numbered_portraits_replace_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    face = Face(box=(0, 0, 60, 60), score=1.0, landmarks=place_mean_face(60)[0])
    monkeypatch.setattr("acfun.photo.find_faces", lambda *arguments: [face, face])
    photo, before = tmp_path / "p-1.png", (folder / "photo.png").read_bytes()
    photo.write_bytes(before)
    stylize = ("stylize", photo, "--style", folder / "style.png", "--base", folder / "base", "--paint", "portraits")
    check_explained(run(*stylize, "-o", tmp_path / "p.png"), "p-1.png", "another name")
    check_explained(run(*stylize, "-o", tmp_path / "q.png", "--sheet", tmp_path / "q-2.png"), "q-2.png", "another name")
    assert photo.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["p-1.png"]


@needs_weights
def test_a_photograph_without_a_face_is_named_with_options_that_there_are(
    folder: Path, style: Path, tmp_path: Path
) -> None:
    photo, base = draw(tmp_path / "empty.png", 5), ("--base", folder / "base")
    fault, remedy = "empty.png: no face was found in 90x60 px: give a picture with", "; --faces whole"
    fit = ("fit", folder / "style.png", "-o", tmp_path / "s.safetensors", "--face", photo, *base)
    stylize = ("stylize", photo, "--style", folder / "style.png", "-o", tmp_path / "o.png", *base)
    for arguments in (fit, stylize, ("apply", style, photo, "-o", tmp_path / "out", "-q")):
        result = run(*arguments, *(() if "apply" in arguments else ("--config", folder / "fit.toml")))
        check_explained(result, fault, remedy)
        assert "min_score" not in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("stylize", "a.png", "-o", "b.png"),
        ("stylize", "a.png", "--style", "s.png", "-o", "b.png", "--strength", "2"),
        ("stylize", "a.png", "--style", "s.png", "-o", "b.png", "--faces", "some"),
        ("fit", "a.png", "-o", "s.safetensors", "--objective", "best"),
        ("apply", "s.safetensors", "-o", "out"),
        ("generate", "a man", "-o", "b.png", "--count", "0"),
        ("generate", "a man", "-o", "b.png", "--seed", str(10**23)),
        ("fit", "a.png", "-o", "s.safetensors", "--seed", str(10**23)),
        ("show", "s.safetensors", "--device", "cpu"),
        ("doctor", "--device", "tpu"),
        ("paint", "a.png"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""


def test_values_out_of_range_are_told_with_the_range() -> None:
    result = run("stylize", "a.png", "--style", "s.png", "-o", "b.png", "--strength", "1.5")
    assert "1.5 is not in the range 0.05<=x<=1" in result.stderr
    assert "0 is not in the range 1<=x<=64" in run("generate", "a man", "-o", "b.png", "--count", "0").stderr


def test_the_manual_has_the_messages(style: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(style, "painting.safetensors")
    draw(Path("painting.jpg"), 1)
    save_file({"unet.mid_block.lora_A.weight": torch.ones(2, 16)}, "oil.safetensors")
    commands = (
        ("show", "painting.jpg"),
        ("show", "oil.safetensors"),
        ("fit", "painting.safetensors", "-o", "s.safetensors"),
        ("fit", "painting.jpg", "-o", "s.safetensors", "--run-dir", "run", "--resume"),
    )
    for command in commands:
        result = run(*command)
        assert result.exit_code == 1
        require_documented(AcfunError(result.stderr.strip()), tmp_path)
