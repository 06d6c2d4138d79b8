"""`acfun apply`: a fitted style on photographs."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from acfun.commands import options
from acfun.commands.batch import BATCH_SIZE, apply_batch
from acfun.commands.recording import record, save_results
from acfun.commands.session import Session, check_output_dir, make_output_dir, print_error, refuse_useless
from acfun.errors import ConfigError, ImageError, ManifestError, NoFaceFoundError, naming_photo
from acfun.paths import is_url

SUFFIX = ".png"


@options.takes(options.SAMPLING)
def apply(
    context: typer.Context,
    style: Annotated[Path, typer.Argument(help="Style file.")],
    photos: Annotated[
        list[str], typer.Argument(help="Photographs to be painted; for batches also folders, and URLs of either.")
    ],
    *,
    output: options.OutputPlace,
    faces: options.Faces = "all",
    paint: options.Paint = "photo",
    identity_encoder: options.IdentityEncoder = None,
    face_detector: options.FaceDetector = None,
    seed: options.Seed = 0,
    workers: options.Workers = None,
    cluster: options.Cluster = None,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    base: options.StyleBaseName = None,
    base_config: options.BaseConfig = None,
    no_manifest: options.NoManifest = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Paint photographs in a fitted style; what cannot be painted is named, and the others are.

    With --workers, --cluster or --batch-size, or where a URL is given, it is a batch on Ray: of whole folders, with a
    table of what became of each file, manifest.parquet, in the output folder. The same command again does what is left.
    """
    from acfun.face.detection import load_finder
    from acfun.images import load_image
    from acfun.photo import choose_faces, stylize
    from acfun.style import Style

    session = Session(seed=seed, device=device, quiet=quiet, as_json=as_json)
    refuse_useless(context, ("min_side",), "--paint photo or faces", is_there=paint != "portraits")
    if any((workers, cluster, batch_size)) or any(map(is_url, (output, *photos))):
        size = batch_size or BATCH_SIZE
        apply_batch(session, style, photos, output, context.params, workers=workers, cluster=cluster, batch_size=size)
        return
    loaded_style = Style.load(style)
    directory = Path(output)
    targets = name_targets([Path(photo) for photo in photos], directory, is_numbered=paint == "portraits")
    check_output_dir(directory)
    outputs: dict[str, list[str]] = {}
    readable = list_readable(list(targets), context.params)
    if not readable:
        return finish(session, targets, outputs)
    loaded = session.load_style_base(loaded_style, base, base_config)
    pipe = session.build_pipeline(loaded, loaded_style, identity_encoder)
    finder = None if face_detector is None else load_finder(face_detector, device)
    for photo in readable:
        session.say(f"painting {photo}")
        sampling = session.build_sampling(context.params)
        try:
            image = load_image(photo)
            manifest = record("apply", session, loaded, context.params, {"photo": photo, "style": style})
            with naming_photo(photo):
                chosen = choose_faces(image, faces, finder)
            pictures = stylize(pipe, image, chosen, paint, **sampling)
            make_output_dir(directory)
            outputs[str(photo)] = save_results(session, pictures, targets[photo], manifest)
        except (ImageError, ManifestError, NoFaceFoundError) as error:
            print_error(error, context.params)
    return finish(session, targets, outputs)


def finish(session: Session, photos: Iterable[Path], outputs: Mapping[str, Sequence[str]]) -> None:
    """Name the results of all photographs; where some have none, end with code 1."""
    failed = [str(photo) for photo in photos if str(photo) not in outputs]
    session.finish(
        {"outputs": outputs, "failed": failed}, "\n".join(path for paths in outputs.values() for path in paths)
    )
    if failed:
        raise typer.Exit(1)


def list_readable(photos: Sequence[Path], option_names: Collection[str]) -> list[Path]:
    """The photographs that can be read; the others are named with what is wrong, and what the command can do."""
    from acfun.images import load_image

    readable = []
    for photo in photos:
        try:
            if photo.is_dir():
                raise ImageError(
                    f"{photo}: this is a folder; give the photographs in it, or add --workers N to paint all in it"
                )
            load_image(photo)
        except ImageError as error:
            print_error(error, option_names)
        else:
            readable.append(photo)
    return readable


def name_targets(photos: list[Path], directory: Path, *, is_numbered: bool = False) -> dict[Path, Path]:
    """Where the result of each photograph goes: its own name, as PNG; several results of one are numbered.

    Raises:
        ConfigError: two results would have one name, or one would replace its photograph.
    """
    targets: dict[Path, Path] = {}
    for photo in dict.fromkeys(photos):
        target = directory / f"{photo.stem}{SUFFIX}"
        if target in targets.values():
            raise ConfigError(f"{photo}: another photograph is also called {photo.stem!r}; rename one of them")
        if target.resolve() == photo.resolve():
            raise ConfigError(f"{photo}: the result would replace the photograph; give another folder than {directory}")
        targets[photo] = target
    stems = {photo.stem for photo in targets}
    for photo in targets:
        first = re.sub(r"-\d+$", "", photo.stem)
        if is_numbered and first != photo.stem and first in stems:
            raise ConfigError(f"{photo}: a portrait of {first!r} could get the same name; rename one of them")
    return targets
