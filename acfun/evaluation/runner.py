"""Run methods on scenes, keep every raw row, and write what can be looked at: table, sheet, trade-off plot."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import ImageOps
from torch import Tensor

from acfun.base import Base
from acfun.errors import AcfunError, ConfigError, MissingExtraError
from acfun.evaluation import features, metrics
from acfun.evaluation.methods import Method
from acfun.evaluation.suites import Scene
from acfun.face.identity import IdentityEncoder
from acfun.images import contact_sheet, load_image, save_image, tensor_to_pil
from acfun.paths import atomic_write

ROWS_FILE, OPTIONS_FILE = "results.jsonl", "options.json"
TABLE_FILE, SHEET_FILE, PLOT_FILE = "table.md", "sheet.png", "tradeoff.svg"
THUMBNAIL = 160
METRICS = {
    "style_distance": "lower",
    "colour_distance": "lower",
    "identity": "higher",
    "ssim_face": "higher",
    "ghosting": "lower",
    "leakage": "lower",
    "to_truth": "lower",
    "ssim_truth": "higher",
}
"""Metric → which way is better. The last two need a truth."""

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
        """Of the picture of the first person."""
        return f"{self.scene}-{self.method}-{self.setting:g}-{self.seed}"


def measure(base: Base, encoder: IdentityEncoder, scene: Scene, results: Tensor) -> list[dict[str, float]]:
    """The metrics of each result (B,3,S,S), by name; those that need a truth only where there is one.

    Identity is measured where the truth has the face's landmarks, if there is one: styles may move them.
    """
    count, head = len(results), scene.style.head
    points = scene.landmarks if scene.truths is None else scene.truths[1]
    embeds = features.extract_identity(encoder, results, points)
    stages = features.extract_stages(base.vae, results)
    style = [
        stage.expand(count, -1, -1, -1) for stage in features.extract_stages(base.vae, scene.style.painting.image, None)
    ]
    palette = features.extract_lab(scene.style.painting.image)
    shades, face_shades = features.extract_luminance(results), features.extract_luminance(scene.faces)
    style_shades = features.extract_luminance(head.image).expand(count, -1, -1)
    columns = {
        "style_distance": metrics.compute_style_distance(stages, style),
        "colour_distance": torch.stack(
            [metrics.compute_colour_distance(features.extract_lab(image), palette) for image in results.split(1)]
        ),
        "identity": metrics.compute_cosine(embeds, features.extract_identity(encoder, scene.faces, scene.landmarks)),
        "ssim_face": torch.cat(
            [metrics.compute_ssim(*pair)[None] for pair in zip(shades.split(1), face_shades.split(1), strict=True)]
        ),
        "ghosting": metrics.compute_ghosting(shades, face_shades, style_shades),
    }
    if head.landmarks is not None:
        sitter = features.extract_identity(encoder, head.image, head.landmarks)
        columns["leakage"] = metrics.compute_cosine(embeds, sitter.expand(count, -1))
    if scene.truths is not None:
        truth = features.extract_stages(base.vae, scene.truths[0])
        columns["to_truth"] = metrics.compute_perceptual_distance(stages, truth)
        columns["ssim_truth"] = metrics.compute_ssim(shades, features.extract_luminance(scene.truths[0]))
    return [{name: float(values[i]) for name, values in columns.items()} for i in range(count)]


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
        wanted = json.loads(json.dumps(dict(options), default=str, sort_keys=True))
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
    encoder: IdentityEncoder,
    scenes: Iterable[Scene],
    methods: Mapping[str, Method],
    seeds: Sequence[int],
    ledger: Ledger,
    say: Callable[[str], None],
) -> None:
    """Paint and measure what is not there yet; a method that cannot paint a scene is left out of it.

    Args:
        base: that all methods use.
        encoder: that tells people; moved to the base's device.
        scenes: of the suite.
        methods: by name.
        seeds: of fits and sampling; methods without chance take the first one.
        ledger: where rows go, and pictures beside them.
        say: told of each trial, and of what cannot be painted.
    """
    encoder.to(base.device)
    for given in scenes:
        scene, folder = given.to(base.device), ledger.folder
        save_image(tensor_to_pil(scene.style.painting.image), folder / f"{scene.name}-style.png")
        save_image(tensor_to_pil(scene.faces[:1]), folder / f"{scene.name}-face.png")
        if scene.truths is not None:
            save_image(tensor_to_pil(scene.truths[0][:1]), folder / f"{scene.name}-truth.png")
        for name, method in methods.items():
            for seed in seeds if method.is_seeded else seeds[:1]:
                trials = [Trial(scene.name, name, setting, seed) for setting in method.settings]
                missing = [trial for trial in trials if not ledger.has(trial, scene.people)]
                if not missing:
                    continue
                try:
                    painter = method.prepare(base, scene, seed)
                except AcfunError as error:
                    say(f"{scene.name}: {name} is left out: {error}")
                    continue
                for trial in missing:
                    results = painter(trial.setting).to(scene.faces)
                    save_image(tensor_to_pil(results[:1]), folder / f"{trial.stem}.png")
                    ledger.add(trial, scene.people, measure(base, encoder, scene, results))
                    say(f"{trial.scene}: {trial.method} {trial.setting:g}, seed {trial.seed}")


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


def summarise(rows: Sequence[Row], methods: Mapping[str, Method]) -> str:
    """Each method at its default as Markdown: means, and 95 % bootstrap intervals over people and scenes.

    The seeds of a person in a scene are averaged first: they are no independent trials.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["method"] in methods and row["setting"] == methods[row["method"]].default:
            groups[row["method"]].append(row)
    names = [name for name in METRICS if any(name in row for row in rows)]
    titles = [f"{name} ({METRICS[name]})" for name in names]
    lines = [f"| method | n | {' | '.join(titles)} |", "|---" * (len(names) + 2) + "|"]
    for method, members in groups.items():
        pictures = {(row["scene"], row["person"]) for row in members}
        lines.append(f"| {method} | {len(pictures)} | {' | '.join(_describe(members, name) for name in names)} |")
    return "\n".join(lines) + "\n"


def _describe(rows: Sequence[Row], name: str) -> str:
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        if name in row:
            values[row["scene"], row["person"]].append(row[name])
    if not values:
        return ""
    means = torch.tensor([sum(seeds) / len(seeds) for seeds in values.values()])
    low, high = metrics.bootstrap_interval(means, torch.Generator().manual_seed(0))
    return f"{means.mean():.3f} ({low:.3f} to {high:.3f})"


def write_report(folder: Path, methods: Mapping[str, Method], seed: int) -> list[Path]:
    """Write table, sheet and trade-off plot of what there is; returns their paths."""
    rows = read_rows(folder)
    with atomic_write(folder / TABLE_FILE) as temporary:
        temporary.write_text(summarise(rows, methods), encoding="utf-8")
    write_sheet(folder, rows, methods, seed)
    plot_tradeoff(rows, methods, folder / PLOT_FILE)
    return [path for name in (TABLE_FILE, SHEET_FILE, PLOT_FILE) if (path := folder / name).is_file()]


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
        paths += [folder / f"{Trial(scene, name, part.default, seed).stem}.png" for name, part in methods.items()]
        if all(path.is_file() for path in paths):
            tiles += [ImageOps.pad(load_image(path), (THUMBNAIL, THUMBNAIL), color="white") for path in paths]
    if tiles:
        labels = titles * (len(tiles) // len(titles))
        save_image(contact_sheet(tiles, len(titles), labels), folder / SHEET_FILE)
