"""The linear start of the VAE: what it is before the first step."""

import pytest
import torch
from torch.nn import functional as F

from train.pretrain_vae import VaeConfig, build_vae
from train.vae_init import find_cascade, find_components, initialise_linear, refine_cascade, solve_convolution

CONFIG = VaeConfig(block_out_channels=(16, 24, 32), latent_channels=6)


def make_images(count: int = 8, size: int = 48) -> torch.Tensor:
    """Smooth coloured noise in [-1,1]."""
    coarse = torch.randn((count, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size, mode="bicubic", align_corners=False).div(2).clamp(-1, 1)


def test_the_vae_computes_the_cascade() -> None:
    torch.manual_seed(0)
    vae, images = build_vae(CONFIG, 48), make_images()
    initialise_linear(vae, images, torch.Generator().manual_seed(0), refine_steps=60)
    with torch.no_grad():
        posterior = vae.encode(images).latent_dist
        output = vae.decode(posterior.mean).sample
    assert posterior.mean.shape == (8, 6, 12, 12)
    assert posterior.logvar.mean() == pytest.approx(-8.0, abs=1e-4)
    error = (output - images).square().mean() / images.square().mean()
    assert error < 0.05


def test_a_refined_cascade_is_nearer_to_the_images() -> None:
    images = make_images()
    cascade = find_cascade(images, [6, 12], 6)

    def measure() -> float:
        return float((cascade.decode(cascade.encode(images)) - images).square().mean())

    before = measure()
    refine_cascade(cascade, images, 40, torch.Generator().manual_seed(0))
    assert measure() < before
    assert not any(weight.requires_grad for weight in (*cascade.analysis, *cascade.synthesis))


def test_components_come_by_falling_deviation_with_its_square_root() -> None:
    images = make_images()
    weight = find_components(images, 12)
    unit = weight.flatten(1) / weight.flatten(1).norm(dim=1, keepdim=True)
    torch.testing.assert_close(unit @ unit.T, torch.eye(12), atol=1e-3, rtol=0)
    natural = F.conv2d(images, unit.view_as(weight), stride=2).square().mean((0, 2, 3)).sqrt()
    given = F.conv2d(images, weight, stride=2).square().mean((0, 2, 3)).sqrt()
    assert (natural.diff() <= 1e-4).all()
    torch.testing.assert_close(given[:6], natural[:6].sqrt(), rtol=0.02, atol=0)


def test_least_squares_finds_a_convolution_again() -> None:
    features = torch.randn((2, 3, 20, 20), generator=torch.Generator().manual_seed(0))
    weight = torch.randn((4, 3, 3, 3), generator=torch.Generator().manual_seed(1))
    found = solve_convolution(features, F.conv2d(features, weight, padding=1))
    torch.testing.assert_close(found, weight, atol=5e-3, rtol=0)


def test_too_narrow_a_trunk_is_refused() -> None:
    with pytest.raises(ValueError, match="widen block_out_channels"):
        initialise_linear(
            build_vae(VaeConfig(block_out_channels=(16, 8, 16), latent_channels=9), 16),
            make_images(),
            torch.Generator(),
        )
