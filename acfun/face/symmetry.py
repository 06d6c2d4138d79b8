"""Faces in a mirror."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def mirror_permutation(mean_shape: Tensor) -> Tensor:
    """The landmark that each of the (189,2) mean shape's becomes in a mirror, (189,) indices; an involution.

    Mirrors the shape, which is on the CPU, and assigns points one to one, so that the sum of distances is smallest
    both ways.

    Raises:
        ValueError: the shape is too far from symmetric.
    """
    mirrored = mean_shape * mean_shape.new_tensor([-1.0, 1.0])
    mirrored = mirrored + (mean_shape[:2].mean(0) - mirrored[:2].mean(0))
    cost = torch.cdist(mean_shape.double(), mirrored.double()).square().numpy()
    _, columns = linear_sum_assignment(cost + cost.T)
    if not np.array_equal(columns[columns], np.arange(len(columns))):
        raise ValueError("mean_shape is too far from symmetric: mirroring it twice does not give it back")
    return torch.from_numpy(columns)


def mirror_landmarks(landmarks: Tensor, mean_shape: Tensor, right: float) -> Tensor:
    """Landmarks (…,189,2) as they are in a mirror, by the (189,2) mean shape; `right` is where x = 0 comes to lie.

    Raises:
        ValueError: as `mirror_permutation`.
    """
    flipped: Tensor = landmarks[..., mirror_permutation(mean_shape), :] * landmarks.new_tensor([-1.0, 1.0])
    return flipped + landmarks.new_tensor([right, 0.0])
