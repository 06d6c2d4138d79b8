"""`acfun demo`: a sample face in a sample style, both part of the package."""

from pathlib import Path
from typing import Annotated

import typer

from acfun.commands import options
from acfun.commands.fitting import build_config
from acfun.commands.session import Session, make_output_dir
from acfun.commands.stylize import fit_and_paint, save_results
from acfun.errors import BaseNotFoundError
from acfun.paths import mini_dir

SHEET_NAME = "demo_sheet.png"


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to; made if need be.")] = Path(),
    *,
    max_steps: options.MaxSteps = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Paint the sample face in the sample style and write before, style and after side by side."""
    from acfun.images import load_image
    from acfun.photo import build_sheet, choose_faces

    session = Session(seed=seed, device=device, quiet=quiet, as_json=as_json)
    face, style = find_samples(mini_dir() / "samples")
    make_output_dir(output)
    config = build_config(
        None, is_whole=False, session=session, style_path=str(style), face_paths=(str(face),), max_steps=max_steps
    )
    base = session.load_base(config.base)
    image = load_image(face)
    faces = choose_faces(image, "largest")
    stylized = fit_and_paint(session, base, image, faces, config, session.build_sampling({}), is_portrait=False)
    sheet = build_sheet(image, load_image(style), stylized.pictures[0])
    (path,) = save_results([sheet], output / SHEET_NAME)
    figures = stylized.figures()
    text = f"{path}\nfit {figures['fit_seconds']} s, sampling {figures['sampling_seconds']} s"
    session.finish({"sheet": path, **figures}, f"{text} (style from the cache)" if figures["is_cached"] else text)


def find_samples(directory: Path) -> tuple[Path, Path]:
    """The packaged face and style image.

    Raises:
        BaseNotFoundError: the installation has none.
    """
    face, style = directory / "face.png", directory / "style.png"
    for path in (face, style):
        if not path.is_file():
            raise BaseNotFoundError(f"{path}: the sample picture is missing; reinstall acfun with its embedded base")
    return face, style
