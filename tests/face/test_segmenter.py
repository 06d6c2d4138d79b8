"""The segmenter: where it looks, what it answers outside, and that it is kept."""

from pathlib import Path

import pytest
import torch
from skimage import data as skimage_data
from torch import Tensor

from acfun.errors import BaseNotFoundError
from acfun.face.align import transform_points
from acfun.face.finder import find_face
from acfun.face.segmenter import (
    EYES_CENTRE,
    PARTS,
    PUPIL_FRACTION,
    PortraitSegmenter,
    estimate_parts,
    frame_portrait,
    load_segmenter,
)
from acfun.paths import mini_dir
from acfun.portrait import place_mean_face

# Pixels (x, y) of scikit-image's astronaut.
ASTRONAUT = {
    "face": ((224, 135), (200, 130), (245, 150)),
    "hair": ((215, 35), (175, 80), (270, 80)),
    "body": ((120, 300), (330, 300)),
    "background": ((80, 60), (330, 90), (110, 140)),
}
CROP, SIZE = 32, 64
LANDMARKS = place_mean_face(SIZE)[None]


def build_segmenter(seed: int = 0) -> PortraitSegmenter:
    torch.manual_seed(seed)
    return PortraitSegmenter(channels=(4, 4, 8, 8), dilations=(1, 2), crop_size=CROP).eval()


def draw_noise(width: int = SIZE) -> Tensor:
    return torch.rand((1, 3, SIZE, width), generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_logits_are_half_as_wide_as_the_crop() -> None:
    assert build_segmenter()(torch.rand(2, 3, CROP, CROP)).shape == (2, len(PARTS), CROP // 2, CROP // 2)


def test_crop_size_must_fit_the_stride() -> None:
    with pytest.raises(ValueError, match="crop_size=40 is no multiple of 16"):
        PortraitSegmenter(crop_size=40)


def test_pupils_come_to_lie_where_the_crop_has_them() -> None:
    pupils = transform_points(LANDMARKS[:, :2], frame_portrait(LANDMARKS, CROP))[0]
    assert float((pupils[1] - pupils[0]).norm()) == pytest.approx(PUPIL_FRACTION * CROP, rel=1e-4)
    assert pupils.mean(0).tolist() == pytest.approx([share * CROP - 0.5 for share in EYES_CENTRE], abs=1e-3)


def test_chances_sum_to_one_and_there_is_no_head_outside_the_crop() -> None:
    width = 6 * SIZE
    chances = estimate_parts(build_segmenter(), draw_noise(width), LANDMARKS, (SIZE, width))
    torch.testing.assert_close(chances.sum(1), torch.ones(1, SIZE, width))
    outside = torch.tensor([0.0, 0.0, 0.5, 0.5]).view(1, -1, 1, 1).expand(1, -1, SIZE, SIZE)
    assert torch.equal(chances[..., -SIZE:], outside)
    assert float(chances[..., :SIZE].std()) > 1e-3


def test_a_mirrored_picture_has_mirrored_parts() -> None:
    """Landmarks of the average face are symmetric about the middle of its picture."""
    segmenter, picture = build_segmenter(), draw_noise()
    straight = estimate_parts(segmenter, picture, LANDMARKS, (SIZE, SIZE))
    mirrored = estimate_parts(segmenter, picture.flip(-1), LANDMARKS, (SIZE, SIZE))
    torch.testing.assert_close(mirrored.flip(-1), straight, atol=2e-3, rtol=0)


def test_parts_are_where_they_are_at_any_size_that_is_asked_for() -> None:
    segmenter, picture = build_segmenter(), draw_noise()
    large = estimate_parts(segmenter, picture, LANDMARKS, (SIZE, SIZE))
    small = estimate_parts(segmenter, picture, LANDMARKS, (SIZE // 4, SIZE // 4))
    averaged = torch.nn.functional.avg_pool2d(large, 4)
    assert float((small - averaged).abs().mean()) < 0.1 * float(large.std(dim=(2, 3)).mean())


def test_save_and_load_keep_every_answer(tmp_path: Path) -> None:
    segmenter = build_segmenter()
    segmenter.save_pretrained(tmp_path)
    crop = torch.rand(1, 3, CROP, CROP)
    assert torch.equal(PortraitSegmenter.from_pretrained(tmp_path)(crop), segmenter(crop))


def test_a_folder_without_a_segmenter_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseNotFoundError, match=r"it holds no segmenter; train one with train/pretrain_segmenter\.py"):
        PortraitSegmenter.from_pretrained(tmp_path)


@pytest.mark.skipif(
    not (mini_dir() / "segmenter" / "model.safetensors").is_file(), reason="the embedded segmenter is not trained yet"
)
@pytest.mark.parametrize("part", PARTS)
def test_the_embedded_one_tells_the_parts_of_the_astronaut(part: str) -> None:
    picture = torch.from_numpy(skimage_data.astronaut()).permute(2, 0, 1)[None].float() / 127.5 - 1
    landmarks = find_face(picture).landmarks[None]
    chances = estimate_parts(load_segmenter(), picture, landmarks, (512, 512))[0]
    assert all(int(chances[:, y, x].argmax()) == PARTS.index(part) for x, y in ASTRONAUT[part])
