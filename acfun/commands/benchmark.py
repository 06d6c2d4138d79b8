"""`acfun benchmark`: methods against each other on the same styles and people."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from acfun.commands import options
from acfun.commands.session import Session, make_output_dir

Suite = Literal["paired", "paintings"]


def benchmark(
    *,
    suite: Annotated[Suite, typer.Option(help="Renderings with a known truth, or paintings.")] = "paired",
    output: options.OutputDir,
    methods: Annotated[list[str] | None, typer.Option(help="Several times; all when left out.")] = None,
    renderers: Annotated[list[str] | None, typer.Option(help="Of `paired`: styles; those held out by default.")] = None,
    people: Annotated[int, typer.Option(min=1, max=20, help="Of `paired`.")] = 8,
    paintings: Annotated[Path | None, typer.Option(help="Of `paintings`: folder of style images.")] = None,
    photos: Annotated[Path | None, typer.Option(help="Of `paintings`: folder of photographs.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs with different seeds, from --seed on.")] = 1,
    base: options.BaseName = "mini",
    base_config: options.BaseConfig = None,
    image_encoder: options.ImageEncoder = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Paint, measure, and write rows, table, plot and sheet; a second start goes on where the first one ended."""
    from acfun.errors import ConfigError
    from acfun.evaluation.methods import METHODS
    from acfun.evaluation.runner import Ledger, require_matplotlib, run, write_report
    from acfun.evaluation.suites import RENDERERS, build_paintings, build_paired, list_pictures
    from acfun.face.finder import load_face_finder
    from acfun.face.identity import load_identity_encoder
    from acfun.synthetic.renderers import HELD_OUT_RENDERERS

    session = Session(seed=seed, device=device, quiet=quiet, as_json=as_json)
    known = [name for name in METHODS if suite == "paired" or name != "truth"]
    if unknown := set(methods or ()) - set(known):
        raise ConfigError(f"{suite} has no method {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
    chosen = {name: METHODS[name] for name in known if not methods or name in methods}
    styles = sorted(renderers or HELD_OUT_RENDERERS)
    if unknown := set(styles) - RENDERERS.keys():
        raise ConfigError(
            f"there is no renderer {', '.join(sorted(unknown))}; choose from {', '.join(sorted(RENDERERS))}"
        )
    require_matplotlib()
    make_output_dir(output)
    if suite == "paintings":
        if paintings is None or photos is None:
            raise ConfigError("the suite of paintings needs --paintings FOLDER and --photos FOLDER")
        pictures, faces = list_pictures(paintings), list_pictures(photos)
        loaded = session.load_base(base, base_config, image_encoder=image_encoder or "own")
        meaning = {"paintings": [path.stem for path in pictures], "photos": [path.stem for path in faces]}
        scenes = build_paintings(pictures, faces, loaded.resolution, load_face_finder())
    else:
        order, loaded = sorted(RENDERERS), session.load_base(base, base_config, image_encoder=image_encoder or "own")
        meaning = {"people": [str(people)]}
        scenes = (build_paired(name, order.index(name), loaded.resolution, people) for name in styles)
    ledger = Ledger(output, {"suite": suite, "base": loaded.fingerprint, **meaning})
    run(loaded, load_identity_encoder(), scenes, chosen, range(seed, seed + seeds), ledger, session.say)
    paths = [str(path) for path in write_report(output, chosen, seed)]
    session.finish({"outputs": paths}, "\n".join(paths))
