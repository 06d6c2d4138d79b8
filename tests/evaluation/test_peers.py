"""Peers that learn or borrow a style: each does what its paper claims, and leaves the base as it was."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from acfun.afun import PlaceholderToken
from acfun.base import Base, encode_tokens, tokenize
from acfun.base.vae_features import encode_latents
from acfun.cfun import find_attention_blocks, place
from acfun.cfun.lora import PROJECTIONS
from acfun.cfun.sites import find_children
from acfun.devices import fork_seed
from acfun.errors import ConfigError
from acfun.evaluation.methods import METHODS
from acfun.evaluation.peers import attention, editing, low_rank, words
from acfun.evaluation.peers.training import Recipe, compute_denoising_loss, cut_style, train
from acfun.evaluation.suites import Scene
from acfun.portrait import Portrait, StyleImage, place_mean_face
from tests.tiny import LATENT_CHANNELS, LATENT_SIZE, RESOLUTION, make_tiny_base

PEERS = [name for name, method in METHODS.items() if method.prepare.__module__.startswith("acfun.evaluation.peers.")]
LEARNERS = ("textual_inversion", "dreamstyler", "inst", "dreambooth_lora", "b_lora")
SHORT = Recipe(num_steps=2, learning_rate=1e-2)


@pytest.fixture
def base() -> Base:
    return make_tiny_base()


@pytest.fixture(autouse=True)
def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits of two steps, runs of four."""
    for module, name in ((words, "WORD"), (words, "STAGED"), (words, "ATTENTION"), (low_rank, "DREAMBOOTH")):
        monkeypatch.setattr(module, f"{name}_RECIPE", replace(SHORT, is_mirrored=True))
    monkeypatch.setattr(low_rank, "BLOCK_RECIPE", SHORT)
    monkeypatch.setattr(editing, "NUM_STEPS", 4)
    monkeypatch.setattr(attention, "NUM_STEPS", 4)


def make_pictures(count: int, seed: int) -> Tensor:
    coarse = torch.rand((count, 3, 8, 8), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, RESOLUTION, mode="bicubic").clamp(-1, 1)


def make_scene(*, style_seed: int = 0, face_seed: int = 1) -> Scene:
    landmarks = place_mean_face(RESOLUTION)[None]
    style, faces = make_pictures(1, style_seed), make_pictures(2, face_seed)
    portrait = Portrait(style, landmarks)
    return Scene(
        "noise", ("Ann", "Bert"), style, StyleImage(portrait, portrait, 1.0), faces, landmarks.expand(2, -1, -1)
    )


def take_state(base: Base) -> dict[str, Tensor]:
    """Every weight, and whether it is trained, of all modules."""
    modules = {"unet": base.unet, "vae": base.vae, "text": base.text_encoder, "image": base.image_encoder}
    return {
        f"{part}.{name} {tensor.requires_grad} {tensor.grad is None}": tensor.detach().clone()
        for part, module in modules.items()
        for name, tensor in module.named_parameters()
    }


def assert_untouched(base: Base, before: dict[str, Tensor]) -> None:
    after = take_state(base)
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    processors = {type(site.module.processor).__name__ for site in attention.find_self_attention(base)}
    assert processors == {"AttnProcessor2_0"}
    assert not any(module.training for module in (base.unet, base.text_encoder, base.vae))


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_paints_the_same_twice_and_leaves_the_base_as_it_was(base: Base, name: str) -> None:
    method, scene, before = METHODS[name], make_scene(), take_state(base)
    state = torch.random.get_rng_state()
    painted = []
    for _ in range(2):
        painter = method.prepare(base, scene, 0)
        assert_untouched(base, before)
        painted.append(painter(method.settings[-1]))
        assert_untouched(base, before)
    assert painted[0].shape == scene.faces.shape
    assert painted[0].isfinite().all() and painted[0].abs().max() <= 1
    assert not painted[0].requires_grad
    assert torch.equal(*painted)
    assert torch.equal(torch.random.get_rng_state(), state)
    weaker = method.prepare(base, scene, 0)(method.settings[0])
    assert not torch.equal(weaker, painted[0])


@pytest.mark.parametrize("name", LEARNERS)
def test_a_peer_that_learns_takes_the_style_into_account(base: Base, name: str) -> None:
    first, second = (METHODS[name].prepare(base, make_scene(style_seed=seed), 0)(0.5) for seed in (0, 5))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", [*LEARNERS, "style_aligned"])
