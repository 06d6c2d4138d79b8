"""Imagery: what a style asks of a portrait, region by region."""

from dataclasses import replace

import pytest
import torch

from acfun.face.regions import REGIONS, draw_regions
from acfun.imagery import MAX_HEAD_SCALE, TERMS, WHOLE, Imagery
from acfun.images import compute_luma, resize
from acfun.portrait import Portrait, StyleImage, place_mean_face
from tests.fitting import build_identity_encoder
from tests.tiny import make_tiny_base

SIZE = 256


def make_portrait(seed: int, *, has_face: bool = True) -> Portrait:
    """A face whose regions have colours of their own, and texture."""
    generator = torch.Generator().manual_seed(seed)
    landmarks = place_mean_face(SIZE)[None]
    colours = torch.rand((len(REGIONS), 3), generator=generator) * 1.4 - 0.7
    flat = torch.einsum("brhw,rc->bchw", draw_regions(landmarks, (SIZE, SIZE)), colours)
    coarse = torch.rand((1, 3, 16, 16), generator=generator) - 0.5
    texture = torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic")
    return Portrait((flat + 0.7 * texture).clamp(-1, 1), landmarks if has_face else None)


def make_imagery(*, has_face: bool = True, paper: str = "") -> Imagery:
    style = make_portrait(1, has_face=has_face)
    if paper:
        sepia = torch.tensor([1.0, 0.9, 0.7])[:, None, None] * compute_luma(style.image)[:, None]
        style = replace(style, image=sepia.abs() if paper == "light" else -sepia.abs())
    encoder = build_identity_encoder().requires_grad_(False)
    return Imagery(StyleImage(style, style, 1.0), SIZE, make_tiny_base().vae, encoder)


@pytest.mark.parametrize("has_face", [True, False])
def test_regions_are_the_faces_where_the_style_has_one(has_face: bool) -> None:
    imagery = make_imagery(has_face=has_face)
    target = imagery.describe(make_portrait(2))
    assert imagery.patches[0].keys() == (set(REGIONS) if has_face else {WHOLE})
    assert target.masks[0].keys() == imagery.patches[0].keys()
    torch.testing.assert_close(torch.stack(list(target.masks[0].values())).sum(0), torch.ones(SIZE, SIZE))


def test_the_style_itself_asks_for_nothing_and_a_photograph_for_its_own_person() -> None:
    imagery, photo = make_imagery(), make_portrait(2)
    style = make_portrait(1)
    clarity, directions = torch.ones(1), imagery.sample_directions(torch.Generator().manual_seed(0))
    own = imagery.compute_terms(style.image, [imagery.describe(style)], clarity, directions, TERMS)
    assert own.keys() == TERMS
    # At the coarsest scale eyes and mouth are too small to be regions, so the photograph's count as skin; and a
    # correlation of next to no light and shade is less than one.
    nothing = {"statistics": 0.02, "shading": 0.05}
    assert all(float(term) < nothing.get(name, 1e-4) for name, term in own.items())
    kept = imagery.compute_terms(photo.image, [imagery.describe(photo)], clarity, directions, TERMS)
    assert float(kept["statistics"]) > 0.05
    assert all(float(kept[name]) < nothing.get(name, 1e-4) for name in ("structure", "shading", "identity"))
    swapped = imagery.compute_terms(style.image, [imagery.describe(photo)], clarity, directions, TERMS)
    assert all(float(swapped[name]) > 10 * nothing.get(name, 1e-4) for name in ("structure", "shading", "identity"))


def test_recoloured_regions_take_the_styles_colours() -> None:
    imagery, photo = make_imagery(), make_portrait(2)
    targets = [imagery.describe(photo)]
    recoloured = imagery.recolour(photo.image, targets)
    mask = targets[0].masks[0]["background"] > 0.99
    wanted = make_portrait(1).image[0][:, mask].mean(1)
    before, after = (float((image[0][:, mask].mean(1) - wanted).norm()) for image in (photo.image, recoloured))
    assert after < 0.4 * before


