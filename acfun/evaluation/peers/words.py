"""Peers that learn a style as words: the base stays as it is, and only what the text encoder is told changes.

The recipes are those of the papers, and for textual inversion that of diffusers' example script; the code and the
sentences are our own. What differs from the papers is the length, which suits a small base on a CPU.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from acfun.afun import AFun, AFunOptions, PlaceholderToken, inject_placeholder
from acfun.base import Base, encode_image, encode_tokens, tokenize
from acfun.devices import fork_seed
from acfun.evaluation.contract import Painter
from acfun.evaluation.peers.editing import PROMPT, Embed, build_prediction, build_stochastic_inversion, edit
from acfun.evaluation.peers.training import Recipe, cut_style, train
from acfun.evaluation.suites import Scene

PLACEHOLDER, INITIALIZER_WORD = "<peer>", "painting"
STYLED_PROMPT = f"{PROMPT} in the style of {{}}"
TEMPLATES = (
    STYLED_PROMPT,
    "a painting of a face in the style of {}",
    "a painting of somebody in {} style",
    "a painting that has the style of {}",
)
NUM_STAGES = 6
WORD_RECIPE = Recipe(num_steps=200, learning_rate=1e-2, is_mirrored=True)
STAGED_RECIPE = Recipe(num_steps=150, learning_rate=2e-2, batch_size=2, is_mirrored=True)
ATTENTION_RECIPE = Recipe(num_steps=200, learning_rate=3e-4, is_mirrored=True)


def invert_text(base: Base, scene: Scene, seed: int, recipe: Recipe | None = None) -> Painter:
    """Textual inversion: one new word (Gal et al. 2022, https://arxiv.org/abs/2208.01618), then image to image."""
    with placed_word(base) as token:
        offset = token.embedding.vectors.offset
        embed = learn(base, scene, token, TEMPLATES, [offset], recipe or WORD_RECIPE, seed)
    return _build_painter(base, scene, embed, seed)


def invert_in_stages(base: Base, scene: Scene, seed: int) -> Painter:
    """A word for each stage of denoising (DreamStyler, Ahn et al. 2024, https://arxiv.org/abs/2309.06933).

    The prompt of the fit also says what the picture shows, so that the words need not. Authors hold the layout with a
    ControlNet for depth, which the base has none of.
    """
    with placed_word(base, NUM_STAGES) as token:
        offset = token.embedding.vectors.offset
        embed = learn(base, scene, token, [STYLED_PROMPT], [offset], STAGED_RECIPE, seed)
    return _build_painter(base, scene, embed, seed)


def invert_by_attention(base: Base, scene: Scene, seed: int) -> Painter:
    """A word that attention makes of the picture's CLIP embedding (InST, Zhang et al. 2023, arXiv:2211.13203).

    The word is that of `INITIALIZER_WORD` and what the attention adds, which is nothing at first. Image to image starts
    from the noise that the UNet itself sees in the noised photograph.
    """
    with placed_word(base) as token, fork_seed(seed, base.device):
        predicted = predict_word(base, token, scene)
        token.embedding.add_module("vectors", predicted)
        embed = learn(base, scene, token, TEMPLATES, predicted.attention.parameters(), ATTENTION_RECIPE, seed)
    choose_noise = build_stochastic_inversion(base, build_prediction(base, embed, 1.0))
    predict = build_prediction(base, embed)
    return lambda setting: edit(base, scene.faces, setting, predict, seed, choose_noise)


class PredictedVectors(nn.Module):
    """The placeholder's embedding (1,D), made of a picture's embedding by attention."""

    initial: Tensor
    image_embeds: Tensor

    def __init__(self, initial: Tensor, image_embeds: Tensor, attention: AFun) -> None:
        super().__init__()
        self.register_buffer("initial", initial)
        self.register_buffer("image_embeds", image_embeds)
        self.attention = attention

    def forward(self) -> Tensor:
        """() → (1,D)."""
        embeds: Tensor = self.attention(self.initial[None, None], self.image_embeds)
        return embeds[0]


@torch.no_grad()
def predict_word(base: Base, token: PlaceholderToken, scene: Scene) -> PredictedVectors:
    """Fresh attention over the style image's pooled CLIP embedding; first weights from torch's global generator."""
    image_embeds = encode_image(base, cut_style(scene)).pooled[:, None].float()
    initial = token.embedding.vectors.initial
    options = AFunOptions.for_width(len(initial))
    attention = AFun(len(initial), image_embeds.shape[-1], options).to(base.device)
    return PredictedVectors(initial, image_embeds, attention)


@contextmanager
def placed_word(base: Base, num_vectors: int = 1) -> Iterator[PlaceholderToken]:
    """A new word in the base's text encoder, which is bit-equal to what it was afterwards.

    Raises:
        ConfigError: the base carries a style.
    """
    token = inject_placeholder(
        base.text_encoder,
        base.tokenizer,
        placeholder=PLACEHOLDER,
        initializer_word=INITIALIZER_WORD,
        num_vectors=num_vectors,
    )
    try:
        yield token
    finally:
        token.eject()


def learn(
    base: Base,
    scene: Scene,
    token: PlaceholderToken,
    templates: Sequence[str],
    parameters: Iterator[nn.Parameter] | Sequence[nn.Parameter],
    recipe: Recipe,
    seed: int,
) -> Embed:
    """Train what a word's vectors are made of; returns `STYLED_PROMPT` with the word, as fitted, by timestep.

    Args:
        base: with the word in its text encoder.
        scene: whose style image is learned.
        token: the word; each of its vectors serves an equal share of the timesteps, the first one the last steps.
        templates: of prompts, "{}" for the word; drawn at random.
        parameters: of the word's vectors.
        recipe: how long and how fast.
        seed: of everything drawn.
    """
    stage_of = _build_stages(base, len(token.tokens))
    texts = [[template.format(name) for name in token.tokens] for template in (*templates, STYLED_PROMPT)]
    ids = torch.stack([tokenize(token.tokenizer, row) for row in texts]).to(base.device)

    def embed_batch(timesteps: Tensor, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(templates), timesteps.shape, generator=generator).to(ids.device)
        return encode_tokens(base.text_encoder, ids[rows, stage_of(timesteps)])

    train(base, parameters, scene, embed_batch, recipe, torch.Generator().manual_seed(seed))
    token.embedding.vectors.eval()
    with torch.no_grad():
        embeds = encode_tokens(base.text_encoder, ids[-1])
    return lambda timestep: embeds[stage_of(timestep)][None]


def _build_stages(base: Base, count: int) -> Callable[[Tensor], Tensor]:
    """Timesteps → which of `count` equal parts of the noise schedule they lie in."""
    total = base.scheduler.config.num_train_timesteps
    return lambda timesteps: (timesteps.long() * count // total).clamp(max=count - 1)


def _build_painter(base: Base, scene: Scene, embed: Embed, seed: int) -> Painter:
    predict = build_prediction(base, embed)
    return lambda setting: edit(base, scene.faces, setting, predict, seed)
