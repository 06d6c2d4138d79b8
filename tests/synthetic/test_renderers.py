"""One contract for every renderer, and the truths of the tools they share."""

import numpy as np
import pytest

from acfun.synthetic.renderers import (
    HELD_OUT_RENDERERS,
    RENDERERS,
    TRAINING_RENDERERS,
    colours,
    strokes,
    tools,
)
from acfun.synthetic.renderers.base import Array, Renderer
from acfun.synthetic.renderers.figure import figure_mask, skin_mask
from tests.synthetic.conftest import paint_face

every_renderer = pytest.mark.parametrize("renderer", RENDERERS.values(), ids=list(RENDERERS))
Face = tuple[Array, Array]


def _generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@every_renderer
def test_picture_is_a_float32_image_in_range(renderer: Renderer, face: Face) -> None:
    image, landmarks = face
    for seed in range(4):
        rendering = renderer.render(image, landmarks, _generator(seed))
        assert rendering.image.shape == image.shape
        assert rendering.image.dtype == np.float32
        assert np.isfinite(rendering.image).all()
        assert rendering.image.min() >= 0
        assert rendering.image.max() <= 1


@every_renderer
def test_same_seed_same_picture(renderer: Renderer, face: Face) -> None:
    first, second = (renderer.render(*face, _generator(3)) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.landmarks, second.landmarks)
    assert first.words == second.words


@every_renderer
def test_other_seed_other_picture(renderer: Renderer, face: Face) -> None:
    first, second = (renderer.render(*face, _generator(seed)) for seed in (0, 1))
    assert np.abs(first.image - second.image).mean() > 0.01


@every_renderer
def test_inputs_stay_as_they_were(renderer: Renderer, face: Face) -> None:
    image, landmarks = (array.copy() for array in face)
    renderer.render(image, landmarks, _generator())
    np.testing.assert_array_equal(image, face[0])
    np.testing.assert_array_equal(landmarks, face[1])


@every_renderer
def test_picture_differs_visibly_from_the_photograph(renderer: Renderer, face: Face) -> None:
    rendering = renderer.render(*face, _generator())
    assert np.abs(rendering.image - face[0]).mean() > 0.03


@pytest.mark.parametrize("name", [name for name, renderer in RENDERERS.items() if not renderer.is_deforming])
def test_face_stays_legible(name: str, face: Face) -> None:
    """Over many seeds the tones of the photographed face survive, upright or inverted."""
    image, landmarks = face
    region = tools.region_mask("face", landmarks, image.shape[:2], 0) > 0
    photo = tools.blur(tools.luminance(image), 2)[region]
    likeness = []
    for seed in range(6):
        picture = RENDERERS[name].render(image, landmarks, _generator(seed)).image
        likeness.append(abs(np.corrcoef(photo, tools.blur(tools.luminance(picture), 2)[region])[0, 1]))
    assert np.mean(likeness) > 0.35


@every_renderer
def test_landmarks_move_only_with_a_deforming_renderer(renderer: Renderer, face: Face) -> None:
    image, landmarks = face
    moved = renderer.render(image, landmarks, _generator()).landmarks
    assert moved.shape == landmarks.shape
    assert moved.dtype == np.float32
    largest = np.abs(moved - landmarks).max()
    assert largest > 1 if renderer.is_deforming else largest == 0


@every_renderer
@pytest.mark.parametrize("size", [64, 160])
def test_other_resolutions(renderer: Renderer, size: int) -> None:
    image, landmarks = paint_face(size)
    picture = renderer.render(image, landmarks, _generator(2)).image
    assert picture.shape == (size, size, 3)
    assert np.isfinite(picture).all()
    assert 0 <= picture.min() <= picture.max() <= 1


@every_renderer
def test_words_begin_with_those_of_the_family(renderer: Renderer, face: Face) -> None:
    words = renderer.render(*face, _generator()).words
    assert words[: len(renderer.words)] == renderer.words
    assert all(word and word == word.strip() for word in words)


def test_table_is_complete_and_split_without_overlap() -> None:
    assert len(RENDERERS) >= 20
    assert all(name == renderer.name for name, renderer in RENDERERS.items())
    assert len(HELD_OUT_RENDERERS) == 4
    assert not set(HELD_OUT_RENDERERS) & set(TRAINING_RENDERERS)
    assert set(HELD_OUT_RENDERERS) | set(TRAINING_RENDERERS) == set(RENDERERS)
    assert sum(renderer.is_deforming for renderer in RENDERERS.values()) >= 4


