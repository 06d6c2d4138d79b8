"""Style images: the face that a style comes from, and the other people in its picture."""

import pytest
import torch
from skimage import data as skimage_data
from torch import Tensor

from acfun.backdrop import build_backdrop
from acfun.face.finder import load_face_finder
from acfun.face.regions import REGIONS, draw_regions
from acfun.images import resize
from acfun.portrait import Portrait, StyleImage, cut_head, measure_frame, place_mean_face
from tests.face.test_finder import needs_weights

SIZE, HAIR = 256, REGIONS.index("hair")


def make_couple() -> Tensor:
    """The astronaut beside a smaller picture of herself, mirrored, (1,3,512,824) in [-1,1]."""
    picture = torch.from_numpy(skimage_data.astronaut()).permute(2, 0, 1)[None].float() / 127.5 - 1
    second = resize(picture.flip(-1), 312)
    below = second[..., -1:, :].expand(-1, -1, 200, -1)
    return torch.cat([picture, torch.cat([second, below], 2)], 3)


@needs_weights
def test_all_people_of_a_picture_are_told_from_its_ground() -> None:
    image = StyleImage.from_picture(make_couple(), SIZE, load_face_finder())
    painting = image.painting
    assert painting.landmarks is not None and painting.others is not None and painting.others.shape == (1, 189, 2)
    assert float(painting.landmarks[0, :, 0].mean()) < 0.5 * painting.image.shape[-1]
    assert painting.regions is not None
    torch.testing.assert_close(painting.regions.sum(1), torch.ones_like(painting.regions[:, 0]))
    for face in painting.people:
        column, row = (round(float(place)) for place in face.mean(0))
        assert float(painting.masks["background"][row, column]) < 0.1
        assert float(painting.masks["skin"][row, column]) > 0.5
    backdrop = build_backdrop(painting)
    assert backdrop is not None
    column, row = (round(float(place)) for place in painting.others[0].mean(0))
    assert float((backdrop - painting.image)[0, :, row, column].norm()) > 0.3


@needs_weights
def test_other_people_are_kept_with_the_style() -> None:
    image = StyleImage.from_picture(make_couple(), SIZE, load_face_finder())
    again = StyleImage.from_tensors(image.to_tensors())
    assert again is not None
    assert image.painting.others is not None and again.painting.others is not None
    torch.testing.assert_close(again.painting.others, image.painting.others, rtol=0, atol=0)
    assert again.head.others is None  # she stands too far away
    smaller = again.shrink(SIZE // 2).painting
    assert smaller.others is not None and image.painting.others is not None
    torch.testing.assert_close(2 * (smaller.others + 0.5) - 0.5, image.painting.others)
    assert again.without_face().painting.others is None


def test_what_a_painted_head_wears_is_clothes() -> None:
    face = place_mean_face(SIZE)[None]
    hair = draw_regions(face, (SIZE, SIZE))[:, HAIR, None]
    image = torch.tensor([0.5, 0.2, 0.0])[None, :, None, None].expand(1, 3, SIZE, SIZE)
    image = torch.lerp(image, torch.tensor([-0.6, -0.7, -0.8])[None, :, None, None].expand_as(image), hair)
    ribbon = hair * (torch.arange(SIZE) % 32 < 6)[:, None]
    image = torch.lerp(image, torch.tensor([0.9, -0.9, -0.8])[None, :, None, None].expand_as(image), ribbon)
    bare, worn = (Portrait(image, face, is_painting=is_painting) for is_painting in (False, True))
    assert bare.regions is not None and worn.regions is not None
    torch.testing.assert_close(worn.regions.sum(1), bare.regions.sum(1))
    inside = (ribbon > 0.9) & (bare.regions[:, HAIR, None] > 0.9)
    assert int(inside.sum()) > 100
    assert float(worn.regions[:, HAIR, None][inside].mean()) < 0.5
    assert float(worn.regions[:, REGIONS.index("body"), None][inside].mean()) > 0.5
    left = (ribbon == 0) & (hair > 0.9) & (bare.regions[:, HAIR, None] > 0.9)
    assert float(worn.regions[:, HAIR, None][left].mean()) > 0.8


def test_style_images_keep_what_a_painting_has_within_limits() -> None:
    sides = {}
    for side in (100, 700, 3000):
        image = StyleImage.for_base(torch.zeros(1, 3, side, side + 40), 256, None)
        sides[side] = min(image.painting.image.shape[-2:]), image.head.image.shape[-1]
    assert sides == {100: (512, 512), 700: (672, 672), 3000: (1024, 1024)}
    small = StyleImage.from_picture(torch.zeros(1, 3, 700, 740), 256, None)
    assert small.painting.image.shape[-2] == small.head.image.shape[-1] == 256


def test_people_beside_a_head_are_known_and_those_far_away_are_not() -> None:
    face = place_mean_face(SIZE)
    people = torch.stack([face, face + torch.tensor([SIZE, 0.0]), face - torch.tensor([0.0, 3.0 * SIZE])])
    head = cut_head(torch.zeros(1, 3, SIZE, SIZE), people, SIZE // 2)
    assert head.others is not None and len(head.others) == 1
    torch.testing.assert_close(2 * (head.others[0] + 0.5) - 0.5, people[1], atol=0.1, rtol=0)


@needs_weights
def test_heads_are_kept_as_large_as_they_are_painted() -> None:
    large = resize(make_couple(), (1536, 2472))
    head = StyleImage.for_base(large, 256, load_face_finder()).head
    assert head.landmarks is not None
    assert 512 < head.image.shape[-1] < 1024
    assert measure_frame(head.landmarks[0]) == pytest.approx(head.image.shape[-1], rel=1e-3)
