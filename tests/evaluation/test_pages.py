"""Scorecard and blind comparison: whole pages without other files, all pairs, no names, the same intervals."""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from acfun.evaluation.blind import build_blind_page, collect_pairs
from acfun.evaluation.measures import COLUMNS
from acfun.evaluation.methods import Method, keep_photograph
from acfun.evaluation.metrics import wilson_interval
from acfun.evaluation.pages import fill_page
from acfun.evaluation.report import BLIND_FILE, SCORECARD_FILE, write_report
from acfun.evaluation.runner import ROWS_FILE, Row, Trial, name_picture
from acfun.evaluation.scorecard import build_scorecard
from acfun.evaluation.table import tabulate

SCRIPT = Path(__file__).parents[2] / "acfun" / "evaluation" / "pages" / "blind.js"
NAMES = ("photograph", "alphastyle", "betastyle", "gammastyle", "truth")
PAINTERS = NAMES[1:4]
SCENES, PEOPLE = ("etching", "oil</script>"), ("Ann & Co", "Bert")
VOID = {"meta", "img", "link", "br", "hr", "input"}
METHODS = {name: Method(keep_photograph, "none", (1.0,), 1.0) for name in NAMES}

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


class Page(HTMLParser):
    """Elements, text outside of scripts and styles, and what is left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.visible, self.hidden = "", ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.opened:
            while self.opened.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self.opened and self.opened[-1] in {"script", "style"}:
            self.hidden += data
        else:
            self.visible += data

    def find(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag and attributes.items() <= found.items()]


def make_rows() -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for scene in SCENES:
        for name in NAMES:
            for person in PEOPLE:
                figures = {column: float(torch.rand((), generator=generator)) for column in COLUMNS}
                row = vars(Trial(scene, name, 1.0, 0)) | {"person": person} | figures
                rows.append(row | {"is_kept": float(person == "Bert")})
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of two scenes, two people and three painters, with the pictures of all."""
    scenes = [scene.replace("/", "") for scene in SCENES]
    rows = [row | {"scene": str(row["scene"]).replace("/", "")} for row in make_rows()]
    (tmp_path / ROWS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for scene in scenes:
        stems = [f"{scene}-face", *(Trial(scene, name, 1.0, 0).stem for name in NAMES)]
        for number, stem in enumerate(stems):
            for index in range(len(PEOPLE)):
                colour = (40 * number, 90 * index, 10 * len(scene))
                Image.new("RGB", (40, 40), colour).save(tmp_path / name_picture(stem, index))
        Image.new("RGB", (60, 40), "red").save(tmp_path / f"{scene}-style.png")
    return tmp_path


def read_data(page: Page) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(page.hidden[page.hidden.index('{"run"') : page.hidden.index('\n"use strict"')])
    return data


def test_the_scorecard_is_one_whole_page(folder: Path) -> None:
    write_report(folder, METHODS, 0)
    text = (folder / SCORECARD_FILE).read_text(encoding="utf-8")
    page = Page(text)
    assert page.opened == []
    assert "{{" not in text
    for name in (*NAMES, *COLUMNS, "2 scenes", "2 people"):
        assert name in page.visible
    assert len(page.find("svg")) == 1
    (sheet,) = page.find("img", alt="sheet")
    assert str(sheet["src"]).startswith("data:image/jpeg;base64,")
    assert page.find("a", href=BLIND_FILE)
    assert not page.find("link")
    assert not page.find("script")
    best = [found for found in page.find("span") if found.get("class") == "best"]
    assert len(best) == len(COLUMNS) + 2  # all three painters keep as many people


def test_shares_have_wilsons_interval_and_all_cells_hold_their_mean() -> None:
    lines = tabulate(make_rows(), METHODS)
    assert list(lines) == list(NAMES)
    cell = lines["alphastyle"].cells["is_kept"]
    assert (cell.mean, cell.low, cell.high) == pytest.approx((0.5, *wilson_interval(2, 4)))
    assert all(cell.low <= cell.mean <= cell.high for line in lines.values() for cell in line.cells.values())


def test_the_best_painter_is_the_highest_the_lowest_or_the_one_nearest_to_nothing() -> None:
    rows = [
        {"scene": "a", "person": "b", "method": name, "setting": 1.0, "identity": value, "leakage": value}
        | {"pose_leakage": value}
        for name, value in {"photograph": 0.0, "alphastyle": -0.5, "betastyle": 0.1, "gammastyle": 0.9}.items()
    ]
    page = build_scorecard("a", "b", tabulate(rows, METHODS), Path("none"), Path("none"), None)
    best = re.findall(r'<span class="best">([-.0-9]+)', page)
    assert sorted(map(float, best)) == [-0.5, 0.1, 0.9]


def test_the_blind_page_has_all_pairs_and_shows_no_names(folder: Path) -> None:
    write_report(folder, METHODS, 0)
    page = Page((folder / BLIND_FILE).read_text(encoding="utf-8"))
    assert page.opened == []
    attributes = " ".join(str(value) for _, found in page.tags for value in found.values())
    for name in NAMES:
        assert name not in page.visible.replace("photograph of the person", "")
        assert name not in attributes.replace("photograph of the person", "")
    data = read_data(page)
    assert sorted(data["names"].values()) == sorted(PAINTERS)
    shown = {
        (item["scene"], item["person"], frozenset(data["names"][code] for code in codes))
        for number, *codes in data["pairs"]
        for item in [data["items"][number]]
    }
    scenes = [scene.replace("/", "") for scene in SCENES]
    wanted = {(s, p, frozenset(pair)) for s in scenes for p in PEOPLE for pair in combinations(PAINTERS, 2)}
    assert shown == wanted
    assert len(data["pairs"]) == len(wanted)
    pictures = [picture for item in data["items"] for picture in (item["face"], *item["pictures"].values())]
    assert all(picture.startswith("data:image/jpeg;base64,") for picture in (*pictures, *data["styles"].values()))


def test_pictures_that_are_missing_are_left_out(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / ROWS_FILE).read_text(encoding="utf-8").splitlines()]
    (folder / name_picture(Trial("etching", "betastyle", 1.0, 0).stem, 1)).unlink()
    assert len(collect_pairs(folder, rows, METHODS, 0)["pairs"]) == 3 * 3 + 1
    assert build_blind_page(folder, rows, {"alphastyle": METHODS["alphastyle"]}, 0) is None
    assert build_blind_page(folder, rows, METHODS, 7) is None  # pictures of another seed


