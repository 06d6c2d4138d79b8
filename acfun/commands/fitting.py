"""Fitting for commands: options to a config, the progress bar, and the cache."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acfun.commands.options import FITTING
from acfun.commands.session import Session
from acfun.config import FitConfig, load_config
from acfun.errors import ConfigError, ImageError
from acfun.style_cache import compute_style_key, find_style, store_style

if TYPE_CHECKING:
    from acfun.base import Base
    from acfun.photo import CutPortrait
    from acfun.style import Style


@dataclass(frozen=True)
class Fitted:
    """A style, and how it came about.

    Attributes:
        style: fitted now or before.
        path: its file; None where it was not saved.
        step: optimiser steps done.
        is_complete: False after an interruption.
        is_cached: whether it was there already.
        seconds: the fit took, 0 for a cached style.
    """

    style: "Style"
    path: Path | None
    step: int
    is_complete: bool
    is_cached: bool
    seconds: float


def build_config(options: Mapping[str, Any], *, is_whole: bool, **fields: Any) -> FitConfig:
    """The config of a TOML file, the options of a command that were given, and fields; what is None was not given."""
    given = {name: options[name] for name in FITTING.keys() - {"config"} if name in options}
    whole = {"framing": "whole"} if is_whole else {}
    path = options.get("config")
    return load_config(FitConfig, None if path is None else Path(path), {**whole, **given, **fields})


def check_style_image(path: Path) -> None:
    """Refuse a style file in place of a style image.

    Raises:
        ImageError: it is one.
    """
    from acfun.style_file import is_style

    if is_style(path):
        raise ImageError(f"{path} is a style file, no image: paint with it by acfun apply {path} PHOTO -o FOLDER")


def fit(config: FitConfig, base: "Base", session: Session) -> Fitted:
    """Fit with a progress bar; Ctrl-C gives the style as far as it got."""
    from acfun.fit import fit_style
    from acfun.planner import choose_plan, describe_plan, measure_rate
    from acfun.progress import FitReporter, start_run_dir

    start_run_dir(config)
    start = time.monotonic()
    plan = choose_plan(config, base)
    if plan is not None:
        session.say(describe_plan(plan, config, measure_rate(base.dtype, base.device)))
    with FitReporter(config, session.console, quiet=session.quiet) as reporter:
        style = fit_style(config, base=base, plan=plan, report=reporter)
    return Fitted(style, None, reporter.step, reporter.is_complete, False, time.monotonic() - start)


def fit_cached(config: FitConfig, base: "Base", portraits: "Sequence[CutPortrait]", session: Session) -> Fitted:
    """Take the style from the cache, or fit and cache it.

    Raises:
        KeyboardInterrupt: the fit was interrupted; nothing is cached then.
    """
    key = compute_style_key(
        config,
        style=Path(config.style_path).read_bytes(),
        faces=b"".join(_digest(portrait) for portrait in portraits),
        base_fingerprint=base.fingerprint,
    )
    style = find_style(key)
    if style is not None:
        session.say("the style was fitted before")
        return Fitted(style, None, config.max_steps, True, True, 0.0)
    fitted = fit(config, base, session)
    if not fitted.is_complete:
        raise KeyboardInterrupt
    try:
        path = store_style(key, fitted.style)
    except ConfigError as error:
        session.say(f"the style is not kept for the next time: {error}")
        path = None
    return Fitted(fitted.style, path, fitted.step, True, False, fitted.seconds)


def _digest(portrait: "CutPortrait") -> bytes:
    from acfun.images import tensor_to_array

    pixels = (tensor_to_array(portrait.image) * 255).round().astype("uint8")
    return hashlib.sha256(pixels.tobytes()).digest()
