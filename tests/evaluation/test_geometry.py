"""Shapes and poses against values known by construction."""

import math

import pytest
import torch
from torch import Tensor

from acfun.evaluation import geometry
from acfun.face.align import FIVE_POINT_INDICES
from acfun.portrait import place_mean_face

SIZE = 100
NOSE = FIVE_POINT_INDICES[2]


def face() -> Tensor:
    return place_mean_face(SIZE)[None]


def move(points: Tensor, scale: float = 1.0, angle: float = 0.0, shift: float = 0.0) -> Tensor:
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    return points @ torch.tensor([[cosine, sine], [-sine, cosine]]) + shift


def turn(points: Tensor, yaw: float = 0.0, pitch: float = 0.0) -> Tensor:
    """The tip of the nose moved, in pupil distances."""
    width = float((points[0, 1] - points[0, 0]).norm())
    turned = points.clone()
    turned[:, NOSE] += width * torch.tensor([yaw, pitch])
    return turned


def test_the_same_landmarks_have_no_error_and_a_shift_is_its_length_in_pupil_distances() -> None:
    points = face()
    width = float((points[:, 1] - points[:, 0]).norm())
    assert float(geometry.compute_landmark_error(points, points)) == 0
    assert float(geometry.compute_landmark_error(points + width / math.sqrt(2), points)) == pytest.approx(1, rel=1e-5)
    doubled = geometry.compute_landmark_error(2 * points + 2 * width / math.sqrt(2), 2 * points)
    assert float(doubled) == pytest.approx(1, rel=1e-5)


def test_shape_is_free_of_place_size_and_rotation_and_nothing_else() -> None:
    points = face()
    moved = move(points, scale=3.0, angle=0.7, shift=12.0)
    assert float(geometry.compute_shape_distance(moved, points)) == pytest.approx(0, abs=1e-3)
    wide = points * torch.tensor([1.1, 1.0])
    wider = points * torch.tensor([1.3, 1.0])
    near, far = (float(geometry.compute_shape_distance(other, points)) for other in (wide, wider))
    assert 0.01 < near < far < 1
    noise = torch.randn(points.shape, generator=torch.Generator().manual_seed(0))
    assert float(geometry.compute_shape_distance(noise, points)) > 0.8


def test_pose_is_that_of_the_nose_in_the_frame_of_the_pupils() -> None:
    points = face()
    front = geometry.estimate_pose(points)
    assert abs(float(front[0, 0])) < 0.03  # the mean face looks ahead
    sideways = geometry.estimate_pose(turn(points, yaw=0.2)) - front
    assert sideways[0].tolist() == pytest.approx([0.2, 0.0], abs=0.01)
    down = geometry.estimate_pose(turn(points, pitch=0.1)) - front
    assert float(down[0, 1]) > 0.05
    assert abs(float(down[0, 0])) < 0.01
    tilted = geometry.estimate_pose(move(turn(points, yaw=0.2), scale=2.0, angle=0.5, shift=3.0))
    torch.testing.assert_close(tilted, geometry.estimate_pose(turn(points, yaw=0.2)), atol=1e-4, rtol=0)


def test_pose_leakage_is_the_share_of_the_way() -> None:
    points = face().expand(4, -1, -1).clone()
    faces, styles = geometry.estimate_pose(points), geometry.estimate_pose(turn(points, yaw=0.4))
    gone = geometry.estimate_pose(torch.cat([turn(face(), yaw=yaw) for yaw in (0.0, 0.2, 0.4, -0.2)]))
    assert geometry.compute_pose_leakage(gone, faces, styles).tolist() == pytest.approx([0, 0.5, 1, -0.5], abs=0.02)
    still = geometry.compute_pose_leakage(gone, faces, faces)
    assert still.tolist() == pytest.approx([0, 0, 0, 0], abs=1e-6)
