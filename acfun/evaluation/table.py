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
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["method"] in methods and row["setting"] == methods[row["method"]].default:
            groups[row["method"]].append(row)
    lines = {}
    for name in (name for name in methods if name in groups):
        members = groups[name]
        cells = {column: _describe(members, column) for column in COLUMNS if any(column in row for row in members)}
        lines[name] = Line(len({(row["scene"], row["person"]) for row in members}), cells)
    return lines


def _describe(rows: Sequence[Row], name: str) -> Cell:
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        if name in row:
            values[row["scene"], row["person"]].append(row[name])
    means = torch.tensor([sum(seeds) / len(seeds) for seeds in values.values()])
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
    """The table as Markdown, one part a topic, with what each column says."""
    lines, parts = tabulate(rows, methods), []
    for topic in get_args(Topic):
        names = list_columns(lines, topic)
        if not names:
            continue
        titles = " | ".join(f"{name} ({COLUMNS[name].better})" for name in names)
        part = [f"## {topic}", "", f"| method | n | {titles} |", "|---" * (len(names) + 2) + "|"]
        for method, line in lines.items():
            part.append(f"| {method} | {line.count} | {' | '.join(str(line.cells.get(name, '')) for name in names)} |")
        parts.append("\n".join([*part, "", *(f"- {name}: {COLUMNS[name].text}" for name in names)]))
    return "\n\n".join(parts) + "\n"
