"""Abstract fusion and the placeholder: no effect when fresh, exact ejection, scale 0 is the base."""

import copy

import pytest
import torch

from acfun.afun import AFun, AFunOptions, inject_placeholder
from acfun.base import Base
from acfun.errors import ConfigError
from tests.tiny import MAX_LENGTH, NUM_STYLE_TOKENS, WIDTH, make_style_embeds, make_tiny_base

PROMPT = "a painting of a woman in <style> style"


@pytest.fixture
def afun() -> AFun:
    torch.manual_seed(0)
    return AFun(WIDTH, WIDTH, AFunOptions(num_heads=2, head_dim=8)).eval()


@pytest.fixture
def base() -> Base:
    return make_tiny_base()


@pytest.fixture
def prompt_embeds() -> torch.Tensor:
    return torch.randn(3, 11, WIDTH, generator=torch.Generator().manual_seed(1))


def randomise(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(2)
    for parameter in module.parameters():
        parameter.data.normal_(std=0.2, generator=generator)


def tokenize(tokenizer: object, prompt: str) -> torch.Tensor:
    encoded = tokenizer(prompt, padding="max_length", max_length=MAX_LENGTH, return_tensors="pt")  # type: ignore[operator]
    input_ids: torch.Tensor = encoded.input_ids
    return input_ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fresh_afun_returns_the_prompt_embeddings(afun: AFun, prompt_embeds: torch.Tensor, dtype: torch.dtype) -> None:
    fused = afun(prompt_embeds.to(dtype), make_style_embeds())
    assert fused.dtype == dtype
    assert torch.equal(fused, prompt_embeds.to(dtype))
    assert torch.equal(afun.train()(prompt_embeds.to(dtype), make_style_embeds()), fused)


def test_scale_blends_linearly_between_base_and_fit(afun: AFun, prompt_embeds: torch.Tensor) -> None:
    randomise(afun)
    fitted = afun(prompt_embeds, make_style_embeds())
    assert not torch.allclose(fitted, prompt_embeds, atol=0.1)
    afun.set_scale(0.5)
    torch.testing.assert_close(afun(prompt_embeds, make_style_embeds()), (prompt_embeds + fitted) / 2)
    afun.set_scale(0.0)
    assert torch.equal(afun(prompt_embeds, make_style_embeds()), prompt_embeds)


def test_result_depends_on_the_style_image_but_not_on_the_order_of_its_tokens(
    afun: AFun,
    prompt_embeds: torch.Tensor,
) -> None:
    randomise(afun)
    style_embeds = make_style_embeds()
    fused = afun(prompt_embeds, style_embeds)
    shuffled = style_embeds[:, torch.randperm(NUM_STYLE_TOKENS, generator=torch.Generator().manual_seed(3))]
    torch.testing.assert_close(afun(prompt_embeds, shuffled), fused)
    assert not torch.allclose(afun(prompt_embeds, make_style_embeds(seed=9)), fused, atol=1e-3)


def test_dropout_acts_in_training_only(afun: AFun, prompt_embeds: torch.Tensor) -> None:
    randomise(afun)
    style_embeds = make_style_embeds()
    assert torch.equal(afun(prompt_embeds, style_embeds), afun(prompt_embeds, style_embeds))
    afun.train()
    torch.manual_seed(0)
    assert not torch.equal(afun(prompt_embeds, style_embeds), afun(prompt_embeds, style_embeds))


def test_every_parameter_gets_a_gradient(afun: AFun, prompt_embeds: torch.Tensor) -> None:
    randomise(afun)
    afun(prompt_embeds, make_style_embeds()).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in afun.parameters())


def test_sizes_for_a_width_follow_the_paper_where_it_has_one() -> None:
    assert (AFunOptions.for_width(768).num_heads, AFunOptions.for_width(768).head_dim) == (8, 64)
    assert (AFunOptions.for_width(256).num_heads, AFunOptions.for_width(256).head_dim) == (4, 32)


