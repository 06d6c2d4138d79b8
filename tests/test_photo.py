"""From photograph to picture: whole and cut portraits, several faces, identity guide, on the tiny base."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from acfun.config import Extent
from acfun.errors import NoFaceFoundError
from acfun.face.align import transform_points
from acfun.face.finder import Face, FaceFinder
from acfun.images import pil_to_tensor, tensor_to_pil
from acfun.photo import (
    MAX_ENLARGEMENT,
    build_sheet,
    choose_faces,
    cut_portraits,
    look_at,
    outline_head,
    paint_scene,
    place_heads,
    stylize,
    stylize_photo,
    stylize_portraits,
)
from acfun.pipelines.face_stylization import FaceStylizationPipeline
from acfun.portrait import place_mean_face
from acfun.scene import segment_photo
from tests.tiny import RESOLUTION, make_tiny_base

STEPS = 3


@pytest.fixture(scope="module")
def pipe() -> FaceStylizationPipeline:
    return FaceStylizationPipeline.from_base(make_tiny_base())


@pytest.fixture
def photo() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((200, 120), Image.Resampling.BICUBIC)


def place_face(left: float, top: float, size: float) -> Face:
    """A frontal face whose canonical crop is the square at (left, top)."""
    landmarks = place_mean_face(1000) * (size / 1000) + torch.tensor([left, top])
    low, high = landmarks.amin(0).tolist(), landmarks.amax(0).tolist()
    return Face((low[0], low[1], high[0], high[1]), landmarks, 1.0)


def sampling(**options: Any) -> Any:
    return {"generator": torch.Generator().manual_seed(0), "num_inference_steps": STEPS, **options}


@pytest.fixture(autouse=True)
def keep_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let paintings be twice as large as what is sampled, whatever is painted."""
    for name in ("STYLE_SIDE", "MAX_STYLE_SIDE"):
        monkeypatch.setattr(f"acfun.photo.{name}", 2 * RESOLUTION)


@pytest.mark.parametrize("places", [[], [(5, 8, 30)]])
def test_a_picture_is_as_large_as_it_is_painted_or_as_is_asked_for(
    pipe: FaceStylizationPipeline, photo: Image.Image, places: list[tuple[float, float, float]]
) -> None:
    faces, small = [place_face(*place) for place in places], photo.resize((80, 48))
    for options, height in (
        ({}, 2 * RESOLUTION),
        ({"min_side": 0}, 48),
        ({"min_side": 55}, 55),
        ({"min_side": 20}, 48),
    ):
        result = stylize_photo(pipe, small, faces, **sampling(**options))
        assert result.size == (round(height / 48 * 80), height)
        assert not np.array_equal(np.asarray(result), np.asarray(small.resize(result.size, Image.Resampling.BICUBIC)))
    assert stylize_photo(pipe, photo, [], **sampling()).size == photo.size


def test_faces_are_painted_where_they_are_in_an_enlarged_picture(
    pipe: FaceStylizationPipeline, photo: Image.Image
) -> None:
    face, twice = place_face(10, 20, 60), photo.resize((2 * photo.width, 2 * photo.height), Image.Resampling.BICUBIC)
    options = sampling(min_side=2 * photo.height)
    enlarged = stylize_photo(pipe, photo, [face], paints_scene=False, **options)
    placed = Face.from_landmarks(2 * (face.landmarks + 0.5) - 0.5, face.score)
    large = stylize_photo(pipe, twice, [placed], paints_scene=False, **sampling())
    difference = np.abs(np.asarray(enlarged, int) - np.asarray(large, int))
    assert difference.mean() < 1
    assert stylize_photo(pipe, photo, [face], paints_scene=False, **sampling()).size == photo.size


def test_a_panorama_is_not_enlarged_beyond_what_is_painted(pipe: FaceStylizationPipeline) -> None:
    panorama = Image.new("RGB", (50 * 12, 12), "grey")
    assert stylize_photo(pipe, panorama, [], **sampling()).size == panorama.size


def test_the_scene_is_painted_too_and_faces_on_top_of_it(pipe: FaceStylizationPipeline, photo: Image.Image) -> None:
    faces = [place_face(10, 20, 60)]
    portraits = cut_portraits(photo, faces, 2 * RESOLUTION)
    outlines = [outline_head(look_at(portrait, RESOLUTION), 2 * RESOLUTION) for portrait in portraits]
    heads = place_heads(portraits, outlines, (photo.height, photo.width))
    assert float(heads[0, 0, 30:60, 25:55].mean()) > 0.8 > 0.01 > float(heads[..., 80:].max())
    landmarks = torch.stack([face.landmarks for face in faces])
    regions = segment_photo(pil_to_tensor(photo), landmarks, (RESOLUTION, 56))
    painted = paint_scene(pipe, pil_to_tensor(photo), landmarks, regions, heads, **sampling())
    scene = np.asarray(tensor_to_pil(painted)).astype(int)
    whole = np.asarray(stylize_photo(pipe, photo, faces, **sampling())).astype(int)
    assert scene.shape == whole.shape == (photo.height, photo.width, 3)
    assert np.abs(scene - np.asarray(photo)).mean() > 1
    assert np.abs(whole - scene)[:, 100:].max() == 0
    assert np.abs(whole - scene)[30:70, 20:60].mean() > 1


class Recorder:
    """A pipeline that remembers what it was called with."""

    def __init__(self, pipe: FaceStylizationPipeline) -> None:
        self.pipe, self.calls = pipe, list[dict[str, Any]]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipe, name)

    def __call__(self, **arguments: Any) -> Any:
        self.calls.append(arguments)
        return self.pipe(**arguments)


