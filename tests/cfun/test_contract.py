"""One contract for every kind of concrete fusion, in every part of the UNet."""

import copy
from typing import cast

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from acfun.cfun import (
    GROUPS,
    VARIANTS,
    CFunOptions,
    ConcreteFusion,
    Group,
    carries_adapters,
    find_attention_blocks,
    find_res_blocks,
    inject,
)
from acfun.errors import ConfigError, StyleFileError
from tests.tiny import LATENT_CHANNELS, LATENT_SIZE, WIDTH, build_unet

PLACES: list[tuple[Group, ...]] = [("encoder",), ("middle",), ("decoder",), GROUPS]

every_adapter = pytest.mark.parametrize(
    "options",
    [CFunOptions(variant=variant, groups=groups, rank=4) for variant in VARIANTS for groups in PLACES],
    ids=lambda options: f"{options.variant}-{'+'.join(options.groups)}",
)
every_variant = pytest.mark.parametrize("options", [CFunOptions(variant=variant, rank=4) for variant in VARIANTS])


@pytest.fixture
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return build_unet().eval()


def predict(unet: torch.nn.Module, *, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    noisy_latents = torch.randn(2, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=generator).to(dtype)
    prompt_embeds = torch.randn(2, 5, WIDTH, generator=generator).to(dtype)
    model_pred: Tensor = unet(noisy_latents, torch.tensor([10, 700]), prompt_embeds).sample
    return model_pred


def randomise(fusion: ConcreteFusion) -> None:
    """Gives the adapters weights that show, as a fit would."""
    generator = torch.Generator().manual_seed(2)
    for _, parameter in fusion.named_parameters():
        parameter.data.normal_(std=0.2, generator=generator)


@every_adapter
def test_fresh_adapters_change_nothing(unet: UNet2DConditionModel, options: CFunOptions) -> None:
    before = predict(unet)
    fusion = inject(unet, options)
    assert fusion.site_names
    assert torch.equal(predict(unet), before)


@every_adapter
def test_only_own_parameters_train(unet: UNet2DConditionModel, options: CFunOptions) -> None:
    base_before = copy.deepcopy(unet.state_dict())
    fusion = inject(unet, options)
    own = dict(fusion.named_parameters())
    assert {id(p) for p in unet.parameters() if p.requires_grad} == {id(p) for p in own.values()}
    own_before = {name: parameter.detach().clone() for name, parameter in own.items()}

    optimizer = torch.optim.SGD(own.values(), lr=1.0)
    predict(unet).square().mean().backward()
    own_ids = {id(parameter) for parameter in own.values()}
    assert all(p.grad is None for p in unet.parameters() if id(p) not in own_ids)
    optimizer.step()

    assert any(not torch.equal(parameter, own_before[name]) for name, parameter in own.items())
    fusion.eject()
    assert_equal_state(unet.state_dict(), base_before)


@every_adapter
def test_eject_restores_the_unet_bit_exactly(unet: UNet2DConditionModel, options: CFunOptions) -> None:
    unet.requires_grad_(True)
    before, state_before = predict(unet), copy.deepcopy(unet.state_dict())
    modules_before = [name for name, _ in unet.named_modules()]
    fusion = inject(unet, options)
    randomise(fusion)
    assert not torch.equal(predict(unet), before)
    fusion.eject()
    fusion.eject()
    assert not carries_adapters(unet)
    assert [name for name, _ in unet.named_modules()] == modules_before
    assert all(parameter.requires_grad for parameter in unet.parameters())
    assert_equal_state(unet.state_dict(), state_before)
    assert torch.equal(predict(unet), before)


@every_adapter
def test_loaded_adapters_give_the_same_output(unet: UNet2DConditionModel, options: CFunOptions) -> None:
    fusion = inject(unet, options)
    randomise(fusion)
    styled, saved = predict(unet), copy.deepcopy(fusion.state_dict())
    fusion.eject()
    again = inject(unet, options)
    assert not torch.equal(predict(unet), styled)
    again.load_state_dict(saved)
    assert torch.equal(predict(unet), styled)


@every_adapter
def test_scale_zero_is_the_base_and_scale_one_the_fit(unet: UNet2DConditionModel, options: CFunOptions) -> None:
    before = predict(unet)
    fusion = inject(unet, options)
    randomise(fusion)
    styled = predict(unet)
    fusion.set_scale(encoder=0.0, middle=0.0, decoder=0.0)
    assert set(fusion.scales.values()) == {0.0}
    assert torch.equal(predict(unet), before)
    fusion.set_scale(encoder=1.0, middle=1.0, decoder=1.0)
    assert torch.equal(predict(unet), styled)


@every_variant
def test_each_group_has_its_own_scale(unet: UNet2DConditionModel, options: CFunOptions) -> None:
    fusion = inject(unet, options)
    randomise(fusion)
    fusion.set_scale(encoder=0.0, middle=0.0)
    assert fusion.scales == {"encoder": 0.0, "middle": 0.0, "decoder": 1.0}
    decoder_weights = {name: tensor for name, tensor in fusion.state_dict().items() if name.startswith("up_blocks")}
    decoder_only = predict(unet)
    fusion.eject()

    alone = inject(unet, CFunOptions(variant=options.variant, groups=("decoder",), rank=options.rank))
    alone.load_state_dict(decoder_weights)
    assert torch.equal(predict(unet), decoder_only)


@every_variant
def test_a_unet_compiled_before_honours_adapters(unet: UNet2DConditionModel, options: CFunOptions) -> None:
    compiled = cast(torch.nn.Module, torch.compile(unet, backend="eager"))
    before = predict(compiled)
    fusion = inject(compiled, options)
    randomise(fusion)
    styled = predict(unet)
    assert not torch.equal(styled, before)
    assert torch.allclose(predict(compiled), styled, atol=1e-6)
    fusion.set_scale(encoder=0.0, middle=0.0, decoder=0.0)
    assert torch.equal(predict(compiled), before)
    fusion.eject()
    assert torch.equal(predict(compiled), before)


@every_adapter
def test_a_bfloat16_base_keeps_float32_trainables(unet: UNet2DConditionModel, options: CFunOptions) -> None:
    unet.to(torch.bfloat16)
    before = predict(unet, dtype=torch.bfloat16)
    fusion = inject(unet, options)
    assert unet.dtype == torch.bfloat16
    assert {parameter.dtype for _, parameter in fusion.named_parameters()} == {torch.float32}
    assert torch.equal(predict(unet, dtype=torch.bfloat16), before)
    randomise(fusion)
    styled = predict(unet, dtype=torch.bfloat16)
    assert styled.dtype == torch.bfloat16
    assert not torch.equal(styled, before)
    styled.float().square().mean().backward()
    assert {p.grad.dtype for _, p in fusion.named_parameters() if p.grad is not None} == {torch.float32}


@every_variant
def test_gradient_checkpointing_gives_the_same_gradients(unet: UNet2DConditionModel, options: CFunOptions) -> None:
    fusion = inject(unet, options)
    randomise(fusion)
    gradients = []
    for _ in range(2):
        predict(unet).square().mean().backward()
        gradients.append([parameter.grad for _, parameter in fusion.named_parameters()])
        unet.zero_grad(set_to_none=True)
        unet.enable_gradient_checkpointing()
    for plain, checkpointed in zip(*gradients, strict=True):
        assert plain is not None
        assert checkpointed is not None
        torch.testing.assert_close(checkpointed, plain)


@every_variant
def test_a_second_style_is_refused(unet: UNet2DConditionModel, options: CFunOptions) -> None:
    first = inject(unet, CFunOptions(groups=("middle",), rank=4))
    with pytest.raises(ConfigError, match="eject it"):
        inject(unet, options)
    first.eject()
    inject(unet, options).eject()


@every_variant
def test_wrong_tensors_are_refused_and_change_nothing(unet: UNet2DConditionModel, options: CFunOptions) -> None:
    fusion = inject(unet, options)
    before = copy.deepcopy(fusion.state_dict())
    name = next(iter(before))
    for wrong in (
        {key: tensor for key, tensor in before.items() if key != name},
        before | {name: torch.zeros(3)},
        before | {"down_blocks.9.resnets.0": torch.zeros(3)},
    ):
        with pytest.raises(StyleFileError):
            fusion.load_state_dict(wrong)
    assert_equal_state(fusion.state_dict(), before)


def test_sites_are_named_by_path_and_grouped(unet: UNet2DConditionModel) -> None:
    sites = find_res_blocks(unet)
    assert [(site.name, site.group) for site in sites] == [
        ("down_blocks.0.resnets.0", "encoder"),
        ("down_blocks.1.resnets.0", "encoder"),
        ("up_blocks.0.resnets.0", "decoder"),
        ("up_blocks.0.resnets.1", "decoder"),
        ("up_blocks.1.resnets.0", "decoder"),
        ("up_blocks.1.resnets.1", "decoder"),
        ("mid_block.resnets.0", "middle"),
        ("mid_block.resnets.1", "middle"),
    ]
    assert all(unet.get_submodule(site.name) is site.module for site in sites)
    assert {site.group for site in find_attention_blocks(unet, ("middle",))} == {"middle"}


def test_lora_stands_in_res_blocks_and_attention_lora_in_attention(unet: UNet2DConditionModel) -> None:
    in_res_blocks = inject(unet, CFunOptions(variant="lora", rank=4))
    assert all(name.endswith((".conv1", ".conv2")) and ".resnets." in name for name in in_res_blocks.site_names)
    in_res_blocks.eject()
    in_attention = inject(unet, CFunOptions(variant="attention_lora", rank=4))
    assert all(".attentions." in name for name in in_attention.site_names)


def test_lora_beside_a_loaded_lora_is_refused_but_affine_is_not(unet: UNet2DConditionModel) -> None:
    from peft import LoraConfig

    unet.add_adapter(LoraConfig(r=2, target_modules=["conv1", "conv2"]), "from_the_hub")
    with pytest.raises(ConfigError, match="unload it"):
        inject(unet, CFunOptions(variant="lora"))
    before = predict(unet)
    fusion = inject(unet, CFunOptions())
    assert torch.equal(predict(unet), before)
    fusion.eject()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "hypernet"}, "std_affine"),
        ({"groups": ()}, "encoder"),
        ({"groups": ("bottleneck",)}, "encoder"),
        ({"rank": 0}, "at least 1"),
    ],
)
def test_wrong_options_name_value_and_choice(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CFunOptions(**options)  # type: ignore[arg-type]


def assert_equal_state(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(state) == list(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
