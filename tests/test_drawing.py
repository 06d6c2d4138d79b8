"""Lines and tones of drawings."""

import torch

from acfun.drawing import MAX_SCALE, draw_lines, match_tones
from acfun.face.regions import draw_regions
from acfun.images import compute_luma
from acfun.portrait import place_mean_face

SIZE = 128


def make_face() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A grey face with a dark line across the nose and one beside the head; masks; landmarks."""
    landmarks = place_mean_face(SIZE)
    photo = torch.full((1, 3, SIZE, SIZE), 0.2)
    row = int(landmarks[:2, 1].mean()) + 12
    photo[..., row : row + 2, :] = -0.4
    return photo, draw_regions(landmarks[None], (SIZE, SIZE)), landmarks


def test_lines_of_the_face_are_drawn_and_others_are_not() -> None:
    photo, regions, landmarks = make_face()
    paper = torch.full((1, 3, 2 * SIZE, 2 * SIZE), 0.8)
    drawn = draw_lines(paper, photo, regions, landmarks)
    change = compute_luma(drawn - paper)[0]
    middle = int(landmarks[:2, 0].mean()) * 2
    assert float(change[:, middle].min()) < -0.5
    assert float(change[:, :4].abs().max()) < 1e-4
    assert float(change.max()) <= 1e-6
    assert torch.equal(draw_lines(paper, photo, regions, landmarks, scale=0), paper)


def test_tones_come_near_to_those_of_the_drawing_in_the_same_order() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand((1, 1, SIZE, SIZE), generator=generator).expand(-1, 3, -1, -1) - 0.5
    drawing = torch.where(torch.rand((1, 1, 64, 64), generator=generator) < 0.2, -0.9, 0.9).expand(-1, 3, -1, -1)
    matched = match_tones(picture, drawing)
    before, after = (compute_luma(image).flatten() for image in (picture, matched))
    order = before.argsort()
    assert bool((after[order].diff() >= -1e-5).all())
    # Half-way, a fifth of the pixels from the ink.
    torch.testing.assert_close(after[order[0]], (before.min() - 0.9) / 2, atol=1e-3, rtol=0)
    assert abs(float((after < 0.5 * before - 0.1).float().mean()) - 0.2) < 0.02


def test_what_is_of_one_tone_stays_so() -> None:
    picture = torch.cat([torch.full((1, 3, 8, 6), 0.7), torch.full((1, 3, 8, 2), -0.7)], 3)
    drawing = torch.linspace(-1, 1, 64).view(1, 1, 8, 8).expand(-1, 3, -1, -1)
    matched = compute_luma(match_tones(picture, drawing))[0]
    assert len(matched[:, :6].unique()) == 1
    assert len(matched[:, 6:].unique()) == 1
    assert float(matched[0, 0]) > float(matched[0, 7])


def test_lines_have_a_limit() -> None:
    photo, regions, landmarks = make_face()
    paper = torch.full((1, 3, SIZE, SIZE), 0.8)
    most, more = (draw_lines(paper, photo, regions, landmarks, scale) for scale in (MAX_SCALE, 20.0))
    assert torch.equal(most, more)
    assert bool(draw_lines(paper, photo, regions, torch.zeros_like(landmarks)).isfinite().all())
