"""One style and the frozen base it stands in, as one module with a forward: all that training prepares."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel

from acfun.afun import AFun, AFunOptions, PlaceholderToken, inject_placeholder
from acfun.base import Base, encode_tokens
from acfun.cfun import CFunOptions, ConcreteFusion, load_parameters
from acfun.cfun import inject as inject_cfun
from acfun.errors import ConfigError, StyleFileError
from acfun.style_architecture import StyleArchitecture


class StyleModel(nn.Module):
    """A base UNet and text encoder with the adapters of one style in them. Made by `build_style_model`.

    The base stays frozen and in eval mode whatever `train()` says; what is trained is float32.

    Attributes:
        token: the placeholder in the text encoder, or None.
        afun: the abstract fusion, or None.
        cfun: the concrete fusion in the UNet, or None.
        style_embeds: (1,T,Dv), the style image as the base's image encoder sees it.
        architecture: how the parts were built.
    """

    style_embeds: Tensor

    def __init__(
        self,
        unet: nn.Module,
        text_encoder: CLIPTextModel,
        style_embeds: Tensor,
        *,
        token: PlaceholderToken | None,
        afun: AFun | None,
        cfun: ConcreteFusion | None,
        architecture: StyleArchitecture,
        thaw: Callable[[], None],
    ) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.afun = afun
        self.token = token
        self.cfun = cfun
        self.architecture = architecture
        self._thaw: Callable[[], None] | None = thaw
        self.register_buffer("style_embeds", style_embeds)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of what is trained; the frozen base stays in eval mode."""
        super().train(mode)
        self.unet.eval()
        self.text_encoder.eval()
        return self

    def encode_text(self, input_ids: Tensor) -> Tensor:
        """Token ids (B,L) → e_t (B,L,D), the text encoder's own embeddings."""
        return encode_tokens(self.text_encoder, input_ids)

    def fuse(self, prompt_embeds: Tensor) -> Tensor:
        """e_t (B,L,D) → e_a (B,L,D); the same tensor when the style has no abstract fusion."""
        if self.afun is None:
            return prompt_embeds
        fused: Tensor = self.afun(prompt_embeds, self.style_embeds)
        return fused

    def encode_prompt(self, input_ids: Tensor) -> Tensor:
        """Token ids (B,L) of `token.tokenizer` → e_a (B,L,D)."""
        return self.fuse(self.encode_text(input_ids))

    def forward(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        *,
        prompt_embeds: Tensor | None = None,
        input_ids: Tensor | None = None,
    ) -> Tensor:
        """The UNet's prediction, for training and sampling alike.

        Args:
            noisy_latents: (B,C,h,w).
            timesteps: (B,), in the noise scheduler's training steps.
            prompt_embeds: (B,L,D), ready for the UNet, as `encode_prompt` returns them.
            input_ids: (B,L), in place of `prompt_embeds`.

        Returns:
            (B,C,h,w) in the dtype of `noisy_latents`: noise or velocity, as the base predicts.

        Raises:
            ValueError: not exactly one of `prompt_embeds` and `input_ids` is given.
        """
        if (prompt_embeds is None) == (input_ids is None):
            raise ValueError("give either prompt_embeds or input_ids, not both and not neither")
        if input_ids is not None:
            prompt_embeds = self.encode_prompt(input_ids)
        assert prompt_embeds is not None
        dtype = next(self.unet.parameters()).dtype
        model_pred: Tensor = self.unet(noisy_latents.to(dtype), timesteps, prompt_embeds.to(dtype)).sample
        return model_pred.to(noisy_latents.dtype)

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
        if abstract is not None and self.token is not None:
            self.token.set_scale(abstract)
        if abstract is not None and self.afun is not None:
            self.afun.set_scale(abstract)
        if self.cfun is not None:
            self.cfun.set_scale(encoder=encoder, middle=middle, decoder=decoder)

    def named_trainables(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What a fit trains, by part: "token.offset", "afun.layers.0…", "cfun.down_blocks.0…"."""
        if self.token is not None:
            yield "token.offset", self.token.embedding.vectors.offset
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
        if self.token is not None:
            self.token.eject()
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
        base: its `unet` and `text_encoder` carry the style from now on; its `tokenizer` is not changed.
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
        was_trainable = _freeze(base.unet, base.text_encoder)
        undo.callback(_unfreeze, was_trainable)
        text_dim, style_dim = base.text_encoder.config.hidden_size, style_embeds.shape[2]
        abstract = None if afun is None else AFun(text_dim, style_dim, afun).to(base.device)
        token = None if placeholder is None else _inject_token(base, architecture)
        if token is not None:
            undo.callback(token.eject)
        model = StyleModel(
            base.unet,
            base.text_encoder,
            style_embeds.detach().to(base.device, torch.float32, copy=True),
            token=token,
            afun=abstract,
            cfun=None if cfun is None else inject_cfun(base.unet, cfun),
            architecture=architecture,
            thaw=partial(_unfreeze, was_trainable),
        )
        undo.pop_all()
    return model


def _inject_token(base: Base, architecture: StyleArchitecture) -> PlaceholderToken:
    assert architecture.placeholder is not None
    return inject_placeholder(
        base.text_encoder,
        base.tokenizer,
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