def test_a_measure_asks_only_for_what_has_a_weight() -> None:
    imagery, photo = make_imagery(), make_portrait(2)
    latents = torch.randn(1, 4, SIZE // 4, SIZE // 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    measures = [
        imagery.build_measure([imagery.describe(photo)], weights, torch.Generator().manual_seed(0))
        for weights in ({"shading": 2.0}, {"shading": 1.0, "identity": 0.0})
    ]
    values = [measure(latents) for measure in measures]
    torch.testing.assert_close(values[0], 2 * values[1])
    (grad,) = torch.autograd.grad(values[0], latents)
    assert grad.abs().sum() > 0
    unlike = replace(imagery.describe(photo), shading=-imagery.describe(photo).shading)
    assert imagery.build_measure([unlike], {"shading": 2.0}, torch.Generator())(latents) != values[0]


def test_a_drawing_says_nothing_of_regions_and_keeps_light_people_light() -> None:
    assert not make_imagery().style.is_drawing
    assert not make_imagery(paper="dark").style.is_drawing
    imagery, photo = make_imagery(paper="light"), make_portrait(2)
    assert imagery.style.is_drawing
    targets = imagery.describe(photo)
    assert imagery.patches[0].keys() == targets.masks[0].keys() == {WHOLE}
    before, after = (compute_luma(image).flatten() for image in (photo.image, imagery.recolour(photo.image, [targets])))
    assert float(torch.corrcoef(torch.stack([before, after]))[0, 1]) > 0.95


