"""`acfun benchmark`: methods against each other on the same styles and people."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from acfun.commands import options
from acfun.commands.session import Session

if TYPE_CHECKING:
    from acfun.evaluation.suites import Scene

Suite = Literal["paired", "paintings"]


def benchmark(
    *,
    suite: Annotated[Suite, typer.Option(help="Renderings with a known truth, or paintings.")] = "paired",
    output: options.OutputDir,
    methods: Annotated[list[str] | None, typer.Option(help="Several times; all when left out.")] = None,
    renderers: Annotated[list[str] | None, typer.Option(help="Of `paired`: styles; those held out by default.")] = None,
    paintings: Annotated[Path | None, typer.Option(help="Of `paintings`: folder of style images.")] = None,
    photos: Annotated[Path | None, typer.Option(help="Of `paintings`: folder of photographs.")] = None,
    people: Annotated[int, typer.Option(min=1, max=20, help="Of `paired`.")] = 8,
    seeds: Annotated[int, typer.Option(min=1, help="Runs with different seeds, from --seed on.")] = 1,
    base: options.BaseName = "mini",
    seed: options.Seed = 0,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Paint, measure, and write rows, table, plot and sheet; a second start goes on where the first one ended."""
    from acfun.errors import ConfigError
    from acfun.evaluation.methods import METHODS
    from acfun.evaluation.runner import run, write_report
    from acfun.evaluation.suites import build_paintings, build_paired, list_pictures
    from acfun.face.finder import load_face_finder
    from acfun.face.identity import load_identity_encoder
    from acfun.synthetic.renderers import HELD_OUT_RENDERERS

    session = Session(seed=seed, device=device, quiet=quiet, as_json=as_json)
    if unknown := set(methods or ()) - METHODS.keys():
        raise ConfigError(f"there is no method {', '.join(sorted(unknown))}; choose from {', '.join(METHODS)}")
    known = [name for name in METHODS if suite == "paired" or name != "truth"]
    chosen = {name: METHODS[name] for name in known if not methods or name in methods}
    if suite == "paintings" and (paintings is None or photos is None):
        raise ConfigError("the suite of paintings needs --paintings FOLDER and --photos FOLDER")
    loaded = session.load_base(base)

    def build_scenes() -> "Iterator[Scene]":
        if paintings is not None and photos is not None:
            yield from build_paintings(
                list_pictures(paintings), list_pictures(photos), loaded.resolution, load_face_finder()
            )
            return
        for index, name in enumerate(renderers or sorted(HELD_OUT_RENDERERS)):
            yield build_paired(name, index, loaded.resolution, people)

    run(loaded, load_identity_encoder(), build_scenes(), chosen, range(seed, seed + seeds), output, session.say)
    paths = [str(path) for path in write_report(output, chosen, seed)]
    session.finish({"outputs": paths}, "\n".join(paths))
