"""Captioned samples and shards: each depends on its index alone, and training never sees who is held out."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from acfun.descriptions import Attributes
from acfun.errors import DataError
from acfun.synthetic.data import DATA_DIR_VARIABLE, find_data_dir, require_data_dir, split_people
from acfun.synthetic.morphs import Morph, MorphFactory
from acfun.synthetic.renderers import HELD_OUT_RENDERERS, TRAINING_RENDERERS
from acfun.synthetic.samples import (
    ALIGNED,
    PLAIN,
    PortraitSampler,
    build_sampler,
    describe_morph,
    find_expressions,
    load_attributes,
    load_landmark_table,
)
from acfun.synthetic.shards import LABELS_FILE, Labels, Sample, open_shards, write_shards
from tests.synthetic.conftest import mean_landmarks
from tests.synthetic.test_morphs import DATA_DIR, make_people, needs_data

SIZE = 32
ATTRIBUTES = {
    "painted/0.png": Attributes(gender="woman", age="old", hair="red", glasses=True),
    "painted/1.png": Attributes(gender="man", hair="grey", beard=True),
}


def build_painted_sampler(seed: int = 0) -> PortraitSampler:
    """Two painted people, two renderers that cost little."""
    renderers = [TRAINING_RENDERERS[name] for name in sorted(TRAINING_RENDERERS)[:2]]
    morphs = MorphFactory(make_people(), SIZE)
    return PortraitSampler(morphs, renderers, ATTRIBUTES, rendering_probability=0.3, seed=seed)


def build_toy_sampler() -> Callable[[int], Sample]:
    """Flat pictures whose grey is their index, for shards."""
    return partial(_draw_flat, mean_landmarks(8))


def _draw_flat(landmarks: np.ndarray[tuple[int, ...], np.dtype[np.float32]], index: int) -> Sample:
    image = np.full((8, 8, 3), index / 255, np.float32)
    labels = Labels(caption=f"sample {index}", renderer="", parents=("a", "b"), attributes={"glasses": True})
    return Sample(image=image, landmarks=landmarks + index, labels=labels)


def make_morph(**changes: object) -> Morph:
    values: dict[str, object] = {
        "image": np.zeros((4, 4, 3), np.float32),
        "landmarks": np.zeros((189, 2), np.float32),
        "parents": ("painted/0.png", "painted/1.png"),
        "parent_weights": (0.7, 0.3),
        "is_grey": False,
        "expression_added": False,
    }
    return Morph(**(values | changes))  # type: ignore[arg-type]


def test_a_sample_depends_on_seed_and_index_alone() -> None:
    sampler, other = build_painted_sampler(), build_painted_sampler(seed=1)
    later = sampler(3)
    for index in (0, 1):
        first, again = sampler(index), build_painted_sampler()(index)
        np.testing.assert_array_equal(first.image, again.image)
        assert first.labels == again.labels
        assert not np.array_equal(first.image, other(index).image)
        assert not np.array_equal(first.image, later.image)
        assert first.labels.caption
        assert first.landmarks.shape == (189, 2)


def test_a_morph_is_described_by_what_is_true_of_it() -> None:
    two = describe_morph(make_morph(), ATTRIBUTES)
    assert (two.gender, two.age, two.hair, two.glasses) == (None, "old", "red", True)
    assert describe_morph(make_morph(parent_weights=(0.5, 0.5)), ATTRIBUTES).age is None
    alone = make_morph(parents=("painted/0.png",), parent_weights=(1.0,))
    assert describe_morph(alone, ATTRIBUTES).gender == "woman"
    assert describe_morph(make_morph(is_grey=True), ATTRIBUTES).hair is None
    assert describe_morph(make_morph(parents=("unknown.png",), parent_weights=(1.0,)), ATTRIBUTES) == Attributes()
    smiling = {"painted/0.png": Attributes(expression="smiling")}
    assert describe_morph(alone, smiling).expression == "smiling"
    added = make_morph(parents=("painted/0.png",), parent_weights=(1.0,), expression_added=True)
    assert describe_morph(added, smiling).expression is None


def test_the_attributes_that_ship_are_keyed_by_photograph() -> None:
    table = load_attributes()
    assert len(table) > 1000
    assert all(key.startswith(("faces/", "portraits/")) for key in table)
    assert {attributes.gender for attributes in table.values()} >= {"woman", "man"}


def test_found_landmarks_are_read_by_key(tmp_path: Path) -> None:
    points = np.random.default_rng(0).random((2, 189, 2))
    np.savez(tmp_path / "found.npz", keys=np.array(["a.jpg", "b.jpg"]), landmarks=points)
    table = load_landmark_table(tmp_path / "found.npz")
    np.testing.assert_allclose(table["b.jpg"], points[1], atol=1e-6)


@pytest.mark.parametrize("workers", [1, 2])
def test_shards_are_the_same_for_any_number_of_workers(tmp_path: Path, workers: int) -> None:
    write_shards(tmp_path, build_toy_sampler, count=5, size=8, workers=workers)
    shards = open_shards(tmp_path)
    assert [int(image[0, 0, 0]) for image in shards.images] == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(shards.landmarks[4], mean_landmarks(8) + 4)
    assert shards.labels[3] == _draw_flat(mean_landmarks(8), 3).labels
    assert json.loads((tmp_path / "captions.json").read_text())[2] == "sample 2"


def _fail_to_build() -> Callable[[int], Sample]:
    raise DataError("nothing to draw from")


def test_an_interrupted_rewrite_is_not_taken_for_complete(tmp_path: Path) -> None:
    write_shards(tmp_path, build_toy_sampler, count=1, size=8, workers=4)
    with pytest.raises(Exception, match=r"terminated|initializ"):
        write_shards(tmp_path, _fail_to_build, count=2, size=8, workers=1)
    with pytest.raises(DataError, match=LABELS_FILE):
        open_shards(tmp_path)


def test_missing_photographs_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faces").mkdir()
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(tmp_path))
    monkeypatch.setattr("acfun.synthetic.data.__file__", str(tmp_path / "a" / "b" / "data.py"))
    assert find_data_dir() is None
    with pytest.raises(DataError, match=DATA_DIR_VARIABLE):
        require_data_dir()
    (tmp_path / "faces" / "faces.csv").write_text("file\n")
    assert find_data_dir() == tmp_path


@needs_data
def test_training_never_sees_who_is_held_out() -> None:
    assert DATA_DIR is not None
    training, held_out = split_people(DATA_DIR)
    options = {"rendering_probability": 0.0, "seed": 0}
    seen = {}
    for is_held_out in (False, True):
        sampler = build_sampler(DATA_DIR, SIZE, is_held_out=is_held_out, **options)  # type: ignore[arg-type]
        seen[is_held_out] = {person.identity for person in sampler.morphs.people}
        sample = sampler(0)
        keys = {person.key for person in sampler.morphs.people}
        assert set(sample.labels.parents) <= keys
        assert sampler.morphs.options == (PLAIN if is_held_out else MorphFactory(sampler.morphs.people, 8).options)
        assert not {renderer.name for renderer in sampler.renderers} & HELD_OUT_RENDERERS.keys()
    assert seen[False] <= training
    assert seen[True] <= held_out
    assert len(seen[False]) > len(seen[True]) > 5
    assert find_expressions([], {}) == []


@needs_data
def test_aligned_portraits_are_of_one_gender_and_in_colour() -> None:
    assert DATA_DIR is not None
    options = {"is_held_out": False, "rendering_probability": 0.0, "seed": 0}
    sampler = build_sampler(DATA_DIR, SIZE, is_aligned=True, **options)  # type: ignore[arg-type]
    assert sampler.morphs.options == ALIGNED
    assert not any(person.is_grey for person in sampler.morphs.people)
    attributes = load_attributes()
    genders = [{attributes[key].gender for key in sampler(index).labels.parents} for index in range(24)]
    assert all(len(found) == 1 for found in genders)
    assert {"man", "woman"} == set().union(*genders)
