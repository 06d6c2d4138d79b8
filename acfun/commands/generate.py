"""`acfun generate`: pictures from text, with or without a style, of nobody or of a given person."""

from pathlib import Path
from typing import Annotated

import typer

from acfun.commands import options
from acfun.commands.recording import check_distinct, record, save_results
from acfun.commands.session import Session, number_paths, refuse_useless
from acfun.errors import naming_photo

DEFAULT_BASE = "mini"
PICTURES_AT_ONCE = 4
PERSON_OPTIONS = ("person_scale", "identity_adapter", "identity_encoder")
STYLE_OPTIONS = ("style_scale", "structure_scale", "color_scale")
TAKEN = ("negative_prompt", *STYLE_OPTIONS, "guidance_scale", "steps")


@options.takes({name: options.SAMPLING[name] for name in TAKEN})
def generate(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What is to be seen, for instance 'a photo of an old man'.")],
    *,
    output: options.Output,
    style: Annotated[Path | None, typer.Option(help="Style file.")] = None,
    person: Annotated[Path | None, typer.Option(help="Photograph of who is to be seen.")] = None,
    person_scale: Annotated[
        float | None, typer.Option(min=0, max=2, show_default="1.0", help="With --person: how closely it is that one.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=64, help="How many pictures; several are numbered.")] = 1,
    identity_encoder: options.IdentityEncoder = None,
    identity_adapter: options.IdentityAdapter = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    base: options.StyleBaseName = None,
    base_config: options.BaseConfig = None,
    no_manifest: options.NoManifest = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Sample pictures from a description, of the person on a photograph if one is given."""
    from acfun.images import check_output_path, load_image
    from acfun.style import Style

    session = Session(seed=seed, device=device, quiet=quiet, as_json=as_json)
    check_output_path(output)
    check_distinct(number_paths(output, count), [path for path in (style, person) if path is not None])
    refuse_useless(context, PERSON_OPTIONS, "--person", is_there=person is not None)
    refuse_useless(context, STYLE_OPTIONS, "--style", is_there=style is not None)
    sitter = None if person is None else load_image(person)
    loaded_style = None if style is None else Style.load(style)
    if loaded_style is None:
        loaded = session.load_base(base or DEFAULT_BASE, base_config, image_encoder=None, dtype="auto")
    else:
        loaded = session.load_style_base(loaded_style, base, base_config)
    pipe = session.build_pipeline(loaded, None, identity_encoder)
    if sitter is not None:
        pipe.load_identity_adapter(identity_adapter or "mini")
        pipe.set_ip_adapter_scale(1.0 if person_scale is None else person_scale)
    if loaded_style is not None:
        pipe.load_style(loaded_style)
    sampling = session.build_sampling(context.params, has_face=False)
    manifest = record("generate", session, loaded, context.params, {"style": style, "person": person})
    session.say(f"sampling {count} picture{'s' if count > 1 else ''}")
    # Noise comes from one generator, so that a picture does not depend on how many are sampled at once.
    sizes = [min(PICTURES_AT_ONCE, count - done) for done in range(0, count, PICTURES_AT_ONCE)]
    with naming_photo(str(person)):
        batches = [pipe(person=sitter, num_images_per_prompt=size, **sampling).images for size in sizes]
    pictures = [picture for batch in batches for picture in batch]
    outputs = save_results(session, pictures, output, manifest)
    session.finish({"outputs": outputs}, "\n".join(outputs))
