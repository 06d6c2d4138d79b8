"""Metrics against values known by construction."""

import math

import pytest
import torch

from acfun.evaluation import features, metrics
from tests.tiny import make_tiny_base


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_distances_vanish_for_equal_and_grow_with_difference() -> None:
    stages = [noise(2, 6, 8, 8), noise(2, 4, 4, 4, seed=1)]
    for distance in (metrics.compute_perceptual_distance, metrics.compute_style_distance):
        assert distance(stages, stages).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
        near, far = ([stage + amount * noise(*stage.shape, seed=2) for stage in stages] for amount in (0.1, 1.0))
        assert (distance(near, stages) < distance(far, stages)).all()


def test_perceptual_distance_ignores_the_size_of_features() -> None:
    stages = [noise(1, 6, 8, 8)]
    assert float(metrics.compute_perceptual_distance([3 * stages[0]], stages)) == pytest.approx(0, abs=1e-6)
    assert float(metrics.compute_perceptual_distance([-stages[0]], stages)) == pytest.approx(4, rel=1e-5)


def test_style_distance_ignores_where_things_are() -> None:
    stage = noise(1, 5, 8, 8)
    shuffled = stage.flatten(2)[:, :, torch.randperm(64, generator=torch.Generator().manual_seed(0))].view(1, 5, 8, 8)
    assert float(metrics.compute_style_distance([shuffled], [stage])) == pytest.approx(0, abs=1e-5)


def test_colour_distance_of_a_shift_is_the_shift() -> None:
    colours = noise(500, 3)
    shift = torch.tensor([3.0, 0.0, -6.0])
    assert float(metrics.compute_colour_distance(colours + shift, colours)) == pytest.approx(3.0, rel=1e-4)


def test_ghosting_sees_a_double_exposure_and_nothing_else() -> None:
    face, style, other = (noise(1, 40, 40, seed=seed) for seed in range(3))
    ghost = metrics.compute_ghosting(math.sqrt(0.75) * face + 0.5 * style, face, style)
    assert float(ghost) == pytest.approx(0.25, abs=0.03)
    assert float(metrics.compute_ghosting(face, face, style)) < 1e-6
    assert float(metrics.compute_ghosting(other, face, style)) < 0.01
    assert float(metrics.compute_ghosting(face - style, face, style)) == 0
    assert float(metrics.compute_ghosting(torch.zeros(1, 40, 40), face, style)) == 0


def test_ssim_is_one_for_equal_images_and_agrees_with_scikit_image() -> None:
    from skimage.metrics import structural_similarity

    image, other = noise(1, 32, 32).clamp(-1, 1), noise(1, 32, 32, seed=1).clamp(-1, 1)
    blend = 0.7 * image + 0.3 * other
    assert float(metrics.compute_ssim(image, image)) == pytest.approx(1, abs=1e-5)
    wanted = structural_similarity(
        image[0].numpy(), blend[0].numpy(), data_range=2.0, win_size=7, use_sample_covariance=False
    )
    assert float(metrics.compute_ssim(image, blend)) == pytest.approx(wanted, abs=1e-3)


def test_bootstrap_interval_holds_the_mean() -> None:
    values = noise(200) + 5
    low, high = metrics.bootstrap_interval(values, torch.Generator().manual_seed(0))
    assert low < float(values.mean()) < high
    assert high - low == pytest.approx(2 * 1.96 / math.sqrt(200), rel=0.2)


def test_wasserstein_ignores_where_things_are_and_measures_shifts_in_deviations() -> None:
    stage, columns = noise(1, 5, 8, 8), [torch.eye(5)]
    shuffled = stage.flatten(2)[:, :, torch.randperm(64, generator=torch.Generator().manual_seed(0))].view(1, 5, 8, 8)
    assert float(metrics.compute_wasserstein([shuffled], [stage], columns)) == pytest.approx(0, abs=1e-6)
    deviation = stage[0].flatten(1).std(1).view(1, 5, 1, 1)
    shifted = torch.cat([stage + 0.5 * deviation, stage - 2 * deviation])
    assert metrics.compute_wasserstein([shifted], [stage], columns).tolist() == pytest.approx([0.5, 2.0], rel=1e-4)
    large = noise(1, 5, 90, 90, seed=1)  # more points than are looked at
    assert float(metrics.compute_wasserstein([large], [stage], columns)) < 0.3


