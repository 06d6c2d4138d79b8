"""`acfun export`: a style as LoRA and textual inversion for other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from acfun.commands import options
from acfun.commands.recording import check_distinct
from acfun.commands.session import Session, make_output_dir

if TYPE_CHECKING:
    from acfun.export import Exported
    from acfun.model_card import CardFiles

Layout = Literal["diffusers", "kohya"]


def export(
    style: Annotated[Path, typer.Argument(help="Style file.")],
    *,
    output: options.OutputDir,
    layout: Annotated[Layout, typer.Option(help="For diffusers; or for A1111, ComfyUI and kohya's scripts.")] = (
        "diffusers"
    ),
    licence: options.Licence = None,
    sample: options.Sample = None,
    base: options.StyleBaseName = None,
    base_config: options.BaseConfig = None,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a style's LoRA and its pseudo-word's textual inversion, and README.md, a model card.

    What these files cannot say is distilled into them.
    """
    from acfun.export import EMBEDDING_NAME, LORA_NAME, export_style
    from acfun.model_card import build_model_card, write_model_card
    from acfun.style import Style

    session = Session(device=device, quiet=quiet, as_json=as_json)
    loaded = Style.load(style)
    check_distinct([output / LORA_NAME, output / EMBEDDING_NAME], [style])
    make_output_dir(output)
    sample_name = place_sample(sample, output)
    exported = export_style(loaded, session.load_style_base(loaded, base, base_config, dtype="float32"), output, layout)
    files = describe_files(exported, layout, sample_name)
    card = write_model_card(output, build_model_card(loaded.describe(), files, title=style.stem, licence=licence))
    if card is None:
        session.say(f"{output / 'README.md'} is not acfun's and stays; move it to get a model card")
    paths = [str(path) for path in (exported.lora, exported.embedding, card) if path is not None]
    result: dict[str, Any] = {"outputs": paths, "kept": exported.kept, "placeholder": loaded.metadata["placeholder"]}
    session.finish(result, "\n".join(paths) + f"\nkept of what the style changes: {exported.kept:.0%}")


def place_sample(sample: Path | None, directory: Path) -> str | None:
    """Copy a picture for the card, without its manifest and other notes; returns its name.

    Raises:
        ImageError: it cannot be read.
    """
    from acfun.images import load_image, save_image
    from acfun.model_card import SAMPLE_NAME

    if sample is None:
        return None
    save_image(load_image(sample), directory / SAMPLE_NAME)
    return SAMPLE_NAME


def describe_files(exported: "Exported", layout: Layout, sample: str | None) -> "CardFiles":
    """What lies beside the card of an export."""
    from acfun.model_card import CardFiles

    names = [None if path is None else path.name for path in (exported.lora, exported.embedding)]
    return CardFiles(lora=names[0], embedding=names[1], layout=layout, kept=exported.kept, sample=sample)
