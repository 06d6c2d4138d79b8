"""`acfun demo`: the astronaut that scikit-image ships, painted in the sample style of the package."""

from pathlib import Path
from typing import Annotated

import typer

from acfun.commands import options
from acfun.commands.fitting import build_config
from acfun.commands.recording import save_results
from acfun.commands.session import Session, make_output_dir
from acfun.commands.stylize import fit_and_paint
from acfun.errors import BaseNotFoundError
from acfun.paths import mini_dir

SHEET_NAME, PHOTO_NAME = "demo_sheet.png", "demo_photo.png"


@options.takes({"max_steps": options.FITTING["max_steps"]})
def demo(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to; made if need be.")] = Path(),
    *,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Paint a sample photograph in a sample style and write before, style and after side by side."""
    from acfun.images import load_image, tensor_to_pil
    from acfun.photo import build_sheet, choose_faces, cut_portraits

    session = Session(seed=seed, device=device, quiet=quiet, as_json=as_json)
    style = find_sample_style(mini_dir() / "samples")
    make_output_dir(output)
    photo = write_sample_photo(output / PHOTO_NAME)
    config = build_config(context.params, is_whole=False, style_path=str(style), face_paths=(str(photo),))
    base = session.load_fit_base(config)
    image = load_image(photo)
    faces = choose_faces(image, "largest")
    stylized = fit_and_paint(session, base, image, faces, config, session.build_sampling({}), "portraits")
    before = tensor_to_pil(cut_portraits(image, faces, stylized.pictures[0].width)[0].image)
    sheet = build_sheet(before, load_image(style), stylized.pictures[0])
    (path,) = save_results(session, [sheet], output / SHEET_NAME, None)
    figures = stylized.figures()
    text = f"{path}\nfit {figures['fit_seconds']} s, sampling {figures['sampling_seconds']} s"
    session.finish({"sheet": path, **figures}, f"{text} (style from the cache)" if figures["is_cached"] else text)


def write_sample_photo(path: Path) -> Path:
    """Write the astronaut photograph (NASA, public domain) that scikit-image ships."""
    from PIL import Image
    from skimage.data import astronaut

    from acfun.images import save_image

    save_image(Image.fromarray(astronaut()), path)
    return path


def find_sample_style(directory: Path) -> Path:
    """The packaged style image.

    Raises:
        BaseNotFoundError: the installation has none.
    """
    path = directory / "style.png"
    if not path.is_file():
        raise BaseNotFoundError(f"{path}: the sample picture is missing; reinstall acfun with its embedded base")
    return path
