"""What landmarks (B,189,2) in pixels say of two faces: shape, and pose; pure functions."""

import torch
from torch import Tensor

from acfun.face.align import five_points, measure_pupil_distance
from acfun.face.finder import POSE_INDICES

EPSILON = 1e-8
# Poses closer than this are one pose: landmarks are not that exact. In pupil distances.
MIN_POSE_DIFFERENCE = 0.08


def compute_landmark_error(landmarks: Tensor, targets: Tensor) -> Tensor:
    """Normalised mean error (B,): mean distance to the targets' landmarks in units of their pupil distance.

    Ears, hair line and the outline of the hair do not count.
    """
    indices = list(POSE_INDICES)
    distances: Tensor = (landmarks - targets)[:, indices].norm(dim=-1).mean(1)
    return distances / measure_pupil_distance(targets).clamp(min=EPSILON)


def compute_shape_distance(landmarks: Tensor, targets: Tensor) -> Tensor:
    """Full Procrustes distance (B,) in [0,1]: what place, size and rotation in the picture do not explain.

    Dryden & Mardia 1998, Statistical Shape Analysis, chapter 4: with centred points of unit norm as complex numbers,
    √(1 − |Σ conj(z) w|²). Ears, hair line and the outline of the hair do not count.
    """
    first, second = (_standardise(points[:, list(POSE_INDICES)]) for points in (landmarks, targets))
    return (1 - (first.conj() * second).sum(1).abs().square()).clamp(min=0).sqrt()


def estimate_pose(landmarks: Tensor) -> Tensor:
    """Turning sideways and nodding (B,2), as ratios in the frame of the pupils; tilting the head does not count.

    A head that turns moves the tip of its nose sideways off the line from between the eyes to the mouth, and one that
    nods moves it along that line. First the sideways shift in pupil distances, then the share of the way.
    """
    left, right, nose, corner, other_corner = five_points(landmarks).unbind(1)
    axis = (right - left) / (right - left).square().sum(1, keepdim=True).clamp(min=EPSILON)
    normal = torch.stack([-axis[:, 1], axis[:, 0]], 1)
    middle = (left + right) / 2

    def place(points: Tensor) -> tuple[Tensor, Tensor]:
        offset = points - middle
        return (offset * axis).sum(1), (offset * normal).sum(1)

    (nose_x, nose_y), (mouth_x, mouth_y) = place(nose), place((corner + other_corner) / 2)
    share = nose_y / mouth_y.abs().clamp(min=EPSILON)
    return torch.stack([nose_x - share * mouth_x, share], 1)


def compute_pose_leakage(poses: Tensor, faces: Tensor, styles: Tensor) -> Tensor:
    """Which share of the way from the face's pose to the painted face's a result has gone, (B,): 0 none, 1 all of it.

    Below 0 it has gone the other way. Where both have one pose, the way is taken to be `MIN_POSE_DIFFERENCE` long.

    Args:
        poses: (B,2) of `estimate_pose`, of the results.
        faces: (B,2) of the photographs.
        styles: (B,2) of the style image.
    """
    way, gone = styles - faces, poses - faces
    return (way * gone).sum(1) / way.square().sum(1).clamp(min=MIN_POSE_DIFFERENCE**2)


def _standardise(points: Tensor) -> Tensor:
    """Centred complex points (B,N) of unit norm."""
    centred = torch.view_as_complex((points - points.mean(1, keepdim=True)).float().contiguous())
    return centred / centred.abs().square().sum(1, keepdim=True).sqrt().clamp(min=EPSILON)
