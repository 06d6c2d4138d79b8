"""load_base on a folder of tiny real classes, and on everything that is not one."""

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch

from acfun.base import FAMILIES, encode_style_image, load_base, sources
from acfun.base.families import find_family
from acfun.errors import AcfunError, BaseFamilyMismatchError, BaseNotFoundError
from tests.tiny import RESOLUTION, WIDTH, build_unet, make_tiny_base, save_tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    save_tiny_checkpoint(directory)
    return directory


@pytest.fixture
def broken(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "broken"))


def test_load_gives_back_what_was_saved(checkpoint: Path) -> None:
    base, original = load_base(checkpoint), make_tiny_base()
    assert (base.family, base.resolution, base.name) == ("mini", RESOLUTION, str(checkpoint))
    assert base.scheduler.config["prediction_type"] == "v_prediction"
    for part in ("unet", "vae", "text_encoder", "image_encoder"):
        loaded, saved = getattr(base, part), getattr(original, part)
        for parameter, expected in zip(loaded.parameters(), saved.parameters(), strict=True):
            assert torch.equal(parameter, expected)
            assert not parameter.requires_grad
        assert not loaded.training


def test_load_converts_precision(checkpoint: Path) -> None:
    base = load_base(checkpoint, dtype=torch.bfloat16)
    modules: list[Any] = [base.unet, base.vae, base.text_encoder, base.image_encoder]
    for module in modules:
        assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert base.dtype == torch.bfloat16


def test_half_files_load_as_float32_with_the_same_fingerprint(checkpoint: Path, broken: Path) -> None:
    base = load_base(checkpoint)
    base.unet.half().save_pretrained(broken / "unet")
    base.text_encoder.half().save_pretrained(broken / "text_encoder")
    again = load_base(broken)
    assert again.dtype == torch.float32
    assert again.fingerprint == base.fingerprint == load_base(checkpoint, dtype=torch.bfloat16).fingerprint


def test_a_folder_of_half_precision_files_alone_is_read(checkpoint: Path, broken: Path) -> None:
    expected = load_base(checkpoint)
    for part in ("unet", "vae", "text_encoder"):
        module: Any = getattr(load_base(broken), part)
        shutil.rmtree(broken / part)
        module.half().save_pretrained(broken / part, variant="fp16")
        assert [path.name for path in (broken / part).glob("*.safetensors") if ".fp16." not in path.name] == []
    again = load_base(broken)
    assert again.dtype == torch.float32
    assert again.fingerprint == expected.fingerprint


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_fingerprint_changes_with_one_weight(checkpoint: Path, broken: Path, part: str) -> None:
    base = load_base(checkpoint)
    module = getattr(base, part)
    with torch.no_grad():
        next(module.parameters()).flatten()[3] += 0.01
    module.save_pretrained(broken / part)
    assert load_base(broken).fingerprint != base.fingerprint


def test_fingerprint_changes_with_the_prediction_type(checkpoint: Path, broken: Path) -> None:
    config = broken / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("v_prediction", "epsilon"))
    assert load_base(broken).fingerprint != load_base(checkpoint).fingerprint


@pytest.mark.parametrize("part", ["unet", "tokenizer", "image_encoder"])
def test_missing_part_is_named(broken: Path, part: str) -> None:
    shutil.rmtree(broken / part)
    with pytest.raises(BaseNotFoundError, match=f"has no {part}"):
        load_base(broken)


def test_truncated_weights_are_named(broken: Path) -> None:
    weights = broken / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(BaseNotFoundError, match="vae cannot be read"):
        load_base(broken)


def test_three_text_encoders_are_no_known_family(broken: Path) -> None:
    for number in (2, 3):
        shutil.copytree(broken / "text_encoder", broken / f"text_encoder_{number}")
    with pytest.raises(BaseFamilyMismatchError, match="3 text encoders"):
        load_base(broken)


@pytest.mark.parametrize("name", ["no-such-base", "/no/such/folder", "./a/b", Path("some/model")])
def test_unknown_name_lists_what_works(name: str | Path) -> None:
    with pytest.raises(BaseNotFoundError, match="use mini, sd1, sd2, sdxl, the path of a diffusers folder"):
        load_base(name)


@pytest.mark.parametrize("name", ["sd1", "someone/some-model"])
def test_hub_id_offline_names_the_id_and_the_way_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repo_id = FAMILIES[name].repo_id if name in FAMILIES else name
    with pytest.raises(BaseNotFoundError, match=rf"{repo_id} is neither a folder.*path of a diffusers folder"):
        load_base(name)


def test_embedded_base_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "mini_dir", lambda: tmp_path / "mini")
    with pytest.raises(AcfunError, match=r"no weights in .*mini"):
        load_base()


def test_embedded_base_is_found_by_name(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "mini_dir", lambda: checkpoint)
    assert load_base().fingerprint == load_base(checkpoint).fingerprint


@pytest.mark.parametrize(
    ("width", "count", "name"),
    [(768, 1, "sd1"), (1024, 1, "sd2"), (256, 1, "mini"), (16, 1, "mini"), (2048, 2, "sdxl"), (40, 2, "sdxl")],
)
def test_family_by_prompt_embeddings_and_text_encoders(width: int, count: int, name: str) -> None:
    assert find_family(width, count).name == name


def test_the_image_encoder_can_be_another_one_or_none(checkpoint: Path, broken: Path, tmp_path: Path) -> None:
    encoder = Path(shutil.move(broken / "image_encoder", tmp_path / "encoder"))
    with pytest.raises(BaseNotFoundError, match=r"'.*encoder' has no preprocessor_config.json: give a folder"):
        load_base(broken, image_encoder=encoder)
    shutil.copy(broken / "feature_extractor" / "preprocessor_config.json", encoder)
    picture = torch.zeros(1, 3, RESOLUTION, RESOLUTION)
    expected = encode_style_image(load_base(checkpoint), picture)
    assert torch.equal(encode_style_image(load_base(broken, image_encoder=encoder), picture), expected)
    blind = load_base(broken, image_encoder=None)
    assert blind.image_encoder is None
    assert blind.image_processor is None
    assert blind.fingerprint == load_base(checkpoint).fingerprint
    with pytest.raises(BaseNotFoundError, match="loaded without an image encoder: give load_base"):
        encode_style_image(blind, picture)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_offline_the_missing_image_encoder_and_the_remedy_are_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    save_tiny_checkpoint(tmp_path / "base", family=kind, width=768 if kind == "sd1" else WIDTH)
    for part in ("image_encoder", "feature_extractor"):
        shutil.rmtree(tmp_path / "base" / part)
    with pytest.raises(BaseNotFoundError, match=r"openai/clip-vit-large-patch14 is neither .* as image_encoder"):
        load_base(tmp_path / "base")
    assert load_base(tmp_path / "base", image_encoder=None).family == kind


def test_models_for_inpainting_are_refused(broken: Path) -> None:
    build_unet(in_channels=9).save_pretrained(broken / "unet")
    with pytest.raises(BaseFamilyMismatchError, match="reads 9 channels, its VAE has 4"):
        load_base(broken)
