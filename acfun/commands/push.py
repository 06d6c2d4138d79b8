"""`acfun push`: a style, its model card and, if asked for, its exports to the hub."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from acfun.commands import options
from acfun.commands.export import Layout, describe_files, place_sample
from acfun.commands.session import Session, refuse_useless
from acfun.errors import ConfigError


def push(
    context: typer.Context,
    style: Annotated[Path, typer.Argument(help="Style file.")],
    *,
    repo: Annotated[str, typer.Option(help="Where to, user/name; made if need be.")],
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", show_default="as your account has it", help="Of a new repository."),
    ] = None,
    export: Annotated[Layout | None, typer.Option(help="Also upload LoRA and pseudo-word, in this layout.")] = None,
    licence: options.Licence = None,
    sample: options.Sample = None,
    base: options.StyleBaseName = None,
    base_config: options.BaseConfig = None,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Upload a style and its model card to the Hugging Face hub.

    The token is that of `hf auth login`, or HF_TOKEN.
    """
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from acfun.export import export_style
    from acfun.hub import check_token
    from acfun.model_card import CardFiles
    from acfun.style import Style

    session = Session(device=device, quiet=quiet, as_json=as_json)
    refuse_useless(context, ("base", "base_config", "device"), "--export", is_there=export is not None)
    if not all(repo.partition("/")):
        raise ConfigError(f"--repo is {repo!r}; give user/name, with your name on the hub")
    loaded = Style.load(style)
    check_token()
    if quiet:
        disable_progress_bars()
    with TemporaryDirectory() as directory:
        folder = Path(directory)
        sample_name = place_sample(sample, folder)
        files = CardFiles(sample=sample_name)
        if export is not None:
            exported = export_style(
                loaded, session.load_style_base(loaded, base, base_config, dtype="float32"), folder, export
            )
            files = describe_files(exported, export, sample_name)
        session.say(f"uploading to {repo}")
        url = loaded.push_to_hub(repo, private=private, licence=licence, exports=folder, files=files)
    session.finish({"url": url}, url)
