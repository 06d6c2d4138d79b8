"""What every command shares: where messages and results go, and loading the base and the pipeline."""

import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from acfun.commands.options import SAMPLING
from acfun.errors import AcfunError, ConfigError, NoFaceFoundError

if TYPE_CHECKING:
    from acfun.base import Base
    from acfun.config import FitConfig
    from acfun.photo import Sampling
    from acfun.style import Style

# Options of the commands → arguments of the pipeline.
RENAMED = {"guide_steps": "num_guide_steps", "steps": "num_inference_steps"}
SAMPLING_OPTIONS = {name: RENAMED.get(name, name) for name in SAMPLING}
# What the library cannot know: the option that helps, where the command has it.
HINTS: dict[type[AcfunError], tuple[str, str]] = {
    NoFaceFoundError: ("faces", "; --faces whole takes whole pictures as portraits")
}


@dataclass(frozen=True, kw_only=True)
class Session:
    """The common options of a command.

    Attributes:
        seed: of everything random.
        device: "auto", "cpu", "cuda" or "mps".
        quiet: whether messages are left out; errors never are.
        as_json: whether the result is JSON.
    """

    seed: int = 0
    device: str = "auto"
    quiet: bool = False
    as_json: bool = False

    @property
    def console(self) -> Console:
        """Where messages and progress go: stderr."""
        return Console(stderr=True)

    def say(self, text: str) -> None:
        """Tell what is happening, on stderr."""
        if not self.quiet:
            print_message(text)

    def finish(self, result: Mapping[str, Any], text: str) -> None:
        """Give the result on stdout: as JSON where that was asked for, else as text, if there is any."""
        answer = json.dumps(dict(result), indent=2, ensure_ascii=False) if self.as_json else text
        if answer:
            print(answer, file=sys.stdout)

    def load_base(
        self, name: str, config: str | None = None, *, image_encoder: str | None = "own", dtype: str = "float32"
    ) -> "Base":
        """Load a base on the device.

        Args:
            name: of the base.
            config: where the configs of a single file are.
            image_encoder: which one looks at style images; None for commands that fit nothing.
            dtype: "auto", "float32" or "bfloat16".

        Raises:
            BaseNotFoundError: there is none of that name.
            ConfigError: the device is not there.
        """
        import diffusers
        import transformers

        from acfun.base import load_base
        from acfun.devices import DTYPES, select_device

        for library in (diffusers, transformers):
            library.utils.logging.set_verbosity_error()
            library.utils.logging.disable_progress_bar()
        device = select_device(self.device)
        self.say(f"loading base {name}")
        return load_base(name, config=config, image_encoder=image_encoder, dtype=DTYPES[dtype], device=device)

    def load_fit_base(self, config: "FitConfig") -> "Base":
        """Load the base that a config names; errors as for `load_base`."""
        return self.load_base(config.base, config.base_config, image_encoder=config.image_encoder, dtype=config.dtype)

    def load_style_base(
        self, style: "Style", name: str | None, config: str | None, *, dtype: str | None = None
    ) -> "Base":
        """Load the base of a style, its own where no other name is given; errors as for `load_base`.

        Args:
            style: the style.
            name: of the base.
            config: where the configs of a single file are.
            dtype: that of the style's fit when None.
        """
        from acfun.devices import DTYPES

        own = style.config.get("base_config") if name is None else None
        fitted = style.config.get("dtype")
        dtype = dtype or (fitted if fitted in DTYPES else "auto")
        return self.load_base(name or style.metadata["base_name"], config or own, image_encoder=None, dtype=dtype)

    def build_pipeline(self, base: "Base", style: "Style | None" = None, identity_encoder: str | None = None) -> Any:
        """The base's own pipeline around it, with a style in it.

        Raises:
            FaceModelError: the identity encoder cannot be used.
        """
        from acfun.pipelines import build_pipeline

        pipe = build_pipeline(base)
        if style is not None:
            pipe.load_style(style)
        if identity_encoder is not None:
            pipe.use_identity_encoder(identity_encoder)
        return pipe

    def build_sampling(self, options: Mapping[str, Any], *, has_face: bool = True) -> "Sampling":
        """Arguments for the pipeline: a fresh generator, and the options about sampling that were given.

        Args:
            options: of the command.
            has_face: whether a face is painted, or one is invented from noise.

        Raises:
            ConfigError: strength and steps leave nothing to sample.
        """
        import torch

        from acfun.guidance import STRENGTH

        given: Any = {
            argument: options[name] for name, argument in SAMPLING_OPTIONS.items() if options.get(name) is not None
        }
        steps, strength = given.get("num_inference_steps"), given.get("strength", STRENGTH if has_face else 1.0)
        if steps is not None and round(steps * strength) < 1:
            raise ConfigError(f"--strength {strength} of --steps {steps} leaves no step to sample; raise one of them")
        given["generator"] = torch.Generator().manual_seed(self.seed)
        sampling: Sampling = given
        return sampling


def refuse_useless(context: typer.Context, names: Sequence[str], needed: str, *, is_there: bool) -> None:
    """Refuse options that were given and would do nothing.

    Args:
        context: of the command.
        names: of the options, as parameters.
        needed: the option that they are for.
        is_there: whether it was given.

    Raises:
        ConfigError: one of them was given without it.
    """
    sources = [context.get_parameter_source(name) for name in names]
    if is_there or all(source is None or source.name == "DEFAULT" for source in sources):
        return
    *others, last = (f"--{name.replace('_', '-')}" for name in names)
    listed = f"{', '.join(others)} and {last} are" if others else f"{last} is"
    raise ConfigError(f"{listed} for {needed}: give that, or leave {'them' if others else 'it'} out")


def print_message(text: str, style: str = "") -> None:
    """Print on stderr, without breaking lines or reading markup into paths."""
    Console(stderr=True).print(text, style=style, soft_wrap=True, markup=False, highlight=False)


def print_error(error: AcfunError, options: Collection[str]) -> None:
    """Print an explained error in red on stderr, with what would help among the command's options."""
    option, hint = HINTS.get(type(error), ("", ""))
    print_message(f"{error}{hint if option in options else ''}", "red")


def check_output_dir(path: Path) -> None:
    """Refuse, before any work is done, a folder for results that cannot be made or written to.

    Raises:
        ConfigError: it cannot, or is a file.
    """
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not nearest.is_dir():
        raise ConfigError(f"{nearest} is a file: results go into a folder, choose another one")
    if not os.access(nearest, os.W_OK):
        raise ConfigError(f"{path}: results cannot be written there; choose another folder")


def make_output_dir(path: Path) -> None:
    """Create a folder for results; errors as for `check_output_dir`."""
    check_output_dir(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{path}: results cannot be written there ({error.strerror}); choose another folder"
        ) from error


def number_paths(path: Path, count: int) -> list[Path]:
    """`path` itself for one result, else name-1, name-2 … beside it."""
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{index}{path.suffix}") for index in range(1, count + 1)]