def test_regions_of_heads_are_found_once(pipe: FaceStylizationPipeline, photo: Image.Image) -> None:
    faces, recorder = [place_face(10, 20, 60)], Recorder(pipe)
    stylize_photo(recorder, photo, faces, **sampling())
    scene, head = (call["face_regions"] for call in recorder.calls)
    [portrait] = cut_portraits(photo, faces, 2 * RESOLUTION)
    found = look_at(portrait, RESOLUTION).regions
    assert found is not None
    assert torch.equal(head, found)
    assert float(scene[:, 1:3].max()) == 0


def test_without_the_scene_only_the_neighbourhood_of_the_faces_changes(
    pipe: FaceStylizationPipeline, photo: Image.Image
) -> None:
    faces = [place_face(10, 20, 60), place_face(120, 30, 50)]
    before = np.asarray(photo).astype(int)
    result = stylize_photo(pipe, photo, faces, paints_scene=False, **sampling())
    change = np.abs(np.asarray(result).astype(int) - before).max(-1)
    assert change[30:70, 20:60].mean() > 1
    assert change[40:70, 130:160].mean() > 1
    assert change[:, 75:115].max() == 0
    assert change[95:].max() == 0


def test_the_order_of_the_faces_is_that_of_the_portraits(pipe: FaceStylizationPipeline, photo: Image.Image) -> None:
    faces = [place_face(10, 20, 60), place_face(120, 30, 50)]
    both = stylize_portraits(pipe, photo, faces, **sampling())
    first = stylize_portraits(pipe, photo, faces[:1], **sampling())
    assert [picture.size for picture in both] == [(2 * RESOLUTION, 2 * RESOLUTION)] * 2
    plain = stylize_portraits(pipe, photo, faces[:1], **sampling(enlargement=1))
    assert plain[0].size == (RESOLUTION, RESOLUTION)
    assert both[0].tobytes() == first[0].tobytes()
    assert both[0].tobytes() != both[1].tobytes()


def test_large_faces_are_painted_larger(
    pipe: FaceStylizationPipeline, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once as large as they are at least, twice as large as what is sampled at most."""
    monkeypatch.setattr("acfun.photo.STYLE_SIDE", RESOLUTION)
    faces = [place_face(10, 20, side) for side in (20, 1.3 * RESOLUTION, 1.9 * RESOLUTION, 90)]
    widths = [picture.width for picture in stylize_portraits(pipe, photo, faces, **sampling())]
    assert widths == [RESOLUTION, RESOLUTION, 2 * RESOLUTION, 2 * RESOLUTION]
    monkeypatch.setattr("acfun.photo.MAX_STYLE_SIDE", 100 * RESOLUTION)
    recorder = Recorder(pipe)
    stylize_photo(recorder, photo.resize((50, 30)), [place_face(0, 0, 300)], **sampling())
    assert [call["enlargement"] for call in recorder.calls] == [1, MAX_ENLARGEMENT]


def test_the_extent_says_what_is_painted(pipe: FaceStylizationPipeline, photo: Image.Image) -> None:
    faces = [place_face(10, 20, 60)]
    whole, only_faces, portraits = (stylize(pipe, photo, faces, extent, **sampling()) for extent in get_args(Extent))
    assert whole[0].tobytes() == stylize_photo(pipe, photo, faces, **sampling()).tobytes()
    assert only_faces[0].tobytes() == stylize_photo(pipe, photo, faces, paints_scene=False, **sampling()).tobytes()
    assert portraits[0].tobytes() == stylize_portraits(pipe, photo, faces, **sampling())[0].tobytes()


def test_a_cut_portrait_has_its_landmarks_in_the_canonical_place(photo: Image.Image) -> None:
    (portrait,) = cut_portraits(photo, [place_face(30, 10, 80)], RESOLUTION)
    assert portrait.image.shape == (1, 3, RESOLUTION, RESOLUTION)
    assert portrait.image.abs().max() <= 1
    torch.testing.assert_close(portrait.landmarks[0], place_mean_face(RESOLUTION), atol=1e-2, rtol=0)
    assert portrait.transform is not None
    face = place_face(30, 10, 80).landmarks[None]
    torch.testing.assert_close(transform_points(face, portrait.transform), portrait.landmarks)


def test_without_faces_the_whole_picture_is_the_portrait(photo: Image.Image) -> None:
    (portrait,) = cut_portraits(photo, [], RESOLUTION)
    assert portrait.transform is None
    assert portrait.image.shape == (1, 3, RESOLUTION, RESOLUTION)
    assert abs(float(portrait.image.mean()) - float(pil_to_tensor(photo).mean())) < 0.05
    assert choose_faces(photo, "whole") == []


def test_no_face_is_told_with_its_remedy(photo: Image.Image) -> None:
    finder = FaceFinder().eval()
    with torch.no_grad():
        finder.detector.load_state_dict({k: torch.zeros_like(v) for k, v in finder.detector.state_dict().items()})
    with pytest.raises(NoFaceFoundError, match=r"200x120 px.*both eyes"):
        choose_faces(photo, "all", finder)


def test_the_same_seed_gives_the_same_picture(pipe: FaceStylizationPipeline, photo: Image.Image) -> None:
    first, second = (stylize_photo(pipe, photo, [], **sampling(invert_face=False)) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_the_sheet_shows_three_pictures(photo: Image.Image, tmp_path: Path) -> None:
    sheet = build_sheet(photo, photo, photo)
    assert sheet.width > 3 * photo.width
    assert sheet.height > photo.height
