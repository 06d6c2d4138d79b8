"""Warps and deforming renderers: pixels and landmarks go together, each family deforms as its name says."""

import numpy as np
import pytest
from numpy.typing import NDArray

from acfun.synthetic.renderers.base import Renderer
from acfun.synthetic.renderers.cubist import render_cubist
from acfun.synthetic.renderers.deform import RENDERERS, warp_image
from acfun.synthetic.renderers.shapes import difference_from_mean, mean_shape, to_face_frame, to_pixels
from acfun.synthetic.renderers.warp import warp_face

Array = NDArray[np.float32]
Face = tuple[Array, Array]

FAMILIES = {renderer.name: renderer for renderer in RENDERERS}
LEFT_LIDS, RIGHT_LIDS = [18, 19, 20, 21, 22, 30, 29, 28], [23, 24, 25, 26, 27, 33, 32, 31]
CHIN, HAIRLINE, LEFT_EDGE, RIGHT_EDGE, MOUTH_CORNER = 129, 139, 110, 113, 93
SEEDS = range(4)


@pytest.fixture(scope="module")
def person(face: Face) -> Face:
    """The painted face with the features of somebody: a long jaw, a wide mouth, a big nose."""
    image, landmarks = face
    points, matrix = to_face_frame(landmarks)
    points[87:109] = (points[87:109] - points[96]) * (1.2, 1.1) + points[96]
    points[50:71] *= (1.25, 1.05)
    points[125:134, 1] += 0.12
    return warp_face(image, landmarks, to_pixels(points, matrix))


def polygon_area(points: Array) -> float:
    x, y = points.T
    return 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))


def test_warp_to_the_same_landmarks_changes_nothing(face: Face) -> None:
    image, landmarks = face
    assert np.array_equal(warp_image(image, landmarks, landmarks), image)


def test_warp_takes_a_marked_pixel_where_its_landmark_goes(face: Face) -> None:
    image, landmarks = face
    marked = np.zeros_like(image)
    column, row = np.round(landmarks[MOUTH_CORNER]).astype(int)
    marked[row - 1 : row + 2, column - 1 : column + 2] = 1
    target = landmarks.copy()
    target[87:109] += (5, -4)
    warped = warp_image(marked, landmarks, target)[..., 0]
    rows, columns = np.mgrid[: warped.shape[0], : warped.shape[1]]
    centre = np.array([(warped * columns).sum(), (warped * rows).sum()]) / warped.sum()
    assert np.linalg.norm(centre - target[MOUTH_CORNER]) < 1.0


def test_warp_leaves_the_corners_of_the_image_in_place(face: Face) -> None:
    image, landmarks = face
    ramp = np.repeat(np.linspace(0, 1, image.shape[1], dtype=np.float32)[None, :, None], 3, axis=-1)
    ramp = np.broadcast_to(ramp, image.shape).copy()
    target = landmarks + np.array([4, 0], np.float32)
    warped = warp_image(ramp, landmarks, target)
    assert np.abs(warped - ramp)[[0, 0, -1, -1], [0, -1, 0, -1]].max() < 0.02
    assert np.abs(warped - ramp)[image.shape[0] // 2, image.shape[1] // 2, 0] > 0.02


def test_warped_landmarks_follow_the_controls_and_drag_the_rest(face: Face) -> None:
    image, landmarks = face
    target = landmarks * np.array([0.9, 1.0], np.float32) + np.array([0.05 * image.shape[1], 0], np.float32)
    _, moved = warp_face(image, landmarks, target.astype(np.float32))
    assert np.linalg.norm(moved - target, axis=1).mean() < 0.5


def test_warp_refuses_other_landmarks(face: Face) -> None:
    image, landmarks = face
    with pytest.raises(ValueError, match=r"\(68, 2\)"):
        warp_image(image, landmarks[:68], landmarks[:68])


@pytest.mark.parametrize("renderer", RENDERERS, ids=lambda renderer: renderer.name)
def test_landmarks_move_and_stay_in_a_sane_range(renderer: Renderer, person: Face) -> None:
    image, landmarks = person
    size = image.shape[1]
    for seed in SEEDS:
        moved = renderer.render(image, landmarks, np.random.default_rng(seed)).landmarks
        assert moved.shape == landmarks.shape
        assert np.isfinite(moved).all()
        assert np.abs(moved - landmarks).max() < 0.35 * size
        assert np.linalg.norm(moved - landmarks, axis=1).mean() > 0.005 * size
        assert (moved[1, 0] - moved[0, 0]) > 0.08 * size


def test_big_eyed_has_bigger_eyes(person: Face) -> None:
    image, landmarks = person
    for seed in SEEDS:
        moved = FAMILIES["big_eyed"].render(image, landmarks, np.random.default_rng(seed)).landmarks
        for lids in (LEFT_LIDS, RIGHT_LIDS):
            assert polygon_area(moved[lids]) > 1.2 * polygon_area(landmarks[lids])


def test_elongated_has_a_longer_face(person: Face) -> None:
    def ratio(points: Array) -> float:
        height = np.linalg.norm(points[CHIN] - points[HAIRLINE])
        return float(height / np.linalg.norm(points[RIGHT_EDGE] - points[LEFT_EDGE]))

    image, landmarks = person
    for seed in SEEDS:
        moved = FAMILIES["elongated"].render(image, landmarks, np.random.default_rng(seed)).landmarks
        assert ratio(moved) > 1.15 * ratio(landmarks)


def distance_from_mean(landmarks: Array) -> float:
    """RMS distance from the mean shape after the best similarity, in pupil distances."""
    difference, _ = difference_from_mean(to_face_frame(landmarks)[0])
    return float(np.sqrt((difference**2).sum(-1).mean()))


def test_caricature_goes_away_from_the_mean_face(person: Face) -> None:
    image, landmarks = person
    for seed in SEEDS:
        moved = FAMILIES["caricature"].render(image, landmarks, np.random.default_rng(seed)).landmarks
        assert distance_from_mean(moved) > 1.2 * distance_from_mean(landmarks)


def test_the_mean_face_is_no_caricature_of_itself() -> None:
    assert distance_from_mean(mean_shape() * 30 + 50) < 1e-4


def test_cubist_pixels_go_with_their_facet(face: Face) -> None:
    """A dark disc laid on the pupil of the photograph darkens the cubist picture at the moved pupil."""
    image, landmarks = face
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    marked = image.copy()
    marked[np.hypot(columns - landmarks[0, 0], rows - landmarks[0, 1]) < 5] = 0.0
    image = np.where(image < 0.6, 0.8, image).astype(np.float32)
    darkening = []
    for seed in range(8):
        plain = render_cubist(image, landmarks, np.random.default_rng(seed))
        with_disc = render_cubist(marked, landmarks, np.random.default_rng(seed))
        column, row = np.round(plain.landmarks[0]).astype(int)
        change = (plain.image - with_disc.image)[row - 1 : row + 2, column - 1 : column + 2]
        darkening.append(float(change.mean()))
    assert sum(value > 0.1 for value in darkening) >= 7
