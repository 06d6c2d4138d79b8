"""The style file: what is saved comes back, equal styles are equal bytes, everything else is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from skimage.data import astronaut

from acfun.afun import AFunOptions
from acfun.base import Base
from acfun.cfun import VARIANTS, CFunOptions
from acfun.errors import BaseFamilyMismatchError, StyleFileError
from acfun.images import pil_to_tensor, resize
from acfun.portrait import STYLE_SIDE, StyleImage
from acfun.style import Style
from acfun.style_file import REQUIRED_KEYS
from acfun.style_model import StyleModel, build_style_model
from tests.tiny import (
    LATENT_CHANNELS,
    LATENT_SIZE,
    WIDTH,
    build_text_encoder,
    make_style_embeds,
    make_tiny_base,
)

MEGABYTE = 1_000_000


@pytest.fixture
def base() -> Base:
    return make_tiny_base()


def build(base: Base, *, variant: str = "std_affine", seed: int = 0) -> StyleModel:
    model = build_style_model(
        base,
        make_style_embeds(seed=seed),
        afun=AFunOptions(num_layers=1, num_heads=2, head_dim=8),
        cfun=CFunOptions(variant=variant, rank=4),
        generator=torch.Generator().manual_seed(0),
    )
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.trainable_parameters():
        parameter.data.normal_(std=0.2, generator=generator)
    return model


def make_style(base: Base, *, variant: str = "std_affine", seed: int = 0) -> Style:
    model = build(base, variant=variant, seed=seed)
    style = Style.from_model(model, base, config={"seed": seed, "max_steps": 2}, licence="CC0-1.0")
    model.eject()
    return style


def predict(model: StyleModel) -> torch.Tensor:
    assert model.token is not None
    generator = torch.Generator().manual_seed(1)
    noisy_latents = torch.randn(1, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=generator)
    input_ids = model.token.tokenizer("in <style> style", return_tensors="pt").input_ids
    model_pred: torch.Tensor = model(noisy_latents, torch.tensor([300]), input_ids=input_ids)
    return model_pred


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_style_gives_the_same_output_on_a_fresh_base(base: Base, variant: str, tmp_path: Path) -> None:
    model = build(base, variant=variant)
    expected = predict(model)
    Style.from_model(model, base).save(tmp_path / "style.safetensors")
    applied = Style.load(tmp_path / "style.safetensors").apply_to(make_tiny_base())
    assert torch.equal(predict(applied), expected)


def test_everything_survives_save_and_load(base: Base, tmp_path: Path) -> None:
    style = make_style(base)
    style.save(tmp_path / "style.safetensors")
    loaded = Style.load(tmp_path / "style.safetensors")
    assert loaded.metadata == style.metadata
    assert set(loaded.metadata) == set(REQUIRED_KEYS)
    assert loaded.tensors.keys() == style.tensors.keys()
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in style.tensors.items())
    assert loaded.config == {"seed": 0, "max_steps": 2}


def test_half_precision_halves_the_file_and_stays_close(base: Base, tmp_path: Path) -> None:
    style = make_style(base)
    style.save(tmp_path / "full.safetensors")
    style.save(tmp_path / "half.safetensors", dtype=torch.float16)
    sizes = [
        sum(t.nbytes for t in Style.load(tmp_path / f"{name}.safetensors").tensors.values())
        for name in ("full", "half")
    ]
    assert sizes[0] == 2 * sizes[1]
    halved = predict(Style.load(tmp_path / "half.safetensors").apply_to(base))
    torch.testing.assert_close(halved, predict(style.apply_to(make_tiny_base())), atol=0.02, rtol=0.02)


def test_equal_styles_are_equal_bytes(base: Base, tmp_path: Path) -> None:
    make_style(base).save(tmp_path / "first")
    make_style(base).save(tmp_path / "second")
    Style.load(tmp_path / "first").save(tmp_path / "third")
    first = (tmp_path / "first").read_bytes()
    assert first == (tmp_path / "second").read_bytes()
    assert first == (tmp_path / "third").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second", "third"]


def test_the_first_format_loads_for_ever(base: Base) -> None:
    style = Style.load(Path(__file__).parent / "data" / "style_format_1.safetensors")
    assert style.metadata["format_version"] == "1"
    assert style.config == {"max_steps": 2, "seed": 0}
    model = style.apply_to(base)
    fresh = build_style_model(make_tiny_base(), make_style_embeds(), afun=None, cfun=None)
    assert not torch.allclose(predict(model), predict(fresh), atol=1e-3)
    model.eject()


def test_the_file_is_plain_safetensors(base: Base, tmp_path: Path) -> None:
    style = make_style(base)
    style.save(tmp_path / "style.safetensors")
    with safetensors.safe_open(tmp_path / "style.safetensors", framework="pt") as file:
        assert file.metadata() == style.metadata
        assert sorted(file.keys()) == sorted(style.tensors)


def test_another_base_is_refused_by_name(base: Base) -> None:
    style = make_style(base)
    for other in (make_tiny_base(seed=1), replace(base, family="sd1", name="other")):
        with pytest.raises(BaseFamilyMismatchError, match=f"'tiny' .*{other.name!r}"):
            style.apply_to(other)
    style.check_base(base)


def test_broken_files_are_refused_before_tensors_are_read(base: Base, tmp_path: Path) -> None:
    path = tmp_path / "style.safetensors"
    make_style(base).save(path)
    content = path.read_bytes()
    damages = {
        b"": "0 bytes",
        content[:5]: "no style file",
        content[:100]: "cut off in its header",
        content[:-10]: "damaged or cut off",
        b"\x89PNG\r\n\x1a\n" + content: "no style file",
        (3).to_bytes(8, "little") + b"[1]": "no table",
        (3).to_bytes(8, "little") + b"{{{": "cannot be read",
    }
    for damaged, message in damages.items():
        path.write_bytes(damaged)
        with pytest.raises(StyleFileError, match=message):
            Style.load(path)
    with pytest.raises(StyleFileError, match="not a file"):
        Style.load(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "pt"}, "no style file .*'pt'"),
        ({"format_version": "3"}, "'3'.*update acfun"),
        ({"format_version": "new"}, "'new'"),
        ({"family": None}, "lacks the metadata family"),
    ],
)
def test_foreign_headers_are_refused(
    base: Base,
    tmp_path: Path,
    changes: dict[str, str | None],
    message: str,
) -> None:
    style = make_style(base)
    metadata = {key: value for key, value in (style.metadata | changes).items() if value is not None}
    safetensors.torch.save_file(style.tensors, tmp_path / "style.safetensors", metadata)
    with pytest.raises(StyleFileError, match=message):
        Style.load(tmp_path / "style.safetensors")


def test_a_file_without_metadata_is_no_style(tmp_path: Path) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(StyleFileError, match="no style"):
        Style.load(tmp_path / "other.safetensors")


def test_unknown_architectures_and_wrong_tensors_leave_the_base_alone(base: Base) -> None:
    style = make_style(base)
    state_before = list(base.unet.state_dict())
    architecture = json.loads(style.metadata["architecture"])
    architecture["cfun"]["variant"] = "hypernet"
    unknown = replace(style, metadata=style.metadata | {"architecture": json.dumps(architecture)})
    with pytest.raises(StyleFileError, match="hypernet"):
        unknown.apply_to(base)
    without = {name: tensor for name, tensor in style.tensors.items() if name != "token.offset"}
    with pytest.raises(StyleFileError, match=r"token\.offset"):
        replace(style, tensors=without).apply_to(base)
    assert list(base.unet.state_dict()) == state_before
    style.apply_to(base).eject()


def test_values_that_are_not_finite_are_not_saved(base: Base, tmp_path: Path) -> None:
    style = make_style(base)
    style.tensors["token.offset"].fill_(1e6)
    with pytest.raises(StyleFileError, match=r"token\.offset"):
        style.save(tmp_path / "style.safetensors", dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_named(base: Base, tmp_path: Path) -> None:
    path = tmp_path / "none" / "style.safetensors"
    with pytest.raises(StyleFileError, match=r"style.safetensors: the style cannot be written .*give another place"):
        make_style(base).save(path)


def test_a_blend_is_the_weighted_mean(base: Base) -> None:
    first, second = make_style(base, seed=0), make_style(base, seed=1)
    blended = Style.blend([(first, 0.25), (second, 0.75)])
    for name, tensor in blended.tensors.items():
        torch.testing.assert_close(tensor, 0.25 * first.tensors[name] + 0.75 * second.tensors[name])
    assert [part["weight"] for part in blended.config["blended_from"]] == [0.25, 0.75]
    assert blended.metadata["licence"] == "CC0-1.0"
    alone = Style.blend([(first, 1.0)])
    assert all(torch.equal(alone.tensors[name], tensor) for name, tensor in first.tensors.items())
    blended.apply_to(base).eject()


def test_blends_that_make_no_sense_are_refused(base: Base) -> None:
    style = make_style(base)
    with pytest.raises(ValueError, match=r"sum to 1\.5"):
        Style.blend([(style, 1.0), (style, 0.5)])
    with pytest.raises(ValueError, match="sum to 0"):
        Style.blend([])
    with pytest.raises(StyleFileError, match="different architectures"):
        Style.blend([(style, 0.5), (make_style(base, variant="lora"), 0.5)])
    other = make_style(make_tiny_base(seed=1))
    with pytest.raises(BaseFamilyMismatchError, match="fit both on one base"):
        Style.blend([(style, 0.5), (other, 0.5)])


def test_description_is_plain_and_counts_values(base: Base) -> None:
    style = make_style(base)
    described = style.describe()
    assert json.loads(json.dumps(described))["licence"] == "CC0-1.0"
    assert described["num_values"]["token"] == WIDTH
    assert described["total_values"] == sum(tensor.numel() for tensor in style.tensors.values())


@pytest.mark.parametrize(
    "cfun",
    [
        CFunOptions(),
        CFunOptions(variant="mean_std_affine"),
        CFunOptions(variant="lora", rank=8),
        CFunOptions(variant="attention_lora", rank=8),
    ],
)
def test_a_style_of_a_mini_sized_base_takes_at_most_4_megabytes(base: Base, tmp_path: Path, cfun: CFunOptions) -> None:
    width = 256
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=16,
        out_channels=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(96, 192, 256),
        layers_per_block=2,
        cross_attention_dim=width,
    )
    text_encoder = build_text_encoder(base.tokenizer, width=width)
    mini_sized = replace(base, unet=unet, text_encoder=text_encoder)
    style_embeds = torch.zeros(1, 65, width)
    model = build_style_model(mini_sized, style_embeds, afun=AFunOptions.for_width(width), cfun=cfun)
    long_picture = resize(pil_to_tensor(Image.fromarray(astronaut())), (2 * STYLE_SIDE, STYLE_SIDE))
    image = StyleImage.from_picture(long_picture, STYLE_SIDE, None)
    Style.from_model(model, mini_sized, image=image).save(tmp_path / "style.safetensors", dtype=torch.float16)
    assert (tmp_path / "style.safetensors").stat().st_size <= 4 * MEGABYTE


def test_a_style_shows_itself_in_a_line_even_with_a_damaged_config(base: Base) -> None:
    style = make_style(base)
    assert repr(style).startswith("Style(base='tiny', ")
    damaged = replace(style, metadata=style.metadata | {"config": "{"})
    assert repr(damaged).startswith("Style(base='tiny', ")
    assert "\n" not in repr(style) + repr(damaged)
