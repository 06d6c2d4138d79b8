"""Fast group norms: torch's own figures, forwards and backwards."""

import pytest
import torch
from torch import nn

from acfun.base.group_norm import ChannelsLastGroupNorm, speed_up_group_norms


def make_pair(channels: int, groups: int) -> tuple[nn.GroupNorm, nn.GroupNorm]:
    """Torch's norm and the fast one, with the same random parameters."""
    generator = torch.Generator().manual_seed(0)
    norm = nn.GroupNorm(groups, channels)
    for parameter in norm.parameters():
        parameter.data.normal_(1.0, generator=generator)
    fast = nn.GroupNorm(groups, channels)
    fast.load_state_dict(norm.state_dict())
    speed_up_group_norms(fast)
    return norm, fast


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("shape", "groups"), [((2, 8, 6, 5), 4), ((1, 6, 4, 4), 6), ((3, 4, 7, 3), 1)])
def test_values_and_gradients_are_torchs(
    shape: tuple[int, ...], groups: int, memory_format: torch.memory_format
) -> None:
    norm, fast = make_pair(shape[1], groups)
    assert type(fast) is ChannelsLastGroupNorm
    generator = torch.Generator().manual_seed(1)
    x = (2 * torch.randn(shape, generator=generator) + 1).contiguous(memory_format=memory_format)
    weights = torch.randn(shape, generator=generator)
    results = []
    for module in (norm, fast):
        leaf = x.clone().requires_grad_()
        output = module(leaf)
        (output * weights).sum().backward()
        results.append([output, leaf.grad, *(parameter.grad for parameter in module.parameters())])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_only_what_is_needed_gets_a_gradient() -> None:
    _, fast = make_pair(8, 2)
    fast.requires_grad_(False)
    leaf = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    fast(leaf).square().sum().backward()
    assert leaf.grad is not None
    assert fast.weight.grad is None
    assert fast.bias.grad is None


def test_bfloat16_stays_close() -> None:
    norm, fast = make_pair(8, 2)
    x = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    output = fast.bfloat16()(x.bfloat16())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), norm(x), atol=0.06, rtol=0.02)


def test_other_inputs_and_norms_keep_torchs_path() -> None:
    norm, fast = make_pair(8, 2)
    tokens = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fast(tokens), norm(tokens))
    plain = nn.Sequential(nn.GroupNorm(2, 8, affine=False), nn.LayerNorm(8))
    speed_up_group_norms(plain)
    assert [type(part) for part in plain] == [nn.GroupNorm, nn.LayerNorm]


def test_parameters_keep_their_names() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8))
    names = list(module.state_dict())
    speed_up_group_norms(module)
    assert list(module.state_dict()) == names