@pytest.mark.parametrize("options", [{"num_layers": 0}, {"num_heads": 0}, {"head_dim": -1}, {"dropout": 1.0}])
def test_wrong_sizes_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        AFunOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_vectors", [1, 3])
def test_placeholder_becomes_one_token_per_vector(base: Base, num_vectors: int) -> None:
    table_size, vocabulary = base.text_encoder.get_input_embeddings().weight.shape, len(base.tokenizer)
    token = inject_placeholder(
        base.text_encoder,
        base.tokenizer,
        placeholder="<style>",
        initializer_word="painting",
        num_vectors=num_vectors,
    )
    input_ids = tokenize(token.tokenizer, token.expand(PROMPT))
    own_ids = [token.tokenizer.convert_tokens_to_ids(word) for word in token.tokens]
    assert [index for index in input_ids[0].tolist() if index in own_ids] == own_ids
    assert len(base.tokenizer) == vocabulary
    assert base.text_encoder.get_input_embeddings().weight.shape == table_size
    assert token.embedding.vectors.offset.shape == (num_vectors, WIDTH)


def test_fresh_placeholder_means_its_word_and_scale_zero_returns_to_it(base: Base) -> None:
    word = "k"
    expected = base.text_encoder(tokenize(base.tokenizer, f"in {word} style"))[0]
    token = inject_placeholder(base.text_encoder, base.tokenizer, placeholder="<style>", initializer_word=word)
    input_ids = tokenize(token.tokenizer, "in <style> style")
    assert torch.equal(base.text_encoder(input_ids)[0], expected)
    randomise(token.embedding.vectors)
    assert not torch.equal(base.text_encoder(input_ids)[0], expected)
    token.set_scale(0.0)
    assert torch.equal(base.text_encoder(input_ids)[0], expected)


def test_only_the_placeholder_trains_and_other_words_keep_their_vectors(base: Base) -> None:
    token = inject_placeholder(base.text_encoder, base.tokenizer, placeholder="<style>", initializer_word="painting")
    offset = token.embedding.vectors.offset
    assert [p for p in base.text_encoder.parameters() if p.requires_grad] == [offset]
    base.text_encoder(tokenize(token.tokenizer, PROMPT))[0].square().mean().backward()
    assert offset.grad is not None
    assert offset.grad.any()
    assert token.embedding.weight.grad is None
    plain_ids = tokenize(base.tokenizer, "a photo of a man")
    assert torch.equal(token.embedding(plain_ids), token.embedding.base_layer(plain_ids))


def test_eject_restores_the_text_encoder_bit_exactly(base: Base) -> None:
    base.text_encoder.requires_grad_(True)
    state_before = copy.deepcopy(base.text_encoder.state_dict())
    input_ids = tokenize(base.tokenizer, "a photo of a man")
    before = base.text_encoder(input_ids)[0]
    token = inject_placeholder(base.text_encoder, base.tokenizer, placeholder="<style>", initializer_word="painting")
    randomise(token.embedding.vectors)
    token.eject()
    token.eject()
    state = base.text_encoder.state_dict()
    assert list(state) == list(state_before)
    assert all(torch.equal(state[name], tensor) for name, tensor in state_before.items())
    assert torch.equal(base.text_encoder(input_ids)[0], before)
    assert all(parameter.requires_grad for parameter in base.text_encoder.parameters())


def test_bfloat16_text_encoder_keeps_its_dtype_and_a_float32_placeholder() -> None:
    base = make_tiny_base(dtype=torch.bfloat16)
    token = inject_placeholder(base.text_encoder, base.tokenizer, placeholder="<style>", initializer_word="painting")
    assert base.text_encoder.dtype == torch.bfloat16
    assert token.embedding.vectors.offset.dtype == torch.float32
    assert base.text_encoder(tokenize(token.tokenizer, PROMPT))[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"placeholder": "two words"}, "two words"),
        ({"placeholder": ""}, "one word"),
        ({"placeholder": "<|endoftext|>"}, "choose another name"),
        ({"initializer_word": ""}, "ordinary word"),
        ({"num_vectors": 0}, "at least one"),
    ],
)
def test_wrong_placeholders_are_refused_and_change_nothing(base: Base, options: dict[str, str], message: str) -> None:
    table = base.text_encoder.get_input_embeddings()
    arguments = {"placeholder": "<style>", "initializer_word": "painting"} | options
    with pytest.raises(ConfigError, match=message):
        inject_placeholder(base.text_encoder, base.tokenizer, **arguments)  # type: ignore[arg-type]
    assert base.text_encoder.get_input_embeddings() is table


def test_a_second_placeholder_is_refused(base: Base) -> None:
    inject_placeholder(base.text_encoder, base.tokenizer, placeholder="<one>", initializer_word="painting")
    with pytest.raises(ConfigError, match="eject it"):
        inject_placeholder(base.text_encoder, base.tokenizer, placeholder="<two>", initializer_word="painting")
