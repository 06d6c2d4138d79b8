"""Scenes: heads are gone, what stands around them goes on behind them, and bodies are told from the ground."""

import torch
from torch import Tensor
from torch.nn import functional as F

from acfun.face.regions import REGIONS, draw_regions
from acfun.portrait import Portrait, place_mean_face
from acfun.scene import build_scene, segment_photo

SIZE = 128
SKIN, HAIR, BODY, GROUND = (0.6, 0.2, 0.0), (-0.6, -0.8, -0.9), (-0.5, 0.4, -0.6), (0.5, 0.6, 0.9)
COLOURS = dict(zip(REGIONS, (SKIN, SKIN, SKIN, HAIR, BODY, GROUND), strict=True))


def cut_scene(photo: Tensor, landmarks: Tensor, heads: Tensor, enlargement: int = 1) -> Portrait:
    return build_scene(photo, landmarks, segment_photo(photo, landmarks, (SIZE, SIZE)), heads, enlargement)


def test_heads_are_hidden_and_bodies_and_ground_remain() -> None:
    people = [place_mean_face(SIZE // 2), place_mean_face(SIZE // 3) + torch.tensor([SIZE * 0.6, 10.0])]
    landmarks = torch.stack(people)
    image = torch.tensor(GROUND)[None, :, None, None].expand(1, 3, SIZE, SIZE)
    heads, bodies = torch.zeros(1, 1, SIZE, SIZE), torch.zeros(1, 1, SIZE, SIZE)
    for person in people:
        drawn = draw_regions(person[None], (SIZE, SIZE))
        colours = torch.einsum("brhw,rc->bchw", drawn, torch.tensor([COLOURS[name] for name in REGIONS]))
        image = torch.lerp(image, colours, 1 - drawn[:, -1:])
        heads = torch.maximum(heads, drawn[:, :4].sum(1, keepdim=True))
        bodies = torch.maximum(bodies, drawn[:, REGIONS.index("body"), None])
    scene = cut_scene(image, landmarks, torch.cat([heads, torch.ones_like(heads)], 1))
    assert scene.regions is not None
    masks = dict(zip(REGIONS, scene.regions[0], strict=True))
    torch.testing.assert_close(scene.regions.sum(1), torch.ones(1, SIZE, SIZE))
    assert all(float(masks[name].max()) == 0 for name in ("skin", "eyes", "mouth", "hair"))
    assert float(masks["body"][bodies[0, 0] > 0.9].mean()) > 0.8
    assert float(masks["background"][(heads + bodies)[0, 0] == 0].mean()) > 0.8
    # Nothing that is left has the colours of skin or hair: red goes with blue or with green alone.
    distances = [(scene.image - torch.tensor(colour)[None, :, None, None]).norm(dim=1) for colour in (SKIN, HAIR)]
    assert float(torch.stack(distances).amin(0)[heads[:, 0] > 0.9].min()) > 0.4
    torch.testing.assert_close(scene.landmarks, landmarks[:1])


def test_hair_beyond_the_portraits_stays() -> None:
    face = place_mean_face(SIZE // 2)[None] + torch.tensor([SIZE / 4, SIZE / 3])
    drawn = draw_regions(face, (SIZE, SIZE))
    top = int((drawn[0, :4].sum(0).amax(1) > 0.5).nonzero()[0])
    tower = torch.zeros(1, 1, SIZE, SIZE)
    tower[..., top - 16 : top + 12, SIZE // 2 - 14 : SIZE // 2 + 14] = 1
    colours = torch.einsum("brhw,rc->bchw", drawn, torch.tensor([COLOURS[name] for name in REGIONS]))
    image = torch.lerp(colours, torch.tensor(HAIR)[None, :, None, None].expand(1, 3, SIZE, SIZE), tower)
    heads = torch.maximum(drawn[:, :4].sum(1, keepdim=True), tower)
    shown = (torch.arange(SIZE) >= top)[:, None].float().expand(1, 1, SIZE, SIZE)
    beyond = tower[0, 0] * (torch.arange(SIZE) < top - 4)[:, None] > 0
    for is_cut in (True, False):
        portraits = shown if is_cut else torch.ones_like(shown)
        scene = cut_scene(image, face, torch.cat([heads * portraits, portraits], 1))
        assert (float(scene.masks["hair"][beyond].mean()) > 0.7) == is_cut
        distance = (scene.image - torch.tensor(HAIR)[None, :, None, None]).norm(dim=1)[0, beyond]
        assert (float(distance.mean()) < 0.2) == is_cut


def test_hair_goes_on_behind_the_border_of_a_portrait() -> None:
    face = place_mean_face(SIZE // 2)[None] + torch.tensor([SIZE / 4, SIZE / 3])
    drawn = draw_regions(face, (SIZE, SIZE))
    top = int((drawn[0, :4].sum(0).amax(1) > 0.5).nonzero()[0])
    image = torch.einsum("brhw,rc->bchw", drawn, torch.tensor([COLOURS[name] for name in REGIONS]))
    hair = (drawn[0, REGIONS.index("hair")] > 0.95) * (torch.arange(SIZE) < top + 6)[:, None] > 0
    assert int(hair.sum()) > 20
    # The portrait is half transparent down to eight pixels below the hair's upper edge, and opaque from there on.
    shown = torch.where(torch.arange(SIZE) < top + 8, 0.6, 1.0)[:, None].expand(1, 1, SIZE, SIZE)
    scene = cut_scene(image, face, torch.cat([shown * drawn[:, :4].sum(1, keepdim=True), shown], 1))
    assert float(scene.masks["hair"][hair].mean()) > 0.6
    distance = (scene.image - torch.tensor(HAIR)[None, :, None, None]).norm(dim=1)[0]
    assert float(distance[hair].mean()) < 0.3
    # Behind the opaque part of the portrait it does not go on, nor does its colour.
    assert float(distance[top + 9 : top + 14, SIZE // 2 - 4 : SIZE // 2 + 4].min()) > 1
    behind = scene.image[0, :, top + 9 : top + 25, SIZE // 2 - 20 : SIZE // 2 + 20]
    assert float((behind - torch.tensor(GROUND)[:, None, None]).abs().max()) < 0.05


def test_necks_beyond_the_portraits_are_neither_ground_nor_clothes() -> None:
    face = place_mean_face(SIZE // 2)[None] + torch.tensor([SIZE / 4, SIZE / 6])
    drawn = draw_regions(face, (SIZE, SIZE))
    image = torch.einsum("brhw,rc->bchw", drawn, torch.tensor([COLOURS[name] for name in REGIONS]))
    lowest = int((drawn[0, 0].amax(1) > 0.5).nonzero()[-1])
    shown = (torch.arange(SIZE) < lowest - 12)[:, None].float().expand(1, 1, SIZE, SIZE)
    heads = drawn[:, :4].sum(1, keepdim=True) * shown
    scene = cut_scene(image, face, torch.cat([heads, shown], 1))
    neck = (drawn[0, 0] > 0.95) * (torch.arange(SIZE) > lowest - 8)[:, None] > 0
    assert int(neck.sum()) > 20
    assert float(scene.masks["skin"][neck].mean()) > 0.6


def test_a_scene_may_be_finer_than_its_regions() -> None:
    face = place_mean_face(SIZE // 2)[None] + torch.tensor([SIZE / 4, SIZE / 3])
    drawn = draw_regions(face, (SIZE, SIZE))
    image = torch.einsum("brhw,rc->bchw", drawn, torch.tensor([COLOURS[name] for name in REGIONS]))
    stripes = 0.1 * (-1.0) ** torch.arange(2 * SIZE)
    photo = F.interpolate(image, scale_factor=2) + stripes
    heads = torch.cat([drawn[:, :4].sum(1, keepdim=True), torch.ones_like(drawn[:, :1])], 1)
    heads = F.interpolate(heads, scale_factor=2)
    scene = cut_scene(photo, 2 * (face + 0.5) - 0.5, heads, 2)
    assert scene.image.shape == (1, 3, 2 * SIZE, 2 * SIZE)
    assert scene.regions is not None and scene.regions.shape == (1, len(REGIONS), SIZE, SIZE)
    torch.testing.assert_close(scene.image[..., :20, :], photo[..., :20, :], atol=0.02, rtol=0)
    row, column = (2 * round(float(place)) for place in face[0].mean(0).flip(0))
    assert float((scene.image[0, :, row, column] - torch.tensor(SKIN)).norm()) > 0.4
