"""Identity adapters: the published layout, read by diffusers itself, and people shown to tiny and embedded UNets."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file
from skimage.data import astronaut
from torch import Tensor

from acfun.base import Base, load_base
from acfun.errors import ConfigError, NoFaceFoundError
from acfun.face.align import face_crop
from acfun.face.finder import load_face_finder
from acfun.face.identity import load_identity_encoder
from acfun.identity_adapter import (
    NUM_TOKENS,
    embed_people,
    flatten_adapter,
    get_embed_size,
    read_adapter,
    start_adapter,
)
from acfun.images import pil_to_tensor
from acfun.portrait import find_landmarks
from pipelines.face_stylization import FaceStylizationPipeline
from pipelines.face_stylization_xl import FaceStylizationXLPipeline
from tests.cli.tools import check_explained, run, run_well
from tests.pipelines.tools import make_style, paint
from tests.tiny import make_tiny_base, save_tiny_checkpoint
from tests.tools import make_ip_adapter

EMBED_SIZE = 128


def draw_adapter(unet: Any, embed_size: int = EMBED_SIZE) -> dict[str, dict[str, Tensor]]:
    """A fresh adapter, its weights moved at random so that people can be told apart."""
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(0)
    adapter = start_adapter(unet, embed_size)
    return {
        part: {name: value + 0.5 * torch.randn(value.shape, generator=generator) for name, value in values.items()}
        for part, values in adapter.items()
    }


def write_adapter(
    path: Path, unet: Any, embed_size: int = EMBED_SIZE, extra: Mapping[str, Tensor] | None = None
) -> Path:
    save_file(flatten_adapter(draw_adapter(unet, embed_size), torch.float32) | dict(extra or {}), path)
    return path


def make_xl_pipe() -> FaceStylizationXLPipeline:
    pipe: FaceStylizationXLPipeline = FaceStylizationXLPipeline.from_base(make_tiny_base(family="sdxl"))
    return pipe


@pytest.fixture(scope="module")
def people() -> list[Image.Image]:
    """A woman, and the same darker and mirrored, which is somebody else by a little."""
    return [Image.fromarray(astronaut()), Image.fromarray(np.ascontiguousarray(astronaut()[:, ::-1] // 2))]


@pytest.fixture
def pipe() -> FaceStylizationPipeline:
    pipe: FaceStylizationPipeline = FaceStylizationPipeline.from_base(make_tiny_base())
    return pipe


def test_an_adapter_is_read_back_as_it_was_loaded(pipe: FaceStylizationPipeline, tmp_path: Path) -> None:
    adapter = draw_adapter(pipe.unet)
    assert get_embed_size(pipe.unet) is None
    pipe.load_identity_adapter(write_adapter(tmp_path / "faceid.safetensors", pipe.unet))
    assert get_embed_size(pipe.unet) == EMBED_SIZE
    found = flatten_adapter(read_adapter(pipe.unet), torch.float32)
    expected = flatten_adapter(adapter, torch.float32)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    torch.save(adapter, tmp_path / "faceid.bin")  # as they are published
    pipe.load_identity_adapter(tmp_path / "faceid.bin")
    again = flatten_adapter(read_adapter(pipe.unet), torch.float32)
    assert all(torch.equal(again[name], expected[name]) for name in expected)
    assert adapter["image_proj"]["proj.2.weight"].shape[0] == NUM_TOKENS * pipe.unet.config.cross_attention_dim


def test_plain_diffusers_paints_the_same_person(
    pipe: FaceStylizationPipeline, people: list[Image.Image], tmp_path: Path
) -> None:
    path = write_adapter(tmp_path / "faceid.safetensors", pipe.unet)
    embeds = embed_people(people[0], load_identity_encoder())[:, None]
    plain = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    plain.load_ip_adapter(str(tmp_path), subfolder="", weight_name=path.name, image_encoder_folder=None)
    given: dict[str, Any] = {
        "ip_adapter_image_embeds": [torch.cat([torch.zeros_like(embeds), embeds])],
        "guidance_scale": 2.0,
    }
    expected = paint(plain, "a man", **given)
    pipe.load_identity_adapter(tmp_path, path.name)
    torch.testing.assert_close(paint(pipe, "a man", person=people[0], guidance_scale=2.0), expected, atol=1e-4, rtol=0)


def test_people_differ_and_the_scale_is_honoured(
    pipe: FaceStylizationPipeline, people: list[Image.Image], tmp_path: Path
) -> None:
    before = paint(pipe)
    pipe.load_identity_adapter(write_adapter(tmp_path / "faceid.safetensors", pipe.unet))
    pipe.load_style(make_style(make_tiny_base()))
    styled_nobody = paint(pipe)
    pipe.unload_style()
    both = paint(pipe, ["a man", "a man"], person=people, latents=torch.ones(2, 4, 8, 8))
    assert not torch.allclose(both[0], both[1], atol=1e-3)
    twice = paint(pipe, ["a man"] * 2, person=people, num_images_per_prompt=2, latents=torch.ones(4, 4, 8, 8))
    assert torch.allclose(twice[::2], both, atol=1e-5)
    assert torch.equal(twice[::2], twice[1::2])
    nobody = paint(pipe)
    assert not torch.equal(paint(pipe, person=people[0]), nobody)
    assert not torch.equal(styled_nobody, nobody)
    pipe.set_ip_adapter_scale(0.0)
    assert torch.equal(paint(pipe, person=people[0]), before)
    pipe.unload_ip_adapter()
    assert torch.equal(paint(pipe), before)


def test_a_face_is_painted_with_a_person_beside_a_style(
    pipe: FaceStylizationPipeline, people: list[Image.Image], tmp_path: Path
) -> None:
    style = make_style(make_tiny_base())
    pipe.load_identity_adapter(write_adapter(tmp_path / "faceid.safetensors", pipe.unet))
    pipe.load_style(style)
    face = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    alone, shown = paint(pipe, face=face), paint(pipe, face=face, person=people[0])
    assert alone.shape == shown.shape
    assert not torch.equal(alone, shown)


def test_sdxl_takes_one_too(people: list[Image.Image], tmp_path: Path) -> None:
    pipe = make_xl_pipe()
    pipe.load_identity_adapter(write_adapter(tmp_path / "faceid.safetensors", pipe.unet))
    assert not torch.equal(paint(pipe, person=people[0]), paint(pipe, person=people[1]))


def draw_lora(unet: Any) -> dict[str, Tensor]:
    """The LoRA of a published file, in the names that it has in one file."""
    lora, generator = {}, torch.Generator().manual_seed(5)
    for index, name in enumerate(unet.attn_processors):
        attention = unet.get_submodule(name.removesuffix(".processor"))
        layers = {"q": attention.to_q, "k": attention.to_k, "v": attention.to_v, "out": attention.to_out[0]}
        for part, layer in layers.items():
            for end, shape in (("down", (2, layer.in_features)), ("up", (layer.out_features, 2))):
                key = f"ip_adapter.{index}.to_{part}_lora.{end}.weight"
                lora[key] = 0.5 * torch.randn(shape, generator=generator)
    return lora


def test_the_lora_of_a_published_file_goes_in_before_a_style_and_out_with_the_adapter(
    pipe: FaceStylizationPipeline, people: list[Image.Image], tmp_path: Path
) -> None:
    before, image_encoder = paint(pipe), pipe.image_encoder
    plain = write_adapter(tmp_path / "plain.safetensors", pipe.unet)
    path = write_adapter(tmp_path / "faceid.safetensors", pipe.unet, extra=draw_lora(pipe.unet))
    style = make_style(make_tiny_base())
    pipe.load_identity_adapter(plain)
    expected = paint(pipe, person=people[0])
    pipe.load_style(style)
    with pytest.raises(RuntimeError, match="unload_style"):
        pipe.load_identity_adapter(path)
    pipe.unload_style()
    assert torch.equal(paint(pipe, person=people[0]), expected)
    pipe.load_identity_adapter(path)
    bare = paint(pipe, person=people[0])
    assert not torch.equal(bare, expected)
    pipe.load_style(style)
    assert not torch.equal(paint(pipe, person=people[0]), bare)
    pipe.unload_style()
    assert torch.equal(paint(pipe, person=people[0]), bare)
    pipe.load_identity_adapter(plain)
    assert torch.allclose(paint(pipe, person=people[0]), expected, atol=1e-6)
    pipe.load_identity_adapter(path)
    assert torch.allclose(paint(pipe, person=people[0]), bare, atol=1e-6)
    pipe.unload_ip_adapter()
    assert torch.allclose(paint(pipe), before, atol=1e-6)
    assert pipe.image_encoder is image_encoder


@pytest.mark.parametrize(("family", "dtype"), [("sd1", torch.bfloat16), ("sdxl", torch.float16)])
def test_people_are_shown_in_half_precision(
    family: str, dtype: torch.dtype, people: list[Image.Image], tmp_path: Path
) -> None:
    base = make_tiny_base(family=family, dtype=dtype)
    pipe = (FaceStylizationXLPipeline if family == "sdxl" else FaceStylizationPipeline).from_base(base)
    pipe.load_identity_adapter(write_adapter(tmp_path / "faceid.safetensors", pipe.unet))
    nobody, shown = paint(pipe, guidance_scale=2.0), paint(pipe, person=people[0], guidance_scale=2.0)
    assert shown.isfinite().all()
    assert not torch.equal(nobody, shown)


def test_what_is_no_such_adapter_is_explained_and_changes_nothing(
    pipe: FaceStylizationPipeline, people: list[Image.Image], tmp_path: Path
) -> None:
    parts = {name: getattr(pipe, name) for name in ("image_encoder", "feature_extractor")}
    adapter = draw_adapter(pipe.unet)
    pipe.load_identity_adapter(write_adapter(tmp_path / "faceid.safetensors", pipe.unet))
    expected = paint(pipe, person=people[0])
    with pytest.raises(ConfigError, match=r"missing\.safetensors: no such file"):
        pipe.load_identity_adapter(tmp_path / "missing.safetensors")
    with pytest.raises(ConfigError, match=r"missing\.bin: no such file"):
        pipe.load_identity_adapter(tmp_path, "missing.bin")
    plus = {**adapter["image_proj"], "perceiver_resampler.proj_in.weight": torch.ones(1)}
    for name, tensors, message in (
        ("other kind", flatten_adapter(make_ip_adapter(pipe.unet), torch.float32), "is no IP-Adapter FaceID"),
        ("faceid plus", flatten_adapter({**adapter, "image_proj": plus}, torch.float32), "is no IP-Adapter FaceID"),
        ("no adapter", {"weight": torch.ones(1)}, "is no IP-Adapter FaceID"),
        ("other base", flatten_adapter(draw_adapter(make_xl_pipe().unet), torch.float32), "does not fit the UNet"),
    ):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(ConfigError, match=f"{name}.safetensors {message}"):
            pipe.load_identity_adapter(tmp_path / f"{name}.safetensors")
        (tmp_path / "damaged.bin").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"damaged\.bin cannot be read"):
        pipe.load_identity_adapter(tmp_path / "damaged.bin")
    assert torch.equal(paint(pipe, person=people[0]), expected)
    assert {name: getattr(pipe, name) for name in parts} == parts


def test_wrong_people_are_explained(pipe: FaceStylizationPipeline, people: list[Image.Image], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="load_identity_adapter"):
        paint(pipe, person=people[0])
    pipe.load_identity_adapter(write_adapter(tmp_path / "faceid.safetensors", pipe.unet))
    with pytest.raises(NoFaceFoundError):
        paint(pipe, person=Image.new("RGB", (200, 200), "blue"))
    with pytest.raises(ValueError, match="person has 2 photographs for 3 prompts"):
        paint(pipe, ["a man"] * 3, person=people)
    with pytest.raises(ValueError, match="person has 2 photographs for 1 prompts"):
        paint(pipe, "a man", person=people, num_images_per_prompt=2)
    with pytest.raises(ValueError, match="exclude each other"):
        paint(pipe, person=people[0], ip_adapter_image=people[0])
    with pytest.raises(ValueError, match="at least one photograph"):
        paint(pipe, person=[])
    with pytest.raises(ValueError, match="person has shape"):
        paint(pipe, person=torch.zeros(3, 64, 64))
    pipe.load_identity_adapter(write_adapter(tmp_path / "arcface.safetensors", pipe.unet, 512))
    with pytest.raises(ValueError, match="512 numbers, and the identity encoder gives 128"):
        paint(pipe, person=people[0])


def test_tensors_are_people_too(people: list[Image.Image]) -> None:
    encoder = load_identity_encoder()
    embeds = embed_people(people, encoder)
    assert embeds.shape == (2, EMBED_SIZE)
    torch.testing.assert_close(embed_people(torch.cat([pil_to_tensor(one) for one in people]), encoder), embeds)


def test_a_person_on_the_command_line_and_again(people: list[Image.Image], tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path / "base")
    base: Base = load_base(str(tmp_path / "base"), image_encoder=None)
    adapter = write_adapter(tmp_path / "faceid.safetensors", base.unet)
    people[0].save(tmp_path / "anna.png")
    options = ("--base", tmp_path / "base", "--steps", 3, "--quiet")
    run_well("generate", "a man", "-o", tmp_path / "nobody.png", *options)
    shown = (*options, "--person", tmp_path / "anna.png", "--identity-adapter", adapter)
    run_well("generate", "a man", "-o", tmp_path / "out.png", *shown, "--person-scale", 0.8)
    assert (tmp_path / "out.png").read_bytes() != (tmp_path / "nobody.png").read_bytes()
    answer = json.loads(run_well("replay", tmp_path / "out.png", "--json").stdout)
    assert answer["is_equal"]
    assert answer["differences"] == []
    Image.new("RGB", (200, 200), "blue").save(tmp_path / "blue.png")
    wrong = run(
        "generate",
        "a man",
        "-o",
        tmp_path / "no.png",
        *options,
        "--person",
        tmp_path / "blue.png",
        "--identity-adapter",
        adapter,
    )
    check_explained(wrong, "blue.png: no face was found in 200x200 px: give a picture with")
    assert "--faces" not in wrong.stderr
    assert "min_score" not in wrong.stderr
    unfit = run("generate", "a man", "-o", tmp_path / "no.png", *options, "--person", tmp_path / "anna.png")
    check_explained(unfit, "does not fit the UNet")
    idle = run("generate", "a man", "-o", tmp_path / "no.png", *options, "--person-scale", 0.5)
    check_explained(idle, "are for --person")
    over = run("generate", "a man", "-o", tmp_path / "anna.png", *shown)
    check_explained(over, "would replace a file")


def test_the_embedded_base_shows_the_person(people: list[Image.Image]) -> None:
    """Six pictures each, since one by itself is blurred and may miss."""
    pipe = FaceStylizationPipeline.from_base(load_base("mini", image_encoder=None))
    pipe.load_identity_adapter()
    encoder, finder = load_identity_encoder(), load_face_finder()
    wanted, likeness = embed_people(people[0], encoder), []
    for person in (None, people[0]):
        options: dict[str, Any] = {"num_inference_steps": 8, "guidance_scale": 3.0, "num_images_per_prompt": 6}
        pictures = paint(pipe, "a photo of a person", person=person, **options) * 2 - 1
        landmarks = torch.cat([find_landmarks(picture, finder) for picture in pictures.split(1)])
        likeness.append(float((encoder(face_crop(pictures, landmarks)) @ wanted.T).mean()))
    assert likeness[1] > likeness[0] + 0.1
