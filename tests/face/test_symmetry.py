"""Faces in a mirror."""

import torch

from acfun.face.symmetry import mirror_landmarks
from acfun.portrait import place_mean_face

MEAN = place_mean_face(96)


def test_mirroring_twice_gives_a_face_back() -> None:
    landmarks = MEAN + torch.randn(2, 189, 2, generator=torch.Generator().manual_seed(0))
    mirrored = mirror_landmarks(landmarks, MEAN, 95.0)
    torch.testing.assert_close(mirror_landmarks(mirrored, MEAN, 95.0), landmarks)
    assert not torch.allclose(mirrored, landmarks)


def test_what_is_on_the_left_stays_on_the_left_of_a_mirrored_face() -> None:
    turned = MEAN + torch.tensor([7.0, 0.0])
    mirrored = mirror_landmarks(turned, MEAN, 95.0)
    assert float(mirrored[0, 0]) < float(mirrored[1, 0])
    torch.testing.assert_close(mirrored.mean(0)[0] + turned.mean(0)[0], torch.tensor(95.0), atol=0.5, rtol=0)
