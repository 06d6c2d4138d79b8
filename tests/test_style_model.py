"""The whole style in its base: one forward, a frozen base, exact ejection."""

import copy
from typing import Any

import pytest
import torch

from acfun.afun import AFunOptions
from acfun.base import Base
from acfun.cfun import VARIANTS, CFunOptions
from acfun.errors import ConfigError, StyleFileError
from acfun.style_architecture import StyleArchitecture
from acfun.style_model import StyleModel, build_style_model
from tests.tiny import LATENT_CHANNELS, LATENT_SIZE, MAX_LENGTH, WIDTH, make_style_embeds, make_tiny_base

AFUN = AFunOptions(num_layers=1, num_heads=2, head_dim=8)
CFUN = CFunOptions(rank=4)


@pytest.fixture
def base() -> Base:
    return make_tiny_base()


def build(base: Base, *, seed: int = 0, **changes: object) -> StyleModel:
    generator = torch.Generator().manual_seed(seed)
    options: dict[str, object] = {"afun": AFUN, "cfun": CFUN, "initializer_word": "k", "generator": generator}
    return build_style_model(base, make_style_embeds(), **(options | changes))  # type: ignore[arg-type]


def tokenize(model: StyleModel, prompt: str) -> torch.Tensor:
    assert model.token is not None
    encoded = model.token.tokenizer(
        model.token.expand(prompt),
        padding="max_length",
        max_length=MAX_LENGTH,
        return_tensors="pt",
    )
    input_ids: torch.Tensor = encoded.input_ids
    return input_ids


def make_latents(batch_size: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch_size, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=generator)


def predict_base(base: Base, prompt: str) -> torch.Tensor:
    input_ids = base.tokenizer(prompt, padding="max_length", max_length=MAX_LENGTH, return_tensors="pt").input_ids
    prompt_embeds = base.text_encoder(input_ids)[0]
    model_pred: torch.Tensor = base.unet(make_latents(), torch.tensor([300]), prompt_embeds).sample
    return model_pred


def predict(model: StyleModel, prompt: str) -> torch.Tensor:
    model_pred: torch.Tensor = model(make_latents(), torch.tensor([300]), input_ids=tokenize(model, prompt))
    return model_pred


def randomise(model: StyleModel) -> None:
    generator = torch.Generator().manual_seed(2)
    for parameter in model.trainable_parameters():
        parameter.data.normal_(std=0.2, generator=generator)


def snapshot(base: Base) -> dict[str, torch.Tensor]:
    modules = {"unet": base.unet, "text_encoder": base.text_encoder}
    return {f"{key}.{name}": t.clone() for key, module in modules.items() for name, t in module.state_dict().items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fresh_style_predicts_what_the_base_predicts(base: Base, variant: str) -> None:
    expected = predict_base(base, "a woman in k style")
    model = build(base, cfun=CFunOptions(variant=variant, rank=4))
    assert torch.equal(predict(model, "a woman in <style> style"), expected)


def test_scale_zero_is_the_base_in_every_part(base: Base) -> None:
    expected = predict_base(base, "a woman in k style")
    model = build(base)
    randomise(model)
    assert not torch.equal(predict(model, "a woman in <style> style"), expected)
    model.set_scale(abstract=0.0, encoder=0.0, middle=0.0, decoder=0.0)
    assert torch.equal(predict(model, "a woman in <style> style"), expected)


def test_eject_restores_the_base_bit_exactly(base: Base) -> None:
    base.unet.requires_grad_(True)
    before, state_before = predict_base(base, "a photo of a man"), snapshot(base)
    model = build(base)
    randomise(model)
    predict(model, "a man in <style> style")
    model.eject()
    model.eject()
    state = snapshot(base)
    assert list(state) == list(state_before)
    assert all(torch.equal(state[name], tensor) for name, tensor in state_before.items())
    assert torch.equal(predict_base(base, "a photo of a man"), before)
    assert all(parameter.requires_grad for parameter in base.unet.parameters())
    assert not any(parameter.requires_grad for parameter in base.text_encoder.parameters())
    build(base).eject()


def test_one_step_changes_only_the_style(base: Base) -> None:
    state_before = snapshot(base)
    model = build(base).train()
    own_before = model.style_tensors()
    optimizer = torch.optim.SGD(model.trainable_parameters(), lr=0.1)
    for _ in range(2):  # behind a zero-initialised output, gradients arrive in the second step
        optimizer.zero_grad()
        predict(model, "a woman in <style> style").square().mean().backward()
        optimizer.step()
    own_after = model.style_tensors()
    changed = {name.split(".")[0] for name in own_after if not torch.equal(own_after[name], own_before[name])}
    assert changed == {"token", "afun", "cfun"}
    model.eject()
    state = snapshot(base)
    assert all(torch.equal(state[name], tensor) for name, tensor in state_before.items())


def test_every_parameter_that_requires_a_gradient_gets_one(base: Base) -> None:
    model = build(base)
    randomise(model)
    predict(model, "a woman in <style> style").square().mean().backward()
    trainables = dict(model.named_trainables())
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in trainables.values()}
    assert [name for name, parameter in trainables.items() if parameter.grad is None] == []


def test_training_leaves_the_base_in_eval_mode(base: Base) -> None:
    model = build(base).train()
    assert model.afun is not None
    assert model.afun.training
    assert not any(module.training for module in (*base.unet.modules(), *base.text_encoder.modules()))
    assert not model.eval().afun.training  # type: ignore[union-attr]


