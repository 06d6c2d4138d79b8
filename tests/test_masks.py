"""Masks: how far they reach, and what is filled where they hide something."""

import torch

from acfun.masks import fill, grow, reach


def test_what_is_known_stays_and_the_rest_comes_from_around_it() -> None:
    columns = torch.linspace(-1, 1, 61).expand(1, 2, 40, 61)
    known = torch.ones(1, 1, 40, 61)
    known[..., 12:30, 20:40] = 0
    spoilt = torch.where(known > 0, columns, 7.0)
    filled = fill(spoilt, known)
    assert torch.equal(filled[known.expand_as(filled) > 0], columns[known.expand_as(columns) > 0])
    assert float((filled - columns).abs().max()) < 0.35
    assert float(fill(spoilt, torch.zeros_like(known)).abs().max()) < 7.1


def test_far_reaches_are_those_of_a_square_to_an_eighth() -> None:
    mask = torch.zeros(1, 1, 96, 128)
    mask[..., 40:56, 50:70] = 1
    for found in (grow(mask, 3.0), reach(mask, 30.0)):
        assert found.shape == mask.shape
        assert float(found[mask > 0].min()) > 0.99
    rows = reach(mask, 30.0)[0, 0, :, 60]
    assert 40 - 30 - 8 <= int((rows > 0.5).nonzero()[0]) <= 40 - 30 + 8
    assert torch.equal(reach(mask, 3.0), grow(mask, 3.0))
