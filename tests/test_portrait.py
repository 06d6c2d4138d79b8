"""Style images: the face that a style comes from, and the other people in its picture."""

import torch
from skimage import data as skimage_data
from torch import Tensor

from acfun.backdrop import build_backdrop
from acfun.face.finder import load_face_finder
from acfun.images import resize
from acfun.portrait import StyleImage
from tests.face.test_finder import needs_weights

SIZE = 256


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
    for part, kept in ((image.head, again.head), (image.painting, again.painting)):
        assert part.others is not None and kept.others is not None
        torch.testing.assert_close(kept.others, part.others, rtol=0, atol=0)
    smaller = again.shrink(SIZE // 2).painting
    assert smaller.others is not None and image.painting.others is not None
    torch.testing.assert_close(2 * (smaller.others + 0.5) - 0.5, image.painting.others)
    assert again.without_face().painting.others is None
