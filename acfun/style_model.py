"""One style and the frozen base it stands in, as one module with a forward: all that training prepares."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from acfun.afun import AFun, AFunOptions, PlaceholderToken, inject_placeholder
from acfun.base import Base, Conditions, encode_ids, predict, tokenize_all
from acfun.cfun import CFunOptions, ConcreteFusion, load_parameters
from acfun.cfun import inject as inject_cfun
from acfun.errors import ConfigError, StyleFileError
from acfun.style_architecture import StyleArchitecture


class StyleModel(nn.Module):
    """A base UNet and text encoders with the adapters of one style in them. Made by `build_style_model`.

    The base stays frozen and in eval mode whatever `train()` says; what is trained is float32.

    Attributes:
        tokens: the placeholder in each text encoder; empty without one.
        afun: the abstract fusion, or None.
        cfun: the concrete fusion in the UNet, or None.
        style_embeds: (1,T,Dv), the style image as the base's image encoder sees it.
        architecture: how the parts were built.
    """

    style_embeds: Tensor

    def __init__(
        self,
        base: Base,
        style_embeds: Tensor,
        *,
        tokens: Sequence[PlaceholderToken],
        afun: AFun | None,
        cfun: ConcreteFusion | None,
        architecture: StyleArchitecture,
        thaw: Callable[[], None],
    ) -> None:
        super().__init__()
        self.unet = base.unet
        self.text_encoders = nn.ModuleList(base.text_encoders)
        self.afun = afun
        self.tokens = tuple(tokens)
        self.cfun = cfun
        self.architecture = architecture
        self._base = base
        self._thaw: Callable[[], None] | None = thaw
        self.register_buffer("style_embeds", style_embeds)
        self.train(False)

    @property
    def token(self) -> PlaceholderToken | None:
        """The placeholder in the first text encoder, by which prompts are written; None without one."""
        return self.tokens[0] if self.tokens else None

    @property
    def tokenizers(self) -> tuple[PreTrainedTokenizerBase, ...]:
        """The tokenizer of each text encoder; those that know the placeholder, where there is one."""
        return tuple(token.tokenizer for token in self.tokens) or self._base.tokenizers

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of what is trained; the frozen base stays in eval mode."""
        super().train(mode)
        self.unet.eval()
        self.text_encoders.eval()
        return self

    def tokenize(self, prompts: str | Sequence[str]) -> Tensor:
        """Token ids (B,N,L) of prompts for N text encoders; the placeholder stands for all its vectors."""
        texts = [prompts] if isinstance(prompts, str) else prompts
        return tokenize_all(self.tokenizers, [self.token.expand(text) if self.token else text for text in texts])

    def fuse(self, prompt_embeds: Tensor) -> Tensor:
        """e_t (B,L,D) → e_a (B,L,D); the same tensor when the style has no abstract fusion."""
        if self.afun is None:
            return prompt_embeds
        fused: Tensor = self.afun(prompt_embeds, self.style_embeds)
        return fused

    def encode_prompt(
        self, input_ids: Tensor, size: tuple[int, int] | None = None, count: int | None = None
    ) -> Conditions:
        """Conditions of prompts, with e_a in place of e_t.

        Args:
            input_ids: (B,N,L) of `tokenize`, or (B,L) for a single text encoder.
            size: height and width of the pictures, pixels; the base's resolution when None.
            count: rows that a single prompt is wanted for; as many as there are prompts when None.
        """
        conditions = encode_ids(self._base, input_ids, size)
        conditions = conditions if count is None else conditions.expand(count)
        conditions.prompt_embeds = self.fuse(conditions.prompt_embeds)
        return conditions

    def forward(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        *,
        conditions: Conditions | None = None,
        input_ids: Tensor | None = None,
    ) -> Tensor:
        """The UNet's prediction, for training and sampling alike.

        Args:
            noisy_latents: (B,C,h,w).
            timesteps: (B,), in the noise scheduler's training steps.
            conditions: B rows, ready for the UNet, as `encode_prompt` returns them.
            input_ids: (B,N,L), in place of `conditions`; (B,L) for a single text encoder; one row serves all.

        Returns:
            (B,C,h,w) in the dtype of `noisy_latents`: noise or velocity, as the base predicts.

        Raises:
            ValueError: not exactly one of `conditions` and `input_ids` is given.
        """
        if (conditions is None) == (input_ids is None):
            raise ValueError("give either conditions or input_ids, not both and not neither")
        if input_ids is not None:
            height, width = (side * self._base.vae_scale_factor for side in noisy_latents.shape[-2:])
            conditions = self.encode_prompt(input_ids, (height, width), len(noisy_latents))
        assert conditions is not None
        return predict(self.unet, noisy_latents, timesteps, conditions)

    def set_scale(
        self,
        *,
        abstract: float | None = None,
        encoder: float | None = None,
        middle: float | None = None,
        decoder: float | None = None,
    ) -> None:
        """Sets how strongly each part acts: 0 is the base, 1 what was fitted, None leaves it as it is.

        `abstract` is the placeholder and AFun, the others are CFun's groups.
        """
        if abstract is not None:
            for token in self.tokens:
                token.set_scale(abstract)
            if self.afun is not None:
                self.afun.set_scale(abstract)
        if self.cfun is not None:
            self.cfun.set_scale(encoder=encoder, middle=middle, decoder=decoder)

    def named_trainables(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What a fit trains, by part: "token.offset" ("token_2.offset"), "afun.layers.0…", "cfun.down_blocks.0…"."""
        for number, token in enumerate(self.tokens, 1):
            yield f"token{'' if number == 1 else f'_{number}'}.offset", token.embedding.vectors.offset
        if self.afun is not None:
            yield from ((f"afun.{name}", parameter) for name, parameter in self.afun.named_parameters())
        if self.cfun is not None:
            yield from ((f"cfun.{name}", parameter) for name, parameter in self.cfun.named_parameters())

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What an optimizer is given."""
        return [parameter for _, parameter in self.named_trainables()]

    def style_tensors(self) -> dict[str, Tensor]:
        """All tensors of the style, detached copies on the CPU: the trainables and "style_embeds"."""
        tensors = {name: parameter.detach() for name, parameter in self.named_trainables()}
        tensors["style_embeds"] = self.style_embeds
        return {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}

    def load_style_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copies in what `style_tensors` gave, in any floating dtype.

        Raises:
            StyleFileError: a name is missing, too many, or has another shape; nothing is changed then.
        """
        style_embeds = tensors.get("style_embeds")
        if style_embeds is None or style_embeds.shape != self.style_embeds.shape:
            found = "missing" if style_embeds is None else tuple(style_embeds.shape)
            raise StyleFileError(f"style_embeds is {found}, this style model needs {tuple(self.style_embeds.shape)}")
        others = {name: tensor for name, tensor in tensors.items() if name != "style_embeds"}
        load_parameters(dict(self.named_trainables()), others, owner="the style")
        self.style_embeds.copy_(style_embeds)

    def eject(self) -> None:
        """Takes the style out of the base, bit-exactly. Does nothing the second time."""
        for token in self.tokens:
            token.eject()
        if self.cfun is not None:
            self.cfun.eject()
        if self._thaw is not None:
            self._thaw()
            self._thaw = None


def build_style_model(
    base: Base,
    style_embeds: Tensor,
    *,
    afun: AFunOptions | None,
    cfun: CFunOptions | None,
    placeholder: str | None = "<style>",
    initializer_word: str = "painting",
    num_vectors: int = 1,
    generator: torch.Generator | None = None,
) -> StyleModel:
    """Puts a fresh style, which changes nothing yet, into `base`; `eject` takes it out again.

    Args:
        base: its `unet` and text encoders carry the style from now on; its tokenizers are not changed.
        style_embeds: e_is (1,T,Dv), tokens of the style image from the base's image encoder.
        afun: size of the abstract fusion; None leaves it out.
        cfun: kind, places and size of the concrete fusion; None leaves it out.
        placeholder: pseudo-word for prompts; None leaves it out.
        initializer_word: what the pseudo-word means before it is trained.
        num_vectors: embedding vectors of the pseudo-word.
        generator: source of the initial weights, on the CPU; None draws from torch's global one.

    Raises:
        ConfigError: nothing to train, a base that carries a style, or an option that does not suit it.
        ValueError: `style_embeds` has another shape than (1,T,Dv).
    """
    if style_embeds.ndim != 3 or style_embeds.shape[0] != 1:
        raise ValueError(f"style_embeds is {tuple(style_embeds.shape)}: expected (1, tokens, width)")
    architecture = StyleArchitecture(
        placeholder=placeholder,
        initializer_word=initializer_word,
        num_vectors=num_vectors,
        afun=afun,
        cfun=cfun,
    )
    if placeholder is None and afun is None and cfun is None:
        raise ConfigError("a style needs at least one of placeholder, afun and cfun: all three are None")
    with ExitStack() as undo, _seeded(generator):
        was_trainable = _freeze(base.unet, *base.text_encoders)
        undo.callback(_unfreeze, was_trainable)
        abstract = None if afun is None else AFun(base.text_dim, style_embeds.shape[2], afun).to(base.device)
        tokens = []
        if placeholder is not None:
            for text_encoder, tokenizer in zip(base.text_encoders, base.tokenizers, strict=True):
                tokens.append(_inject_token(text_encoder, tokenizer, architecture))
                undo.callback(tokens[-1].eject)
        model = StyleModel(
            base,
            style_embeds.detach().to(base.device, torch.float32, copy=True),
            tokens=tokens,
            afun=abstract,
            cfun=None if cfun is None else inject_cfun(base.unet, cfun),
            architecture=architecture,
            thaw=partial(_unfreeze, was_trainable),
        )
        undo.pop_all()
    return model


def _inject_token(
    text_encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, architecture: StyleArchitecture
) -> PlaceholderToken:
    assert architecture.placeholder is not None
    return inject_placeholder(
        text_encoder,
        tokenizer,
        placeholder=architecture.placeholder,
        initializer_word=architecture.initializer_word,
        num_vectors=architecture.num_vectors,
    )


def _freeze(*modules: nn.Module) -> list[nn.Parameter]:
    """Returns the parameters that required a gradient before."""
    was_trainable = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in was_trainable:
        parameter.requires_grad_(False)
    return was_trainable


def _unfreeze(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.requires_grad_(True)


@contextmanager
def _seeded(generator: torch.Generator | None) -> Iterator[None]:
    """Lets first weights, which modules draw from the global generator, depend on `generator` alone."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
