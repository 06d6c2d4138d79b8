"""The face finder: it builds, saves and loads, says when it finds nothing, and finds the astronaut."""

import time
from pathlib import Path

import pytest
import torch
from skimage import data as skimage_data
from torch import Tensor

from acfun.errors import BaseNotFoundError, NoFaceFoundError
from acfun.face.finder import (
    FaceFinder,
    find_face,
    find_faces,
    fit_pose,
    load_face_finder,
    regress_landmarks,
)
from acfun.face.networks import NUM_LANDMARKS
from acfun.paths import mini_dir

MAX_PARAMETERS = 1_500_000
ASTRONAUT_PUPILS = ((203.7, 101.0), (246.9, 103.3))

needs_weights = pytest.mark.skipif(
    not (mini_dir() / "face_finder" / "model.safetensors").is_file(),
    reason="the embedded face finder is not trained yet",
)


def build_tiny_finder(seed: int = 0) -> FaceFinder:
    """An untrained finder of a few thousand parameters."""
    torch.manual_seed(seed)
    return FaceFinder(
        detector_channels=(4, 4, 8),
        detector_dilations=(1,),
        regressor_channels=(4, 4, 8, 8),
        hidden_size=8,
        crop_size=32,
        mean_shape=torch.rand(NUM_LANDMARKS, 2),
    ).eval()


def astronaut() -> Tensor:
    """(3,512,512) in [-1,1], a public-domain photograph."""
    return torch.from_numpy(skimage_data.astronaut()).permute(2, 0, 1).float() / 127.5 - 1


def test_both_networks_are_small() -> None:
    finder = FaceFinder()
    for network in (finder.detector, finder.regressor):
        assert 10_000 < sum(parameter.numel() for parameter in network.parameters()) < MAX_PARAMETERS


def test_detector_maps_are_in_pixels() -> None:
    maps = build_tiny_finder().detector(torch.zeros(2, 3, 64, 96))
    assert maps.heat.shape == (2, 8, 12)
    ticks = torch.arange(12) * 8 + 3.5
    assert (maps.x - ticks).abs().max() < 8
    assert bool((maps.width > 0).all())


def test_untrained_regressor_answers_about_the_mean_shape() -> None:
    finder = build_tiny_finder()
    prediction = finder.regressor(torch.zeros(1, 3, 32, 32))
    assert (prediction.landmarks - finder.regressor.mean_shape).norm(dim=-1).max() < 0.1


def test_crop_size_must_fit_the_stride() -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        FaceFinder(crop_size=100)


def test_save_and_load_keep_every_answer(tmp_path: Path) -> None:
    finder = build_tiny_finder()
    finder.save_pretrained(tmp_path / "face_finder")
    loaded = FaceFinder.from_pretrained(tmp_path / "face_finder")
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    assert loaded.config == finder.config
    for ours, theirs in zip(finder.detector(image), loaded.detector(image), strict=True):
        assert torch.equal(ours, theirs)
    crop = torch.rand(1, 3, 32, 32)
    assert torch.equal(finder.regressor(crop).landmarks, loaded.regressor(crop).landmarks)


def test_half_precision_weights_load_in_float32(tmp_path: Path) -> None:
    finder = build_tiny_finder()
    finder.half().save_pretrained(tmp_path)
    loaded = FaceFinder.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_a_folder_without_a_finder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseNotFoundError, match=r"config\.json"):
        FaceFinder.from_pretrained(tmp_path)


def test_an_untrained_finder_finds_nothing_and_says_what_to_do() -> None:
    with pytest.raises(NoFaceFoundError, match="min_score"):
        find_face(torch.zeros(3, 80, 60), build_tiny_finder())


def test_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 32, 32\)"):
        find_faces(torch.zeros(2, 3, 32, 32), build_tiny_finder())


def test_pose_of_a_moved_shape_is_the_move() -> None:
    shape = torch.rand(NUM_LANDMARKS, 2)
    linear, shift = torch.tensor([[80.0, 30.0], [-30.0, 80.0]]), torch.tensor([5.0, 7.0])
    pose = fit_pose((shape @ linear.T + shift).unsqueeze(0), shape)
    assert torch.allclose(pose[0], torch.cat([linear, shift[:, None]], 1), atol=1e-2)


@needs_weights
def test_finds_the_astronaut() -> None:
    face = find_face(astronaut())
    pupils, expected = face.landmarks[:2], torch.tensor(ASTRONAUT_PUPILS)
    inter_pupil = float((expected[1] - expected[0]).norm())
    assert float((pupils - expected).norm(dim=-1).max()) < 0.1 * inter_pupil
    left, top, right, bottom = face.box
    assert left < pupils[0, 0] < pupils[1, 0] < right and top < pupils[0, 1] < bottom


@needs_weights
def test_enlarging_the_image_moves_the_face_along() -> None:
    image = astronaut()
    large = torch.nn.functional.interpolate(image[None], scale_factor=2.0, mode="bicubic", antialias=True)
    small_face, large_face = find_face(image), find_face(large)
    inter_pupil = float((small_face.landmarks[1] - small_face.landmarks[0]).norm())
    moved = (large_face.landmarks + 0.5) / 2 - 0.5
    assert float((moved - small_face.landmarks).norm(dim=-1).mean()) < 0.05 * inter_pupil


@needs_weights
@pytest.mark.parametrize("name", ["coffee", "rocket", "brick", "moon", "stereo_motorcycle"])
def test_finds_no_face_where_there_is_none(name: str) -> None:
    picture = getattr(skimage_data, name)()
    pixels = torch.from_numpy(picture[0] if isinstance(picture, tuple) else picture).float() / 127.5 - 1
    image = pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels.expand(3, -1, -1)
    assert find_faces(image) == []


@needs_weights
def test_a_second_pass_changes_little() -> None:
    finder, image = load_face_finder(), astronaut().unsqueeze(0)
    face = find_face(image[0])
    with torch.no_grad():
        again = regress_landmarks(finder, image, fit_pose(face.landmarks[None], finder.regressor.mean_shape))
    inter_pupil = float((face.landmarks[1] - face.landmarks[0]).norm())
    assert float((again.landmarks[0] - face.landmarks).norm(dim=-1).mean()) < 0.05 * inter_pupil


@needs_weights
@pytest.mark.slow
def test_takes_a_fraction_of_a_second_on_one_core() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        find_faces(astronaut())
        start = time.perf_counter()
        find_faces(astronaut())
        assert time.perf_counter() - start < 1.0
    finally:
        torch.set_num_threads(threads)
