"""Training of the face finder: pictures without a face, what the detector takes for one, and a toy run."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from acfun.errors import DataError
from acfun.face.finder import Face, FaceFinder
from acfun.portrait import place_mean_face
from acfun.synthetic.renderers import TRAINING_RENDERERS
from train import pretrain_face_finder, pretrain_landmark_refiner
from train.evaluate_face_finder import FACELESS_PARTS, FACES, score_paintings
from train.face_scenes import open_face_shards, sample_faces
from train.faceless import FACE_DRAWING, build_backgrounds, mine_crops

SIZE, COUNT, CROP = 64, 6, 48
TOY = pretrain_face_finder.FaceFinderConfig(
    detector_channels=(4, 4, 4),
    detector_dilations=(1,),
    regressor_channels=(4, 4, 4, 4),
    hidden_size=8,
    crop_size=CROP,
    scene_size=SIZE,
    image_size=SIZE,
    num_backgrounds=6,
    face_batch_size=32,
    scene_batch_size=2,
    precision="no",
)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Six pictures of noise, and the average face in all of them."""
    directory = tmp_path / "shards"
    directory.mkdir()
    np.save(directory / "images.npy", np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8))
    np.save(directory / "landmarks.npy", np.stack([place_mean_face(SIZE).numpy()] * COUNT))
    return directory


@pytest.fixture
def backgrounds(shards: Path) -> torch.Tensor:
    """Twelve pictures without a face."""
    mean_shape = (place_mean_face(SIZE) + 0.5) / SIZE
    return build_backgrounds(12, SIZE, open_face_shards(shards, SIZE).images, mean_shape, seed=1)


def build_finder(heat: float) -> FaceFinder:
    """A finder whose detector sees about as much heat everywhere, in [0,1]."""
    finder = FaceFinder(
        detector_channels=(4, 4, 4),
        detector_dilations=(1,),
        regressor_channels=(4, 4, 4, 4),
        hidden_size=8,
        crop_size=CROP,
    )
    with torch.no_grad():
        convolutions = [module for module in finder.detector.modules() if isinstance(module, torch.nn.Conv2d)]
        assert convolutions[-1].bias is not None
        convolutions[-1].bias[0] = torch.tensor(heat).logit()
    return finder.train()


def test_pictures_without_a_face_are_of_many_kinds_and_the_same_each_time(
    shards: Path, backgrounds: torch.Tensor
) -> None:
    assert backgrounds.shape == (12, 3, SIZE, SIZE)
    assert backgrounds.dtype == torch.uint8
    assert len({picture.numpy().tobytes() for picture in backgrounds}) == 12
    mean_shape = (place_mean_face(SIZE) + 0.5) / SIZE
    again = build_backgrounds(12, SIZE, open_face_shards(shards, SIZE).images, mean_shape, seed=1)
    assert torch.equal(again, backgrounds)


