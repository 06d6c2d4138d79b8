"""Whole runs of the commands on a tiny base."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acfun.base import load_base
from acfun.config import dump_toml
from acfun.export import export_style
from acfun.images import load_image, read_pixels
from acfun.paths import CACHE_DIR_VARIABLE
from acfun.style import Style
from acfun.style_file import to_json
from tests.cli.tools import check_explained, draw, fit, needs_weights, run, run_well
from tests.tiny import RESOLUTION

PAINTED_SIZE = (96, 64)  # of the photograph of 90×60 pixels, its shorter side twice the resolution


def test_fit_writes_a_style_and_its_run_folder(folder: Path, tmp_path: Path) -> None:
    run_dir, output = tmp_path / "run", tmp_path / "style.safetensors"
    result = fit(folder, output, "--run-dir", run_dir, "--preview-every", 1, "--checkpoint-every", 2, "--json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["style"], answer["steps"], answer["is_complete"]) == (str(output), 2, True)
    assert Style.load(output).config["max_steps"] == 2
    names = {path.name for path in run_dir.iterdir()}
    assert {"config.toml", "fit.safetensors", "preview_00001.png", "preview_00002.png"} <= names
    before = output.read_bytes()
    again = fit(folder, output, "--run-dir", run_dir, "--preview-every", 1, "--checkpoint-every", 2, "--resume")
    assert again.exit_code == 0, again.stderr
    assert output.read_bytes() == before


def test_a_refused_resume_leaves_the_run_folder_as_it_was(folder: Path, tmp_path: Path) -> None:
    run_dir, output = tmp_path / "run", tmp_path / "style.safetensors"
    assert fit(folder, output, "--run-dir", run_dir, "-q").exit_code == 0
    before = {path.name: path.read_bytes() for path in run_dir.iterdir()}
    refused = fit(folder, output, "--run-dir", run_dir, "--resume", "--max-steps", 1, "--seed", 3)
    check_explained(refused, "seed is 0 there, 3 here", "max_steps is 2 there, 1 here", "--run-dir")
    assert "loading base" not in refused.stderr
    other_base = ("--base", folder / "other")
    check_explained(fit(folder, output, "--run-dir", run_dir, "--resume", *other_base), "--run-dir")
    assert {path.name: path.read_bytes() for path in run_dir.iterdir()} == before
    absent = tmp_path / "absent"
    check_explained(fit(folder, output, "--run-dir", absent, "--resume"), f"{absent} holds no checkpoint", "check the")
    assert not absent.exists()


def test_a_config_file_may_always_ask_to_resume(folder: Path, tmp_path: Path) -> None:
    text = (folder / "fit.toml").read_text(encoding="utf-8")
    (tmp_path / "fit.toml").write_text(f'{text}resume = true\noutput_dir = "{tmp_path / "run"}"\n', encoding="utf-8")
    output = tmp_path / "style.safetensors"
    assert fit(folder, output, "--config", tmp_path / "fit.toml", "-q").exit_code == 0
    before = output.read_bytes()
    assert fit(folder, output, "--config", tmp_path / "fit.toml", "-q").exit_code == 0
    assert output.read_bytes() == before


def test_a_dry_run_prints_the_config_and_fits_nothing(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "style.safetensors"
    result = fit(folder, output, "--dry-run", "--json", "--seed", 7)
    answer = json.loads(result.stdout)
    assert (answer["seed"], answer["max_steps"], answer["framing"]) == (7, 2, "whole")
    assert not output.exists()


def test_a_config_file_says_what_no_option_does(folder: Path, tmp_path: Path) -> None:
    own = {"seed": 5, "base": str(folder / "base"), "face_paths": [str(folder / "photo.png")], "device": "cpu"}
    (tmp_path / "own.toml").write_text(dump_toml({"style_path": "unused.png", **own}), encoding="utf-8")
    command = ("fit", folder / "style.png", "-o", tmp_path / "s.safetensors", "--config", tmp_path / "own.toml")
    plain = json.loads(run_well(*command, "--dry-run", "--json").stdout)
    assert {name: plain[name] for name in own} == own
    assert plain["style_path"] == str(folder / "style.png")
    given = json.loads(run_well(*command, "--dry-run", "--json", "--seed", 0, "--base", "mini").stdout)
    assert (given["seed"], given["base"], given["face_paths"]) == (0, "mini", own["face_paths"])


def test_a_cache_that_cannot_be_written_costs_no_picture(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(CACHE_DIR_VARIABLE, str(tmp_path / "file"))
    options = ("--faces", "whole", "--steps", 3, "--base", folder / "base", "--config", folder / "fit.toml")
    style, output = folder / "style.png", tmp_path / "out.png"
    result = run_well("stylize", folder / "photo.png", "--style", style, "-o", output, *options)
    assert CACHE_DIR_VARIABLE in result.stderr
    assert load_image(output).size == PAINTED_SIZE


def test_stylize_fits_once_and_then_recalls(folder: Path, cache: Path, tmp_path: Path) -> None:
    output, sheet = tmp_path / "out.png", tmp_path / "sheet.png"
    arguments = (
        "--style",
        folder / "style.png",
        "-o",
        output,
        "--sheet",
        sheet,
        "--faces",
        "whole",
        "--steps",
        3,
        "--json",
    )
    fitting = ("--base", folder / "base", "--config", folder / "fit.toml")
    first = json.loads(run_well("stylize", folder / "photo.png", *arguments, *fitting).stdout)
    assert (first["is_cached"], first["outputs"]) == (False, [str(output), str(sheet)])
    assert load_image(output).size == PAINTED_SIZE
    assert len(list((cache / "styles").glob("*.safetensors"))) == 1
    before = output.read_bytes()
    second = json.loads(run_well("stylize", folder / "photo.png", *arguments, *fitting).stdout)
    assert second["is_cached"]
    assert output.read_bytes() == before
    run_well("stylize", folder / "photo.png", *arguments, *fitting, "--max-steps", 1)
    assert len(list((cache / "styles").glob("*.safetensors"))) == 2


def test_apply_paints_what_it_can_and_names_the_rest(folder: Path, style: Path, tmp_path: Path) -> None:
    photos = (folder / "photo.png", tmp_path / "absent.png")
    result = run("apply", style, *photos, "-o", tmp_path / "out", "--faces", "whole", "--steps", 3, "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["failed"] == [str(photos[1])]
    assert answer["outputs"][str(photos[0])] == [str(tmp_path / "out" / "photo.png")]
    assert "absent.png" in result.stderr
    assert load_image(tmp_path / "out" / "photo.png").size == PAINTED_SIZE


def test_apply_loads_nothing_and_leaves_nothing_where_no_photograph_can_be_read(
    folder: Path, style: Path, tmp_path: Path
) -> None:
    photos, output = (tmp_path / "absent.png", folder), tmp_path / "out"
    result = run("apply", style, *photos, "-o", output, "--base", "no/such/base", "-q")
    check_explained(
        result,
        f"{photos[0]}: there is no such file",
        f"{folder}: this is a folder; give the photographs in it, or add --workers",
    )
    assert not output.exists()
    answer = json.loads(run("apply", style, *photos, "-o", output, "--json").stdout)
    assert answer == {"outputs": {}, "failed": [str(photo) for photo in photos]}


def test_apply_writes_portraits(folder: Path, style: Path, tmp_path: Path) -> None:
    run_well(
        "apply", style, folder / "photo.png", "-o", tmp_path, "--faces", "whole", "--paint", "portraits", "--steps", 3
    )
    assert load_image(tmp_path / "photo.png").size == (2 * RESOLUTION, 2 * RESOLUTION)


def test_generate_numbers_several_pictures(style: Path, tmp_path: Path) -> None:
    arguments = ("generate", "a photo of a man", "-o", tmp_path / "man.png", "--count", 2, "--steps", 3, "--json")
    answer = json.loads(run_well(*arguments, "--style", style).stdout)
    assert answer["outputs"] == [str(tmp_path / "man-1.png"), str(tmp_path / "man-2.png")]
    first, second = (Path(path).read_bytes() for path in answer["outputs"])
    assert first != second
    run_well(*arguments, "--style", style)
    assert Path(answer["outputs"][0]).read_bytes() == first


def test_pictures_do_not_depend_on_how_many_are_sampled_at_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at_once in (4, 3, 1):
        monkeypatch.setattr("acfun.commands.generate.PICTURES_AT_ONCE", at_once)
        output = tmp_path / f"{at_once}.png"
        run_well("generate", "a man", "-o", output, "--count", 4, "--steps", 3, "--base", folder / "base")
    for index in range(1, 5):
        whole, *others = (read_pixels(tmp_path / f"{at_once}-{index}.png").astype(int) for at_once in (4, 3, 1))
        assert all(np.abs(other - whole).max() <= 1 for other in others)


def test_export_writes_both_files_and_says_what_is_kept(folder: Path, style: Path, tmp_path: Path) -> None:
    answer = json.loads(run_well("export", style, "-o", tmp_path / "lora", "--layout", "kohya", "--json").stdout)
    assert all(Path(path).is_file() for path in answer["outputs"])
    assert len(answer["outputs"]) == 3
    base = load_base(folder / "base", image_encoder=None)
    left_out = export_style(Style.load(style), base, tmp_path / "plain", distill_steps=0).kept
    assert max(0, left_out) < answer["kept"] <= 1
    assert "kept of what the style changes" in run_well("export", style, "-o", tmp_path / "lora").stdout


def test_export_writes_a_card_with_terms_and_a_sample(style: Path, folder: Path, tmp_path: Path) -> None:
    export = ("export", style, "-o", tmp_path, "--licence", "mit", "--sample", folder / "photo.png")
    run_well(*export)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "license: mit" in card
    assert "![Before, style and after](samples.png)" in card
    assert str(folder) not in card
    assert load_image(tmp_path / "samples.png").size == (90, 60)
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    assert "stays" in run_well(*export).stderr
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine"


def test_show_prints_the_metadata(style: Path, tmp_path: Path) -> None:
    described = json.loads(run_well("show", style, "--json").stdout)
    assert described["format"] == "acfun-style"
    assert described["bytes"] == style.stat().st_size
    text = run_well("show", style).stdout
    assert described["base_fingerprint"] in text
    assert "max_steps: 2" in text
    assert "partial" not in text
    whole = Style.load(style)
    config = to_json(whole.config | {"steps_done": 1})
    replace(whole, metadata=whole.metadata | {"config": config}).save(tmp_path / "cut.safetensors")
    assert "partial: 1 of 2 steps were done" in run_well("show", tmp_path / "cut.safetensors").stdout
    assert repr(Style.load(style)) == repr(whole)
    assert len(repr(whole)) < 200
    assert "max_steps=2" in repr(whole)


@needs_weights
@pytest.mark.slow
def test_stylize_the_astronaut(tmp_path: Path) -> None:
    from skimage.data import astronaut

    Image.fromarray(astronaut()).save(tmp_path / "astronaut.png")
    arguments = ("--style", draw(tmp_path / "style.png", 1, (300, 300)), "-o", tmp_path / "out.png", "--max-steps", 5)
    answer = json.loads(run_well("stylize", tmp_path / "astronaut.png", *arguments, "--json").stdout)
    assert answer["num_faces"] == 1
    change = np.asarray(load_image(tmp_path / "out.png")).astype(int) - astronaut()
    assert np.abs(change[60:160, 180:260]).mean() > 2
    assert np.abs(change[400:]).max() == 0
