"""The one path from words to prompt embeddings."""

import logging

import pytest
import torch
from diffusers import StableDiffusionPipeline

from acfun.base import Attributes, Base, describe_face, encode_prompt, encode_tokens, tokenize
from tests.tiny import MAX_LENGTH, WIDTH, make_tiny_base


@pytest.fixture(scope="module")
def base() -> Base:
    return make_tiny_base()


def test_embeddings_equal_those_of_diffusers_own_pipeline(base: Base) -> None:
    pipeline = StableDiffusionPipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=base.unet,
        scheduler=base.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    expected = pipeline.encode_prompt(["a man", "a woman"], base.device, 1, True, negative_prompt=["ugly", "ugly"])
    found = encode_prompt(base, ["a man", "a woman"], "ugly")
    assert found.positive.prompt_embeds.shape == (2, MAX_LENGTH, WIDTH)
    assert found.positive.added_cond_kwargs(torch.float32) is None
    torch.testing.assert_close(found.positive.prompt_embeds, expected[0])
    torch.testing.assert_close(found.negative.prompt_embeds, expected[1])


def test_one_prompt_gives_one_row_and_an_empty_negative(base: Base) -> None:
    embeds = encode_prompt(base, "a man")
    empty = encode_tokens(base.text_encoder, tokenize(base.tokenizer, ""))
    assert embeds.positive.prompt_embeds.shape == (1, MAX_LENGTH, WIDTH)
    torch.testing.assert_close(embeds.negative.prompt_embeds, empty)


def test_numbers_of_prompts_must_agree(base: Base) -> None:
    with pytest.raises(ValueError, match="2 prompts but 1 negative"):
        encode_prompt(base, ["a", "b"], ["c"])


def test_gradients_reach_a_trainable_embedding() -> None:
    base = make_tiny_base()
    table = base.text_encoder.get_parameter("embeddings.token_embedding.weight").requires_grad_(True)
    encode_prompt(base, "a man").positive.prompt_embeds.sum().backward()
    assert table.grad is not None
    assert table.grad.abs().sum() > 0


def test_a_cut_prompt_is_reported_and_a_full_one_is_not(base: Base, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="acfun.base.prompts"):
        full = tokenize(base.tokenizer, "x" * (MAX_LENGTH - 2))
        assert not caplog.records
        cut = tokenize(base.tokenizer, "x" * (MAX_LENGTH - 1))
    assert full.shape == cut.shape == (1, MAX_LENGTH)
    assert "longer than 77 tokens" in caplog.text


def test_description_of_the_manual() -> None:
    attributes = Attributes(gender="woman", age="young", expression="smiling", hair="dark")
    assert describe_face(attributes) == "a smiling young woman with dark hair"


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        (Attributes(), "a person"),
        (Attributes(gender="man", age="old", hair="bald", beard=True), "an old bald man with a beard"),
        (Attributes(gender="man", expression="neutral", glasses=False), "a man"),
        (Attributes(hair="red", glasses=True, skin="pale"), "a person with red hair, glasses and pale skin"),
    ],
)
def test_descriptions(attributes: Attributes, text: str) -> None:
    assert describe_face(attributes) == text


def test_words_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match="hair 'blue' is unknown: use one of dark, black"):
        Attributes(hair="blue")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="medium is empty"):
        Attributes(medium=())
