"""Morphs of licensed people: repeatable, in frame, and never of those who are held out."""

from dataclasses import replace

import numpy as np
import pytest

from acfun.synthetic.backgrounds import sample_background
from acfun.synthetic.data import (
    NUM_LANDMARKS,
    PUPILS,
    find_data_dir,
    list_faces,
    list_portraits,
    load_landmarks,
    split_people,
)
from acfun.synthetic.morphs import MorphFactory, MorphOptions, relight, sample_weights, to_grey
from acfun.synthetic.people import (
    EYES_CENTRE,
    INTER_PUPIL_FRACTION,
    Person,
    load_people,
    segment_person,
    to_canonical,
)
from acfun.synthetic.samples import PLAIN
from tests.synthetic.conftest import mean_landmarks, paint_face

SIZE = 48
INNER = [*range(115), *range(125, 134)]


def make_people() -> list[Person]:
    """Two painted people of different colours, so that no photograph is needed."""
    people = []
    for index in range(2):
        image, landmarks = paint_face(64)
        image = np.roll(image, index, axis=2)
        mask, is_clean = segment_person(image, landmarks)
        people.append(
            Person(
                identity=f"painted_{index}",
                key=f"painted/{index}.png",
                image=np.dstack([image, mask]),
                landmarks=landmarks,
                shape=to_canonical(landmarks),
                has_clean_background=is_clean,
            )
        )
    return people


@pytest.fixture(scope="module")
def factory() -> MorphFactory:
    return MorphFactory(make_people(), SIZE)


@pytest.mark.parametrize("seed", range(4))
def test_a_morph_repeats_and_stays_in_frame(factory: MorphFactory, seed: int) -> None:
    first, second = (factory.sample(np.random.default_rng(seed)) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.landmarks, second.landmarks)
    assert first.image.shape == (SIZE, SIZE, 3)
    assert first.image.dtype == first.landmarks.dtype == np.float32
    assert 0 <= first.image.min() < first.image.max() <= 1
    assert first.landmarks.shape == (NUM_LANDMARKS, 2)
    assert ((first.landmarks[INNER] > 0) & (first.landmarks[INNER] < SIZE - 1)).all()
    assert sum(first.parent_weights) == pytest.approx(1)
    assert len(first.parents) == len(first.parent_weights)
    other = factory.sample(np.random.default_rng(seed + 100))
    assert not np.array_equal(first.image, other.image)


def test_a_plain_morph_of_one_is_that_person(factory: MorphFactory) -> None:
    plain = MorphFactory(factory.people, 64, options=PLAIN)
    morph = plain.sample(np.random.default_rng(0), first=1)
    assert morph.parents == ("painted/1.png",)
    assert not morph.is_grey
    expected = (factory.people[1].shape * 64 - 0.5).astype(np.float32)
    np.testing.assert_allclose(morph.landmarks, expected, atol=1e-3)
    # The painted face lies in canonical framing already, half a pixel off.
    assert np.abs(morph.image - factory.people[1].image[..., :3]).mean() < 0.03


def test_an_expression_moves_the_landmarks() -> None:
    people = make_people()[:1]
    smile = np.zeros((NUM_LANDMARKS, 2), np.float32)
    smile[87] = (-0.1, -0.1)
    options = MorphOptions(**{**vars(PLAIN), "expression_probability": 1.0})
    morph = MorphFactory(people, SIZE, expressions=[smile], options=options).sample(np.random.default_rng(0))
    assert morph.expression_added
    moved = morph.landmarks - (people[0].shape * SIZE - 0.5)
    assert moved[87].max() < -0.02 * SIZE
    np.testing.assert_allclose(np.delete(moved, 87, 0), 0, atol=1e-3)


def test_parents_are_of_one_group_and_groups_have_as_many_morphs() -> None:
    people = [replace(make_people()[0], identity=str(index), key=str(index)) for index in range(5)]
    factory = MorphFactory(people, 16, groups=["few", "many", "many", "many", "many"])
    parents = [factory.sample(np.random.default_rng(seed)).parents for seed in range(60)]
    assert {key for keys in parents if "0" in keys for key in keys} == {"0"}
    assert 15 < sum("0" in keys for keys in parents) < 45
    assert any(len(keys) > 1 for keys in parents)
    with pytest.raises(ValueError, match="1 groups for 5 people"):
        MorphFactory(people, 16, groups=["few"])