def test_crops_are_mined_where_the_detector_sees_faces(backgrounds: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    wary, rash = build_finder(0.01), build_finder(0.9)
    before = {name: value.clone() for name, value in rash.state_dict().items()}
    assert mine_crops(wary, backgrounds, 4, CROP, generator).shape == (0, 3, CROP, CROP)
    crops = mine_crops(rash, backgrounds, 4, CROP, generator)
    assert crops.shape[0] >= 4
    assert crops.shape[1:] == (3, CROP, CROP)
    assert rash.training
    assert all(torch.equal(value, before[name]) for name, value in rash.state_dict().items())


@pytest.mark.parametrize("num_mined", [0, 3])
def test_batches_hold_as_many_crops_as_asked_for(shards: Path, backgrounds: torch.Tensor, num_mined: int) -> None:
    mined = torch.full((num_mined, 3, CROP, CROP), -1.0)
    mean_shape = (place_mean_face(SIZE) + 0.5) / SIZE
    generator = torch.Generator().manual_seed(0)
    batch = sample_faces(open_face_shards(shards, SIZE), backgrounds, mined, mean_shape, 32, CROP, generator)
    assert batch.crops.shape == (32, 3, CROP, CROP)
    assert batch.landmarks.shape == (32, 189, 2)
    # Two framed too badly, two backgrounds, two of the mined ones where there are any.
    assert int((~batch.is_face).sum()) == (6 if num_mined else 4)


def run(shards: Path, output: Path, max_steps: int, *, resume: bool) -> dict[str, Any]:
    """A toy run up to a step; its checkpoint."""
    arguments = argparse.Namespace(
        data=[shards],
        held_out=[shards],
        output=output,
        minutes=5.0,
        max_steps=max_steps,
        device="cpu",
        resume=resume,
        init=None,
    )
    pretrain_face_finder.train(arguments, TOY)
    checkpoint: dict[str, Any] = torch.load(output / "checkpoint.pt", weights_only=True)
    return checkpoint


@pytest.mark.usefixtures("default_signals")
def test_a_run_goes_on_with_what_it_has_mined(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain_face_finder, "MINING_INTERVAL", 2)
    monkeypatch.setattr("train.faceless.detect_poses", lambda *_: (torch.eye(2, 3)[None] * SIZE, torch.ones(1)))
    first = run(shards, tmp_path / "run", 2, resume=True)
    assert len(first["mined"]["values"]) == pretrain_face_finder.MINING_COUNT
    second = run(shards, tmp_path / "run", 3, resume=True)
    assert second["train_state"]["step"] == second["ema"]["num_updates"] == 3
    assert len(second["mined"]["values"]) == 2 * pretrain_face_finder.MINING_COUNT
    assert torch.equal(second["mined"]["values"][: len(first["mined"]["values"])], first["mined"]["values"])
    assert FaceFinder.from_pretrained(tmp_path / "run" / "face_finder").regressor.crop_size == CROP


@pytest.mark.usefixtures("default_signals")
def test_a_refiner_joins_a_finder_that_stays_as_it_is(shards: Path, tmp_path: Path) -> None:
    finder = build_finder(0.5)
    finder.regressor.mean_shape.copy_((place_mean_face(SIZE) + 0.5) / SIZE)
    finder.save_pretrained(tmp_path / "finder")
    config = pretrain_landmark_refiner.RefinerConfig(
        channels=(4, 4, 4, 4), feature_size=4, hidden_size=8, crop_size=CROP, batch_size=4, precision="no"
    )

    output = tmp_path / "run"

    def refine(max_steps: int) -> FaceFinder:
        arguments = argparse.Namespace(
            data=[shards],
            held_out=[shards],
            finder=tmp_path / "finder",
            output=output,
            minutes=5.0,
            max_steps=max_steps,
            device="cpu",
            resume=True,
        )
        pretrain_landmark_refiner.train(arguments, config)
        return FaceFinder.from_pretrained(output / "face_finder")

    refine(2)
    refined = refine(3)
    assert torch.load(output / "checkpoint.pt", weights_only=True)["ema"]["num_updates"] == 3
    assert refined.refiner is not None
    assert refined.refiner.own_offset.abs().max() > 0
    own = {name: value.half().float() for name, value in finder.state_dict().items() if value.is_floating_point()}
    assert all(torch.equal(value, refined.state_dict()[name]) for name, value in own.items())


def test_newest_rows_are_kept() -> None:
    ring = pretrain_face_finder.Ring(torch.zeros(0, 1), 3)
    for value in range(5):
        ring.extend(torch.full((1, 1), float(value)))
    assert ring.values[:, 0].tolist() == [2, 3, 4]


def test_renderers_that_draw_faces_are_known() -> None:
    assert set(FACE_DRAWING) < set(TRAINING_RENDERERS)


def test_a_painting_is_scored_by_its_own_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each whole painting there are two: one where `FACES` says, and a surer one in a corner."""
    for name in FACELESS_PARTS:
        Image.new("RGB", (100, 200)).save(tmp_path / f"{name}.png")

    def find(picture: torch.Tensor, *_: object, **__: object) -> list[Face]:
        if picture.shape[-2:] != (200, 100):
            return []
        points = torch.zeros(189, 2)
        return [Face((0.0, 0.0, 5.0, 5.0), points, 0.9), Face((20.0, 30.0, 90.0, 130.0), points, 0.6)]

    monkeypatch.setattr("train.evaluate_face_finder.find_painted_faces", find)
    scores = score_paintings(build_finder(0.5), tmp_path)
    assert all(scores[name][0] == [0.6] and scores[name][1][0] == 0.9 for name in FACES)
    assert scores["starry_night"][0] == []
    (tmp_path / "mona_lisa.png").unlink()
    with pytest.raises(DataError, match="mona_lisa"):
        score_paintings(build_finder(0.5), tmp_path)
