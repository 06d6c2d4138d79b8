"""Backdrops: the painting's ground without its figure and what it wears, where the photograph's ground is calm."""

import pytest
import torch
from torch import Tensor

from acfun.backdrop import build_backdrop, lay_backdrop, measure_calm, place_backdrop
from acfun.face.regions import REGIONS, draw_regions
from acfun.portrait import Portrait, place_mean_face

SIZE = 256
GROUND, FIGURE, HAT = (-0.3, 0.1, 0.6), (0.7, 0.1, -0.3), (0.9, -0.9, -0.8)


def fill_with(colour: tuple[float, float, float]) -> Tensor:
    return torch.tensor(colour)[None, :, None, None].expand(1, 3, SIZE, SIZE)


def make_painting(*, head: float = 0.35, hat: tuple[float, float, float] = HAT) -> tuple[Portrait, Tensor]:
    """A figure before an uneven ground, and where it wears what no mask knows; its head as a part of the usual one."""
    face = place_mean_face(SIZE)[None] * head + torch.tensor([0.5 * (1 - head), 0.45 * (1 - head)]) * SIZE
    regions = draw_regions(face, (SIZE, SIZE))
    ground = regions[:, -1:]
    waves = 0.2 * torch.sin(torch.arange(SIZE) / 9)
    image = torch.lerp(fill_with(FIGURE), fill_with(GROUND) + waves, ground)
    top = int((1 - ground[0, 0]).amax(1).nonzero()[0])
    is_hat = torch.zeros(1, 1, SIZE, SIZE)
    is_hat[..., top - 12 : top + 4, SIZE // 2 - 20 : SIZE // 2 + 20] = 1
    image = torch.lerp(image, fill_with(hat), is_hat * (ground > 0.5))
    return Portrait(image, face, given_regions=regions), is_hat * (ground > 0.9)


def test_the_ground_goes_on_behind_the_figure() -> None:
    painting, _ = make_painting(hat=GROUND)
    ground = painting.masks["background"]
    backdrop = build_backdrop(painting)
    assert backdrop is not None
    away = (torch.nn.functional.max_pool2d(1 - ground[None, None], 31, 1, 15) < 0.01).expand_as(backdrop)
    assert float(away.float().mean()) > 0.1
    torch.testing.assert_close(backdrop[away], painting.image[away])
    distances = [(backdrop - fill_with(colour)).norm(dim=1)[0] for colour in (GROUND, FIGURE)]
    assert float(distances[0].max()) < 0.5
    assert bool((distances[0] < distances[1])[ground < 0.5].all())


@pytest.mark.parametrize("head", [0.35, 1.0])
def test_what_is_worn_is_no_ground(head: float) -> None:
    painting, hat = make_painting(head=head)
    assert float(hat.sum()) > 100
    found = build_backdrop(painting)
    assert found is not None
    assert bool(((found - fill_with(HAT)).norm(dim=1)[hat[:, 0] > 0] > 0.5).all())


def test_strokes_of_a_drawn_ground_are_none_that_is_worn() -> None:
    painting, hat = make_painting()
    found = build_backdrop(painting, is_drawing=True)
    assert found is not None
    assert bool(((found - fill_with(HAT)).norm(dim=1)[hat[:, 0] > 0] < 0.5).any())


def test_what_is_unusual_far_from_a_head_belongs_to_the_ground() -> None:
    painting, _ = make_painting(hat=GROUND)
    image = painting.image.clone()
    image[..., 8:24, 8:24] = fill_with(HAT)[..., :16, :16]
    backdrop = build_backdrop(Portrait(image, painting.landmarks, given_regions=painting.regions))
    assert backdrop is not None
    torch.testing.assert_close(backdrop[..., 8:24, 8:24], image[..., 8:24, 8:24])


def test_a_painting_without_a_face_is_a_backdrop_as_it_is() -> None:
    image = torch.rand(1, 3, 40, 64) * 2 - 1
    assert build_backdrop(Portrait(image, None)) is image


def test_a_painting_without_ground_has_no_backdrop() -> None:
    landmarks = place_mean_face(SIZE)[None]
    regions = torch.zeros(1, 6, SIZE, SIZE)
    regions[:, 0], regions[..., :2, :2] = 1, 0
    regions[:, -1, :2, :2] = 1
    assert build_backdrop(Portrait(fill_with(FIGURE), landmarks, given_regions=regions)) is None


def test_only_calm_grounds_give_way() -> None:
    landmarks = place_mean_face(SIZE)[None]
    regions = draw_regions(landmarks, (SIZE, SIZE))
    ground = regions[:, REGIONS.index("background"), None]
    shelves = 0.6 * (torch.arange(SIZE) // 6 % 2 - 0.5) * (torch.arange(SIZE) > SIZE // 2)
    photo = torch.lerp(fill_with(FIGURE), 0.2 + shelves.expand(1, 3, SIZE, SIZE), ground)
    calm = measure_calm(photo, ground)
    assert float(calm.min()) >= 0
    assert float(calm[0, 0, :60, :90].min()) > 0.95
    assert float(calm[0, 0, :60, 160:].max()) < 0.05
    backdrop, picture = fill_with(GROUND), photo.clone()
    laid = lay_backdrop(picture, photo, regions, backdrop)
    torch.testing.assert_close(laid[..., :60, :60], backdrop[..., :60, :60], atol=0.05, rtol=0)
    torch.testing.assert_close(laid[..., :60, 190:], photo[..., :60, 190:], atol=0.05, rtol=0)
    figure = (ground < 0.01).expand_as(photo)
    torch.testing.assert_close(laid[figure], photo[figure], atol=0.02, rtol=0)
    assert torch.equal(lay_backdrop(picture, photo, regions, backdrop, 0.0), picture)
    readily = lay_backdrop(picture, photo, regions, backdrop, 10.0)
    torch.testing.assert_close(readily[..., :40, 190:], backdrop[..., :40, 190:], atol=0.05, rtol=0)


@pytest.mark.parametrize(("own", "size"), [((40, 30), (30, 30)), ((30, 50), (30, 30)), ((20, 20), (30, 41))])
def test_backdrops_cover_the_picture_from_their_top_on(own: tuple[int, int], size: tuple[int, int]) -> None:
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, own[0]), torch.linspace(-1, 1, own[1]), indexing="ij")
    placed = place_backdrop(torch.stack([rows, columns, columns])[None], size)
    assert placed.shape == (1, 3, *size)
    assert float(placed[0, 0, 0].mean()) < -0.9
    assert abs(float(placed[0, 1].mean())) < 0.05


def test_landmarks_may_lie_outside() -> None:
    painting, _ = make_painting()
    assert painting.landmarks is not None
    found = build_backdrop(Portrait(painting.image, painting.landmarks + 500))
    assert found is not None
    assert found.shape == painting.image.shape
    assert bool(found.isfinite().all())