def test_conditions_and_input_ids_give_the_same_prediction(base: Base) -> None:
    model = build(base)
    randomise(model)
    input_ids, timesteps = tokenize(model, "a woman in <style> style"), torch.tensor([5, 900])
    conditions = model.encode_prompt(input_ids)
    assert conditions.prompt_embeds.shape == (1, MAX_LENGTH, WIDTH)
    by_conditions = model(
        make_latents(2), timesteps, conditions=conditions.map_texts(lambda values: values.expand(2, *values.shape[1:]))
    )
    by_ids = model(make_latents(2), timesteps, input_ids=input_ids.expand(2, -1))
    torch.testing.assert_close(by_conditions, by_ids)
    for arguments in ({}, {"conditions": conditions, "input_ids": input_ids}):
        with pytest.raises(ValueError, match="either conditions or input_ids"):
            model(make_latents(1), timesteps[:1], **arguments)


@pytest.mark.parametrize("family", ["mini", "sdxl"])
def test_one_prompt_serves_all_rows(family: str) -> None:
    model = build(make_tiny_base(family=family))
    randomise(model)
    input_ids, timesteps = model.tokenize("a woman in <style> style"), torch.tensor([5, 900])
    expected = model(make_latents(2), timesteps, input_ids=input_ids.expand(2, -1, -1))
    torch.testing.assert_close(model(make_latents(2), timesteps, input_ids=input_ids), expected)


def test_a_bfloat16_base_predicts_in_the_dtype_of_the_latents() -> None:
    base = make_tiny_base(dtype=torch.bfloat16)
    model = build(base)
    model_pred = predict(model, "a woman in <style> style")
    assert model_pred.dtype == torch.float32
    model_pred.square().mean().backward()
    assert {parameter.dtype for parameter in model.trainable_parameters()} == {torch.float32}


def test_the_generator_decides_the_initial_weights(base: Base) -> None:
    global_state = torch.random.get_rng_state()
    tensors = []
    for seed in (3, 3, 4):
        model = build(base, seed=seed, cfun=CFunOptions(variant="lora", rank=4))
        tensors.append(model.style_tensors())
        model.eject()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert not all(torch.equal(tensors[0][name], tensors[2][name]) for name in tensors[0])
    assert torch.equal(torch.random.get_rng_state(), global_state)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"afun": None}, {"token", "cfun", "style_embeds"}),
        ({"cfun": None}, {"token", "afun", "style_embeds"}),
        ({"placeholder": None, "afun": None}, {"cfun", "style_embeds"}),
    ],
)
def test_parts_can_be_left_out(base: Base, changes: dict[str, Any], parts: set[str]) -> None:
    model = build(base, seed=0, **changes)
    tensors = model.style_tensors()
    assert {name.split(".")[0] for name in tensors} == parts
    randomise(model)
    model.load_style_tensors(tensors)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.style_tensors().items())


def test_a_style_that_cannot_be_built_leaves_the_base_as_it_was(base: Base) -> None:
    base.unet.requires_grad_(True)
    state_before = snapshot(base)
    attention_free = CFunOptions(variant="attention_lora", groups=("middle",))
    for block in base.unet.mid_block.attentions:
        block.transformer_blocks = torch.nn.ModuleList()
    state_before = snapshot(base)
    with pytest.raises(ConfigError, match="nothing to adapt"):
        build(base, cfun=attention_free)
    with pytest.raises(ConfigError, match="all three are None"):
        build(base, afun=None, cfun=None, placeholder=None)
    assert list(snapshot(base)) == list(state_before)
    assert all(parameter.requires_grad for parameter in base.unet.parameters())


def test_wrong_tensors_and_embeds_are_refused(base: Base) -> None:
    with pytest.raises(ValueError, match=r"\(17, 16\)"):
        build_style_model(base, make_style_embeds()[0], afun=AFUN, cfun=CFUN)
    model = build(base)
    tensors = model.style_tensors()
    with pytest.raises(StyleFileError, match="style_embeds"):
        model.load_style_tensors(tensors | {"style_embeds": torch.zeros(1, 2, WIDTH)})
    with pytest.raises(StyleFileError, match="missing"):
        model.load_style_tensors({name: tensor for name, tensor in tensors.items() if name != "style_embeds"})


def test_a_copy_is_independent(base: Base) -> None:
    model = build(base)
    twin = copy.deepcopy(model)
    randomise(twin)
    assert all(not parameter.any() for parameter in [dict(model.named_trainables())["token.offset"]])
    assert twin.cfun is not None
    twin.cfun.set_scale(encoder=0.0)
    assert model.cfun is not None
    assert model.cfun.scales["encoder"] == 1.0


@pytest.mark.parametrize("cfun", [None, CFunOptions(variant="lora", groups=("decoder",), rank=2)])
def test_architecture_survives_plain_values(cfun: CFunOptions | None) -> None:
    architecture = StyleArchitecture(placeholder="<s>", initializer_word="ink", num_vectors=2, afun=AFUN, cfun=cfun)
    assert StyleArchitecture.from_dict(architecture.to_dict()) == architecture
    with pytest.raises(TypeError):
        StyleArchitecture.from_dict(architecture.to_dict() | {"wings": 2})
