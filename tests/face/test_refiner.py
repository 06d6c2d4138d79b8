"""The landmark refiner: it leaves landmarks alone until it is trained, learns to move them, and has the last word."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from acfun.face.finder import FaceFinder, regress_landmarks
from acfun.face.networks import NUM_LANDMARKS
from acfun.face.refiner import NUM_ROUNDS, LandmarkRefiner
from acfun.portrait import place_mean_face

CROP = 32
TINY: dict[str, Any] = {"channels": [4, 4, 8, 8], "feature_size": 4, "hidden_size": 8, "crop_size": CROP}
MEAN_SHAPE = (place_mean_face(64) + 0.5) / 64


def build_finder(refiner: dict[str, Any] | None) -> FaceFinder:
    """An untrained finder with or without a refiner."""
    torch.manual_seed(0)
    return FaceFinder(
        detector_channels=(4, 4, 8),
        detector_dilations=(1,),
        regressor_channels=(4, 4, 8, 8),
        hidden_size=8,
        crop_size=32,
        mean_shape=MEAN_SHAPE,
        refiner=refiner,
    ).eval()


def draw_mean_faces(shifts: Tensor) -> tuple[Tensor, Tensor]:
    """Crops (B,3,S,S) with a dark blot over the mean face's landmarks, all shifted by (B,2); landmarks (B,189,2)."""
    points = MEAN_SHAPE + shifts[:, None]
    ticks = (torch.arange(CROP) + 0.5) / CROP
    grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1).view(1, -1, 2).expand(len(points), -1, -1)
    nearest = torch.cdist(grid, points).amin(2).view(-1, 1, CROP, CROP)
    return (nearest / 0.05).clamp(max=1).expand(-1, 3, -1, -1) * 2 - 1, points


def test_untrained_it_leaves_landmarks_where_they_are() -> None:
    refiner = LandmarkRefiner(**TINY).eval()
    landmarks = MEAN_SHAPE + 0.1 * torch.rand(2, NUM_LANDMARKS, 2)
    rounds = refiner(torch.rand(2, 3, CROP, CROP), landmarks, MEAN_SHAPE)
    assert len(rounds) == NUM_ROUNDS
    assert all(torch.equal(landmarks, moved) for moved in rounds)


def test_crop_size_must_fit_the_stride() -> None:
    with pytest.raises(ValueError, match="crop_size=40 is no multiple of 16"):
        LandmarkRefiner(crop_size=40)


def test_it_learns_to_move_landmarks_to_where_the_picture_has_them() -> None:
    torch.manual_seed(0)
    refiner = LandmarkRefiner(**TINY).train()
    optimizer = torch.optim.Adam(refiner.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)

    def measure(count: int) -> tuple[Tensor, Tensor]:
        """Errors before and after, in widths, of faces that are up to 0.04 off."""
        crops, points = draw_mean_faces(0.08 * torch.rand(count, 2, generator=generator) - 0.04)
        moved = refiner(crops, MEAN_SHAPE.expand(count, -1, -1), MEAN_SHAPE)[-1]
        return (MEAN_SHAPE - points).norm(dim=-1).mean(), (moved - points).norm(dim=-1).mean()

    for _ in range(80):
        optimizer.zero_grad()
        measure(16)[1].backward()
        optimizer.step()
    before, after = (float(error.detach()) for error in measure(64))
    assert after < 0.6 * before


def test_landmarks_are_moved_within_limits() -> None:
    refiner = LandmarkRefiner(**TINY).eval()
    with torch.no_grad():
        refiner.shared_offset.bias.fill_(1e6)
    start = MEAN_SHAPE.expand(1, -1, -1)
    first, second = refiner(torch.rand(1, 3, CROP, CROP), start, MEAN_SHAPE)
    assert torch.allclose(first - start, torch.full_like(start, 0.06), atol=1e-6)
    assert torch.allclose(second - start, torch.full_like(start, 0.12), atol=1e-6)


def test_the_refiner_has_the_last_word_on_places_alone() -> None:
    plain, refined = build_finder(None), build_finder(TINY)
    refined.load_state_dict(plain.state_dict(), strict=False)
    assert refined.refiner is not None
    with torch.no_grad():
        refined.refiner.shared_offset.bias.view(-1, 2)[:, 0] = 0.5  # to the right by 0.01 widths a round
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    poses = torch.tensor([[[60.0, 0, 2], [0, 60, 2]]])
    with torch.no_grad():
        before, after = regress_landmarks(plain, image, poses), regress_landmarks(refined, image, poses)
    moved = (after.landmarks - before.landmarks) / 60
    assert 0.01 < float(moved[..., 0].mean()) < 0.03
    assert float(moved[..., 1].abs().mean()) < 0.005
    assert torch.equal(after.presence, before.presence)
    assert torch.equal(after.error, before.error)


def test_a_finder_is_saved_with_its_refiner(tmp_path: Path) -> None:
    finder = build_finder(TINY)
    assert finder.refiner is not None
    torch.nn.init.normal_(finder.refiner.shared_offset.weight)
    finder.save_pretrained(tmp_path)
    loaded = FaceFinder.from_pretrained(tmp_path)
    crops = F.interpolate(torch.rand(1, 3, 8, 8), (CROP, CROP))
    landmarks = MEAN_SHAPE.expand(1, -1, -1)
    assert loaded.refiner is not None
    expected = finder.refiner(crops, landmarks, MEAN_SHAPE)[-1]
    assert not torch.equal(expected, landmarks)
    assert torch.equal(loaded.refiner(crops, landmarks, MEAN_SHAPE)[-1], expected)


def test_a_finder_without_one_loads_from_a_config_that_does_not_know_of_it(tmp_path: Path) -> None:
    finder = build_finder(None)
    del finder.config["refiner"]
    finder.save_pretrained(tmp_path)
    assert FaceFinder.from_pretrained(tmp_path).refiner is None
