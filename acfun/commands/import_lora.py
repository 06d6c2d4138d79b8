"""`acfun import-lora`: a LoRA of diffusers' or kohya's making as a style file."""

from pathlib import Path
from typing import Annotated

import typer

from acfun.commands import options
from acfun.commands.fit import check_style_path
from acfun.commands.recording import check_distinct
from acfun.commands.session import Session


def import_lora(
    lora: Annotated[Path, typer.Argument(help="LoRA, *.safetensors.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Style file to write, *.safetensors.")],
    image: Annotated[
        Path | None, typer.Option(help="A picture in that style, whose strokes and colours guide sampling.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Terms of the LoRA, noted in the style file.")] = "unspecified",
    base: options.BaseName = "mini",
    base_config: options.BaseConfig = None,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Make a style file of a LoRA, to be applied like a fitted one, or blended, which Style.blend does in Python."""
    from acfun.face.finder import load_face_finder
    from acfun.images import load_image, pil_to_tensor
    from acfun.lora_import import check_lora
    from acfun.lora_import import import_lora as read_lora

    session = Session(device=device, quiet=quiet, as_json=as_json)
    check_style_path(output)
    check_distinct([output], [lora, Path(base), *filter(None, [image])])
    check_lora(lora)
    picture = None if image is None else pil_to_tensor(load_image(image))
    loaded = session.load_base(base, base_config, image_encoder=None)
    finder = None if picture is None else load_face_finder()
    imported = read_lora(lora, loaded, picture=picture, finder=finder, licence=licence, base_config=base_config)
    imported.style.save(output)
    if imported.left_out:
        session.say(
            f"left out: {len(imported.left_out)} layers outside the UNet's blocks, such as {imported.left_out[0]}"
        )
    session.finish({"style": str(output), "left_out": list(imported.left_out)}, str(output))
