"""Relief: fine differences measured and given back, region by region."""

import pytest
import torch
from torch import Tensor

from acfun.images import blur
from acfun.relief import MAX_GAIN, RELIEF_SHARE, measure_fine_energy, measure_lack, measure_relief, restore_relief

REACH, SIDE = 2.0, 64


@pytest.fixture
def masks() -> Tensor:
    """Left and right half."""
    left = torch.zeros(1, 1, SIDE, SIDE)
    left[..., : SIDE // 2] = 1
    return torch.cat([left, 1 - left], 1)


def draw(deviation: float) -> Tensor:
    return deviation * torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def test_relief_is_the_deviation_of_fine_noise(masks: Tensor) -> None:
    relief = measure_relief(draw(0.1) + 0.3, masks, REACH)
    assert relief.shape == (2,)
    assert relief == pytest.approx([0.1, 0.1], rel=0.05)


def test_what_is_broad_is_no_relief(masks: Tensor) -> None:
    ramp = torch.linspace(-1, 1, SIDE).expand(1, 3, SIDE, SIDE)
    assert float(measure_relief(ramp, masks, REACH).max()) < 0.02


def test_a_region_too_small_to_tell_has_none(masks: Tensor) -> None:
    masks[:, 1] = 0
    masks[:, 1, :4, :4] = 1
    assert measure_relief(draw(0.1), masks, REACH)[1] == 0


def test_softened_strokes_get_their_share_back(masks: Tensor) -> None:
    painting = draw(0.1)
    softened = blur(painting, REACH) + 0.6 * (painting - blur(painting, REACH))
    before, wanted = (measure_relief(image, masks, REACH) for image in (softened, painting))
    after = measure_relief(restore_relief(softened, masks, wanted, REACH), masks, REACH)
    assert (after - before) / (wanted - before) == pytest.approx([RELIEF_SHARE] * 2, rel=0.15)


def test_regions_are_restored_each_by_itself_and_without_shifting_their_mean(masks: Tensor) -> None:
    image = draw(0.05)
    restored = restore_relief(image, masks, torch.tensor([0.1, 0.0]), REACH)
    inside, outside = slice(0, SIDE // 2), slice(SIDE // 2, None)
    assert torch.equal(restored[..., outside], image[..., outside])
    assert not torch.equal(restored[..., inside], image[..., inside])
    assert float((restored - image).mean().abs()) < 1e-3


def test_relief_is_never_taken_away_and_the_gain_is_limited(masks: Tensor) -> None:
    image = draw(0.05)
    assert torch.equal(restore_relief(image, masks, torch.tensor([0.01, 0.01]), REACH), image)
    lifted = restore_relief(image, masks, torch.tensor([9.0, 9.0]), REACH)
    assert float((lifted - image).abs().max()) <= (MAX_GAIN - 1) * float(image.abs().max())


def test_a_flat_picture_stays_flat(masks: Tensor) -> None:
    image = torch.full((1, 3, SIDE, SIDE), 0.25)
    assert restore_relief(image, masks, torch.tensor([0.2, 0.2]), REACH) == pytest.approx(image)


def test_fine_energy_is_measured_where_it_is(masks: Tensor) -> None:
    energy = measure_fine_energy(draw(0.1) * masks[:, :1], REACH)
    assert energy.shape == (1, 1, SIDE, SIDE)
    assert float(energy[..., :24].mean()) == pytest.approx(0.01, rel=0.15)
    assert float(energy[..., 44:].max()) < 1e-4


def test_strokes_lie_on_what_is_calm_alone(masks: Tensor) -> None:
    lively, strokes = draw(0.1) * masks[:, :1], draw(0.1).flip(3)
    stroked = lively + measure_lack(lively, 0.01, REACH) * strokes
    added = (stroked - lively).square().mean(1)[0]
    assert float(added[:, 44:].mean()) == pytest.approx(0.01, rel=0.15)
    assert float(added[:, :20].mean()) < 0.002
    # What is there and what is added make up what is wanted, and no more.
    energy = measure_fine_energy(stroked, REACH)
    assert float(energy.mean()) == pytest.approx(0.01, rel=0.15)