def test_sketches_have_the_paintings_ground_where_the_photograph_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    style, photo = make_portrait(1), make_portrait(2)
    assert style.regions is not None
    assert photo.regions is not None
    halves = 0.2 * style.image + torch.where(torch.arange(SIZE) < SIZE // 2, 0.25, -0.25)
    painting = replace(style, image=torch.lerp(style.image, halves, style.regions[:, -1:]))
    encoder = build_identity_encoder().requires_grad_(False)
    imagery = Imagery(StyleImage(painting, painting, 1.0), SIZE, make_tiny_base().vae, encoder)
    monkeypatch.setattr(imagery.brushwork, "sketch", lambda picture, *_: picture)  # what is to be laid out
    wall = replace(photo, image=torch.lerp(photo.image, torch.full_like(photo.image, 0.2), photo.regions[:, -1:]))
    targets, differences = imagery.describe(wall), []
    for scale in (0.0, 1.0):
        top = compute_luma(imagery.sketch(wall, targets, backdrop_scale=scale))[0, : SIZE // 8]
        differences.append(float(top[:, : SIZE // 8].mean() - top[:, -SIZE // 8 :].mean()))
    assert differences[1] > 0.35 > 0.2 > abs(differences[0])


def test_darker_skin_stays_darker() -> None:
    imagery = make_imagery()
    light = make_portrait(2)
    assert light.regions is not None
    skin = light.regions[:, :1]
    dark = replace(light, image=(light.image - 0.4 * skin).clamp(-1, 1))
    tones = []
    for portrait in (light, dark):
        recoloured = imagery.recolour(portrait.image, [imagery.describe(portrait)])
        tones.append(float((compute_luma(recoloured) * skin[0]).sum() / skin.sum()))
    assert tones[1] < tones[0] - 0.1


def test_a_dark_painted_person_makes_people_darker_but_not_as_dark() -> None:
    photo, style = make_portrait(2), make_portrait(1)
    assert style.regions is not None
    skin = photo.regions[:, 0] if photo.regions is not None else torch.zeros(())
    encoder, tones, painted = build_identity_encoder().requires_grad_(False), [], []
    for shift in (0.3, -0.3):
        moved = replace(style, image=(0.5 * style.image + shift * style.regions[:, :1]).clamp(-1, 1))
        imagery = Imagery(StyleImage(moved, moved, 1.0), SIZE, make_tiny_base().vae, encoder)
        recoloured = imagery.recolour(photo.image, [imagery.describe(photo)])
        tones.append(float((compute_luma(recoloured) * skin).sum() / skin.sum()))
        painted.append(float((compute_luma(moved.image) * style.regions[:, 0]).sum() / style.regions[:, 0].sum()))
    assert 0.4 < (tones[0] - tones[1]) / (painted[0] - painted[1]) < 0.9


@pytest.mark.parametrize("region", ["hair", "background"])
def test_things_in_painted_hair_and_ground_do_not_colour_them(region: str) -> None:
    photo, style = make_portrait(2), replace(make_portrait(1), is_painting=True)
    assert style.regions is not None
    assert photo.regions is not None
    mask, photographed = (regions[:, REGIONS.index(region)] for regions in (style.regions, photo.regions))
    tops = (torch.arange(SIZE) < SIZE // 10)[:, None] * (mask[:, None] > 0.1).float()
    bare = replace(style, image=0.3 * style.image - 0.5)
    decked = replace(bare, image=torch.lerp(bare.image, torch.ones(()), tops))
    assert 0.03 < float(tops.sum() / mask.sum()) < 0.5
    encoder, colours = build_identity_encoder().requires_grad_(False), []
    for part in (bare, decked):
        imagery = Imagery(StyleImage(part, part, 1.0), SIZE, make_tiny_base().vae, encoder)
        recoloured = imagery.recolour(photo.image, [imagery.describe(photo)])
        colours.append((recoloured * photographed).sum((0, 2, 3)) / photographed.sum())
    painted = float((decked.image - bare.image).abs().mul(mask).sum() / mask.sum())
    assert float((colours[1] - colours[0]).abs().max()) < 0.2 * painted


@pytest.mark.parametrize(("scale", "has_regions"), [(1.0, True), (2.5, True), (4.0, False)])
def test_a_painting_with_a_small_head_is_one_region(scale: float, has_regions: bool) -> None:
    head = make_portrait(1)
    assert head.landmarks is not None
    style = StyleImage(head, Portrait(head.image, head.landmarks / scale), 1.0)
    assert style.head_scale == pytest.approx(scale)
    imagery = Imagery(style, SIZE, make_tiny_base().vae, build_identity_encoder().requires_grad_(False))
    assert set(imagery.patches[0]) == (set(REGIONS) if has_regions else {WHOLE})
    assert imagery.brushwork.has_face == has_regions


def test_pupils_in_one_place_are_a_small_head() -> None:
    head = make_portrait(1)
    assert head.landmarks is not None
    assert StyleImage(head, Portrait(head.image, torch.zeros_like(head.landmarks)), 0.3).head_scale > MAX_HEAD_SCALE


@pytest.mark.parametrize("enlargement", [1, 2])
def test_a_finished_drawing_has_lines_and_tones_of_drawings(enlargement: int, monkeypatch: pytest.MonkeyPatch) -> None:
    imagery, photo = make_imagery(paper="light"), make_portrait(2)
    target = imagery.describe(photo)
    arguments = (imagery.sketch(photo, target), photo.image, target, 1.0, enlargement)
    finished = imagery.finish(*arguments)
    assert finished.shape == (1, 3, enlargement * SIZE, enlargement * SIZE)
    assert float(finished.abs().max()) <= 1
    monkeypatch.setattr(imagery, "is_drawing", False)
    monkeypatch.setattr(imagery, "recolour", lambda images, _: imagery._map_tones(images).clamp(-1, 1))
    plain = imagery.finish(*arguments)
    wanted = compute_luma(imagery.style.painting.image).flatten().sort().values
    apart = [
        float((compute_luma(resize(image, SIZE)).flatten().sort().values - wanted).abs().mean())
        for image in (finished, plain)
    ]
    assert apart[0] < 0.8 * apart[1]
