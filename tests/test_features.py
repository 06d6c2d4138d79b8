"""Features: the person's own light and shade where they are, and the painting everywhere else."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from acfun.face.regions import REGIONS, draw_regions
from acfun.features import BROAD_FORM_SHARE, FINE_FORM_SHARE, MIN_CONTRAST, draw_features, draw_forms
from acfun.images import compute_luma, resize
from acfun.portrait import place_mean_face

SIZE = 128
LANDMARKS = place_mean_face(SIZE)
MASKS = draw_regions(LANDMARKS[None], (SIZE, SIZE))
HUE = torch.tensor([0.3, 0.0, -0.4])[None, :, None, None]


def make_texture(seed: int, size: int = SIZE) -> Tensor:
    """Fine grey texture (1,3,size,size), the same at each size."""
    coarse = torch.rand((1, 1, 64, 64), generator=torch.Generator().manual_seed(seed)) - 0.5
    return 0.6 * F.interpolate(coarse, size, mode="bicubic").expand(1, 3, size, size).contiguous()


def draw(painting: Tensor, photo: Tensor, recoloured: Tensor | None = None, scale: float = 1.0) -> Tensor:
    recoloured = resize(photo, SIZE) if recoloured is None else recoloured
    return draw_features(painting, photo, recoloured, MASKS, LANDMARKS, scale)


def correlate(first: Tensor, second: Tensor, name: str, size: int = SIZE) -> float:
    inside = F.interpolate(MASKS, size)[0, REGIONS.index(name)] > 0.99
    rows = [compute_luma(image)[0][inside] for image in (first, second)]
    return float(torch.corrcoef(torch.stack(rows))[0, 1])


@pytest.mark.parametrize("factor", [1, 2])
def test_eyes_and_mouth_are_the_persons_and_the_background_the_paintings(factor: int) -> None:
    photo, painting = make_texture(1, factor * SIZE), make_texture(2, factor * SIZE) + HUE
    drawn = draw(painting, photo)
    found = {name: correlate(drawn, photo, name, factor * SIZE) for name in ("eyes", "mouth", "skin")}
    assert found["eyes"] > 0.8 and found["mouth"] > 0.8
    assert 0.1 < found["skin"] < 0.7
    background = F.interpolate(MASKS, factor * SIZE)[0, REGIONS.index("background")] == 1
    outside = F.max_pool2d((~background).float()[None], 31, 1, 15)[0] == 0
    torch.testing.assert_close(drawn[0][:, outside], painting[0][:, outside])


def test_a_scale_of_0_leaves_the_painting_alone() -> None:
    painting = make_texture(2) + HUE
    torch.testing.assert_close(draw(painting, make_texture(1), scale=0.0), painting)


def test_hues_are_the_paintings_but_for_the_lips() -> None:
    painting = make_texture(2) + HUE
    drawn = draw(painting, make_texture(1))
    hue = drawn - compute_luma(drawn)[:, None]
    skin, mouth = (MASKS[0, REGIONS.index(name)] > 0.99 for name in ("skin", "mouth"))
    expected = (HUE - compute_luma(HUE)[:, None]).expand_as(hue)
    far = F.max_pool2d(mouth[None].float(), 25, 1, 12)[0] == 0
    torch.testing.assert_close(hue[0][:, skin & far], expected[0][:, skin & far], atol=1e-5, rtol=0)
    assert float(hue[0][:, mouth].abs().mean()) < 0.7 * float(expected[0][:, mouth].abs().mean())


def test_a_style_without_contrast_is_drawn_in_faintly() -> None:
    painting, photo = torch.zeros(1, 3, SIZE, SIZE), make_texture(1)
    eyes = MASKS[0, REGIONS.index("eyes")] > 0.99
    spread = {
        contrast: float(compute_luma(draw(painting, photo, contrast * photo))[0][eyes].std())
        for contrast in (0.1, 0.9, 1.0)
    }
    assert spread[0.9] == pytest.approx(0.9 * spread[1.0], rel=0.02)
    assert spread[0.1] == pytest.approx(MIN_CONTRAST * spread[1.0], rel=0.02)


def test_a_face_stays_as_light_as_it_is_painted() -> None:
    photo = make_texture(1) + 0.4
    drawn = draw(torch.full((1, 3, SIZE, SIZE), -0.3), photo)
    face = MASKS[0, : REGIONS.index("hair")].sum(0) > 0.99
    assert float(drawn[0, 0][face].mean()) == pytest.approx(-0.3, abs=0.02)


def find_inside(name: str) -> Tensor:
    return F.avg_pool2d(MASKS[:, REGIONS.index(name), None], 9, 1, 4)[0, 0] > 0.99


def test_forms_are_the_photographs_over_strokes_that_stay() -> None:
    """What is fine is added, what is broad goes part of the way; faces and hair are left alone."""
    ripples = 0.3 * torch.sin(torch.arange(SIZE) * 2.5).expand(1, 3, SIZE, SIZE)
    painting, body = make_texture(2) * 0.5 + HUE, find_inside("body")
    drawn = draw_forms(painting, 0.2 + ripples, 0.2 + ripples, MASKS, torch.ones(1, 1, SIZE, SIZE))
    added = (drawn - painting)[0, :, body]
    torch.testing.assert_close(added[0], added[2])  # hues are the painting's
    wanted = ripples[0, 0, body]
    slope = float((added[0] * wanted).mean() / wanted.square().mean())
    assert FINE_FORM_SHARE * 0.8 < slope < FINE_FORM_SHARE * 1.05
    grey = torch.full_like(painting, 0.2)
    flat = draw_forms(torch.zeros_like(painting), grey, grey, MASKS, torch.ones(1, 1, SIZE, SIZE))
    torch.testing.assert_close(flat[0, 0][body], torch.full_like(added[0], BROAD_FORM_SHARE * 0.2))
    for name in ("skin", "hair"):
        torch.testing.assert_close(drawn[0, :, find_inside(name)], painting[0, :, find_inside(name)])


def test_forms_are_drawn_on_the_ground_as_far_as_it_is_shown() -> None:
    painting, photo, ground = torch.zeros(1, 3, 2 * SIZE, 2 * SIZE), make_texture(1), find_inside("background")
    drawn = [draw_forms(painting, photo, photo, MASKS, torch.full((1, 1, SIZE, SIZE), shown)) for shown in (0, 0.5, 1)]
    inside = F.interpolate(ground[None, None].float(), 2 * SIZE)[0, 0] == 1
    strengths = [float(picture[0, 0][inside].std()) for picture in drawn]
    assert strengths[0] == 0 < strengths[1]
    assert strengths[2] == pytest.approx(2 * strengths[1], rel=1e-3)
    torch.testing.assert_close(draw_forms(painting, photo, photo, MASKS, torch.ones(1, 1, SIZE, SIZE), 0.0), painting)


def test_forms_are_as_fine_as_the_photograph_shows_them() -> None:
    size, body = 2 * SIZE, F.interpolate(find_inside("body")[None, None].float(), 2 * SIZE)[0, 0] == 1
    fine = 0.3 * (-1.0) ** torch.arange(size).expand(1, 3, size, size)
    grey = 0.4 * make_texture(1)
    photo = resize(grey, (size, size)) + fine
    drawn = [
        draw_forms(torch.zeros(1, 3, size, size), picture, grey, MASKS, torch.ones(1, 1, SIZE, SIZE))
        for picture in (photo, grey)
    ]
    added = (drawn[0] - drawn[1])[0, 0][body]
    slope = float((added * fine[0, 0][body]).mean() / fine[0, 0][body].square().mean())
    assert slope == pytest.approx(FINE_FORM_SHARE, rel=0.25)
