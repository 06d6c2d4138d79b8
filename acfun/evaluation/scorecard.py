"""The scorecard of a run: table with intervals, trade-off plot and sheet in one HTML file."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import get_args

from acfun.evaluation.blind import ANCHORS
from acfun.evaluation.measures import COLUMNS, Topic
from acfun.evaluation.pages import embed_image, fill_page
from acfun.evaluation.table import Cell, Line, list_columns
from acfun.images import load_image

TOPICS: dict[Topic, str] = {
    "style": "Like the painting?",
    "person": "Like the person?",
    "leakage": "Does the painted face come through?",
    "truth": "Like the truth?",
}
ARROWS = {"higher": "↑", "lower": "↓", "near 0": "→ 0"}


def build_scorecard(
    title: str, facts: str, lines: Mapping[str, Line], plot: Path, sheet: Path, blind: Path | None
) -> str:
    """The page as HTML.

    Args:
        title: of the run.
        facts: about it, in a line.
        lines: of `tabulate`.
        plot: SVG file, put into the page where there is one.
        sheet: picture, likewise.
        blind: page of the blind comparison, linked to; None where there is none.
    """
    link = "" if blind is None else f'<p><a href="{escape(blind.name)}">Compare the pictures yourself, blind</a></p>'
    tables = [_build_table(topic, lines) for topic in get_args(Topic) if list_columns(lines, topic)]
    parts = {"title": escape(title), "facts": escape(facts), "blind": link, "tables": "\n".join(tables)}
    return fill_page("scorecard.html", **parts, plot=_build_plot(plot), sheet=_build_sheet(sheet))


def _build_plot(path: Path) -> str:
    if not path.is_file():
        return ""
    svg = path.read_text(encoding="utf-8")
    return f'<h2>Person against style</h2>\n<div class="card plot">{svg[svg.index("<svg") :]}</div>'


def _build_sheet(path: Path) -> str:
    if not path.is_file():
        return ""
    picture = embed_image(load_image(path))
    return f'<h2>The first person of each scene</h2>\n<div class="card wide"><img src="{picture}" alt="sheet"></div>'


def _build_table(topic: Topic, lines: Mapping[str, Line]) -> str:
    names = list_columns(lines, topic)
    ranges = {name: _find_range(name, lines) for name in names}
    best = {name: _list_best(name, lines) for name in names}
    head = "".join(
        f'<th title="{escape(COLUMNS[name].text)}">{escape(name)} {ARROWS[COLUMNS[name].better]}</th>' for name in names
    )
    rows = []
    for method, line in lines.items():
        cells = [_build_cell(line.cells.get(name), ranges[name], is_best=method in best[name]) for name in names]
        kind = ' class="anchor"' if method in ANCHORS else ""
        rows.append(f"<tr{kind}><th>{escape(method)}</th><td>{line.count}</td>{''.join(cells)}</tr>")
    legend = "".join(f"<dt>{escape(name)}</dt><dd>{escape(COLUMNS[name].text)}</dd>" for name in names)
    return (
        f"<h2>{escape(TOPICS[topic])}</h2>\n"
        f'<div class="card wide"><table>\n<thead><tr><th>method</th><th>n</th>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + f"\n</tbody></table></div>\n<details><summary>what the columns say</summary><dl>{legend}</dl></details>"
    )


def _build_cell(cell: Cell | None, limits: tuple[float, float], *, is_best: bool) -> str:
    if cell is None:
        return "<td></td>"
    low, high = limits
    places = {
        name: f"{100 * (getattr(cell, name) - low) / max(high - low, 1e-9):.1f}%" for name in ("low", "high", "mean")
    }
    style = "; ".join(f"--{name}: {place}" for name, place in places.items())
    kind = ' class="best"' if is_best else ""
    return (
        f'<td><span{kind}>{cell.mean:.3f}</span><span class="interval">{cell.low:.3f} to {cell.high:.3f}</span>'
        f'<span class="whisker" style="{style}"></span></td>'
    )


def _find_range(name: str, lines: Mapping[str, Line]) -> tuple[float, float]:
    cells = [line.cells[name] for line in lines.values() if name in line.cells]
    return min(cell.low for cell in cells), max(cell.high for cell in cells)


def _list_best(name: str, lines: Mapping[str, Line]) -> list[str]:
    """The painters with the best mean; without anchors."""
    means = {method: line.cells[name].mean for method, line in lines.items() if name in line.cells}
    better = COLUMNS[name].better
    worths = {
        method: {"higher": mean, "lower": -mean, "near 0": -abs(mean)}[better]
        for method, mean in means.items()
        if method not in ANCHORS
    }
    return [method for method, worth in worths.items() if worth == max(worths.values())]
