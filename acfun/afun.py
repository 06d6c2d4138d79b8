"""Abstract fusion (composition, deformation, atmosphere): the prompt asks the style image.

Notation: `prompt_embeds` → e_t, `style_embeds` → e_is (tokens of the CLIP image encoder), the result → e_a.

    Q = W_Q e_t^(n),  K = W_K e_is,  V = W_V e_is,   e_a^(n+1) = softmax(Q Kᵀ / √d) V

Source: ACFun: Abstract-Concrete Fusion Facial Stylization (NeurIPS 2024).
"""

import copy
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerBase

from acfun.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AFunOptions:
    """The size of an abstract fusion.

    Attributes:
        num_layers: layers of self-attention, cross-attention and linear.
        num_heads: attention heads.
        head_dim: width of one head.
        dropout: probability, inside the attention and after each linear, while training only.
    """

    num_layers: int = 2
    num_heads: int = 8
    head_dim: int = 64
    dropout: float = 0.05

    def __post_init__(self) -> None:
        sizes = {"num_layers": self.num_layers, "num_heads": self.num_heads, "head_dim": self.head_dim}
        for name, size in sizes.items():
            if size < 1:
                raise ConfigError(f"AFun {name} is {size}: it must be at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"AFun dropout is {self.dropout}: it must lie in [0, 1)")

    @classmethod
    def for_width(cls, text_dim: int) -> Self:
        """Sizes for a text encoder of this width: 8 heads of 64, fewer and narrower below 512."""
        return cls(num_heads=8 if text_dim >= 512 else 4, head_dim=min(64, max(8, text_dim // 8)))


class Attention(nn.Module):
    """Multi-head attention with queries (B,L,D) and a context (B,T,Dc)."""

    def __init__(self, query_dim: int, context_dim: int, options: AFunOptions) -> None:
        super().__init__()
        inner_dim = options.num_heads * options.head_dim
        self.num_heads = options.num_heads
        self.dropout = options.dropout
        self.to_q = nn.Linear(query_dim, inner_dim, bias=False)
        self.to_k = nn.Linear(context_dim, inner_dim, bias=False)
        self.to_v = nn.Linear(context_dim, inner_dim, bias=False)
        self.to_out = nn.Linear(inner_dim, query_dim)

    def forward(self, hidden_states: Tensor, context: Tensor) -> Tensor:
        """(B,L,D) and (B,T,Dc) → (B,L,D)."""
        query = self._split_heads(self.to_q(hidden_states))
        key = self._split_heads(self.to_k(context))
        value = self._split_heads(self.to_v(context))
        dropout = self.dropout if self.training else 0.0
        attended = scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        output: Tensor = self.to_out(attended.transpose(1, 2).flatten(2))
        return output

    def _split_heads(self, projected: Tensor) -> Tensor:
        batch_size, length, _ = projected.shape
        return projected.view(batch_size, length, self.num_heads, -1).transpose(1, 2)


class AFunLayer(nn.Module):
    """Text asks text, then text asks the style image, then a linear; each with its own norm and residual."""

    def __init__(self, text_dim: int, style_dim: int, options: AFunOptions) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(text_dim)
        self.self_attention = Attention(text_dim, text_dim, options)
        self.norm2 = nn.LayerNorm(text_dim)
        self.cross_attention = Attention(text_dim, style_dim, options)
        self.norm3 = nn.LayerNorm(text_dim)
        self.linear = nn.Linear(text_dim, text_dim)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, hidden_states: Tensor, style_embeds: Tensor) -> Tensor:
        """(B,L,D) and (B,T,Dv) → (B,L,D)."""
        normed = self.norm1(hidden_states)
        hidden_states = hidden_states + self.self_attention(normed, normed)
        hidden_states = hidden_states + self.cross_attention(self.norm2(hidden_states), style_embeds)
        output: Tensor = hidden_states + self.dropout(self.linear(self.norm3(hidden_states)))
        return output


class AFun(nn.Module):
    """e_a = e_t + scale · Δ(e_t, e_is), with Δ = 0 at initialisation.

    Its parameters are float32; the result has the dtype of the prompt embeddings.
    """

    scale: Tensor

    def __init__(self, text_dim: int, style_dim: int, options: AFunOptions) -> None:
        super().__init__()
        self.layers = nn.ModuleList(AFunLayer(text_dim, style_dim, options) for _ in range(options.num_layers))
        self.norm_out = nn.LayerNorm(text_dim)
        self.proj_out = nn.Linear(text_dim, text_dim)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def set_scale(self, scale: float) -> None:
        """0 returns the prompt embeddings as they are, 1 acts as it was fitted."""
        self.scale.fill_(scale)

    def forward(self, prompt_embeds: Tensor, style_embeds: Tensor) -> Tensor:
        """e_t (B,L,D) and e_is (1 or B,T,Dv) → e_a (B,L,D)."""
        dtype = self.proj_out.weight.dtype
        context = style_embeds.to(dtype).expand(prompt_embeds.shape[0], -1, -1)
        hidden_states = prompt_embeds.to(dtype)
        for layer in self.layers:
            hidden_states = layer(hidden_states, context)
        delta = self.proj_out(self.norm_out(hidden_states))
        fused: Tensor = prompt_embeds + (self.scale * delta).to(prompt_embeds.dtype)
        return fused


class PlaceholderVectors(nn.Module):
    """The placeholder's embedding: a word's (D,) plus a learned offset (num_vectors,D), zero at first."""

    initial: Tensor
    scale: Tensor

    def __init__(self, initial: Tensor, num_vectors: int) -> None:
        super().__init__()
        self.register_buffer("initial", initial, persistent=False)
        self.register_buffer("scale", torch.ones(()), persistent=False)
        self.offset = nn.Parameter(torch.zeros(num_vectors, initial.shape[0]))

    def forward(self) -> Tensor:
        """() → (num_vectors,D)."""
        return self.initial + self.scale * self.offset


class PlaceholderEmbedding(nn.Module):
    """An embedding table (`base_layer`) that answers for the placeholder's ids with vectors of its own."""

    token_ids: Tensor

    def __init__(self, base_layer: nn.Embedding, token_ids: Tensor, initial: Tensor) -> None:
        super().__init__()
        # The base comes first: transformers reads a model's dtype from its first parameter.
        self.base_layer = base_layer
        self.vectors = PlaceholderVectors(initial, token_ids.shape[0])
        self.register_buffer("token_ids", token_ids, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The table of the base, which libraries read for its width."""
        return self.base_layer.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B,L) → (B,L,D) in the dtype of the base's table."""
        matches = input_ids[..., None] == self.token_ids
        is_placeholder = matches.any(dim=-1)
        # The placeholder's ids lie beyond the table; any row of it will do, since it is not used.
        embeds: Tensor = self.base_layer(input_ids.masked_fill(is_placeholder, 0))
        own_embeds = self.vectors()[matches.int().argmax(dim=-1)].to(embeds.dtype)
        return torch.where(is_placeholder[..., None], own_embeds, embeds)


class PlaceholderToken:
    """A pseudo-word that stands in one text encoder. Made by `inject_placeholder`.

    Attributes:
        tokens: its names in order: ["<style>", "<style>_1", ...], one per vector.
        tokenizer: a copy of the base's tokenizer that knows them.
        embedding: the wrapper that stands in the text encoder.
    """

    def __init__(
        self,
        text_encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        tokens: list[str],
        embedding: PlaceholderEmbedding,
    ) -> None:
        self.tokens = tokens
        self.tokenizer = tokenizer
        self.embedding = embedding
        self._text_encoder = text_encoder
        self._was_trainable = [p for p in text_encoder.parameters() if p.requires_grad]

    def expand(self, prompt: str) -> str:
        """Writes the placeholder in `prompt` as one word per vector, as the tokenizer needs it."""
        return prompt.replace(self.tokens[0], " ".join(self.tokens))

    def set_scale(self, scale: float) -> None:
        """0 makes the placeholder mean its initializer word, 1 what was fitted."""
        self.embedding.vectors.scale.fill_(scale)

    def eject(self) -> None:
        """Puts the original table back, bit-exactly. Does nothing the second time."""
        if self._text_encoder.get_input_embeddings() is self.embedding:
            self._text_encoder.set_input_embeddings(self.embedding.base_layer)
            for parameter in self._was_trainable:
                parameter.requires_grad_(True)


def inject_placeholder(
    text_encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    placeholder: str,
    initializer_word: str,
    num_vectors: int = 1,
) -> PlaceholderToken:
    """Teaches a text encoder a pseudo-word without touching its table or `tokenizer`.

    The word starts as the mean of the embeddings of `initializer_word`'s tokens. Its offset is float32 and
    requires a gradient; the parameters of the text encoder itself stop doing so.

    Raises:
        ConfigError: the tokenizer knows `placeholder` already, `initializer_word` has no token, `num_vectors`
            is less than 1, or the text encoder carries a placeholder already.
    """
    table = text_encoder.get_input_embeddings()
    if isinstance(table, PlaceholderEmbedding):
        raise ConfigError("this text encoder carries a style already: eject it before another is put in")
    assert isinstance(table, nn.Embedding)
    tokens = _name_tokens(placeholder, num_vectors)
    if not tokenizer.get_vocab().keys().isdisjoint(tokens):
        raise ConfigError(f"the tokenizer knows the placeholder {placeholder!r} already: choose another name")
    word_ids = tokenizer(initializer_word, add_special_tokens=False).input_ids
    if not word_ids:
        raise ConfigError(f"initializer_word {initializer_word!r} has no token: give an ordinary word")
    own_tokenizer = copy.deepcopy(tokenizer)
    own_tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    device = table.weight.device
    initial = table.weight.detach()[torch.tensor(word_ids, device=device)].float().mean(dim=0)
    token_ids = torch.tensor(own_tokenizer.convert_tokens_to_ids(tokens), device=device)
    embedding = PlaceholderEmbedding(table, token_ids, initial).to(device)
    token = PlaceholderToken(text_encoder, own_tokenizer, tokens, embedding)
    text_encoder.requires_grad_(False)
    text_encoder.set_input_embeddings(embedding)
    return token


def _name_tokens(placeholder: str, num_vectors: int) -> list[str]:
    if not placeholder or placeholder.split() != [placeholder]:
        raise ConfigError(f"placeholder is {placeholder!r}: give one word without spaces, such as '<style>'")
    if num_vectors < 1:
        raise ConfigError(f"num_vectors is {num_vectors}: a placeholder needs at least one")
    return [placeholder, *(f"{placeholder}_{index}" for index in range(1, num_vectors))]
