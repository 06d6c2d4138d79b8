"""Single files of every family: the same base as the diffusers folder, and everything that is no checkpoint refused."""

from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from acfun.base import Base, load_base
from acfun.errors import BaseFamilyMismatchError, BaseNotFoundError, ConfigError
from tests.single_file import save_single_file
from tests.tiny import make_tiny_base, save_tiny_checkpoint

KINDS: dict[str, dict[str, Any]] = {
    "sd1": {"family": "sd1", "width": 768, "prediction_type": "epsilon"},
    "sd2": {"family": "sd2", "width": 1024},
    "sdxl": {"family": "sdxl", "prediction_type": "epsilon"},
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("single_file") / str(request.param)
    save_tiny_checkpoint(directory, **KINDS[request.param])
    save_single_file(make_tiny_base(**KINDS[request.param]), directory.with_suffix(".safetensors"))
    return directory


@pytest.fixture
def file(folder: Path) -> Path:
    return folder.with_suffix(".safetensors")


def test_a_file_is_the_same_base_as_its_folder(folder: Path, file: Path, tmp_path: Path) -> None:
    by_folder, by_file = load_base(folder), load_base(file, config=folder)
    assert (by_file.family, by_file.name) == (folder.name, str(file))
    assert by_file.fingerprint == by_folder.fingerprint
    assert by_file.resolution == by_folder.resolution
    assert by_file.scheduler.config["prediction_type"] == by_folder.scheduler.config["prediction_type"]
    for part in ("unet", "vae", *(name for name in by_folder.text_parts if "encoder" in name)):
        states = [getattr(base, part).state_dict() for base in (by_folder, by_file)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())
    half = tmp_path / "half.safetensors"
    save_single_file(by_folder, half, dtype=torch.float16)
    again = load_base(half, config=str(folder), image_encoder=None)
    assert again.fingerprint == by_folder.fingerprint
    assert again.dtype == torch.float32
    assert again.image_encoder is None


def test_without_configs_the_hub_is_asked_and_the_remedy_named(
    folder: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BaseNotFoundError, match=rf"weights of family {folder.name}.* as config \(.*hub's cache"):
        load_base(file)
    with pytest.raises(BaseNotFoundError, match=r"has no model_index.json.*as config"):
        load_base(file, config=tmp_path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Base, Path]:
    base = make_tiny_base(**KINDS["sdxl"])
    path = tmp_path_factory.mktemp("files") / "tiny.safetensors"
    save_single_file(base, path)
    return base, path


@pytest.mark.parametrize(
    ("prefix", "message"),
    [("model.diffusion_model.", "has no UNet .* acfun import-lora"), ("conditioner.", "has no text encoder")],
)
def test_parts_alone_are_no_base(tiny: tuple[Base, Path], tmp_path: Path, prefix: str, message: str) -> None:
    tensors = {name: tensor for name, tensor in load_file(tiny[1]).items() if not name.startswith(prefix)}
    save_file(tensors, tmp_path / "part.safetensors")
    with pytest.raises(BaseNotFoundError, match=message):
        load_base(tmp_path / "part.safetensors")


def test_damaged_files_and_needless_configs_are_refused(tiny: tuple[Base, Path], tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(tiny[1].read_bytes()[:1000])
    with pytest.raises(BaseNotFoundError, match="cannot be read"):
        load_base(tmp_path / "cut.safetensors")
    with pytest.raises(BaseNotFoundError, match="there is no base"):
        load_base(tmp_path / "absent.safetensors")
    save_tiny_checkpoint(tmp_path / "folder")
    with pytest.raises(ConfigError, match="no single file"):
        load_base(tmp_path / "folder", config=tmp_path / "folder")
    save_single_file(make_tiny_base(), tmp_path / "mini.safetensors")
    with pytest.raises(BaseFamilyMismatchError, match="no family with single files"):
        load_base(tmp_path / "mini.safetensors")


def test_configs_of_another_model_are_refused(tiny: tuple[Base, Path], tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path / "sd1", **KINDS["sd1"])
    with pytest.raises(BaseNotFoundError, match="has no text_encoder_2, tokenizer_2"):
        load_base(tiny[1], config=tmp_path / "sd1")
    save_single_file(make_tiny_base(**KINDS["sd2"]), tmp_path / "sd2.safetensors")
    with pytest.raises(BaseFamilyMismatchError, match=r"sd2\.safetensors is of family sd2, .* are of sd1"):
        load_base(tmp_path / "sd2.safetensors", config=tmp_path / "sd1")
