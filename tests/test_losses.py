"""Losses against their formulas, written a second time in numpy or by hand."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from acfun import losses

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_true_prediction_gives_the_clean_latents(prediction_type: str) -> None:
    latents, noise, alphas = randn(3, 2, 4, 4), randn(3, 2, 4, 4, seed=1), torch.tensor([0.9, 0.5, 0.02])
    signal, sigma = (part.sqrt().view(-1, 1, 1, 1) for part in (alphas, 1 - alphas))
    truths = {"epsilon": noise, "v_prediction": signal * noise - sigma * latents, "sample": latents}
    noisy = signal * latents + sigma * noise
    found = losses.predict_original_sample(truths[prediction_type], noisy, alphas, prediction_type)
    torch.testing.assert_close(found, latents, atol=1e-5, rtol=1e-5)


def test_an_unknown_prediction_type_is_named() -> None:
    with pytest.raises(ValueError, match="flow"):
        losses.predict_original_sample(randn(1, 1, 2, 2), randn(1, 1, 2, 2), torch.tensor([0.5]), "flow")


def test_timestep_weights_are_cut_signal_to_noise() -> None:
    weights = losses.compute_timestep_weights(torch.tensor([0.0, 0.5, 0.8, 0.99]), gamma=5.0)
    torch.testing.assert_close(weights, torch.tensor([0.0, 0.2, 0.8, 1.0]))


def test_latent_distance_is_the_weighted_mean_square() -> None:
    pred, target, weights = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1), torch.tensor([0.25, 1.0])
    squares = np.square(pred.numpy() - target.numpy()).reshape(2, -1).mean(1)
    assert float(losses.latent_distance(pred, target, weights)) == pytest.approx((0.25 * squares[0] + squares[1]) / 2)
    assert losses.latent_distance(pred, pred, weights) == 0


def test_patches_are_the_windows_of_the_image() -> None:
    image = rand(1, 3, 9, 11)
    patches = losses.extract_patches(image, size=5, stride=2)
    windows = [image[0, :, y : y + 5, x : x + 5].flatten() for y in range(0, 5, 2) for x in range(0, 7, 2)]
    assert torch.equal(patches, torch.stack(windows))


def test_selected_patches_have_their_centre_in_the_mask() -> None:
    image, mask = rand(1, 3, 9, 11), torch.zeros(9, 11)
    mask[2, 4] = mask[6, 8] = 1
    mask[3, 5] = 1  # no patch has its centre here
    patches = losses.extract_patches(image)
    chosen = losses.select_patches(patches, mask)
    centres = [image[0, :, 2, 4], image[0, :, 6, 8]]
    assert torch.equal(chosen.view(2, 3, 5, 5)[:, :, 2, 2], torch.stack(centres))
    assert len(losses.select_patches(patches, torch.ones(9, 11))) == len(patches)
    assert len(losses.select_patches(patches, torch.zeros(9, 11))) == 0


def test_directions_are_unit_columns() -> None:
    directions = losses.sample_directions(12, 7, torch.Generator().manual_seed(0))
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(7))
    assert torch.equal(directions, losses.sample_directions(12, 7, torch.Generator().manual_seed(0)))


def test_sliced_wasserstein_sorts_and_compares() -> None:
    points, target = randn(20, 4), randn(20, 4, seed=1)
    directions = losses.sample_directions(4, 6, torch.Generator().manual_seed(0))
    projected, wanted = (np.sort(part.numpy() @ directions.numpy(), 0) for part in (points, target))
    distance = losses.sliced_wasserstein(points, target, directions)
    assert float(distance) == pytest.approx(np.abs(projected - wanted).mean(), rel=1e-5)
    assert losses.sliced_wasserstein(points, points, directions) == 0


def test_sliced_wasserstein_knows_sets_not_orders_and_moves_with_shifts() -> None:
    points, directions = randn(30, 3), torch.eye(3)
    shuffled = points[torch.randperm(30, generator=torch.Generator().manual_seed(0))]
    torch.testing.assert_close(losses.sliced_wasserstein(shuffled, points, directions), torch.tensor(0.0))
    shifted = points + torch.tensor([0.5, -0.25, 0.0])
    torch.testing.assert_close(losses.sliced_wasserstein(shifted, points, directions), torch.tensor(0.25))
    both = [losses.sliced_wasserstein(a, b, directions) for a, b in ((points, shifted), (shifted, points))]
    assert torch.equal(*both)


@pytest.mark.parametrize("sizes", [(40, 10), (10, 40), (7, 5)])
def test_sets_of_other_sizes_are_compared_by_quantiles(sizes: tuple[int, int]) -> None:
    """Both are spread over the same interval, so their quantiles agree up to the spacing of points."""
    points, target = (torch.linspace(0, 1, size)[:, None] for size in sizes)
    distance = losses.sliced_wasserstein(points, target, torch.ones(1, 1))
    assert distance <= 0.5 / (max(sizes) - 1)
    assert losses.sliced_wasserstein(points, target + 3, torch.ones(1, 1)) == pytest.approx(3, abs=0.1)


def test_gram_is_the_covariance_of_channels() -> None:
    feature = randn(2, 3, 5, 4)
    expected = np.stack([np.cov(part.reshape(3, -1).numpy(), bias=True) for part in feature])
    np.testing.assert_allclose(losses.compute_gram(feature), expected, atol=1e-5)
    targets = [losses.compute_gram(feature[:1])[0]]
    torch.testing.assert_close(losses.gram_distance([feature[:1]], targets), torch.tensor(0.0))
    torch.testing.assert_close(losses.gram_distance([feature[:1] + 7], targets), torch.tensor(0.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(losses.gram_distance([2 * feature[:1]], targets), torch.tensor(3.0))


def test_self_similarity_is_a_cosine_and_blind_to_appearance() -> None:
    feature = randn(1, 4, 3, 3)
    flat = feature[0].flatten(1).T.numpy()
    centred = flat - flat.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    similarity = losses.self_similarity(feature)[0]
    np.testing.assert_allclose(similarity, unit @ unit.T, atol=1e-5)
    torch.testing.assert_close(losses.self_similarity(3 * feature + 5)[0], similarity)
    assert losses.self_similarity(randn(1, 4, 40, 30), max_side=16).shape == (1, 256, 256)


def test_structure_distance_is_zero_for_the_same_layout() -> None:
    features = [randn(2, 4, 6, 6), randn(2, 8, 3, 3, seed=1)]
    targets = [losses.self_similarity(feature) for feature in features]
    assert losses.structure_distance(features, targets) == 0
    torch.testing.assert_close(losses.structure_distance([-f for f in features], targets), torch.tensor(0.0))
    assert losses.structure_distance([f.flip(3) for f in features], targets) > 0.1


def test_identity_distance_is_one_minus_cosine() -> None:
    embeds = F.normalize(randn(3, 8), dim=1)
    torch.testing.assert_close(losses.identity_distance(embeds, embeds), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(losses.identity_distance(embeds, -embeds), torch.tensor(2.0))
    weights = torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(losses.identity_distance(embeds, -embeds, weights), torch.tensor(2 / 3))


def test_total_loss_needs_a_weight_for_every_loss() -> None:
    terms = {"face": torch.tensor(2.0), "style": torch.tensor(3.0)}
    assert losses.total_loss(terms, {"face": 1.0, "style": 0.5}) == 3.5
    with pytest.raises(KeyError, match="style"):
        losses.total_loss(terms, {"face": 1.0})


def test_gradients_flow_and_are_finite_at_the_optimum() -> None:
    """Where nothing is left to improve, no loss may answer with NaN."""
    image = rand(1, 3, 16, 16).requires_grad_()
    patches = losses.extract_patches(image)
    directions = losses.sample_directions(patches.shape[1], 4, torch.Generator().manual_seed(0))
    features = [image]
    terms = [
        losses.sliced_wasserstein(patches, patches.detach(), directions),
        losses.gram_distance(features, [losses.compute_gram(image.detach())[0]]),
        losses.structure_distance(features, [losses.self_similarity(image.detach())]),
    ]
    torch.stack(terms).sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()


def test_shading_is_blind_to_level_contrast_and_colour_and_sees_what_is_lit_elsewhere() -> None:
    image = randn(2, 3, 96, 96)
    masks = torch.zeros(2, 2, losses.SHADING_SIDE, losses.SHADING_SIDE)
    masks[:, 0, :24], masks[:, 1, 24:] = 1, 1
    shading = losses.compute_shading(image)
    other = shading.clone()
    other[:, :24] = 3 * other[:, :24] + 2
    assert float(losses.shading_distance(other, shading, masks)) == pytest.approx(0, abs=1e-3)
    other[:, :24] *= -1
    assert float(losses.shading_distance(other, shading, masks)) == pytest.approx(1, abs=1e-3)
    empty = losses.shading_distance(shading, shading, torch.zeros_like(masks))
    assert empty.isfinite()


def test_gram_distance_takes_weights() -> None:
    features = [randn(2, 4, 8, 8)]
    target = [losses.compute_gram(randn(1, 4, 8, 8))[0]]
    plain = losses.gram_distance(features, target)
    torch.testing.assert_close(losses.gram_distance(features, target, torch.full((2,), 0.5)), plain / 2)


def test_matched_colours_have_the_mean_and_covariance_of_the_target() -> None:
    pixels, target = rand(500, 3) * 0.5, 0.3 * randn(400, 3, seed=1) @ randn(3, 3, seed=2) * 0.3 + 0.1
    weights = rand(500, seed=3)
    moved = losses.match_colours(pixels, weights, target)
    shares = weights / weights.sum()
    mean = shares @ moved
    torch.testing.assert_close(mean, target.mean(0), atol=1e-4, rtol=0)
    covariance = ((moved - mean).T * shares) @ (moved - mean)
    torch.testing.assert_close(covariance, torch.cov(target.T, correction=0), atol=5e-3, rtol=0.05)


def test_matching_stretches_a_flat_region_only_so_far() -> None:
    flat, target = 0.2 + 1e-4 * randn(100, 3), randn(100, 3, seed=1)
    moved = losses.match_colours(flat, torch.ones(100), target)
    assert moved.std(0).max() < 1e-2
