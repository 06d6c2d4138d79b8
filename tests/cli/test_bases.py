"""Commands on a single-file base that has no image encoder, and on LoRAs of others."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from acfun.style import Style
from tests.cli.tools import draw, run, run_well
from tests.single_file import save_single_file
from tests.tiny import make_tiny_base, save_tiny_checkpoint


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A single file, a folder of configs without an image encoder, an image encoder, and pictures."""
    directory = tmp_path_factory.mktemp("bases")
    options: dict[str, Any] = {"family": "sdxl", "prediction_type": "epsilon"}
    save_single_file(make_tiny_base(**options), directory / "model.safetensors")
    save_tiny_checkpoint(directory / "configs", **options)
    shutil.move(directory / "configs" / "image_encoder", directory / "encoder")
    shutil.move(directory / "configs" / "feature_extractor" / "preprocessor_config.json", directory / "encoder")
    draw(directory / "photo.png", 0)
    draw(directory / "style.png", 1)
    (directory / "fit.toml").write_text("max_steps = 1\n", encoding="utf-8")
    return directory


def test_a_single_file_is_fitted_and_its_style_applied(bases: Path, tmp_path: Path) -> None:
    style, photo = tmp_path / "style.safetensors", bases / "photo.png"
    base = ("--base", bases / "model.safetensors", "--base-config", bases / "configs")
    fit = ("fit", bases / "style.png", "-o", style, "--face", photo, "--faces", "whole", "-q")
    run_well(*fit, *base, "--config", bases / "fit.toml", "--image-encoder", bases / "encoder")
    assert Style.load(style).metadata["family"] == "sdxl"
    # A style knows where its base's configs are, and needs no image encoder any more.
    run_well("apply", style, photo, "-o", tmp_path / "painted", "--faces", "whole", "--steps", 3, "-q")
    assert (tmp_path / "painted" / "photo.png").is_file()
    wrong = run(*fit, *base, "--config", bases / "fit.toml", "--image-encoder", bases / "configs")
    assert wrong.exit_code == 1
    assert "as image_encoder" in wrong.stderr
    absent = run(*fit, "--base", bases / "model.safetensors", "--base-config", "nowhere")
    assert "config 'nowhere' is no folder here, and no hub id" in absent.stderr


def test_a_lora_becomes_a_style_file(bases: Path, tmp_path: Path) -> None:
    stem, output = "unet.mid_block.resnets.0.conv1", tmp_path / "lora_style.safetensors"
    factors = {f"{stem}.lora_A.weight": torch.ones(2, 16, 3, 3), f"{stem}.lora_B.weight": torch.ones(16, 2, 1, 1)}
    text = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    factors |= {f"{text}.lora_A.weight": torch.ones(2, 16), f"{text}.lora_B.weight": torch.ones(16, 2)}
    save_file(factors, tmp_path / "lora.safetensors")
    base = ("--base", bases / "model.safetensors", "--base-config", bases / "configs")
    result = run_well("import-lora", tmp_path / "lora.safetensors", "-o", output, *base, "--json")
    assert json.loads(result.stdout) == {"style": str(output), "left_out": [text]}
    assert "left out" in result.stderr
    configs = str(bases / "configs")
    assert Style.load(output).config == {"imported_from": "lora.safetensors", "left_out": 1, "base_config": configs}
    refused = run("import-lora", bases / "model.safetensors", "-o", output, *base)
    assert refused.exit_code == 1
    assert "is no LoRA" in refused.stderr


def test_the_doctor_plans_a_fit_on_a_folder(bases: Path) -> None:
    result = run("doctor", "--base", bases / "configs", "--device", "cpu", "--json")
    answer = json.loads(result.stdout)
    assert list(answer["plans"]) == ["24gb", "12gb", "8gb", "6gb", "auto"]
    assert answer["plans"]["6gb"]["measures"]["name"] == "roomy"
    assert answer["plans"]["auto"]["step_flops"] > 0
    assert "a fit on" in run("doctor", "--base", bases / "configs", "--device", "cpu").stdout


def test_a_fit_on_a_large_base_says_what_it_will_take(bases: Path, tmp_path: Path) -> None:
    base = ("--base", bases / "model.safetensors", "--base-config", bases / "configs")
    fit = ("fit", bases / "style.png", "-o", tmp_path / "style.safetensors", "--face", bases / "photo.png")
    options = ("--faces", "whole", "--config", bases / "fit.toml", "--image-encoder", bases / "encoder")
    result = run_well(*fit, *base, *options, "--memory", "6gb")
    assert "memory: roomy, 0.0 GB at most; 1 steps of about" in result.stderr
    assert Style.load(tmp_path / "style.safetensors").config["dtype"] in {"bfloat16", "float32"}
