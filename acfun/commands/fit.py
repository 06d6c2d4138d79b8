"""`acfun fit`: one style image to a style file."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from acfun.commands import options
from acfun.commands.fitting import Fitted, build_config, check_style_image
from acfun.commands.fitting import fit as run_fit
from acfun.commands.recording import MODEL_OPTIONS, check_distinct, is_local
from acfun.commands.session import Session, print_message
from acfun.config import FitConfig, dump_toml
from acfun.errors import ConfigError
from acfun.paths import explain_obstacle

STYLE_SUFFIX = ".safetensors"
INTERRUPTED = 130

RunDir = Annotated[
    Path | None, typer.Option("--run-dir", help="Folder for config, previews and checkpoint.", rich_help_panel="Run")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the run folder's checkpoint.", rich_help_panel="Run")
]
PreviewEvery = Annotated[int | None, typer.Option(min=0, help="In steps; 0 for none.", rich_help_panel="Run")]
CheckpointEvery = Annotated[
    int | None, typer.Option(min=0, help="In steps; 0 for every few minutes.", rich_help_panel="Run")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the config as TOML and stop.", rich_help_panel="Run")]


@options.takes(options.FITTING)
def fit(
    context: typer.Context,
    image: Annotated[Path, typer.Argument(help="Style image.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Style file to write, *.safetensors.")],
    face: Annotated[
        list[Path] | None,
        typer.Option(help="Photograph to fit with; may be repeated. Without: faces drawn from the base."),
    ] = None,
    faces: options.FitFaces = "largest",
    run_dir: RunDir = None,
    resume: Resume = False,
    preview_every: PreviewEvery = None,
    checkpoint_every: CheckpointEvery = None,
    dry_run: DryRun = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Fit a style image and save the style; Ctrl-C or SIGTERM saves it as far as it got."""
    fit_config = build_config(
        context.params,
        is_whole=faces == "whole",
        style_path=str(image),
        face_paths=tuple(map(str, face)) if face else None,
        output_dir=None if run_dir is None else str(run_dir),
        resume=resume or None,
        preview_every=preview_every,
        checkpoint_every=checkpoint_every,
    )
    session = Session(seed=fit_config.seed, device=fit_config.device, quiet=quiet, as_json=as_json)
    if dry_run:
        session.finish(asdict(fit_config), dump_toml(asdict(fit_config)).rstrip())
        return
    check_style_path(output)
    check_distinct([output], list_inputs(fit_config))
    check_resume(fit_config, is_given=resume)
    check_style_image(image)
    check_images(*map(Path, (fit_config.style_path, *fit_config.face_paths)))
    fitted = run_fit(fit_config, session.load_fit_base(fit_config), session)
    fitted.style.save(output)
    finish(session, fitted, output, fit_config.max_steps)


def finish(session: Session, fitted: Fitted, output: Path, max_steps: int) -> None:
    """Name the style file; after an interruption also say how far the fit got, and end with code 130."""
    result = {"style": str(output), "steps": fitted.step, "is_complete": fitted.is_complete}
    session.finish({**result, "fit_seconds": round(fitted.seconds, 2)}, str(output))
    if not fitted.is_complete:
        print_message(
            f"interrupted after {fitted.step} of {max_steps} steps: the style so far is in {output}; "
            "a fit with --run-dir goes on from there by --resume"
        )
        raise typer.Exit(INTERRUPTED)


def check_style_path(path: Path) -> None:
    """Refuse, before any work is done, a path that a style cannot be saved to.

    Raises:
        ConfigError: the ending is wrong, the folder does not exist, or nothing can be written there.
    """
    if obstacle := explain_obstacle(path, [STYLE_SUFFIX]):
        raise ConfigError(obstacle)


def check_resume(config: FitConfig, *, is_given: bool) -> None:
    """Refuse, before the base is loaded, to go on from a checkpoint that is not there, or of another fit.

    Args:
        config: of the fit.
        is_given: whether --resume was; a config file may ask for it from the first start on.

    Raises:
        ConfigError: the run folder holds no checkpoint, or one that this fit cannot go on from.
    """
    from acfun.fit_checkpoint import CHECKPOINT_NAME, check_resumable

    if is_given and config.output_dir is not None and not (Path(config.output_dir) / CHECKPOINT_NAME).is_file():
        raise ConfigError(f"{config.output_dir} holds no checkpoint: leave --resume out, or check the path")
    check_resumable(config)


def list_inputs(config: FitConfig) -> list[Path]:
    """The files that a fit reads: pictures, models that are paths, and the checkpoint of its run folder."""
    from acfun.fit_checkpoint import CHECKPOINT_NAME

    models = [getattr(config, role) for role in MODEL_OPTIONS if is_local(getattr(config, role, None))]
    checkpoint = [] if config.output_dir is None else [Path(config.output_dir) / CHECKPOINT_NAME]
    return [*map(Path, (config.style_path, *config.face_paths, *models)), *checkpoint]


def check_images(*paths: Path) -> None:
    """Read pictures before the base is loaded, so that a wrong one is told at once.

    Raises:
        ImageError: one cannot be read.
    """
    from acfun.images import load_image

    for path in paths:
        load_image(path)
