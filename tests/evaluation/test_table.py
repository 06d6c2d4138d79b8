"""Tables: a method beside another, picture by picture."""

from typing import NoReturn

from acfun.evaluation.contract import Method
from acfun.evaluation.runner import Row
from acfun.evaluation.table import compare, summarise, tabulate


def refuse(*_: object) -> NoReturn:
    raise AssertionError("tables paint nothing")


METHODS = {name: Method(refuse, "none", (0.5, 1.0), 1.0) for name in ("acfun", "peer", "absent")}


def make_rows() -> list[Row]:
    """A peer that is 0.1 farther than acfun in each of twenty pictures, which differ far more among themselves."""
    rows: list[Row] = []
    for number in range(20):
        for seed in (0, 1):
            shared = {"scene": str(number % 4), "person": str(number // 4), "seed": seed}
            ease = 0.2 * number + 0.02 * seed
            rows.append({"method": "acfun", "setting": 1.0, "to_truth": ease, **shared})
            rows.append({"method": "peer", "setting": 1.0, "to_truth": ease + 0.1 + 0.001 * (number % 3), **shared})
            rows.append({"method": "peer", "setting": 0.5, "to_truth": 99.0, **shared})
    return rows


def test_what_is_the_same_for_both_drops_out() -> None:
    (name, line), *others = compare(make_rows(), METHODS).items()
    assert (name, others, line.count) == ("peer", [], 20)
    cell = line.cells["to_truth"]
    assert 0.1 <= cell.low <= cell.mean <= cell.high <= 0.102
    whole = tabulate(make_rows(), METHODS)
    assert whole["acfun"].cells["to_truth"].high > whole["peer"].cells["to_truth"].low


def test_only_pictures_that_both_have_count() -> None:
    rows = [row for row in make_rows() if row["method"] == "acfun" or row["scene"] == "1"]
    assert compare(rows, METHODS)["peer"].count == 5
    assert compare([row for row in rows if row["method"] == "peer"], METHODS) == {}


def test_the_table_says_it() -> None:
    text = summarise(make_rows(), METHODS)
    assert "## less acfun, picture by picture" in text
    assert "| peer | 20 | 0.101 (0.10" in text