def test_structure_does_not_ask_what_things_are_painted_with() -> None:
    tokens, other = noise(2, 9, 6), noise(2, 9, 6, seed=1)
    rotation = torch.linalg.qr(noise(6, 6, seed=2)).Q
    assert metrics.compute_structure_distance(tokens @ rotation + 3, tokens).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert (metrics.compute_structure_distance(other, tokens) > 0.2).all()


def test_faces_are_alike_in_what_sets_them_apart() -> None:
    people, style = noise(4, 9, 6), noise(1, 9, 6, seed=1)
    assert metrics.compute_face_similarity(people, people).tolist() == pytest.approx([1.0] * 4, abs=1e-5)
    painted = metrics.compute_face_similarity(people + style, people)
    strangers = metrics.compute_face_similarity(people.roll(1, 0) + style, people)
    assert (painted > strangers).all()
    assert float(metrics.compute_face_similarity(people.roll(1, 0), people).mean()) < 0


def test_bleeding_is_between_the_surroundings_and_the_face() -> None:
    around, face = noise(300, 3), noise(200, 3, seed=1) + 20
    assert float(metrics.compute_bleeding(around, around, face)) == pytest.approx(0, abs=1e-6)
    assert float(metrics.compute_bleeding(face, around, face)) == pytest.approx(1, abs=1e-6)
    assert float(metrics.compute_bleeding((around + noise(300, 3, seed=2)) / 2 + 10, around, face)) == pytest.approx(
        0.5, abs=0.05
    )


def test_a_person_is_kept_when_twice_as_near_as_the_painted_face() -> None:
    identity, leakage = torch.tensor([0.8, 0.8, 0.3, -0.1]), torch.tensor([0.4, 0.5, -0.2, -0.5])
    assert metrics.is_kept(identity, leakage).tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("successes", "count", "interval"),
    [(8, 10, (0.4902, 0.9433)), (0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0)), (0, 0, (0.0, 1.0))],
)
def test_wilson_interval_has_known_values(successes: int, count: int, interval: tuple[float, float]) -> None:
    assert metrics.wilson_interval(successes, count) == pytest.approx(interval, abs=1e-4)


def test_extractors_own_their_sizes() -> None:
    images = noise(2, 3, 60, 60).clamp(-1, 1)
    stages = features.extract_stages(make_tiny_base().vae, images, size=64)
    assert stages[0].shape[-2:] == (64, 64)
    assert features.extract_luminance(images, 16).shape == (2, 16, 16)
    white = features.extract_lab(torch.ones(1, 3, 4, 4))
    assert white.shape == (16, 3)
    assert white[0].tolist() == pytest.approx([100, 0, 0], abs=0.01)


def test_strokes_have_neither_colour_nor_contrast_nor_form() -> None:
    strokes = 0.1 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    hue = torch.tensor([1.0, 0.7, 0.3]).view(1, 3, 1, 1)
    ramp = torch.linspace(-0.3, 0.3, 64)
    plain, other = (strokes + 0 * hue).expand(1, 3, -1, -1), 0.6 * strokes * hue + ramp - 0.2 * hue
    found, expected = (features.extract_strokes(image)[..., 8:-8, 8:-8] for image in (other, plain))
    assert found.shape == (1, 3, 48, 48)
    assert float((found - expected).square().mean() / expected.square().mean()) < 0.15
    assert float(features.extract_strokes(ramp.expand(1, 3, 64, 64))[..., 16:-16].abs().max()) < 0.1
