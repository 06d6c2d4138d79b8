"""What a UNet is told: prompts as in the fit, guidance by its formula, scales that go back."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from acfun.afun import AFunOptions
from acfun.base import Base, Conditions, encode_tokens, tokenize
from acfun.cfun import CFunOptions
from acfun.conditioning import (
    build_callback,
    choose_size,
    encode_prompts,
    name_style,
    pair,
    predict_guided,
    prepare_faces,
    scaled,
)
from acfun.style_model import StyleModel, build_style_model
from pipelines.face_stylization import FaceStylizationPipeline
from tests.tiny import LATENT_CHANNELS, LATENT_SIZE, MAX_LENGTH, RESOLUTION, WIDTH, make_style_embeds, make_tiny_base

SIZE = (RESOLUTION, RESOLUTION)


def test_results_have_the_shape_of_the_face_unless_a_size_is_given() -> None:
    tall, long = Image.new("RGB", (300, 450)), torch.zeros(1, 3, 50, 500)
    assert choose_size(tall, None, None, 256, 8) == (384, 256)
    assert choose_size([tall, tall.rotate(90, expand=True)], None, None, 256, 64) == (384, 256)
    assert choose_size(long, None, None, 256, 8) == (256, 512)
    assert choose_size(torch.zeros(2, 3, 512, 512), None, None, 256, 8) == (256, 256)
    assert choose_size(None, None, None, 256, 8) == (256, 256)
    assert choose_size(tall, 128, None, 256, 8) == (128, 256)


@pytest.mark.parametrize(
    ("face", "kind"),
    [("anna.jpg", "is a str"), (np.zeros((8, 8, 3)), "is a ndarray"), (["anna.jpg"], "holds a str"), ([], "is empty")],
)
def test_faces_that_are_neither_pictures_nor_tensors_are_named(face: Any, kind: str) -> None:
    with pytest.raises(ValueError, match=f"face {kind}: PIL pictures or a tensor"):
        choose_size(face, None, None, 256, 8)
    with pytest.raises(ValueError, match=f"face {kind}"):
        prepare_faces(face, SIZE)


@pytest.fixture
def base() -> Base:
    return make_tiny_base()


@pytest.fixture
def model(base: Base) -> Iterator[StyleModel]:
    """A style of two vectors, changed at random."""
    model = build_style_model(
        base,
        make_style_embeds(),
        afun=AFunOptions(num_layers=1, num_heads=2, head_dim=8),
        cfun=CFunOptions(rank=4),
        num_vectors=2,
        generator=torch.Generator().manual_seed(0),
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in model.trainable_parameters():
        parameter.data.normal_(std=0.2, generator=generator)
    yield model
    model.eject()


def make_latents(count: int) -> Tensor:
    return torch.randn(count, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=torch.Generator().manual_seed(0))


def test_one_serves_all_and_repeats_stand_together() -> None:
    faces = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    prompts, negatives, paired = pair("a", ["x", "y"], faces, 2)
    assert (prompts, negatives) == (["a"] * 4, ["x", "x", "y", "y"])
    assert paired is not None
    assert paired[:, 0, 0, 0].tolist() == [0, 0, 1, 1]
    assert pair(["a", "b"], "", None, 1) == (["a", "b"], ["", ""], None)
    with pytest.raises(ValueError, match="2 faces"):
        pair(["a"] * 3, "", faces, 1)
    with pytest.raises(ValueError, match="2 negative prompts"):
        pair("a", ["x", "y"], None, 1)


def test_faces_become_squares_of_the_resolution() -> None:
    pictures = [Image.new("RGB", (20, 30), "red"), Image.new("L", (8, 8), 0)]
    faces = prepare_faces(pictures, (16, 16))
    assert faces.shape == (2, 3, 16, 16)
    assert faces[0, 0].min() > 0.99
    assert faces[1].max() < -0.99
    assert prepare_faces(torch.zeros(1, 3, 16, 16, dtype=torch.float16), (16, 16)).dtype == torch.float32
    assert prepare_faces(torch.zeros(2, 3, 20, 10), (16, 16)).shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"\(1, 4, 16, 16\)"):
        prepare_faces(torch.zeros(1, 4, 16, 16), (16, 16))


def test_prompts_are_read_as_the_fit_reads_them(base: Base, model: StyleModel) -> None:
    assert model.token is not None
    pipe = FaceStylizationPipeline.from_base(base)
    assert name_style(model, "a man") == "a man in <style> <style>_1 style"
    assert name_style(model, "<style>, a man") == "<style> <style>_1, a man"
    conditions = encode_prompts(pipe, model, ["a man", "a <style> man"], ["", "blue"], SIZE)
    texts = ["a man in <style> style", "a <style> man"]
    input_ids = tokenize(model.token.tokenizer, [model.token.expand(text) for text in texts])
    torch.testing.assert_close(conditions.prompt_embeds[2:], model.encode_prompt(input_ids).prompt_embeds)
    negatives = encode_tokens(base.text_encoder, tokenize(base.tokenizer, ["", "blue"]))
    assert conditions.negative_prompt_embeds is not None
    torch.testing.assert_close(conditions.negative_prompt_embeds, negatives)
    assert torch.equal(conditions.prompt_embeds[:2], conditions.negative_prompt_embeds)
    bare = encode_prompts(pipe, None, ["blue"], None, SIZE)
    assert bare.negative_prompt_embeds is bare.add_text_embeds is bare.add_time_ids is None
    torch.testing.assert_close(bare.prompt_embeds, negatives[1:])


def test_guidance_follows_its_formula(base: Base) -> None:
    latents, timestep = make_latents(2), torch.tensor(500)
    embeds = torch.randn(4, MAX_LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))
    both = Conditions(prompt_embeds=embeds)
    parts = (both.select(slice(2)), both.select(slice(2, None)))
    negative, positive = (predict_guided(base.unet, latents, timestep, part, 9.0) for part in parts)
    guided = predict_guided(base.unet, latents, timestep, both, 3.0)
    torch.testing.assert_close(guided, negative + 3.0 * (positive - negative), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(predict_guided(base.unet, latents, timestep, both, 1.0), positive)


def test_scales_hold_inside_the_block_only(model: StyleModel) -> None:
    assert model.cfun is not None
    assert model.afun is not None
    with pytest.raises(KeyError), scaled(model, style_scale=0.5, structure_scale=0.5, color_scale=2.0):
        assert model.cfun.scales == {"encoder": 1.0, "middle": 0.5, "decoder": 0.25}
        assert model.afun.scale == 0.5
        raise KeyError
    assert set(model.cfun.scales.values()) == {1.0}
    assert model.afun.scale == 1.0
    with scaled(None, style_scale=0.0):
        pass


def test_a_callback_gets_what_it_asks_for_and_changes_what_it_returns() -> None:
    conditions = Conditions(prompt_embeds=torch.ones(1, 2, 3))
    seen: dict[str, Any] = {}

    def callback(pipe: Any, index: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Tensor]:
        seen.update(tensors, pipe=pipe, index=index)
        return {"prompt_embeds": torch.zeros(1, 2, 3), "latents": tensors["latents"] + 1}

    call = build_callback(callback, "pipe", conditions, ["latents", "negative_prompt_embeds"])
    latents = make_latents(1)
    torch.testing.assert_close(call(4, torch.tensor(7), latents), latents + 1)
    assert seen.keys() == {"latents", "negative_prompt_embeds", "pipe", "index"}
    assert seen["negative_prompt_embeds"] is None
    assert not conditions.prompt_embeds.any()
