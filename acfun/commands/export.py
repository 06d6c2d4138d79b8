"""`acfun export`: a style as LoRA and textual inversion for other programs."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from acfun.commands import options
from acfun.commands.session import Session, make_output_dir


def export(
    style: Annotated[Path, typer.Argument(help="Style file.")],
    *,
    output: options.OutputDir,
    layout: Annotated[
        Literal["diffusers", "kohya"], typer.Option(help="For diffusers; or for A1111, ComfyUI and kohya's scripts.")
    ] = "diffusers",
    base: options.StyleBaseName = None,
    base_config: options.BaseConfig = None,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a style's LoRA and its pseudo-word's textual inversion; what they cannot say is distilled into them."""
    from acfun.export import export_style
    from acfun.style import Style

    session = Session(device=device, quiet=quiet, as_json=as_json)
    loaded = Style.load(style)
    make_output_dir(output)
    exported = export_style(loaded, session.load_style_base(loaded, base, base_config), output, layout)
    paths = [str(path) for path in (exported.lora, exported.embedding) if path is not None]
    result: dict[str, Any] = {"outputs": paths, "kept": exported.kept, "placeholder": loaded.metadata["placeholder"]}
    session.finish(result, "\n".join(paths) + f"\nkept of what the style changes: {exported.kept:.0%}")
