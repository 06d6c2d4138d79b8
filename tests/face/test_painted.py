"""Painted faces: seen in several ways, found where they are in the picture itself."""

import pytest
import torch
from skimage import data as skimage_data
from torch import Tensor

from acfun.face.finder import Face, FaceFinder, find_face, find_faces
from acfun.face.painted import MIN_SCORE, NUM_VIEWS, SIDE, draw_dark_lines, find_painted_faces
from acfun.images import resize
from acfun.portrait import place_mean_face
from tests.face.test_finder import astronaut, needs_weights

STANDING, SIZE = place_mean_face(100) + torch.tensor([30.0, 50.0]), 200


def pretend(monkeypatch: pytest.MonkeyPatch, sees: dict[str, float]) -> None:
    """Let faces be found in some views of a picture that is brightest at its left: a score by name of the view."""

    def look(view: Tensor, finder: FaceFinder, *, min_score: float) -> list[Face]:
        grey = float(view.std(1).max()) < 1e-6
        name = "mirrored" if float(view[..., 0].mean()) < float(view[..., -1].mean()) else "lines" if grey else "other"
        landmarks = STANDING.clone()
        if name == "mirrored":
            # What stands on the left is found on the right; the mean face is as good as its own mirror image.
            landmarks = place_mean_face(100) + torch.tensor([view.shape[-1] - 1.0 - 99 - 30, 50.0])
        return [Face.from_landmarks(landmarks, sees[name])] if name in sees else []

    monkeypatch.setattr("acfun.face.painted.find_faces", look)


def make_slope() -> Tensor:
    slope = torch.linspace(0.9, -0.9, SIZE).expand(1, 3, SIZE, SIZE).clone()
    slope[:, 2] *= 0.5
    return slope


@needs_weights
def test_a_face_of_all_views_keeps_its_score_and_place(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"other": 0.4, "mirrored": 0.4})
    faces = find_painted_faces(make_slope())
    assert len(faces) == 1
    assert faces[0].score == pytest.approx(0.4 * 3 / NUM_VIEWS)
    assert float((faces[0].landmarks - STANDING).norm(dim=1).max()) < 3


@needs_weights
def test_what_is_a_face_in_one_view_alone_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"mirrored": 0.99 * NUM_VIEWS * MIN_SCORE})
    assert find_painted_faces(make_slope()) == []
    pretend(monkeypatch, {"mirrored": 1.01 * NUM_VIEWS * MIN_SCORE})
    assert len(find_painted_faces(make_slope())) == 1


@needs_weights
def test_small_faces_must_be_seen_more_surely(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"other": 1.5 * MIN_SCORE, "mirrored": 1.5 * MIN_SCORE})
    wide = torch.nn.functional.pad(make_slope(), (0, 0, 0, 4 * SIZE), mode="replicate")
    assert len(find_painted_faces(wide)) == 1
    large = torch.nn.functional.pad(wide, (0, 4 * SIZE, 0, 0), mode="replicate")
    assert find_painted_faces(large) == []
    assert len(find_painted_faces(large, min_score=MIN_SCORE / 3)) == 1


@needs_weights
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_a_photographed_face_is_found_at_any_size(is_mirrored: bool) -> None:
    image = astronaut()[None]
    image = image.flip(-1) if is_mirrored else image
    expected = find_face(image)
    large = resize(image, 2 * SIDE)
    found = find_painted_faces(large)[0]
    inter_pupil = float((expected.landmarks[1] - expected.landmarks[0]).norm())
    moved = (found.landmarks + 0.5) * image.shape[-1] / large.shape[-1] - 0.5
    assert float((moved - expected.landmarks).norm(dim=1).mean()) < 0.07 * inter_pupil
    assert found.score > 0.5


@needs_weights
def test_a_texture_is_no_face() -> None:
    pixels = torch.from_numpy(skimage_data.gravel()).float() / 127.5 - 1
    gravel = resize(pixels.expand(1, 3, -1, -1), SIDE)
    assert find_faces(gravel, min_score=0.22)
    assert find_painted_faces(gravel) == []


@needs_weights
@pytest.mark.parametrize("name", ["gravel", "grass"])
def test_a_small_face_is_found_beside_what_is_faintly_like_one(name: str) -> None:
    pixels = torch.from_numpy(getattr(skimage_data, name)()).float() / 127.5 - 1
    ground = resize(pixels.expand(1, 3, -1, -1), (640, 1280)).clone()
    face = find_face(astronaut()[None])
    left, top, right, bottom = (round(side) for side in face.box)
    scale = 140 / face.extent
    size = (round((bottom - top) * scale), round((right - left) * scale))
    ground[..., 300 : 300 + size[0], 700 : 700 + size[1]] = resize(astronaut()[None, :, top:bottom, left:right], size)
    found = find_painted_faces(ground)
    assert found and found[0].score > 0.5
    assert 700 < float(found[0].landmarks[:, 0].mean()) < 700 + size[1]


def test_dark_lines_are_dark_and_nothing_else_is() -> None:
    picture = torch.full((2, 3, 64, 64), 0.3)
    picture[0, :, 32] = -0.6
    picture[1, :, :, 32:] = 0.9
    lines = draw_dark_lines(picture)
    assert lines.shape == picture.shape
    assert float(lines[0, :, 32].max()) < -0.5 and float(lines[0, :, 45:].min()) == pytest.approx(1.0)
    assert float(lines[1, :, :, 34:].min()) == pytest.approx(1.0)  # nothing but the shadow at the brighter half's edge
