"""Peers that share attention: what is off is plain reconstruction, what is on carries the style's statistics."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from acfun.base import Base
from acfun.base.vae_features import decode_latents, encode_latents
from acfun.cfun import Site
from acfun.evaluation.peers import attention
from acfun.evaluation.peers.classic import match_moments
from acfun.evaluation.suites import Scene
from tests.evaluation.test_peers import make_scene
from tests.tiny import make_tiny_base

ROWS = (3, 2, 16, 4)


@pytest.fixture(scope="module")
def base() -> Base:
    return make_tiny_base()


@pytest.fixture(autouse=True)
def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "NUM_STEPS", 10)


def draw(seed: int, shape: tuple[int, ...] = ROWS) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * (1 + seed) + seed


def test_moments_are_those_that_are_wanted() -> None:
    values, wanted = draw(0), draw(3)[:1]
    moved = match_moments(values, wanted, (2,))
    for moments in (torch.mean, torch.std):
        found = moments(moved, dim=2)
        torch.testing.assert_close(found, moments(wanted, dim=2).expand_as(found), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(match_moments(values, values, (2,)), values, rtol=1e-4, atol=1e-4)


def denoise_plainly(base: Base, start: attention.Inverted, sites: list[Site]) -> Tensor:
    rows = torch.cat([start.style, start.contents])
    return attention.denoise_together(base, start, rows, sites, scaled_dot_product_attention)


def test_sharing_switched_off_is_plain_reconstruction(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene()
    monkeypatch.setattr(attention, "NUM_STEPS", 40)
    start = attention.invert_scene(base, scene, "a painting", 0.6)
    sites = attention.find_self_attention(base)
    with torch.no_grad():
        plain = attention.denoise_together(base, start, torch.cat([start.style, start.contents]), [], _never)
        switched_off = denoise_plainly(base, start, sites)
        shared = attention.denoise_together(
            base, start, torch.cat([start.style, start.contents]), sites, attention.share_attention
        )
    torch.testing.assert_close(switched_off, plain, rtol=1e-4, atol=1e-5)
    faces = encode_latents(base.vae, scene.faces)
    assert (plain[1:] - faces).norm() < 0.2 * (start.contents - faces).norm()
    torch.testing.assert_close(shared[:1], plain[:1], rtol=1e-4, atol=1e-5)  # the style image itself is not changed
    assert not torch.allclose(shared[1:], plain[1:], atol=1e-3)


def test_sharing_with_itself_changes_nothing() -> None:
    query, key, value = (draw(seed)[:1].expand(2, -1, -1, -1) for seed in range(3))
    shared = attention.share_attention(query, key, value)
    torch.testing.assert_close(shared, scaled_dot_product_attention(query, key, value), rtol=1e-3, atol=1e-3)


def test_shared_attention_sees_the_first_row_twice_as_well() -> None:
    query, key = torch.zeros(ROWS), draw(1)
    value = torch.zeros(ROWS)
    value[:1] = 1.0
    shared = attention.share_attention(query, key, value)
    # Without queries every key weighs the same, those of the first row double.
    torch.testing.assert_close(shared[1:], torch.full_like(shared[1:], 2 / 3))
    assert torch.equal(shared[:1], torch.ones_like(shared[:1]))
    assert math.exp(attention.SHARED_SHIFT) == pytest.approx(2)


def test_injection_at_gamma_one_asks_with_the_photographs_queries() -> None:
    query, key, value = (draw(seed, (5, 2, 16, 4)) for seed in range(3))
    attend = attention.build_injection(2, 1.0, temperature=1.0)
    injected = attend(query, key, value)
    style_key, style_value = (part[:1].expand(2, -1, -1, -1) for part in (key, value))
    torch.testing.assert_close(injected[3:], scaled_dot_product_attention(query[1:3], style_key, style_value))
    torch.testing.assert_close(injected[:3], scaled_dot_product_attention(query[:3], key[:3], value[:3]))
    blended = attention.build_injection(2, 0.0, temperature=1.0)(query, key, value)
    torch.testing.assert_close(blended[3:], scaled_dot_product_attention(query[3:], style_key, style_value))


def test_temperature_sharpens_attention() -> None:
    query, key = draw(0, (3, 1, 8, 4)), draw(0, (3, 1, 8, 4))
    value = torch.eye(8).expand(3, 1, 8, 8)
    peaks = [attention.build_injection(1, 1.0, heat)(query, key, value)[2].amax(-1).mean() for heat in (1.0, 1.5, 3.0)]
    assert peaks[0] < peaks[1] < peaks[2]


@pytest.mark.parametrize("gamma", [-0.1, 1.1])
def test_a_gamma_out_of_range_is_named(gamma: float) -> None:
    with pytest.raises(ValueError, match=f"gamma {gamma} is outside"):
        attention.build_injection(1, gamma)


def test_a_photograph_in_its_own_style_is_reconstructed(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene(style_seed=4, face_seed=4)
    scene = Scene(scene.name, scene.people[:1], scene.picture, scene.style, scene.picture, scene.landmarks[:1])
    # At temperature 1 keys, values, queries and moments are the photograph's own.
    build = attention.build_injection
    monkeypatch.setattr(attention, "build_injection", lambda count, gamma: build(count, gamma, temperature=1.0))
    painted = attention.inject_style(base, scene, 0)(0.75)
    start = attention.invert_scene(base, scene, "", 1.0)
    with torch.no_grad():
        plain = decode_latents(base.vae, denoise_plainly(base, start, [])[1:]).clamp(-1, 1)
    torch.testing.assert_close(painted, plain, rtol=1e-3, atol=1e-3)


def test_processors_are_put_back_after_an_error(base: Base) -> None:
    start = attention.invert_scene(base, make_scene(), "", 0.5)
    before = {name: type(processor) for name, processor in base.unet.attn_processors.items()}
    with pytest.raises(RuntimeError, match="on purpose"):
        attention.denoise_together(base, start, start.contents, attention.find_self_attention(base), _never)
    assert {name: type(processor) for name, processor in base.unet.attn_processors.items()} == before


def test_injection_is_in_the_decoders_last_blocks(base: Base) -> None:
    names = [site.name for site in attention.find_decoder_attention(base)]
    assert names and all(name.startswith("up_blocks.1.") and name.endswith(".attn1") for name in names)
    assert len(attention.find_self_attention(base)) > len(names)


def _never(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    raise RuntimeError("on purpose")
