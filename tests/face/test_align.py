"""Geometry of crops: template, gradients, antialiasing and pasting back."""

import math

import pytest
import torch
from torch import Tensor

from acfun.face.align import (
    EYES_CENTRE,
    FIVE_POINT_INDICES,
    INTER_PUPIL_FRACTION,
    arcface_template,
    face_crop,
    five_points,
    invert_transform,
    paste_back,
    portrait_crop,
    portrait_transform,
    similarity_transform,
    transform_points,
    warp,
)

NUM_LANDMARKS = 189


def posed_landmarks(angle: float, scale: float, shift: tuple[float, float]) -> Tensor:
    """(1,189,2) landmarks whose five points are the ArcFace template under a known similarity."""
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    landmarks = torch.zeros(1, NUM_LANDMARKS, 2)
    landmarks[0, list(FIVE_POINT_INDICES)] = scale * arcface_template(112) @ rotation.T + torch.tensor(shift)
    return landmarks


def dots(points: Tensor, height: int, width: int, radius: float) -> Tensor:
    """(1,N,H,W): one Gaussian blob per point, so that each can be located after a warp."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    squared = (columns - points[:, 0, None, None]) ** 2 + (rows - points[:, 1, None, None]) ** 2
    return torch.exp(-squared / (2 * radius**2)).unsqueeze(0)


def centres(blobs: Tensor) -> Tensor:
    """(N,2) centres of mass of (1,N,H,W)."""
    mass = blobs[0].sum((1, 2))
    columns = (blobs[0].sum(1) * torch.arange(blobs.shape[-1])).sum(1) / mass
    rows = (blobs[0].sum(2) * torch.arange(blobs.shape[-2])).sum(1) / mass
    return torch.stack([columns, rows], -1)


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 1.0), (0.4, 0.8), (-0.3, 3.7)])
def test_face_crop_puts_the_points_on_the_template(angle: float, scale: float) -> None:
    landmarks = posed_landmarks(angle, scale, (150.0, 130.0))
    image = dots(five_points(landmarks)[0], 700, 720, 2.5 * scale)
    found = centres(face_crop(image, landmarks))
    assert (found - arcface_template(112)).norm(dim=-1).max() < 0.5


def test_face_crop_scales_the_template() -> None:
    landmarks = posed_landmarks(0.2, 1.5, (60.0, 40.0))
    transform = similarity_transform(five_points(landmarks), arcface_template(64))
    found = transform_points(five_points(landmarks), transform)[0]
    assert torch.allclose((found + 0.5) / 64, (arcface_template(112) + 0.5) / 112, atol=1e-4)


@pytest.mark.parametrize("scale", [0.9, 3.2])
def test_gradients_reach_the_image(scale: float) -> None:
    image = torch.rand(1, 3, 400, 400, requires_grad=True)
    face_crop(image, posed_landmarks(0.1, scale, (20.0, 10.0))).square().mean().backward()
    assert image.grad is not None
    assert int((image.grad != 0).sum()) > 3 * 112 * 112 / 2


def test_similarity_is_exact_and_differentiable() -> None:
    source = torch.randn(3, 7, 2, requires_grad=True)
    linear = torch.tensor([[1.2, -0.5], [0.5, 1.2]])
    target = source.detach() @ linear.T + torch.tensor([4.0, -2.0])
    transform = similarity_transform(source, target)
    assert torch.allclose(transform[:, :, :2], linear.expand(3, 2, 2), atol=1e-5)
    assert torch.allclose(transform_points(source, transform), target, atol=1e-4)
    transform.sum().backward()
    assert source.grad is not None and bool(source.grad.abs().sum() > 0)


def test_inverse_undoes_a_transform() -> None:
    points = torch.randn(2, 5, 2) * 50
    transform = similarity_transform(points, torch.randn(5, 2))
    back = transform_points(transform_points(points, transform), invert_transform(transform))
    assert torch.allclose(back, points, atol=1e-3)


def test_shrinking_averages_instead_of_aliasing() -> None:
    board = ((torch.arange(256)[:, None] + torch.arange(256)) % 2).float().expand(1, 1, 256, 256) * 2 - 1
    transform = torch.tensor([[[0.125, 0.0, -0.4375], [0.0, 0.125, -0.4375]]])
    assert warp(board, transform, (32, 32)).abs().max() < 0.05


def test_portrait_crop_is_canonical_and_never_black_outside() -> None:
    landmarks = posed_landmarks(0.15, 0.5, (2.0, 1.0))
    size = 96
    crop, transform = portrait_crop(torch.full((1, 3, 70, 80), 0.6), landmarks, size)
    left, right = transform_points(landmarks[:, :2], transform)[0]
    assert crop.min() > 0.59
    assert float(right[0] - left[0]) == pytest.approx(INTER_PUPIL_FRACTION * size, abs=1e-3)
    middle = ((left + right) / 2 + 0.5) / size
    assert middle.tolist() == pytest.approx(list(EYES_CENTRE), abs=1e-4)


def smooth_image(height: int, width: int) -> Tensor:
    rows, columns = torch.meshgrid(torch.linspace(0, 5, height), torch.linspace(0, 6, width), indexing="ij")
    return torch.stack([torch.sin(rows), torch.cos(columns), torch.sin(rows + columns)]).unsqueeze(0) * 0.8


@pytest.mark.parametrize("size", [64, 256])
def test_pasting_the_untouched_crop_returns_the_image(size: int) -> None:
    image, landmarks = smooth_image(180, 220), posed_landmarks(0.1, 0.6, (70.0, 50.0))
    crop, transform = portrait_crop(image, landmarks, size)
    assert (paste_back(image, crop, transform) - image).abs().max() < 0.02


def test_pasting_changes_the_middle_and_leaves_no_seam() -> None:
    image, landmarks = torch.full((1, 3, 200, 200), -0.5), posed_landmarks(0.0, 0.5, (72.0, 70.0))
    crop, transform = portrait_crop(image, landmarks, 128)
    result = paste_back(image, torch.full_like(crop, 0.5), transform)
    eyes = landmarks[0, :2].mean(0).round().long()
    assert result[0, 0, eyes[1], eyes[0]] > 0.4
    assert torch.equal(result[..., 0, :], image[..., 0, :])
    assert (result[..., 1:] - result[..., :-1]).abs().max() < 0.25


def test_pasting_outside_the_image_changes_nothing() -> None:
    image = smooth_image(40, 40)
    transform = portrait_transform(posed_landmarks(0.0, 0.1, (900.0, 900.0)), 32)
    assert torch.equal(paste_back(image, torch.ones(1, 3, 32, 32), transform), image)


@pytest.mark.parametrize("feather", [0.0, 0.7])
def test_feather_out_of_range_is_refused(feather: float) -> None:
    with pytest.raises(ValueError, match="feather"):
        paste_back(smooth_image(20, 20), torch.zeros(1, 3, 8, 8), torch.eye(2, 3).unsqueeze(0), feather)
