"""What can be looked at after a run: table, sheet, trade-off plot, scorecard and blind comparison."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageOps

from acfun.errors import MissingExtraError
from acfun.evaluation.blind import build_blind_page
from acfun.evaluation.contract import Method
from acfun.evaluation.runner import OPTIONS_FILE, Row, Trial, name_picture, read_rows
from acfun.evaluation.scorecard import build_scorecard
from acfun.evaluation.table import summarise, tabulate
from acfun.images import contact_sheet, load_image, save_image
from acfun.paths import atomic_write

TABLE_FILE, SHEET_FILE, PLOT_FILE = "table.md", "sheet.png", "tradeoff.svg"
SCORECARD_FILE, BLIND_FILE = "scorecard.html", "blind.html"
THUMBNAIL = 160
DIGEST_LENGTH = 16


def write_report(folder: Path, methods: Mapping[str, Method], seed: int) -> list[Path]:
    """Write table, sheet, trade-off plot, blind comparison and scorecard of what there is; returns their paths."""
    rows = read_rows(folder)
    _write(folder / TABLE_FILE, summarise(rows, methods))
    write_sheet(folder, rows, methods, seed)
    plot_tradeoff(rows, methods, folder / PLOT_FILE)
    blind = build_blind_page(folder, rows, methods, seed)
    if blind is not None:
        _write(folder / BLIND_FILE, blind)
    page = build_scorecard(
        f"Benchmark {folder.resolve().name}",
        _describe_run(folder, rows),
        tabulate(rows, methods),
        folder / PLOT_FILE,
        folder / SHEET_FILE,
        None if blind is None else folder / BLIND_FILE,
    )
    _write(folder / SCORECARD_FILE, page)
    names = (TABLE_FILE, SHEET_FILE, PLOT_FILE, SCORECARD_FILE, BLIND_FILE)
    return [path for name in names if (path := folder / name).is_file()]


def _describe_run(folder: Path, rows: Sequence[Row]) -> str:
    """Its options, digests cut short, and how much there is."""
    path = folder / OPTIONS_FILE
    options = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    values = {name: value if isinstance(value, list) else [value] for name, value in options.items()}
    parts = [f"{name} {', '.join(str(part)[:DIGEST_LENGTH] for part in value)}" for name, value in values.items()]
    scenes, people = ({row[key] for row in rows} for key in ("scene", "person"))
    return "; ".join([*parts, f"{len(rows)} rows, {len(scenes)} scenes, {len(people)} people"])


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def require_matplotlib() -> None:
    """Before hours of painting.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError('the trade-off plot needs matplotlib: pip install "acfun-stylization[benchmark]"')


def plot_tradeoff(rows: Sequence[Row], methods: Mapping[str, Method], path: Path) -> None:
    """Identity against style distance, one curve a method over its dial; further up and to the right is better.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for name, method in methods.items():
        points = []
        for setting in method.settings:
            members = [row for row in rows if (row["method"], row["setting"]) == (name, setting)]
            if members:
                points.append(
                    [sum(row[key] for row in members) / len(members) for key in ("style_distance", "identity")]
                )
        if points:
            label = (
                name if len(points) == 1 else f"{name}, {method.dial} {method.settings[0]:g} to {method.settings[-1]:g}"
            )
            axes.plot(*zip(*points, strict=True), marker="o", label=label)
    axes.set(xlabel="distance to the style", ylabel="identity to the person")
    axes.invert_xaxis()
    axes.legend()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="svg")


def write_sheet(folder: Path, rows: Sequence[Row], methods: Mapping[str, Method], seed: int) -> None:
    """One row a scene: style, face, truth where all have one, and the first person by each method at its default."""
    scenes = list(dict.fromkeys(row["scene"] for row in rows))
    given = [
        title for title in ("style", "face", "truth") if all((folder / f"{s}-{title}.png").is_file() for s in scenes)
    ]
    titles = [*given, *methods]
    tiles = []
    for scene in scenes:
        paths = [folder / f"{scene}-{title}.png" for title in given]
        paths += [folder / name_picture(Trial(scene, name, part.default, seed).stem) for name, part in methods.items()]
        if all(path.is_file() for path in paths):
            tiles += [ImageOps.pad(load_image(path), (THUMBNAIL, THUMBNAIL), color="white") for path in paths]
    if tiles:
        labels = titles * (len(tiles) // len(titles))
        save_image(contact_sheet(tiles, len(titles), labels), folder / SHEET_FILE)
