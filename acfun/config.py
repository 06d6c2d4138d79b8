"""Options of a fit as one frozen dataclass, and the one way from TOML files and overrides to any such dataclass."""

import difflib
import json
import math
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from acfun.errors import ConfigError

Config = TypeVar("Config")
Objective = Literal["imagery", "two_target", "time_split", "shared", "pseudo_pair"]
Group = Literal["encoder", "middle", "decoder"]
Memory = Literal["auto", "24gb", "12gb", "8gb", "6gb"]
# Of what paints photographs: which faces, and how much of the photograph.
FaceChoice = Literal["all", "largest", "whole"]
Extent = Literal["photo", "faces", "portraits"]
# The largest that every generator takes.
MAX_SEED = 2**63 - 1

# Which losses an objective is made of: the keys of `loss_weights`, each the first part of a field `<key>_weight`.
_OBJECTIVE_LOSSES: dict[str, tuple[str, ...]] = {
    "imagery": ("statistics", "gram", "structure", "shading", "identity", "denoise"),
    "pseudo_pair": ("pair", "denoise"),
    "two_target": ("style", "face", "identity"),
    "time_split": ("style", "face", "identity"),
    "shared": ("style", "face", "identity"),
}


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """What is fitted, and how.

    Attributes:
        style_path: the style image.
        face_paths: photographs to fit with; empty: faces sampled from the base.
        framing: "find" looks for faces; "whole" takes every picture as a portrait in canonical framing.
        output_dir: run folder for the checkpoint; None keeps none, and the run cannot be resumed.
        base: "mini", a diffusers folder, a single .safetensors file or a hub id.
        base_config: diffusers folder or hub id with the configs of a single file; None: its family's from the hub.
        image_encoder: folder or hub id of the CLIP image encoder; "own": the base's, or its family's from the hub.
        identity_encoder: who a face is: "mini", an insightface pack, an ArcFace-type ONNX file, or an encoder's folder.
        face_detector: what finds faces: "mini", or an insightface pack.
        objective: what is minimised, see `acfun.objectives`.
        cfun: kind of concrete fusion.
        cfun_groups: parts of the UNet that carry it.
        cfun_rank: width of each adapter's narrow middle.
        use_afun: whether the prompt attends to the style image.
        placeholder: the pseudo-word.
        num_token_vectors: embedding vectors of the pseudo-word.
        face_description: who is painted, in words; empty: the pseudo-word stands alone.
        learning_rate: of AdamW.
        max_steps: optimiser steps; 0 learns nothing, and the style is the style image with its strokes alone.
        batch_size: faces a step and process.
        max_grad_norm: where the gradient's norm is cut.
        style_weight: pixelwise objectives: distance to the style image.
        face_weight: pixelwise objectives: distance to the photograph.
        identity_weight: 1 − cosine of identity embeddings.
        statistics_weight: `imagery`: sliced Wasserstein distance of colour patches, region by region.
        gram_weight: `imagery`: Gram matrices of the VAE's features.
        structure_weight: `imagery`: self-similarity of the identity encoder's features.
        shading_weight: `imagery`: light and dark inside skin and hair, as in the photograph.
        pair_weight: `pseudo_pair`: distance to the face as guided sampling paints it.
        denoise_weight: `imagery`, `pseudo_pair`: denoising of crops of the style image.
        num_sampled_faces: faces drawn from the base when none is given.
        seed: of everything random, in [0, 2⁶³ - 1].
        dtype: of the frozen base; what is trained stays float32. "auto" is bfloat16 for a large base on a device that
            computes in it, else float32.
        memory: what the fit has to do with: "auto" is what the device has free, else a card's size.
        device: "auto", "cpu", "cuda" or "mps".
        preview_every: steps between previews; 0 for none.
        checkpoint_every: steps between checkpoints in `output_dir`; 0: one every few minutes.
        resume: continue from the checkpoint in `output_dir`; where there is none, the fit begins.
    """

    style_path: str
    face_paths: tuple[str, ...] = ()
    framing: Literal["find", "whole"] = "find"
    output_dir: str | None = None
    base: str = "mini"
    identity_encoder: str = "mini"
    face_detector: str = "mini"
    base_config: str | None = None
    image_encoder: str = "own"
    objective: Objective = "pseudo_pair"
    cfun: Literal["std_affine", "mean_std_affine", "lora", "attention_lora", "layer_lora", "none"] = "lora"
    cfun_groups: tuple[Group, ...] = ("encoder", "middle", "decoder")
    cfun_rank: int = 8
    use_afun: bool = True
    placeholder: str = "<style>"
    num_token_vectors: int = 1
    face_description: str = "a person"
    learning_rate: float = 2e-3
    max_steps: int = 60
    batch_size: int = 1
    max_grad_norm: float = 1.0
    style_weight: float = 0.8
    face_weight: float = 1.0
    identity_weight: float = 1.0
    statistics_weight: float = 4.0
    gram_weight: float = 1.2
    structure_weight: float = 4.0
    shading_weight: float = 1.0
    pair_weight: float = 1.0
    denoise_weight: float = 0.3
    num_sampled_faces: int = 4
    seed: int = 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    memory: Memory = "auto"
    device: str = "auto"
    preview_every: int = 0
    checkpoint_every: int = 0
    resume: bool = False

    def __post_init__(self) -> None:
        types = typing.get_type_hints(type(self))
        for name, expected in types.items():
            object.__setattr__(self, name, _convert(getattr(self, name), expected, name))
        counts = {"max_steps": 0, "batch_size": 1, "num_token_vectors": 1, "cfun_rank": 1, "num_sampled_faces": 1}
        for name, least in counts.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.seed <= MAX_SEED:
            raise ConfigError(f"seed is {self.seed}; it must be from 0 to {MAX_SEED}")
        for name in ("learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in (name for name in types if name.endswith("_weight")):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or above")
        if not self.loss_weights():
            raise ConfigError(f"all weights of objective {self.objective!r} are 0; give one of its losses a weight")
        if self.output_dir is None and (self.resume or self.checkpoint_every or self.preview_every):
            raise ConfigError(
                "resume, checkpoint_every and preview_every need a run folder; give output_dir, on the command line "
                "--run-dir"
            )

    def loss_weights(self) -> dict[str, float]:
        """Weights of the objective's losses by name, without those that are 0."""
        weights = {name: float(getattr(self, f"{name}_weight")) for name in _OBJECTIVE_LOSSES[self.objective]}
        return {name: weight for name, weight in weights.items() if weight}

    def prompt(self) -> str:
        """The prompt of the fit."""
        subject = f" of {self.face_description}" if self.face_description else ""
        return f"a painting{subject} in {self.placeholder} style"


