"""Masks drawn from landmarks: areas, order, and the sum of one at every resolution."""

import pytest
import torch
from torch import Tensor

from acfun.face.regions import EYE_CONTOURS, FACE_OVAL, MOUTH_CONTOUR, REGIONS, draw_polygon, draw_regions
from acfun.portrait import place_mean_face


@pytest.fixture(scope="module")
def landmarks() -> Tensor:
    """(2,189,2): an oval face in a frame of 256 pixels, and the same face smaller."""
    points = torch.full((189, 2), 128.0)

    def ring(indices: list[int], centre: tuple[float, float], radii: tuple[float, float]) -> None:
        turn = torch.linspace(0, 2 * torch.pi, len(indices) + 1)[:-1] + torch.pi
        circle = torch.stack([turn.cos() * radii[0], turn.sin() * radii[1]], -1)
        points[indices] = torch.tensor(centre) + circle

    ring(list(FACE_OVAL[::-1]), (128, 130), (55, 75))
    ring(list(range(145, 158)), (128, 110), (75, 100))
    ring(list(EYE_CONTOURS[0]), (100, 120), (14, 7))
    ring(list(EYE_CONTOURS[1]), (156, 120), (14, 7))
    ring(list(MOUTH_CONTOUR), (128, 170), (22, 9))
    return torch.stack([points, points * 0.5 + 60])


def scale(landmarks: Tensor, size: tuple[int, int]) -> Tensor:
    """Landmarks of a frame of 256 pixels in one of (height, width) pixels."""
    return (landmarks + 0.5) * torch.tensor([size[1] / 256, size[0] / 256]) - 0.5


@pytest.mark.parametrize("size", [(256, 256), (128, 96), (16, 16)])
def test_regions_sum_to_one(landmarks: Tensor, size: tuple[int, int]) -> None:
    masks = draw_regions(scale(landmarks, size), size)
    assert masks.shape == (2, len(REGIONS), *size)
    assert torch.allclose(masks.sum(1), torch.ones(2, *size), atol=1e-5)
    assert masks.min() >= 0


def test_regions_lie_where_they_are_named(landmarks: Tensor) -> None:
    masks = dict(zip(REGIONS, draw_regions(landmarks, (256, 256))[0], strict=True))
    assert masks["eyes"][120, 100] == 1
    assert masks["mouth"][170, 128] == 1
    assert masks["skin"][145, 128] == 1
    assert masks["hair"][30, 128] == 1
    assert masks["background"][5, 5] == 1


def test_the_neck_is_skin_and_the_body_below_it() -> None:
    masks = dict(zip(REGIONS, draw_regions(place_mean_face(256)[None], (256, 256))[0], strict=True))
    assert masks["skin"][242, 128] == 1
    assert masks["body"][254, 40] == masks["body"][254, 216] == 1
    assert masks["background"][200, 20] == masks["background"][200, 236] == 1


def test_small_masks_keep_the_area_of_large_ones(landmarks: Tensor) -> None:
    large = draw_regions(landmarks, (256, 256)).mean((2, 3))
    small = draw_regions(scale(landmarks, (16, 16)), (16, 16)).mean((2, 3))
    assert torch.allclose(large, small, atol=0.005)


def test_polygon_has_its_area_and_a_soft_edge() -> None:
    square = torch.tensor([[[10.25, 8.0], [30.25, 8.0], [30.25, 28.0], [10.25, 28.0]]])
    mask = draw_polygon(square, (40, 40))
    assert float(mask.sum()) == pytest.approx(400, rel=0.01)
    assert float(mask[0, 18, 30]) == pytest.approx(0.75, abs=1e-4)


def test_polygon_may_be_concave() -> None:
    arrow = torch.tensor([[[5.0, 5.0], [35.0, 5.0], [20.0, 15.0], [35.0, 35.0], [5.0, 35.0]]])
    mask = draw_polygon(arrow, (40, 40))[0]
    assert mask[8, 20] == 1 and mask[20, 10] == 1
    assert mask[18, 30] == 0
