"""What the image encoder is given, and what comes out of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionModel

from acfun.base import Base, encode_image, encode_style_image
from acfun.base.image_embeds import prepare_pixel_values
from tests.tiny import NUM_STYLE_TOKENS, RESOLUTION, WIDTH, make_tiny_base


@pytest.fixture(scope="module")
def base() -> Base:
    return make_tiny_base()


def make_image(height: int, width: int) -> torch.Tensor:
    """A smooth colour gradient (1,3,H,W) in [-1,1]."""
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    return torch.stack([rows[:, None].expand(-1, width), columns.expand(height, -1), rows[:, None] * columns])[None]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (100, 64), (50, 90)])
def test_pixel_values_follow_the_image_processor(base: Base, height: int, width: int) -> None:
    image = make_image(height, width)
    array = ((image[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
    assert base.image_processor is not None
    expected = base.image_processor(Image.fromarray(array), return_tensors="pt").pixel_values
    found = prepare_pixel_values(base, image)
    assert found.shape == (1, 3, RESOLUTION, RESOLUTION)
    assert (found - expected).abs().max() < 0.04


def test_tokens_and_pooled_vector(base: Base) -> None:
    embeds = encode_image(base, make_image(40, 40))
    assert embeds.tokens.shape == (1, NUM_STYLE_TOKENS, WIDTH)
    assert base.image_encoder is not None
    torch.testing.assert_close(
        base.image_encoder.get_submodule("visual_projection")(embeds.tokens[:, 0]), embeds.pooled
    )
    assert torch.equal(encode_style_image(base, make_image(40, 40)), embeds.tokens)


def test_an_encoder_without_projection_works(base: Base) -> None:
    assert base.image_encoder is not None
    plain = replace(base, image_encoder=CLIPVisionModel(base.image_encoder.config).eval())
    embeds = encode_image(plain, make_image(40, 40))
    torch.testing.assert_close(embeds.tokens[:, 0], embeds.pooled)


def test_gradients_reach_the_image(base: Base) -> None:
    image = make_image(40, 48).requires_grad_(True)
    encode_style_image(base, image).square().sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


def test_other_shapes_are_refused(base: Base) -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 8, 8\)"):
        encode_style_image(base, torch.zeros(3, 8, 8))