def load_config(cls: type[Config], path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Build a config dataclass from a TOML file and overrides; what is None in the overrides counts as not given.

    Raises:
        ConfigError: the file is missing or no TOML, a key is unknown (the nearest is named) or missing, or a value
            has a wrong type.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: the config cannot be read ({error.strerror}); check the path") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: this is no TOML ({error}); mend that line") from error
    values |= {name: value for name, value in (overrides or {}).items() if value is not None}
    where = str(path) if path is not None else "the options"
    types = typing.get_type_hints(cls)
    for name in values:
        _check_key(name, list(types), where)
    required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]
    if missing := [name for name in required if name not in values]:
        raise ConfigError(f"{where}: {', '.join(missing)} must be given")
    return cls(**{name: _convert(value, types[name], f"{where}: {name}") for name, value in values.items()})


def dump_toml(values: Mapping[str, Any]) -> str:
    """Write plain values as TOML; None is left out, since TOML has no word for it."""
    return "".join(f"{name} = {_dump_value(value)}\n" for name, value in values.items() if value is not None)


def _check_key(name: str, known: list[str], where: str) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    raise ConfigError(f"{where}: unknown key {name!r}; {hint}")


def _convert(value: Any, expected: Any, where: str) -> Any:
    origin, arguments = get_origin(expected), get_args(expected)
    if origin in {Union, UnionType}:
        if value is None and type(None) in arguments:
            return None
        return next((_convert(value, part, where) for part in arguments if part is not type(None)), None)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where} is {value!r}; choose one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        parts = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(parts) != len(value):
            raise ConfigError(f"{where} is {value!r}; {len(parts)} values are needed")
        return tuple(_convert(item, part, where) for item, part in zip(value, parts, strict=True))
    if origin is tuple and isinstance(value, str):
        raise ConfigError(f"{where} is {value!r}; tuple is needed, for one value ({value!r},), in TOML [{value!r}]")
    if expected is float and type(value) is int:
        return float(value)
    if not isinstance(expected, type) or type(value) is not expected:
        raise ConfigError(f"{where} is {value!r}; {getattr(expected, '__name__', expected)} is needed")
    return value


def _dump_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_dump_value(part) for part in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # JSON's strings are TOML's basic strings
    return repr(value)
