"""Run methods on scenes and keep every raw row, and the pictures."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from acfun.base import Base
from acfun.devices import place
from acfun.errors import AcfunError, ConfigError
from acfun.evaluation.contract import Method
from acfun.evaluation.measures import measure
from acfun.evaluation.suites import Scene
from acfun.face.finder import FaceFinder
from acfun.images import save_image, tensor_to_pil
from acfun.paths import atomic_write

ROWS_FILE, OPTIONS_FILE = "results.jsonl", "options.json"
# Rows are only comparable with those that were measured alike.
METRICS_VERSION = 4

Row = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One setting of one method on one scene with one seed."""

    scene: str
    method: str
    setting: float
    seed: int

    @property
    def stem(self) -> str:
        """What the names of its pictures begin with."""
        return f"{self.scene}-{self.method}-{self.setting:g}-{self.seed}"


def name_picture(stem: str, index: int = 0) -> str:
    """File of a person's picture; `index` counts the people of a scene."""
    return f"{stem}-{index + 1}.png" if index else f"{stem}.png"


class Ledger:
    """The rows of a folder, written whole after each trial, and the options that they were made with.

    Args:
        folder: made if need be.
        options: that decide what the rows mean; a folder with rows of others is refused.

    Raises:
        ConfigError: the folder has rows of other options, or damaged ones.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.rows = folder, read_rows(folder)
        wanted = json.loads(json.dumps(dict(options) | {"metrics": METRICS_VERSION}, default=str, sort_keys=True))
        path = folder / OPTIONS_FILE
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else wanted
        if differing := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
            raise ConfigError(
                f"{folder} holds rows of another run, with {differing[0]} {found.get(differing[0])!r}; "
                f"now it is {wanted.get(differing[0])!r}: take another folder"
            )
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")

    def has(self, trial: Trial, people: Sequence[str]) -> bool:
        """Whether there is a row of each of the people."""
        return {row["person"] for row in self.rows if _get_trial(row) == trial} >= set(people)

    def add(self, trial: Trial, people: Sequence[str], figures: Sequence[dict[str, float]]) -> None:
        """Put the rows of a trial in place of what there is of it."""
        self.rows = [row for row in self.rows if _get_trial(row) != trial]
        self.rows += [vars(trial) | {"person": who, **found} for who, found in zip(people, figures, strict=True)]
        with atomic_write(self.folder / ROWS_FILE) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")


def _get_trial(row: Row) -> Trial:
    return Trial(row["scene"], row["method"], row["setting"], row["seed"])


def run(
    base: Base,
    encoder: nn.Module,
    scenes: Iterable[Scene],
    methods: Mapping[str, Method],
    seeds: Sequence[int],
    ledger: Ledger,
    say: Callable[[str], None],
    *,
    finder: FaceFinder | None = None,
    second_encoder: nn.Module | None = None,
    style_encoder: nn.Module | None = None,
) -> None:
    """Paint and measure what is not there yet; a method that cannot paint a scene is left out of it.

    Args:
        base: that all methods use.
        encoder: that tells people; copied to the base's device where it is on another.
        scenes: of the suite.
        methods: by name.
        seeds: of fits and sampling; methods without chance take the first one.
        ledger: where rows go, and pictures beside them.
        say: told of each trial, and of what cannot be painted.
        finder: finds landmarks in results, for shape and pose; likewise.
        second_encoder: another judge of people; likewise.
        style_encoder: a judge of style; likewise.
    """
    encoder = place(encoder, base.device)
    given_judges = {"finder": finder, "second_encoder": second_encoder, "style_encoder": style_encoder}
    judges: dict[str, Any] = {
        name: None if judge is None else place(judge, base.device) for name, judge in given_judges.items()
    }
    for given in scenes:
        scene, folder = given.to(base.device), ledger.folder
        _save(folder, f"{scene.name}-style", scene.style.painting.image)
        _save(folder, f"{scene.name}-face", scene.faces)
        if scene.truths is not None:
            _save(folder, f"{scene.name}-truth", scene.truths[0])
        for name, method in methods.items():
            for seed in seeds if method.is_seeded else seeds[:1]:
                trials = [Trial(scene.name, name, setting, seed) for setting in method.settings]
                missing = [trial for trial in trials if not ledger.has(trial, scene.people)]
                if not missing:
                    continue
                try:
                    painter = method.prepare(base, scene, seed)
                    for trial in missing:
                        results = painter(trial.setting).to(scene.faces)
                        _save(folder, trial.stem, results if trial.setting == method.default else results[:1])
                        ledger.add(trial, scene.people, measure(base, encoder, scene, results, **judges))
                        say(f"{trial.scene}: {trial.method} {trial.setting:g}, seed {trial.seed}")
                except AcfunError as error:
                    say(f"{scene.name}: {name} is left out: {error}")


def _save(folder: Path, stem: str, images: Tensor) -> None:
    for index, image in enumerate(images):
        save_image(tensor_to_pil(image), folder / name_picture(stem, index))


def read_rows(folder: Path) -> list[Row]:
    """The rows written so far.

    Raises:
        ConfigError: a line is damaged.
    """
    path = folder / ROWS_FILE
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.is_file() else [], 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}: line {number} is damaged ({error}); delete it") from error
    return rows
