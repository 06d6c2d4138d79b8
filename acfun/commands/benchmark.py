"""`acfun benchmark`: methods against each other on the same styles and people."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from acfun.commands import options
from acfun.commands.session import Session, check_output_dir, make_output_dir, refuse_useless

if TYPE_CHECKING:
    from acfun.evaluation.contract import Method
    from acfun.evaluation.suites import Scene

Suite = Literal["paired", "development", "paintings"]

SecondEncoder = Annotated[
    str | None,
    typer.Option(
        "--identity-encoder",
        help="A second judge of people: an insightface pack's folder, an ArcFace-type *.onnx, or an encoder's folder.",
    ),
]
StyleEncoder = Annotated[
    str | None,
    typer.Option(
        help="A second judge of style: folder or hub id of a CLIP image encoder (its cosine is CLIP-I), or of CSD's."
    ),
]


def benchmark(
    context: typer.Context,
    *,
    suite: Annotated[
        Suite,
        typer.Option(
            help="Renderings with a known truth; the same of styles and people that the base was trained on, "
            "to choose settings with; or paintings."
        ),
    ] = "paired",
    output: options.OutputDir,
    methods: Annotated[list[str] | None, typer.Option(help="Several times; all when left out.")] = None,
    renderers: Annotated[
        list[str] | None, typer.Option(help="Styles of renderings; all held-out, or trained, ones by default.")
    ] = None,
    people: Annotated[int, typer.Option(min=1, max=20, help="Of renderings.")] = 8,
    paintings: Annotated[Path | None, typer.Option(help="Of `paintings`: folder of style images.")] = None,
    photos: Annotated[Path | None, typer.Option(help="Of `paintings`: folder of photographs.")] = None,
    dials: Annotated[bool, typer.Option(help="Every setting of each method's dial, or its default alone.")] = True,
    seeds: Annotated[int, typer.Option(min=1, help="Runs with different seeds, from --seed on.")] = 1,
    identity_encoder: SecondEncoder = None,
    style_encoder: StyleEncoder = None,
    base: options.BaseName = "mini",
    base_config: options.BaseConfig = None,
    image_encoder: options.ImageEncoder = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Paint, measure, and write rows and report; a second start goes on where the first one ended.

    The report is a table, a plot, a sheet, a scorecard with all of them, and a page to compare pictures blind.
    """
    from acfun.evaluation.report import require_matplotlib, write_report
    from acfun.evaluation.runner import Ledger, run
    from acfun.evaluation.suites import build_paintings, build_renderings, choose_renderers, digest_pictures
    from acfun.face.finder import load_face_finder
    from acfun.face.identity import load_identity_encoder

    session = Session(seed=seed, device=device, quiet=quiet, as_json=as_json)
    refuse_useless(context, ("renderers", "people"), "--suite paired or development", is_there=suite != "paintings")
    refuse_useless(context, ("paintings", "photos"), "--suite paintings", is_there=suite == "paintings")
    is_held_out = suite != "development"
    chosen = choose_methods(suite, methods, use_dials=dials)
    styles = choose_renderers(renderers, is_held_out=is_held_out)
    require_matplotlib()
    check_output_dir(output)
    folders = None if suite != "paintings" else find_pictures(paintings, photos)
    loaded = session.load_base(base, base_config, image_encoder=image_encoder or "own")
    meaning: dict[str, Any] = {"suite": suite, "base": loaded.fingerprint}
    if folders is not None:
        scenes: Iterable[Scene] = build_paintings(*folders, loaded.resolution, load_face_finder())
        meaning |= dict(zip(("paintings", "photos"), map(digest_pictures, folders), strict=True))
    else:
        scenes = build_renderings(styles, loaded.resolution, people, is_held_out=is_held_out)
        meaning["people"] = [str(people)]
    judges, judged_by = load_judges(identity_encoder, style_encoder)
    make_output_dir(output)
    ledger = Ledger(output, meaning | judged_by)
    run(loaded, load_identity_encoder(), scenes, chosen, range(seed, seed + seeds), ledger, session.say, **judges)
    paths = [str(path) for path in write_report(output, chosen, seed)]
    session.finish({"outputs": paths}, "\n".join(paths))


def load_judges(identity_encoder: str | None, style_encoder: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The judges of `acfun.evaluation.runner.run`, and what tells the given ones from others of that role.

    Raises:
        FaceModelError: the identity encoder cannot be used.
        BaseNotFoundError: there is no such style encoder, or the installation lacks the face finder.
    """
    from acfun.base.sources import IMAGE_ENCODER_FILES, find_image_encoder
    from acfun.evaluation.style_judge import load_style_judge
    from acfun.face.finder import load_face_finder
    from acfun.face.packs import compute_fingerprint
    from acfun.face.recognition import load_recognition
    from acfun.paths import compute_digest

    judges: dict[str, Any] = {"finder": load_face_finder()}
    meaning: dict[str, Any] = {}
    if identity_encoder is not None:
        judges["second_encoder"] = load_recognition(identity_encoder)
        meaning["identity_encoder"] = [compute_fingerprint(identity_encoder)]
    if style_encoder is not None:
        judges["style_encoder"] = load_style_judge(style_encoder)
        meaning["style_encoder"] = [compute_digest(find_image_encoder(style_encoder), IMAGE_ENCODER_FILES)]
    return judges, meaning


def find_pictures(paintings: Path | None, photos: Path | None) -> tuple[list[Path], list[Path]]:
    """The pictures of the suite of paintings, and its photographs.

    Raises:
        ConfigError: a folder is missing, or unfit.
    """
    from acfun.errors import ConfigError
    from acfun.evaluation.suites import list_pictures

    if paintings is None or photos is None:
        raise ConfigError("the suite of paintings needs --paintings FOLDER and --photos FOLDER")
    return list_pictures(paintings), list_pictures(photos)


def choose_methods(suite: Suite, names: list[str] | None, *, use_dials: bool) -> "dict[str, Method]":
    """The methods of these names, or all that a suite has; with their default settings alone, or with all.

    Raises:
        ConfigError: it has no such method.
    """
    from acfun.errors import ConfigError
    from acfun.evaluation.methods import METHODS

    known = [name for name in METHODS if suite != "paintings" or name != "truth"]
    if unknown := set(names or ()) - set(known):
        raise ConfigError(f"{suite} has no method {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
    chosen = {name: METHODS[name] for name in known if not names or name in names}
    if use_dials:
        return chosen
    return {name: replace(method, settings=(method.default,)) for name, method in chosen.items()}
