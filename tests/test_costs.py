"""The meter: bytes that are alive, and operations, the same with values and without."""

import pytest
import torch
from torch.nn import functional as F

from acfun.costs import CostMeter


def test_views_and_what_was_there_before_count_nothing() -> None:
    given = torch.ones(1000)
    with CostMeter() as meter:
        given.add_(1)
        assert meter.live == 0
        first = torch.ones(1000)
        part, row = first[::2], first.view(10, 100)
        assert meter.live == 4000
        second = first + 1
        del first, part
        assert meter.live == 8000
        del row, second
    assert (meter.live, meter.peak) == (0, 8000)


def test_operations_are_counted_forward_and_backward() -> None:
    left, right = torch.ones(4, 8, requires_grad=True), torch.ones(8, 16)
    with CostMeter() as meter:
        product = left @ right
        assert meter.flops == 2 * 4 * 8 * 16
        product.sum().backward()
    assert meter.flops == 2 * (2 * 4 * 8 * 16)  # one gradient more


@pytest.mark.parametrize("size", [8, 24])
def test_attention_counts_as_its_two_products(size: int) -> None:
    query = torch.ones(1, 2, size, 16, requires_grad=True)
    with CostMeter() as meter:
        attended = F.scaled_dot_product_attention(query, query, query)
        assert meter.flops == 2 * (2 * 2 * size * size * 16)
        attended.sum().backward()
    assert meter.flops == 7 * (2 * 2 * size * size * 16)
    assert meter.peak >= attended.numel() * 4


def test_without_values_the_same_is_counted() -> None:
    counted = []
    for device in ("cpu", "meta"):
        layer = torch.nn.Conv2d(3, 8, 3, device=device)
        with CostMeter() as meter:
            layer(torch.ones(1, 3, 16, 16, device=device)).square().mean().backward()
        counted.append((meter.peak, meter.flops))
    assert counted[0] == counted[1]
