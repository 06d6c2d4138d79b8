"""Proportions: what a painted face departs by, and a photographed face that takes it on."""

import numpy as np
import pytest
import torch
from PIL import Image

from acfun.errors import StyleFileError
from acfun.face.regions import REGIONS
from acfun.images import pil_to_tensor, tensor_to_pil
from acfun.photo import shape_faces
from acfun.portrait import Portrait, StyleImage, place_mean_face
from acfun.proportions import MAX_DEPARTURE, measure_departure, take_on
from acfun.style import Style
from acfun.synthetic.renderers import shapes
from tests.test_photo import place_face

PUPIL_DISTANCE = 50.0


def place(points: np.ndarray) -> np.ndarray:
    """Points of the face frame in a picture of 200 px."""
    return (points * PUPIL_DISTANCE + (100, 80)).astype(np.float32)


def make_long_face() -> np.ndarray:
    return place(shapes.mean_shape() * (0.8, 1.2))


def test_the_average_face_departs_by_nothing() -> None:
    assert np.abs(measure_departure(place(shapes.mean_shape()))).max() < 1e-4


def test_a_long_face_departs_downwards_and_the_same_on_both_sides() -> None:
    departure = measure_departure(make_long_face())
    chin, (left, right) = departure[129], departure[[87, 93]]
    assert chin[1] > 0.05
    assert left[0] == pytest.approx(-right[0], abs=0.01)
    assert np.abs(departure).max() <= MAX_DEPARTURE


def test_what_is_turned_aside_is_left_out() -> None:
    turned = place(shapes.mean_shape() + (0.1, 0) * (np.abs(shapes.mean_shape()[:, :1]) < 0.3))
    assert np.abs(measure_departure(turned)[55, 0]) < 0.01


def test_a_face_takes_on_the_departure_and_the_rest_stays() -> None:
    image = np.random.default_rng(0).random((300, 320, 3), dtype=np.float32)
    landmarks = place(shapes.mean_shape()) + np.array([40, 60], np.float32)
    departure = measure_departure(make_long_face())
    warped, moved = take_on(image, landmarks.astype(np.float32), departure)
    shift = (moved - landmarks) / PUPIL_DISTANCE
    np.testing.assert_allclose(shift[[87, 93]], departure[[87, 93]], atol=0.04)
    assert shift[129, 1] > 0.6 * departure[129, 1]
    outside = np.ones(image.shape[:2], bool)
    outside[40:280, 20:270] = False
    np.testing.assert_array_equal(warped[outside], image[outside])
    same, unmoved = take_on(image, landmarks.astype(np.float32), 0 * departure)
    np.testing.assert_allclose(same, image, atol=1e-5)
    np.testing.assert_allclose(unmoved, landmarks, atol=1e-3)


def test_a_face_beyond_the_edge_of_its_picture_is_no_obstacle() -> None:
    image = np.zeros((60, 60, 3), np.float32)
    far = place(shapes.mean_shape()) + np.array([5000, 0], np.float32)
    warped, moved = take_on(image, far.astype(np.float32), measure_departure(make_long_face()))
    assert warped is image
    assert np.array_equal(moved, far.astype(np.float32))


def make_style(landmarks: torch.Tensor | None, score: float = 1.0) -> Style:
    head = Portrait(torch.zeros(1, 3, 32, 32), landmarks)
    tensors = StyleImage(head, head, score).to_tensors()
    return Style({f"image.{name}": tensor for name, tensor in tensors.items()}, {})


def test_photographs_are_shaped_by_a_style_with_a_face_and_only_then() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels).resize((200, 120), Image.Resampling.BICUBIC)
    faces = [place_face(40, 10, 100)]
    long_style = make_style(torch.from_numpy(make_long_face())[None])
    shaped, moved = shape_faces(photo, faces, long_style, 1.0)
    assert shaped.size == photo.size
    assert np.abs(np.asarray(shaped).astype(int) - np.asarray(photo)).max() > 3
    assert float((moved[0].landmarks - faces[0].landmarks).abs().max()) > 0.5
    doubtful = make_style(torch.from_numpy(make_long_face())[None], score=0.3)
    for style, amount in ((long_style, 0.0), (make_style(None), 1.0), (doubtful, 1.0), (None, 1.0)):
        same, unmoved = shape_faces(photo, faces, style, amount)
        assert same is photo
        assert unmoved == faces


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "CMYK"])
def test_pictures_of_every_mode_are_shaped_as_rgb(mode: str) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 200, 3), dtype=np.uint8)).convert(mode)
    faces, style = [place_face(40, 10, 100)], make_style(torch.from_numpy(make_long_face())[None])
    shaped, moved = shape_faces(photo, faces, style, 1.0)
    expected, _ = shape_faces(tensor_to_pil(pil_to_tensor(photo)), faces, style, 1.0)
    assert (shaped.mode, shaped.size, len(moved)) == ("RGB", photo.size, 1)
    assert np.array_equal(np.asarray(shaped), np.asarray(expected))


def test_a_style_image_survives_its_file_form_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand((1, 3, 90, 300), generator=generator) * 2 - 1
    image = StyleImage.from_picture(picture, 32, None)
    assert image.head.image.shape == (1, 3, 32, 32)
    assert image.painting.image.shape == (1, 3, 32, 64)  # no longer than twice its height
    restored = StyleImage.from_tensors(image.to_tensors())
    assert restored is not None
    assert torch.equal(restored.painting.image, image.painting.image)
    assert restored.head.landmarks is None
    head = Portrait(image.head.image, place_mean_face(32).half().float()[None])
    with_face = StyleImage(head, image.painting, 0.5)
    again = StyleImage.from_tensors(with_face.to_tensors())
    assert again is not None
    assert again.head.landmarks is not None
    assert again.score == 0.5
    assert torch.equal(again.head.landmarks, place_mean_face(32).half().float()[None])
    assert set(again.head.masks) == set(REGIONS)
    assert tensor_to_pil(again.head.image).size == (32, 32)
    small = again.shrink(16)
    assert small.head.image.shape == (1, 3, 16, 16)
    assert small.painting.image.shape == (1, 3, 16, 32)
    assert small.head.landmarks is not None
    assert torch.allclose(small.head.landmarks, (again.head.landmarks + 0.5) / 2 - 0.5)
    assert small.score == again.score
    assert StyleImage.from_tensors({}) is None


def test_pixels_of_the_first_format_are_read() -> None:
    pixels = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8)
    image = StyleImage.from_tensors({"head": pixels[..., :32], "painting": pixels, "score": torch.tensor(0.5)})
    assert image is not None
    assert torch.equal(((image.painting.image + 1) * 127.5).round().to(torch.uint8), pixels)


def test_a_damaged_style_image_is_named() -> None:
    style = make_style(None)
    damaged = style.tensors | {"image.painting": style.tensors["image.painting"][:20]}
    with pytest.raises(StyleFileError, match=r"picture is damaged \(image\.painting.*fit the style again"):
        _ = Style(damaged, {}).image
