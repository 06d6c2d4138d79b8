"""How the parts of a style are built, as plain values: what a style file must say besides its tensors."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from acfun.afun import AFunOptions
from acfun.cfun import CFunOptions


@dataclass(frozen=True, kw_only=True)
class StyleArchitecture:
    """Everything that must be known to build a style model again, besides its tensors.

    Attributes:
        placeholder: the pseudo-word, or None for a style without one.
        initializer_word: the word that the placeholder starts from.
        num_vectors: embedding vectors per placeholder.
        afun: size of the abstract fusion, or None without one.
        cfun: kind, places and size of the concrete fusion, or None without one.
    """

    placeholder: str | None
    initializer_word: str
    num_vectors: int
    afun: AFunOptions | None
    cfun: CFunOptions | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        values = asdict(self)
        if self.cfun is not None:
            values["cfun"]["groups"] = list(self.cfun.groups)
            layers = list(values["cfun"].pop("layers"))
            values["cfun"] |= {"layers": layers} if layers else {}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            TypeError: a key is unknown or missing.
            ConfigError: a value is out of range.
        """
        parts = dict(values)
        if parts.get("afun") is not None:
            parts["afun"] = AFunOptions(**parts["afun"])
        if parts.get("cfun") is not None:
            lists = {name: tuple(parts["cfun"].get(name, ())) for name in ("groups", "layers")}
            parts["cfun"] = CFunOptions(**(parts["cfun"] | lists))
        return cls(**parts)