def test_a_template_without_its_parts_is_refused() -> None:
    with pytest.raises(KeyError, match="title"):
        fill_page("scorecard.html")


def run_node(expression: str) -> Any:
    code = f"const page = require({json.dumps(str(SCRIPT))}); console.log(JSON.stringify({expression}));"
    answer = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)


@needs_node
def test_the_page_computes_the_intervals_of_the_table() -> None:
    cases = [(0, 0), (0, 7), (7, 7), (3, 10), (61, 100), (999, 1000)]
    found = run_node(f"{json.dumps(cases)}.map(([wins, count]) => page.wilson(wins, count))")
    for case, interval in zip(cases, found, strict=True):
        assert interval == pytest.approx(wilson_interval(*case), abs=1e-12)


@needs_node
def test_the_page_shuffles_pairs_and_sides_and_keeps_the_order_of_a_seed() -> None:
    pairs = [[item, "1", "2"] for item in range(200)]
    shown = [run_node(f"page.shuffle({json.dumps(pairs)}, {seed})") for seed in (5, 5, 6)]
    assert shown[0] == shown[1] != shown[2]
    for order in shown:
        assert sorted(pair["number"] for pair in order) == list(range(200))
        assert [pair["number"] for pair in order] != list(range(200))
        assert 60 < sum(pair["left"] == "1" for pair in order) < 140
        assert all({pair["left"], pair["right"]} == {"1", "2"} for pair in order)


@needs_node
def test_the_page_counts_wins_by_question() -> None:
    pairs = [[0, "1", "2"], [0, "1", "3"], [0, "2", "3"]]
    answers = {"0": {"person": "1", "painting": "same"}, "1": {"person": "3", "painting": "1"}, "2": {"person": "2"}}
    rates = run_node(f"page.tally({json.dumps(pairs)}, {json.dumps(answers)})")
    assert rates["1"] == {"person": {"wins": 1, "count": 2}, "painting": {"wins": 1, "count": 1}}
    assert rates["2"] == {"person": {"wins": 1, "count": 2}, "painting": {"wins": 0, "count": 0}}
    assert rates["3"] == {"person": {"wins": 1, "count": 2}, "painting": {"wins": 0, "count": 1}}
