"""Faces found by another library's detector: its points lead the embedded regressor, its failures are explained."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data as skimage_data
from torch import Tensor

from acfun.errors import FaceModelError, MissingExtraError
from acfun.face.align import five_points
from acfun.face.detection import load_finder
from acfun.face.finder import find_face, find_faces, load_face_finder
from acfun.face.storage import StoredModule
from tests.face.test_finder import ASTRONAUT_PUPILS, needs_weights
from tests.fitting import build_face_finder
from tests.manual import require_documented

ASTRONAUT_POINTS = ((203.7, 101.0), (246.9, 103.3), (226.0, 125.0), (210.0, 146.0), (245.0, 147.0))


def astronaut() -> Tensor:
    return torch.from_numpy(skimage_data.astronaut()).permute(2, 0, 1).float() / 127.5 - 1


def test_other_points_lead_to_landmarks_and_their_scores_count() -> None:
    finder = build_face_finder()
    points = torch.tensor([[[20.0, 24], [40, 24], [30, 34], [23, 43], [37, 43]]])
    shown: list[tuple[int, ...]] = []

    def detect(image: Tensor) -> tuple[Tensor, Tensor]:
        shown.append(tuple(image.shape))
        return points, torch.tensor([0.8])

    finder.point_detector = detect
    faces = find_faces(torch.zeros(3, 60, 60), finder, min_score=0.0)
    assert shown == [(1, 3, 60, 60)]
    assert len(faces) == 1
    assert 0 < faces[0].score <= 0.8
    # An untrained regressor answers with the mean shape, where the points are.
    assert float((five_points(faces[0].landmarks[None]) - points).norm(dim=-1).mean()) < 5
    finder.point_detector = lambda image: (torch.zeros(0, 5, 2), torch.zeros(0))
    assert find_faces(torch.zeros(3, 60, 60), finder, min_score=0.0) == []


@needs_weights
def test_points_as_good_as_its_own_give_the_face_of_the_embedded_finder() -> None:
    finder = type(load_face_finder())(**load_face_finder().config).requires_grad_(False).eval()
    finder.load_state_dict(load_face_finder().state_dict())
    assert isinstance(finder, StoredModule)
    finder.point_detector = lambda image: (torch.tensor([ASTRONAUT_POINTS]), torch.tensor([0.9]))
    own, other = find_face(astronaut()), find_face(astronaut(), finder)
    assert float((own.landmarks - other.landmarks).norm(dim=-1).mean()) < 2
    assert other.score == pytest.approx(0.9, abs=0.15)


def test_insightface_finds_what_its_detector_sees(pack: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("insightface")
    packs = pytest.importorskip("tests.packs")
    scale = packs.DETECTOR_SIZE / astronaut().shape[-1]
    packs.write_detector(pack / "det_10g.onnx", np.array(ASTRONAUT_POINTS, np.float32) * scale, score=0.75)
    finder = load_finder(pack)
    assert load_finder(str(pack)) is finder
    assert "research only" in caplog.text
    assert finder.point_detector is not None
    points, scores = finder.point_detector(astronaut()[None])
    assert points.shape == (1, 5, 2)
    assert float((points[0] - torch.tensor(ASTRONAUT_POINTS)).abs().max()) < 0.1
    assert scores.tolist() == pytest.approx([0.75], abs=1e-4)
    face = find_face(astronaut(), finder)
    assert float((face.landmarks[:2] - torch.tensor(ASTRONAUT_PUPILS)).norm(dim=-1).max()) < 4


def test_a_pack_without_a_detector_is_explained_as_in_the_manual(pack: Path) -> None:
    (pack / "det_10g.onnx").unlink()
    with pytest.raises(FaceModelError) as no_detector:
        load_finder(pack)
    with pytest.raises(FaceModelError) as file:
        load_finder(pack / "w600k_r50.onnx")
    for caught in (no_detector, file):
        require_documented(caught.value, pack.parent)


def test_a_wrong_path_is_explained_before_insightface_sees_it(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "insightface", None)
    with pytest.raises(FaceModelError, match="no such folder"):
        load_finder(pack.with_name("buffalo_m"))
    assert not pack.with_name("buffalo_m").exists()


def test_without_insightface_the_pip_line_is_given(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("insightface", "insightface.app"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError) as caught:
        load_finder(pack)
    require_documented(caught.value, pack.parent)


def test_a_detector_that_cannot_be_loaded_is_named(pack: Path) -> None:
    pytest.importorskip("insightface")
    import onnx

    model = onnx.load(str(pack / "det_10g.onnx"))
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, str(pack / "det_10g.onnx"))
    with pytest.raises(
        FaceModelError, match=r"insightface cannot use .*NoSuchOperator.*unpack the pack there once more"
    ):
        load_finder(pack)