def test_lab_returns_to_rgb() -> None:
    image = _generator().random((8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(colours.from_lab(colours.to_lab(image)), image, atol=2e-3)


def test_the_nearest_colour_is_that_of_the_smallest_distance_in_lab() -> None:
    palette, image = (
        _generator(seed).random(shape).astype(np.float32) for seed, shape in ((1, (5, 3)), (0, (9, 8, 3)))
    )
    distances = np.linalg.norm(colours.to_lab(image)[..., None, :] - colours.to_lab(palette), axis=-1)
    np.testing.assert_array_equal(colours.nearest_in_palette(image, palette), distances.argmin(-1))
    np.testing.assert_array_equal(colours.nearest_in_palette(palette[None], palette)[0], np.arange(5))


def test_structure_follows_stripes() -> None:
    rows, columns = np.mgrid[:64, :64].astype(np.float32)
    for angle in (0.0, 0.5, 1.2):
        stripes = np.sin(0.5 * (rows * np.cos(angle) - columns * np.sin(angle))).astype(np.float32)
        found, certainty = tools.structure_angles(stripes, 3.0)
        inner = (slice(16, 48), slice(16, 48))
        assert np.cos(2 * (found[inner] - angle)).min() > 0.98
        assert certainty[inner].min() > 0.8


def test_flow_blur_keeps_stripes_along_and_removes_them_across() -> None:
    stripes = np.sin(np.arange(64, dtype=np.float32))[:, None].repeat(64, axis=1)
    along = tools.flow_blur(stripes, np.zeros((64, 64), np.float32), 12)
    across = tools.flow_blur(stripes, np.full((64, 64), np.pi / 2, np.float32), 12)
    np.testing.assert_allclose(along, stripes, atol=1e-6)
    assert across[16:48].std() < 0.25 * stripes.std()


def test_kuwahara_keeps_an_edge_and_removes_noise() -> None:
    clean = np.zeros((48, 48, 3), np.float32)
    clean[:, 24:] = 0.8
    noisy = clean + _generator().normal(0, 0.05, clean.shape).astype(np.float32)
    smooth = tools.anisotropic_kuwahara(noisy, 4)
    assert smooth[8:-8, 4:16].std() < 0.02
    assert smooth[24, 27, 0] - smooth[24, 20, 0] > 0.7


def test_edge_lines_leave_flat_paper_and_find_a_stroke() -> None:
    gray = np.full((32, 32), 0.8, np.float32)
    np.testing.assert_allclose(tools.edge_lines(gray, 1.0), 1, atol=1e-5)
    gray[:, 16] = 0.1
    assert tools.edge_lines(gray, 1.0)[16, 16] < 0.1


def test_last_stroke_lies_on_top() -> None:
    paths = np.array([[[4, 16], [28, 16]], [[16, 4], [16, 28]]], np.float32)
    stamped = strokes.stamp_paths((32, 32), paths, np.full(2, 6, np.float32))
    assert stamped.stroke[16, 16] == 1
    assert stamped.stroke[16, 6] == 0
    assert stamped.stroke[2, 2] == -1
    assert np.all(stamped.stroke[13:19, 13:19] == 1)
    assert abs(stamped.across[6, 16]) < 0.3


def test_paths_follow_the_field_through_their_middle() -> None:
    starts = np.array([[20, 20]], np.float32)
    path = strokes.trace_paths(starts, np.zeros((40, 40), np.float32), np.array([10], np.float32), 5)[0]
    np.testing.assert_allclose(path[2], [20, 20])
    np.testing.assert_allclose(path[:, 1], 20)
    assert np.ptp(path[:, 0]) == pytest.approx(10)


def test_figure_and_skin_are_told_from_the_wall(face: Face) -> None:
    image, landmarks = face
    figure, skin = figure_mask(image, landmarks), skin_mask(image, landmarks)
    nose_x, nose_y = landmarks[55].astype(int)
    hair_x, hair_y = (landmarks[151] * 0.6 + landmarks[139] * 0.4).astype(int)
    assert figure[nose_y, nose_x] > 0.95
    assert figure[hair_y, hair_x] > 0.9
    assert figure[3, 3] < 0.05
    assert skin[nose_y, nose_x] >= 0.85
    assert skin[hair_y, hair_x] < 0.2
