"""Regions of portraits: where the picture's edges are, not where an average head has them."""

import pytest
import torch
from torch import Tensor

from acfun.face.regions import FACE_OVAL, REGIONS, draw_polygon, draw_regions
from acfun.face.segmentation import lend_hair, segment_regions
from acfun.face.segmenter import PARTS, PortraitSegmenter
from acfun.portrait import place_mean_face

SIZE = 192
COLOURS = {
    "skin": (0.6, 0.2, 0.0),
    "hair": (-0.6, -0.8, -0.9),
    "body": (-0.5, 0.1, -0.6),
    "background": (0.5, 0.6, 0.9),
}


def draw_sitter() -> tuple[Tensor, dict[str, Tensor]]:
    """A head (1,3,S,S) with a fringe and hair down to the shoulders; and where its parts are, (S,S) each."""
    landmarks = place_mean_face(SIZE)[None]
    unit = float((landmarks[0, 1] - landmarks[0, 0]).norm())
    centre, eyes = landmarks[0, :2].mean(0), float(landmarks[0, :2, 1].mean())
    rows, columns = torch.arange(SIZE)[:, None].float(), torch.arange(SIZE).float()
    masks = dict(zip(REGIONS, draw_regions(landmarks, (SIZE, SIZE))[0] > 0.5, strict=True))
    across = (columns - centre[0]).abs() / unit
    hair = (across < 1.35) & (rows > eyes - 1.7 * unit) & (rows < eyes + 1.6 * unit)
    oval = draw_polygon(landmarks[:, list(FACE_OVAL)], (SIZE, SIZE))[0] > 0.5
    face = oval & (rows > eyes - 0.5 * unit)
    neck = masks["skin"] & ~oval
    body = masks["body"] & ~neck
    parts = {"skin": face | neck, "hair": hair & ~face & ~neck & ~body, "body": body}
    parts["background"] = ~(parts["skin"] | parts["hair"] | parts["body"])
    noise = 0.15 * torch.randn((1, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    image = sum(mask * torch.tensor(COLOURS[name])[:, None, None] for name, mask in parts.items()) + noise
    return image.clamp(-1, 1), parts


def compute_overlap(mask: Tensor, wanted: Tensor) -> float:
    """Intersection over union."""
    return float(((mask > 0.5) & wanted).sum() / ((mask > 0.5) | wanted).sum())


def name_parts(regions: Tensor) -> dict[str, Tensor]:
    masks = dict(zip(REGIONS, regions[0], strict=True))
    return masks | {"skin": masks["skin"] + masks["eyes"] + masks["mouth"]}


def test_hair_ends_where_the_picture_says() -> None:
    image, wanted = draw_sitter()
    landmarks = place_mean_face(SIZE)[None]
    found, drawn = (
        name_parts(part) for part in (segment_regions(image, landmarks), draw_regions(landmarks, (SIZE, SIZE)))
    )
    assert all(compute_overlap(found[name], mask) > 0.85 for name, mask in wanted.items())
    assert compute_overlap(drawn["hair"], wanted["hair"]) < 0.6


def build_segmenter() -> PortraitSegmenter:
    """One that finds all parts alike everywhere."""
    segmenter = PortraitSegmenter(channels=(4, 4, 4, 4), crop_size=32).eval()
    torch.nn.init.zeros_(segmenter.output.weight)
    assert segmenter.output.bias is not None
    torch.nn.init.zeros_(segmenter.output.bias)
    return segmenter


@pytest.mark.parametrize("part", ["hair", "background"])
def test_the_segmenter_tells_what_colours_cannot(part: str) -> None:
    """Curls and leaves of the same colour, which touch the head."""
    image, wanted = draw_sitter()
    landmarks = place_mean_face(SIZE)[None]
    unit = float((landmarks[0, 1] - landmarks[0, 0]).norm())
    eyes = float(landmarks[0, :2, 1].mean())
    is_beside = (torch.arange(SIZE)[:, None] - eyes).abs() < 1.2 * unit
    across = (torch.arange(SIZE) - SIZE / 2).abs()
    curls = is_beside & (across < 1.9 * unit) & wanted["background"]
    image = torch.where(curls, 0.1 * image + torch.tensor(COLOURS["hair"])[:, None, None], image)
    segmenter = build_segmenter()
    undecided = name_parts(segment_regions(image, landmarks, segmenter=segmenter))[part][curls].mean()
    assert segmenter.output.bias is not None
    with torch.no_grad():
        segmenter.output.bias[PARTS.index(part)] = 2.0
    found = name_parts(segment_regions(image, landmarks, segmenter=segmenter))
    assert float(found[part][curls].mean()) > 0.8 > float(undecided)
    torch.testing.assert_close(
        sum(mask for name, mask in found.items() if name not in ("eyes", "mouth")), torch.ones(SIZE, SIZE)
    )


def test_long_hair_on_clothes_is_hair_and_chains_are_not() -> None:
    landmarks = place_mean_face(SIZE // 2)[None] + torch.tensor([SIZE / 4, 5.0])
    unit = float((landmarks[0, 1] - landmarks[0, 0]).norm())
    middle = landmarks[0, :2].mean(0)
    drawn = dict(zip(REGIONS, draw_regions(landmarks, (SIZE, SIZE))[0] > 0.5, strict=True))
    down, across = (torch.arange(SIZE)[:, None] - middle[1]) / unit, (torch.arange(SIZE) - middle[0]) / unit
    clothes = (down > 2) & (across.abs() < 3.5) & ~drawn["skin"]
    locks = (across.abs() > 1) & (across.abs() < 1.6) & (down > 0) & (down < 4)
    chain = (across.abs() < 0.05) & (down > 2.6)
    colours = [("body", clothes), ("hair", drawn["hair"] | locks | chain)]
    image = torch.tensor(COLOURS["background"])[:, None, None].expand(3, SIZE, SIZE)
    for name, mask in [("skin", drawn["skin"] | drawn["eyes"] | drawn["mouth"]), *colours]:
        image = torch.where(mask, torch.tensor(COLOURS[name])[:, None, None], image)
    noise = 0.1 * torch.randn((1, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    picture, low = (image + noise).clamp(-1, 1), locks & clothes & (down < 3.8) & (down > 2.2)
    found = [name_parts(segment_regions(picture, landmarks, segmenter=one)) for one in (None, build_segmenter())]
    assert float(found[0]["hair"][low].mean()) < 0.5 < 0.8 < float(found[1]["hair"][low].mean())
    assert float(found[1]["body"][clothes & ~locks & ~chain & (down > 2.5)].mean()) > 0.9
    assert float(found[1]["hair"][chain & clothes].mean()) < 0.3


def test_tiny_faces_have_regions_too() -> None:
    landmarks = (place_mean_face(SIZE)[None] - SIZE / 2) * 0 + SIZE / 2
    regions = segment_regions(draw_sitter()[0], landmarks, segmenter=build_segmenter())
    torch.testing.assert_close(regions.sum(1), torch.ones(1, SIZE, SIZE))


def test_hair_is_lent_to_a_portrait_where_it_is_certain_and_beside_its_own() -> None:
    landmarks = place_mean_face(SIZE)[None]
    unit = float((landmarks[0, 1] - landmarks[0, 0]).norm())
    regions, places = torch.zeros(1, len(REGIONS), SIZE, SIZE), torch.arange(SIZE)
    hair, ground, skin = (REGIONS.index(name) for name in ("hair", "background", "skin"))
    regions[:, skin, 100:], regions[:, ground, :100] = 1, 1
    regions[:, hair, 90:100], regions[:, ground, 90:100] = 1, 0
    known = torch.zeros(1, 1, SIZE, SIZE)
    known[..., : SIZE // 2] = (places < 110)[:, None].float()
    known[..., SIZE // 2 :] = 0.5
    lent = lend_hair(regions, known, landmarks)
    torch.testing.assert_close(lent.sum(1), torch.ones(1, SIZE, SIZE))
    near = slice(90 - int(0.7 * unit), 90)
    assert float(lent[0, hair, near, : SIZE // 2 - 2].min()) == pytest.approx(1)
    assert float(lent[0, hair, near, SIZE // 2 :].max()) == 0
    assert float(lent[0, hair, : 90 - int(1.3 * unit)].max()) == 0
    torch.testing.assert_close(lent[:, skin], regions[:, skin])


def test_wide_clothes_are_body_and_the_ground_beside_them_is_not() -> None:
    landmarks = place_mean_face(SIZE // 3)[None] + SIZE / 3
    unit = float((landmarks[0, 1] - landmarks[0, 0]).norm())
    below, across = torch.arange(SIZE)[:, None] - 0.6 * SIZE, (torch.arange(SIZE) - SIZE / 2).abs()
    wanted = (below > 0) & (across < 4.5 * unit)
    drawn = draw_regions(landmarks, (SIZE, SIZE))[0]
    assert float(drawn[REGIONS.index("body")][wanted].mean()) < 0.8
    masks = {name: mask * ~wanted for name, mask in zip(REGIONS, drawn, strict=True)} | {"body": wanted}
    noise = 0.15 * torch.randn((1, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    image = sum(masks[name] * torch.tensor(colour)[:, None, None] for name, colour in COLOURS.items()) + noise
    found = name_parts(segment_regions(image.clamp(-1, 1), landmarks))["body"]
    assert compute_overlap(found, wanted) > 0.9


def test_landmarks_that_are_a_little_off_are_put_right() -> None:
    image, wanted = draw_sitter()
    landmarks = place_mean_face(SIZE)[None]
    unit = (landmarks[0, 1] - landmarks[0, 0]).norm()
    found = name_parts(segment_regions(image, landmarks + 0.4 * unit, certainty=0.2))
    assert compute_overlap(found["skin"], wanted["skin"]) > 0.8
    assert float(found["eyes"].max()) == float(found["mouth"].max()) == 0


@pytest.mark.parametrize("size", [(192, 192), (300, 200), (16, 24)])
def test_regions_sum_to_one_and_are_the_same_twice(size: tuple[int, int]) -> None:
    image = torch.rand((1, 3, *size), generator=torch.Generator().manual_seed(1)) * 2 - 1
    landmarks = place_mean_face(min(size))[None]
    regions = segment_regions(image, landmarks)
    assert regions.shape == (1, len(REGIONS), *size)
    torch.testing.assert_close(regions.sum(1), torch.ones(1, *size))
    assert float(regions.min()) >= 0
    assert torch.equal(segment_regions(image, landmarks), regions)


def test_a_picture_of_one_colour_has_its_regions_where_landmarks_are() -> None:
    landmarks = place_mean_face(SIZE)[None]
    found = name_parts(segment_regions(torch.zeros(1, 3, SIZE, SIZE), landmarks))
    drawn = name_parts(draw_regions(landmarks, (SIZE, SIZE)))
    assert compute_overlap(found["skin"], drawn["skin"] > 0.5) > 0.7
    assert compute_overlap(found["background"], drawn["background"] > 0.5) > 0.7
