"""Brushwork: pictures made of nothing but a painting's patches, the same every time, at any size."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from acfun.brushwork import RELIEF_REACH, SKIN_MANNER, STROKE_REACH, Brushwork
from acfun.face.regions import REGIONS, draw_regions
from acfun.images import resize
from acfun.patch_guide import MIN_LACK, Found, Guide
from acfun.patches import FEATURES, PATCH_SIZE, Patches, Queries, _measure_features
from acfun.portrait import Portrait, StyleImage, place_mean_face
from acfun.relief import measure_relief

SIZE = 128


def make_picture(seed: int, size: tuple[int, int] = (SIZE, SIZE), cells: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, cells, cells), generator=generator) * 2 - 1
    return F.interpolate(coarse, size, mode="bicubic").clamp(-1, 1)


def make_style(picture: Tensor, *, has_face: bool) -> StyleImage:
    portrait = Portrait(picture, place_mean_face(SIZE)[None] if has_face else None)
    return StyleImage(portrait, portrait, 1.0)


def make_regions(size: tuple[int, int] = (SIZE, SIZE)) -> Tensor:
    return draw_regions(place_mean_face(min(size))[None], size)


def make_queries(patches: Patches, indices: Tensor) -> Queries:
    return Queries(patches.appearance[indices], patches.luma[indices], torch.ones(len(indices)))


@pytest.mark.parametrize("has_face", [True, False])
def test_a_sketch_has_the_paintings_colours_and_the_pictures_light(has_face: bool) -> None:
    hue = torch.tensor([1.0, 0.8, 0.2])[None, :, None, None]
    painting = hue * torch.linspace(-0.9, 0.9, SIZE)[:, None].expand(1, 3, SIZE, SIZE)
    picture = make_picture(1)
    sketch = Brushwork(make_style(painting, has_face=has_face)).sketch(picture, make_regions())
    assert sketch.shape == picture.shape
    background = make_regions()[0, REGIONS.index("background")] > 0.99
    colours = sketch[0][:, background]
    along = (colours * hue[0, :, :, 0]).sum(0) / hue.square().sum()
    # All on one line, as the painting's are.
    torch.testing.assert_close(colours, along * hue[0, :, :, 0], atol=0.05, rtol=0)
    shades = [
        (image * torch.tensor([0.3, 0.6, 0.1])[:, None, None]).sum((0, 1)).flatten() for image in (sketch, picture)
    ]
    assert float(torch.corrcoef(torch.stack(shades))[0, 1]) > 0.4


def test_a_painting_is_its_own_finish() -> None:
    painting = make_picture(2)
    finished = Brushwork(make_style(painting, has_face=False)).finish(painting, make_regions())
    assert float((finished - painting).abs().mean()) < 0.05


def test_blurred_strokes_come_back() -> None:
    painting = make_picture(3, cells=32)
    blurred = F.interpolate(F.avg_pool2d(painting, 4), SIZE, mode="bilinear")
    finished = Brushwork(make_style(painting, has_face=False)).finish(blurred, make_regions())
    before, after = (float((image - painting).square().mean()) for image in (blurred, finished))
    assert after < before


def test_an_enlarged_picture_has_the_detail_of_the_larger_painting() -> None:
    """Stripes of one pixel, of which nothing is left in the painting at half its size."""
    stripes = 0.3 * (-1.0) ** torch.arange(2 * SIZE)
    large = (0.6 * make_picture(14, (2 * SIZE, 2 * SIZE)) + stripes).clamp(-1, 1)
    small = F.avg_pool2d(large, 2)
    styles = (make_style(small, has_face=False), make_style(large, has_face=False))
    enlarged = Brushwork(*styles).finish(small, make_regions(), enlargement=2)
    assert enlarged.shape == large.shape
    contrasts = [float((image[..., 1:] - image[..., :-1]).abs().mean()) for image in (enlarged, large)]
    assert contrasts[0] > 0.7 * contrasts[1]
    assert float((F.avg_pool2d(enlarged, 2) - small).abs().mean()) < 0.05


@pytest.mark.parametrize("enlargement", [1, 2])
@pytest.mark.parametrize("has_face", [True, False])
def test_strokes_stand_out_nearly_as_in_the_painting(has_face: bool, enlargement: int) -> None:
    """Grain that patches of a smooth picture cannot agree on."""
    grain = 0.15 * torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    painting = (0.5 * make_picture(6) + grain).clamp(-1, 1)
    finished = Brushwork(make_style(painting, has_face=has_face)).finish(
        0.5 * make_picture(7), make_regions(), enlargement=enlargement
    )
    ground = F.interpolate(make_regions()[:, -1:], finished.shape[-2:], mode="bilinear")
    pictures = (finished, resize(painting, (finished.shape[-2], finished.shape[-1])))
    reliefs = [float(measure_relief(picture, ground, RELIEF_REACH * enlargement)) for picture in pictures]
    assert 0.7 < reliefs[0] / reliefs[1] < 1.1


def test_smooth_skin_gets_strokes_where_the_picture_is_enlarged() -> None:
    """Strokes that lie across the painted skin, coarser than grain; patches of smooth skin take nothing of them."""
    rows = torch.arange(2 * SIZE)
    stripes = 0.25 * torch.sin(rows / 2.5)[:, None].expand(1, 3, 2 * SIZE, 2 * SIZE)
    large = (0.4 * make_picture(15, (2 * SIZE, 2 * SIZE), cells=4) + stripes).clamp(-1, 1)
    faces = [Portrait(image, place_mean_face(image.shape[-1])[None]) for image in (resize(large, SIZE), large)]
    brushwork = Brushwork(*(StyleImage(face, face, 1.0) for face in faces))
    smooth, regions = 0.4 * make_picture(16, cells=4), make_regions()
    skin = F.interpolate(regions[:, REGIONS.index("skin"), None], 2 * SIZE, mode="bilinear")
    finished = brushwork.finish(smooth, regions, enlargement=2)
    reliefs = [
        float(measure_relief(image, skin, 2 * STROKE_REACH)) for image in (resize(smooth, 2 * SIZE), finished, large)
    ]
    assert reliefs[0] < 0.3 * reliefs[2]
    assert 0.6 < reliefs[1] / reliefs[2] < 1.2
    assert torch.equal(brushwork.finish(smooth, regions, enlargement=2), finished)


@pytest.mark.parametrize("has_face", [True, False])
def test_a_calm_ground_gets_strokes_of_a_ground_that_has_them_everywhere(has_face: bool) -> None:
    rows = torch.arange(2 * SIZE)
    stripes = 0.25 * torch.sin(rows / 2.5)[:, None].expand(1, 3, 2 * SIZE, 2 * SIZE)
    calm = 0.4 * make_picture(15, (2 * SIZE, 2 * SIZE), cells=4)
    one_thing = torch.where(rows[:, None] < SIZE // 2, calm + stripes, calm)
    regions = torch.zeros(1, len(REGIONS), SIZE, SIZE)
    regions[:, REGIONS.index("background")] = 1
    ground, everywhere = 0.4 * make_picture(16, cells=4), torch.ones(1, 1, 2 * SIZE, 2 * SIZE)
    canvas, wanted, reliefs = resize(ground, 2 * SIZE), [], []
    for large in (calm + stripes, one_thing):
        landmarks = place_mean_face(2 * SIZE)[None] if has_face else None
        source = Portrait(large.clamp(-1, 1), landmarks)
        style = Portrait(resize(source.image, SIZE), place_mean_face(SIZE)[None] if has_face else None)
        brushwork = Brushwork(StyleImage(style, style, 1.0), StyleImage(source, source, 1.0))
        laid = brushwork._lay_strokes(canvas, ground, regions, 2)
        reliefs.append(float(measure_relief(laid, everywhere, 2 * STROKE_REACH)))
        wanted.append(float(measure_relief(source.image, everywhere, 2 * STROKE_REACH)))
    assert 0.6 < reliefs[0] / wanted[0] < 1.2
    assert reliefs[1] < 0.5 * wanted[1]


def test_eyes_are_nowhere_but_where_eyes_are() -> None:
    """A dark body finds no dark patches in a light painting but in its eyes and mouth, and does without."""
    painting, regions = torch.full((1, 3, SIZE, SIZE), 0.8), make_regions()
    features = regions[:, [REGIONS.index(name) for name in FEATURES]].sum(1, keepdim=True)
    painting = painting - 1.6 * features + 0.02 * make_picture(20)
    patches = Patches([(painting.clamp(-1, 1), make_regions())])
    share = _measure_features(patches.appearance)
    dark = patches.appearance[share.argmax()][None].clone()
    dark[:, -len(REGIONS) :] = patches.appearance[share.argmin()][-len(REGIONS) :]
    within = patches.appearance[share.argmax()][None]
    for appearance, has_features in ((dark, False), (within, True)):
        queries = Queries(appearance, patches.luma[share.argmax()][None], torch.ones(1))
        assert bool(share[patches.search(queries, 1)] > 0.5) == has_features
        both = torch.stack([share.argmax(), share.argmin()])[None]
        assert bool(share[patches.refine(queries, both)[0]] > 0.5) == has_features


def test_strokes_are_no_lines_of_the_painted_face_and_copied_in_whole() -> None:
    painting = 0.05 * make_picture(17, cells=32)
    painting[..., 60:62, :] = -1.0  # a line across the face
    brushwork = Brushwork(make_style(painting.clamp(-1, 1), has_face=True))
    strokes = brushwork._cut_strokes("skin", SKIN_MANNER, 2)
    assert strokes is not None
    patches = strokes.patches
    assert strokes.fine.shape == (1, 3, 2 * SIZE, 2 * SIZE)
    assert strokes.usual > 0
    row = patches.locate(torch.arange(len(patches.values)))[1]
    assert not patches.is_open[(row > 60 - PATCH_SIZE + 1) & (row < 60)].any()
    guide = Guide(0.2 * make_picture(18), make_regions(), brushwork.known_regions, 2, 1.0, keeps=False)
    lack = make_regions()[:, REGIONS.index("skin"), None]
    found = guide.match_strokes(patches, lack)
    assert found is not None
    assert guide.match_strokes(patches, 0 * lack) is None
    touched = guide._unfold_means(lack)[:, 0] > MIN_LACK
    assert patches.is_open[found.indices[touched]].all()
    _, _, column = (part.view(guide.grid) for part in patches.locate(found.indices))
    both = touched.view(guide.grid)[:, 1:] & touched.view(guide.grid)[:, :-1]
    is_next = (column[:, 1:] - column[:, :-1] == guide.stride)[both]
    assert float(is_next.float().mean()) > 0.5


@pytest.mark.parametrize("level", [0.0, 127 / 127.5 - 1, 0.3])
def test_flat_paintings_and_pictures_without_skin_are_enlarged_too(level: float) -> None:
    flat, nobody = torch.full((1, 3, SIZE, SIZE), level), torch.zeros(1, len(REGIONS), SIZE, SIZE)
    nobody[:, REGIONS.index("background")] = 1
    for painting, regions in ((flat, make_regions()), (make_picture(19), nobody)):
        finished = Brushwork(make_style(painting, has_face=True)).finish(flat, regions, enlargement=2)
        assert finished.shape == (1, 3, 2 * SIZE, 2 * SIZE)
        assert bool(finished.isfinite().all())


def test_a_search_never_comes_out_empty() -> None:
    patches = Patches([(make_picture(20, (32, 32)), None)])
    patches.is_open[:] = False
    patches.is_open[5 * (32 - PATCH_SIZE + 1) + 4] = True  # on no grid of three
    assert patches.search(make_queries(patches, torch.tensor([0, 9])), 3).unique().numel() == 1


@pytest.mark.parametrize("size", [(64, 96), (40, 56), (256, 128)])
def test_any_size_is_painted_the_same_way_twice(size: tuple[int, int]) -> None:
    brushwork, picture = Brushwork(make_style(make_picture(4), has_face=True)), make_picture(5, size)
    state = torch.random.get_rng_state()
    sketch = brushwork.sketch(picture, make_regions(size))
    assert sketch.shape == picture.shape
    assert sketch.isfinite().all()
    assert float(sketch.abs().max()) <= 1
    assert torch.equal(brushwork.sketch(picture, make_regions(size)), sketch)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_search_finds_a_patch_that_is_there() -> None:
    patches = Patches([(make_picture(6), None), (make_picture(7, (64, 80)), None)])
    indices = torch.tensor([0, 77, 5000, len(patches.values) - 1])
    assert torch.equal(patches.search(make_queries(patches, indices), 1), indices)


def test_patches_that_nothing_resembles_are_favoured() -> None:
    """Of two patches almost equally far, the one wins that no other query comes near."""
    patches = Patches([(make_picture(8, (16, 16)), None)])
    near, far = 11, 60
    patches.appearance.zero_()
    patches.luma.zero_()
    patches.is_open[:] = False
    patches.is_open[[near, far]] = True
    patches.appearance[near, 0], patches.appearance[far, 0] = 1.0, -1.05
    appearance = torch.zeros(2, patches.appearance.shape[1])
    appearance[1, 0] = 1.0
    queries = Queries(appearance, torch.zeros(2, patches.luma.shape[1]), torch.ones(2))
    assert patches.search(queries, 1).tolist() == [far, near]
    assert patches.refine(queries, torch.tensor([[near, far], [near, far]]))[0].tolist() == [near, near]


def test_places_are_found_again() -> None:
    patches = Patches([(make_picture(9, (32, 40)), None), (make_picture(10, (24, 24)), None)])
    indices = torch.arange(len(patches.values))
    source, row, column = patches.locate(indices)
    assert torch.equal(patches.index(source, row, column), indices)
    assert source.bincount().tolist() == [(32 - PATCH_SIZE + 1) * (40 - PATCH_SIZE + 1), (24 - PATCH_SIZE + 1) ** 2]
    beyond = patches.index(torch.tensor([1]), torch.tensor([99]), torch.tensor([-5]))
    assert [int(part) for part in patches.locate(beyond)] == [1, 24 - PATCH_SIZE, 0]


@pytest.mark.parametrize("scale", [0, 1])
def test_patches_are_proposed_where_their_neighbours_were_found(scale: int) -> None:
    """What was found in its own place is proposed its own place, at the same scale and at the next finer one."""
    painting, stride = make_picture(13, (64, 80)), 2
    finer, coarser = painting, F.avg_pool2d(painting, 2)
    known = coarser if scale else finer
    guide = Guide(known, make_regions((known.shape[-2], known.shape[-1])), (), 1, 1.0)
    patches = Patches([(known, None)])
    rows, columns = (torch.arange(count) - PATCH_SIZE // 2 for count in guide.grid)
    own = patches.index(torch.zeros(guide.grid, dtype=torch.long), *torch.meshgrid(rows, columns, indexing="ij"))
    asking = Guide(finer, make_regions((64, 80)), (), stride, 1.0) if scale else guide
    step, target = (stride, Patches([(finer, None)])) if scale else (1, patches)
    proposed = asking.propose(Found(guide, patches, own.flatten(), torch.zeros(own.numel())), target)
    rows, columns = (torch.arange(count) * step - PATCH_SIZE // 2 for count in asking.grid)
    wanted = target.index(torch.zeros(asking.grid, dtype=torch.long), *torch.meshgrid(rows, columns, indexing="ij"))
    is_inside = torch.zeros(asking.grid, dtype=torch.bool)
    is_inside[6:-6, 6:-6] = True
    assert bool((proposed == wanted.flatten()[:, None]).any(1)[is_inside.flatten()].all())


def test_the_whole_painting_gives_what_is_around_the_head() -> None:
    masks = torch.zeros(1, len(REGIONS), 32, 32)
    masks[:, REGIONS.index("skin"), :, :16] = 1
    masks[:, REGIONS.index("background"), :, 16:] = 1
    patches = Patches([(make_picture(11, (32, 32)), masks), (make_picture(12, (32, 32)), masks)])
    source, _, column = patches.locate(torch.arange(len(patches.values)))
    assert bool(patches.is_open[source == 0].all())
    assert torch.equal(patches.is_open[source == 1], column[source == 1] >= 16)


@pytest.mark.parametrize("factor", [1, 2])
def test_paint_of_one_part_is_hardly_laid_on_another(factor: int) -> None:
    """Everything was found where red hair meets a blue ground; known regions keep the edge sharp all the same."""
    masks, places = torch.zeros(1, len(REGIONS), 32, 32), torch.arange(32)
    hair, ground = REGIONS.index("hair"), REGIONS.index("background")
    masks[:, hair], masks[:, ground] = (places < 16).float(), (places >= 16).float()
    red = masks[:, hair, None] * torch.tensor([1.0, -1.0, -1.0])[:, None, None]
    painting = red + masks[:, ground, None] * torch.tensor([-1.0, -1.0, 1.0])[:, None, None]
    pictures, distances = [F.interpolate(painting, scale_factor=factor)], []
    for regions in (masks, None):
        patches = Patches([(painting, regions)])
        guide = Guide(painting, masks, ("hair", "background"), 1, 1.0)
        straddling = int((patches.locate(torch.arange(len(patches.values)))[2] == 16 - PATCH_SIZE // 2).nonzero()[0])
        count = len(guide.weights)
        found = Found(guide, patches, torch.full((count,), straddling), torch.zeros(count))
        canvas = guide.vote(found) if factor == 1 else guide.enlarge(found, pictures, factor)
        distances.append(float((canvas - pictures[0]).abs().mean(1)[..., 8 * factor : -8 * factor].mean()))
    assert distances[0] < 0.3 * distances[1]
