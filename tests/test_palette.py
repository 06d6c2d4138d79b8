"""Palettes: what is usual among colours, and where a picture departs from it."""

import torch

from acfun.palette import USUAL_REACH, find_odd, find_usual

BROWN, RED = torch.tensor([-0.2, -0.4, -0.6]), torch.tensor([0.9, -0.7, -0.7])


def draw_colours(middle: torch.Tensor, count: int) -> torch.Tensor:
    return middle + 0.05 * torch.randn(count, 3, generator=torch.Generator().manual_seed(count))


def test_the_usual_is_what_most_are_like() -> None:
    middle, limit = find_usual(torch.cat([draw_colours(BROWN, 300), draw_colours(RED, 140)]))
    torch.testing.assert_close(middle, BROWN, atol=0.05, rtol=0)
    assert limit == USUAL_REACH < float((RED - BROWN).norm())


def test_widely_spread_colours_are_usual_farther() -> None:
    spread = 2 * torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) - 1
    assert find_usual(spread)[1] > find_usual(spread, 1.5)[1] >= USUAL_REACH


def test_odd_places_are_told_by_the_colours_of_a_part() -> None:
    image = draw_colours(BROWN, 32 * 32).T.view(1, 3, 32, 32).clone()
    image[..., :8, :] = RED[:, None, None]
    part = torch.zeros(1, 1, 32, 32)
    part[..., 4:, :] = 1
    odd = find_odd(image, part)
    assert odd.shape == part.shape and bool(odd[..., :8, :].all()) and not odd[..., 8:, :].any()
    assert not find_odd(image, torch.zeros_like(part)).any()
