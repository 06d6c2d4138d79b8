"""Rows to a table: means and intervals of each method, as values and as Markdown."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import torch

from acfun.evaluation import metrics
from acfun.evaluation.contract import Method
from acfun.evaluation.measures import COLUMNS, Topic
from acfun.evaluation.runner import Row

REFERENCE = "acfun"
COMPARED = ("to_truth", "ssim_truth", "identity_truth", "style_distance", "stroke_distance", "identity", "clip_face")
Picture = tuple[str, str]
"""(scene, person)"""


@dataclass(frozen=True)
class Cell:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Line:
    """A method at its default: how many pictures it has made, and its cells by name of column."""

    count: int
    cells: dict[str, Cell]


def tabulate(rows: Sequence[Row], methods: Mapping[str, Method]) -> dict[str, Line]:
    """Each method at its default: means, and 95 % intervals over people and scenes.

    The seeds of a person in a scene are averaged first: they are no independent trials. Intervals of shares are
    Wilson's, the others bootstrapped.
    """
    lines = {}
    for name, members in _group(rows, methods).items():
        columns = {column: _average_seeds(members, column) for column in COLUMNS}
        cells = {column: _describe(values, column) for column, values in columns.items() if values}
        lines[name] = Line(len({(row["scene"], row["person"]) for row in members}), cells)
    return lines


def compare(rows: Sequence[Row], methods: Mapping[str, Method], reference: str = REFERENCE) -> dict[str, Line]:
    """Each other method at its default less the reference, picture by picture, in `COMPARED` columns.

    How hard a picture is drops out, so these 95 % bootstrap intervals are far narrower than those of the means.
    """
    groups = _group(rows, methods)
    own = {column: _average_seeds(groups.get(reference, []), column) for column in COMPARED}
    lines = {}
    for name, members in groups.items():
        cells, count = {}, 0
        for column in COMPARED:
            values = _average_seeds(members, column)
            apart = {key: values[key] - own[column][key] for key in values.keys() & own[column].keys()}
            if apart and name != reference:
                cells[column], count = _describe(dict(sorted(apart.items())), column), len(apart)
        if cells:
            lines[name] = Line(count, cells)
    return lines


def _group(rows: Sequence[Row], methods: Mapping[str, Method]) -> dict[str, list[Row]]:
    """Rows by method, at its default, in the order of the methods."""
    groups = {
        name: [row for row in rows if row["method"] == name and row["setting"] == method.default]
        for name, method in methods.items()
    }
    return {name: members for name, members in groups.items() if members}


def _average_seeds(rows: Sequence[Row], name: str) -> dict[Picture, float]:
    """A column by scene and person, seeds averaged."""
    values: dict[Picture, list[float]] = defaultdict(list)
    for row in rows:
        if name in row:
            values[row["scene"], row["person"]].append(row[name])
    return {key: sum(seeds) / len(seeds) for key, seeds in values.items()}


def _describe(values: Mapping[Picture, float], name: str) -> Cell:
    means = torch.tensor(list(values.values()))
    if COLUMNS[name].is_share:
        interval = metrics.wilson_interval(float(means.sum()), len(means))
    else:
        interval = metrics.bootstrap_interval(means, torch.Generator().manual_seed(0))
    return Cell(float(means.mean()), *interval)


def list_columns(lines: Mapping[str, Line], topic: Topic) -> list[str]:
    """Those of a topic that any method has."""
    used = {name for line in lines.values() for name in line.cells}
    return [name for name, column in COLUMNS.items() if column.topic == topic and name in used]


def summarise(rows: Sequence[Row], methods: Mapping[str, Method]) -> str:
    """The table as Markdown, one part a topic, with what each column says, and how far the others are from acfun."""
    lines, parts = tabulate(rows, methods), []
    for topic in get_args(Topic):
        names = list_columns(lines, topic)
        if names:
            meanings = (f"- {name}: {COLUMNS[name].text}" for name in names)
            parts.append("\n".join([f"## {topic}", "", *_draw_table(lines, names), "", *meanings]))
    apart = compare(rows, methods)
    names = [name for name in COMPARED if any(name in line.cells for line in apart.values())]
    if names:
        title = f"## less {REFERENCE}, picture by picture"
        parts.append("\n".join([title, "", *_draw_table(apart, names)]))
    return "\n\n".join(parts) + "\n"


def _draw_table(lines: Mapping[str, Line], names: Sequence[str]) -> list[str]:
    titles = " | ".join(f"{name} ({COLUMNS[name].better})" for name in names)
    table = [f"| method | n | {titles} |", "|---" * (len(names) + 2) + "|"]
    for method, line in lines.items():
        table.append(f"| {method} | {line.count} | {' | '.join(str(line.cells.get(name, '')) for name in names)} |")
    return table
