"""`acfun generate`: pictures from text, with or without a style."""

from pathlib import Path
from typing import Annotated

import typer

from acfun.commands import options
from acfun.commands.recording import record, save_results
from acfun.commands.session import Session

DEFAULT_BASE = "mini"


def generate(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What is to be seen, for instance 'a photo of an old man'.")],
    *,
    output: options.Output,
    style: Annotated[Path | None, typer.Option(help="Style file.")] = None,
    count: Annotated[int, typer.Option(min=1, max=64, help="How many pictures; several are numbered.")] = 1,
    negative_prompt: options.NegativePrompt = None,
    style_scale: options.StyleScale = None,
    structure_scale: options.StructureScale = None,
    color_scale: options.ColorScale = None,
    guidance_scale: options.GuidanceScale = None,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    base: options.StyleBaseName = None,
    base_config: options.BaseConfig = None,
    no_manifest: options.NoManifest = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Sample pictures from a description."""
    from acfun.images import check_output_path
    from acfun.style import Style

    session = Session(seed=seed, device=device, quiet=quiet, as_json=as_json)
    check_output_path(output)
    loaded_style = None if style is None else Style.load(style)
    if loaded_style is None:
        loaded = session.load_base(base or DEFAULT_BASE, base_config, image_encoder=None)
    else:
        loaded = session.load_style_base(loaded_style, base, base_config)
    pipe = session.build_pipeline(loaded, loaded_style)
    sampling = session.build_sampling(context.params, has_face=False)
    manifest = record("generate", session, loaded, context.params, {"style": style})
    session.say(f"sampling {count} picture{'s' if count > 1 else ''}")
    pictures = pipe(num_images_per_prompt=count, **sampling).images
    outputs = save_results(session, pictures, output, manifest)
    session.finish({"outputs": outputs}, "\n".join(outputs))