def test_a_black_and_white_photograph_has_grey_morphs() -> None:
    grey, coloured = make_people()
    options = MorphOptions(max_parents=1, grey_probability=0)
    factory = MorphFactory([replace(grey, is_grey=True), coloured], 16, options=options)
    assert [factory.sample(np.random.default_rng(0), lead).is_grey for lead in (0, 1)] == [True, False]


def test_no_people_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one person"):
        MorphFactory([], SIZE)


def test_weights_sum_to_one_and_the_lead_stays_in_its_range() -> None:
    for count in (1, 2, 3):
        for seed in range(5):
            weights = sample_weights(np.random.default_rng(seed), count, (0.3, 0.6))
            assert weights.sum() == pytest.approx(1)
            assert count == 1 or 0.3 <= weights[0] <= 0.6


def test_canonical_landmarks_have_their_pupils_in_place() -> None:
    angle = 0.4
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    shape = to_canonical(3 * mean_landmarks(50) @ rotation.T + 7)
    left, right = shape[list(PUPILS)]
    np.testing.assert_allclose((left + right) / 2, EYES_CENTRE, atol=1e-5)
    np.testing.assert_allclose(right - left, (INTER_PUPIL_FRACTION, 0), atol=1e-5)
    np.testing.assert_allclose(to_canonical(shape), shape, atol=1e-5)


def test_a_person_is_cut_out_of_a_plain_background() -> None:
    image, landmarks = paint_face(96)
    mask, is_clean = segment_person(image, landmarks)
    assert is_clean
    nose, corner = landmarks[55].astype(int), (4, 4)
    assert mask[nose[1], nose[0]] > 0.95
    assert mask[corner] < 0.05
    noise = np.random.default_rng(0).random((96, 96, 3)).astype(np.float32)
    assert not segment_person(noise, landmarks)[1]
    filled = segment_person(image, (landmarks - 48) * 3 + 48)
    np.testing.assert_array_equal(filled[0], 1)
    assert not filled[1]


def test_light_and_grey_keep_the_range() -> None:
    image, _ = paint_face(32)
    lit = relight(image, np.random.default_rng(0), 1.0)
    assert 0 <= lit.min() < lit.max() <= 1
    assert not np.array_equal(lit, image)
    np.testing.assert_array_equal(relight(image, np.random.default_rng(0), 0), image)
    grey = to_grey(image)
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    np.testing.assert_allclose(grey[..., 0], image @ np.array([0.299, 0.587, 0.114]), atol=1e-5)


def test_every_background_fills_the_range() -> None:
    for seed in range(12):
        background = sample_background(24, np.random.default_rng(seed))
        assert background.shape == (24, 24, 3)
        assert background.dtype == np.float32
        assert 0 <= background.min() <= background.max() <= 1
        np.testing.assert_array_equal(background, sample_background(24, np.random.default_rng(seed)))


DATA_DIR = find_data_dir()
needs_data = pytest.mark.skipif(DATA_DIR is None, reason="the licensed photographs are not here: set ACFUN_DATA_DIR")


@needs_data
def test_the_split_is_fixed_and_whole() -> None:
    assert DATA_DIR is not None
    training, held_out = split_people(DATA_DIR)
    assert not training & held_out
    photos = [*list_faces(DATA_DIR), *list_portraits(DATA_DIR)]
    assert {photo.identity for photo in photos} <= training | held_out
    assert all(photo.path.is_file() for photo in photos[:20])
    twice = [photo.identity for photo in list_portraits(DATA_DIR)]
    assert {identity for identity in twice if twice.count(identity) > 1} <= held_out
    assert split_people(DATA_DIR) == (training, held_out)


@needs_data
def test_licensed_people_are_loaded_in_the_resolution_asked_for() -> None:
    assert DATA_DIR is not None
    landmarks = load_landmarks(DATA_DIR)
    photos = [photo for photo in list_faces(DATA_DIR) if photo.key in landmarks][:2]
    people = load_people(photos, landmarks, SIZE)
    assert [person.key for person in people] == [photo.key for photo in photos]
    for person in people:
        eyes = person.landmarks[list(PUPILS)]
        distance = float(np.linalg.norm(eyes[1] - eyes[0]))
        assert distance == pytest.approx(SIZE * INTER_PUPIL_FRACTION * 1.25, rel=0.05)
        assert person.image.shape[2] == 4
        height, width = person.image.shape[:2]
        assert ((eyes > 0) & (eyes < (width, height))).all()