def test_a_strength_out_of_range_is_named(base: Base, name: str) -> None:
    painter = METHODS[name].prepare(base, make_scene(), 0)
    with pytest.raises(ValueError, match=r"strength 1.5 is outside"):
        painter(1.5)


@pytest.mark.parametrize("name", ["textual_inversion", "dreamstyler", "inst"])
def test_a_base_with_another_word_in_it_is_refused(base: Base, name: str) -> None:
    with words.placed_word(base), pytest.raises(ConfigError, match="carries a style already"):
        METHODS[name].prepare(base, make_scene(), 0)


@pytest.mark.parametrize("name", ["dreambooth_lora", "b_lora"])
def test_a_base_with_another_adapter_in_it_is_refused(base: Base, name: str) -> None:
    sites = low_rank.find_block_pair(base)[1]
    with low_rank.placed_update(base, sites, 2), pytest.raises(ConfigError, match="carries an adapter already"):
        METHODS[name].prepare(base, make_scene(), 0)


def draw_batch(base: Base, scene: Scene, count: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Style latents, noise and timesteps that no fit has drawn."""
    generator = torch.Generator().manual_seed(99)
    latents = encode_latents(base.vae, cut_style(scene)).expand(count, -1, -1, -1)
    noise = torch.randn(latents.shape, generator=generator)
    return latents, noise, torch.randint(1000, (count,), generator=generator)


@torch.no_grad()
def compute_style_loss(base: Base, scene: Scene, prompt_embeds: Tensor) -> float:
    latents, noise, timesteps = draw_batch(base, scene)
    return float(compute_denoising_loss(base, latents, noise, timesteps, prompt_embeds.expand(len(latents), -1, -1)))


def measure_word(
    base: Base, scene: Scene, vectors: Callable[[PlaceholderToken], Iterator[torch.nn.Parameter]]
) -> tuple[float, float]:
    """Loss of the style image under a word of its own, before and after a fit of 60 steps; the rest is untouched."""
    recipe, before = Recipe(num_steps=60, learning_rate=3e-2, batch_size=4), take_state(base)
    with words.placed_word(base) as token, fork_seed(0, base.device):
        parameters = list(vectors(token))
        ids = tokenize(token.tokenizer, words.STYLED_PROMPT.format(words.PLACEHOLDER))
        losses = [compute_style_loss(base, scene, encode_tokens(base.text_encoder, ids))]
        words.learn(base, scene, token, [words.STYLED_PROMPT], parameters, recipe, 0)
        losses.append(compute_style_loss(base, scene, encode_tokens(base.text_encoder, ids)))
        assert all(parameter.grad is not None and parameter.dtype == torch.float32 for parameter in parameters)
    assert_untouched(base, before)
    return losses[0], losses[1]


def test_textual_inversion_changes_one_vector_and_lowers_the_loss(base: Base) -> None:
    first, last = measure_word(base, make_scene(), lambda token: iter([token.embedding.vectors.offset]))
    assert last < first


def test_inst_predicts_its_word_from_the_picture(base: Base) -> None:
    def place_attention(token: PlaceholderToken) -> Iterator[torch.nn.Parameter]:
        predicted = words.predict_word(base, token, make_scene())
        assert torch.equal(predicted()[0], predicted.initial)  # nothing is learnt yet
        token.embedding.add_module("vectors", predicted)
        return predicted.attention.parameters()

    first, last = measure_word(base, make_scene(), place_attention)
    assert last < first


def test_stochastic_inversion_is_the_noise_that_leads_back(base: Base) -> None:
    embeds = editing.encode_text(base, "a face")
    predict = editing.build_prediction(base, lambda timestep: embeds, 1.0)
    latents, noise = torch.randn(
        2, 2, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=torch.Generator().manual_seed(0)
    )
    timestep = torch.tensor(500)
    found = editing.build_stochastic_inversion(base, predict)(latents, noise, timestep)
    # By definition the noised picture is made of the predicted picture and the predicted noise.
    noisy_latents = base.scheduler.add_noise(latents, noise, timestep[None])
    velocity = predict(noisy_latents, timestep)
    alpha = base.scheduler.alphas_cumprod[500]
    torch.testing.assert_close(found, alpha.sqrt() * velocity + (1 - alpha).sqrt() * noisy_latents)


def test_dreamstyler_has_a_word_for_each_stage(base: Base) -> None:
    with words.placed_word(base, words.NUM_STAGES) as token:
        offset = token.embedding.vectors.offset
        assert offset.shape[0] == words.NUM_STAGES == 6
        recipe = Recipe(num_steps=1, learning_rate=1e-2, weight_decay=0.0)
        generator = torch.Generator().manual_seed(0)
        torch.randint(1, (1,), generator=generator)
        torch.randn(1, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=generator)
        stage = int(torch.randint(1000, (1,), generator=generator)) * 6 // 1000
        embed = words.learn(base, make_scene(), token, [words.STYLED_PROMPT], [offset], recipe, 0)
        assert offset.detach().abs().sum(1).nonzero().flatten().tolist() == [stage]  # one step teaches its stage alone
        parts = [embed(torch.tensor(1000 * index // 6 + 1)) for index in range(6)]
    assert parts[0].shape == (1, 77, 16)
    own, others = parts[stage], parts[:stage] + parts[stage + 1 :]
    assert all(torch.equal(part, others[0]) for part in others)
    assert not torch.equal(own, others[0])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_loss_is_that_of_the_bases_prediction(prediction_type: str) -> None:
    base = make_tiny_base(prediction_type=prediction_type)
    embeds = editing.encode_text(base, "a face").expand(16, -1, -1)
    latents, noise, timesteps = draw_batch(base, make_scene())
    targets = {
        "epsilon": noise,
        "sample": latents,
        "v_prediction": base.scheduler.get_velocity(latents, noise, timesteps),
    }
    noisy_latents = base.scheduler.add_noise(latents, noise, timesteps)
    with torch.no_grad():
        found = compute_denoising_loss(base, latents, noise, timesteps, embeds)
        wanted = (base.unet(noisy_latents, timesteps, embeds).sample - targets[prediction_type]).square().mean()
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)


def test_low_rank_updates_lower_the_loss_of_their_prompt(base: Base) -> None:
    scene, recipe = make_scene(), Recipe(num_steps=40, learning_rate=1e-2, batch_size=4)
    sites = find_children(find_attention_blocks(base.unet), PROJECTIONS)
    prompt = editing.encode_text(base, low_rank.DREAMBOOTH_PROMPT)
    tensors = low_rank.learn_update(base, scene, sites, 4, low_rank.DREAMBOOTH_PROMPT, recipe, 0)
    first = compute_style_loss(base, scene, prompt)
    with low_rank.placed_update(base, sites, 4) as update:
        assert compute_style_loss(base, scene, prompt) == first  # fresh ones change nothing
        update.load_state_dict(tensors)
        assert compute_style_loss(base, scene, prompt) < first
    assert compute_style_loss(base, scene, prompt) == first


def test_b_lora_learns_two_blocks_of_the_decoder_and_keeps_the_last(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, style = low_rank.find_block_pair(base)
    assert {site.name.partition(".transformer")[0] for site in content} == {"up_blocks.1.attentions.0"}
    assert {site.name.partition(".transformer")[0] for site in style} == {"up_blocks.1.attentions.1"}
    assert len(content) == len(style) == 2 * 4  # self- and cross-attention, four projections each
    placed: list[set[str]] = []

    def note(*arguments: object) -> object:
        placed.append({site.name for site in arguments[2]})  # type: ignore[attr-defined]
        return place(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(low_rank, "place", note)
    low_rank.separate_blocks(base, make_scene(), 0)(0.5)
    assert placed == [{site.name for site in (*content, *style)}, {site.name for site in style}]


def test_b_lora_needs_two_blocks(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_rank, "find_attention_blocks", lambda unet, groups: [])
    with pytest.raises(ConfigError, match="needs two attention blocks"):
        low_rank.find_block_pair(base)


def test_training_touches_only_what_it_is_given(base: Base) -> None:
    before = take_state(base)
    shift = torch.nn.Parameter(torch.zeros(16))
    embeds = editing.encode_text(base, "a face")
    train(
        base,
        [shift],
        make_scene(),
        lambda steps, _: embeds.expand(len(steps), -1, -1) + shift,
        SHORT,
        torch.Generator(),
    )
    assert shift.detach().abs().sum() > 0
    assert_untouched(base, before)
