"""`acfun stylize`: one photograph, one style image, one result."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from acfun.commands import options
from acfun.commands.fitting import Fitted, build_config, check_style_image, fit_cached
from acfun.commands.recording import check_distinct, record, save_results
from acfun.commands.session import Session, number_paths, refuse_useless
from acfun.errors import naming_photo

if TYPE_CHECKING:
    from PIL import Image

    from acfun.base import Base
    from acfun.config import Extent, FitConfig
    from acfun.face.finder import Face
    from acfun.photo import Sampling


@dataclass(frozen=True)
class Stylized:
    """pictures: the result, or the painted portraits; fitted: the style; seconds: the sampling took."""

    pictures: "list[Image.Image]"
    fitted: Fitted
    seconds: float

    def figures(self) -> dict[str, Any]:
        """What a result says about the work, as plain values."""
        return {
            "is_cached": self.fitted.is_cached,
            "fit_seconds": round(self.fitted.seconds, 2),
            "sampling_seconds": round(self.seconds, 2),
        }


@options.takes(options.SAMPLING | options.FITTING)
def stylize(
    context: typer.Context,
    photo: Annotated[Path, typer.Argument(help="Photograph to be painted.")],
    *,
    style: Annotated[Path, typer.Option(help="Style image.")],
    output: options.Output,
    sheet: Annotated[Path | None, typer.Option(help="Also write before, style and after side by side.")] = None,
    faces: options.Faces = "all",
    paint: options.Paint = "photo",
    no_manifest: options.NoManifest = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Paint a photograph in the manner of a style image; the fitted style is kept for the next time."""
    from acfun.face.detection import load_finder
    from acfun.images import check_output_path, load_image
    from acfun.photo import build_sheet, choose_faces

    fit_config = build_config(
        context.params, is_whole=faces == "whole", style_path=str(style), face_paths=(str(photo),)
    )
    session = Session(seed=fit_config.seed, device=fit_config.device, quiet=quiet, as_json=as_json)
    refuse_useless(context, ("min_side",), "--paint photo or faces", is_there=paint != "portraits")
    for path in filter(None, (output, sheet)):
        check_output_path(path)
    check_distinct([output, *filter(None, [sheet])], [photo, style])
    check_style_image(style)
    image, style_image = load_image(photo), load_image(style)
    sampling = session.build_sampling(context.params)
    loaded = session.load_fit_base(fit_config)
    with naming_photo(photo):
        chosen = choose_faces(image, faces, load_finder(fit_config.face_detector, fit_config.device))
    count = max(1, len(chosen)) if paint == "portraits" else 1
    check_distinct([*number_paths(output, count), *filter(None, [sheet])], [photo, style])
    manifest = record("stylize", session, loaded, context.params, {"photo": photo, "style": style}, fit_config)
    stylized = fit_and_paint(session, loaded, image, chosen, fit_config, sampling, paint)
    outputs = save_results(session, stylized.pictures, output, manifest)
    if sheet is not None:
        sheets = [build_sheet(image, style_image, stylized.pictures[0])]
        outputs += save_results(session, sheets, sheet, manifest, "sheet")
    session.finish({"outputs": outputs, "num_faces": len(chosen), **stylized.figures()}, "\n".join(outputs))


def fit_and_paint(
    session: Session,
    base: "Base",
    image: "Image.Image",
    faces: "Sequence[Face]",
    config: "FitConfig",
    sampling: "Sampling",
    extent: "Extent",
) -> Stylized:
    """Fit with the first face, or recall the style, and paint all faces.

    Raises:
        BaseNotFoundError: the installation lacks the identity encoder.
        KeyboardInterrupt: the fit was interrupted.
    """
    from acfun.photo import cut_portraits
    from acfun.photo import stylize as paint_faces

    fitted = fit_cached(config, base, cut_portraits(image, faces[:1], base.resolution), session)
    pipe = session.build_pipeline(base, fitted.style, config.identity_encoder)
    session.say(f"painting {len(faces) or 1} portrait{'s' if len(faces) > 1 else ''}")
    start = time.monotonic()
    pictures = paint_faces(pipe, image, faces, extent, **sampling)
    return Stylized(pictures, fitted, time.monotonic() - start)
