"""Run methods on scenes, keep every raw row, and write what can be looked at: table, sheet, trade-off plot."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acfun.base import Base
from acfun.errors import ConfigError
from acfun.evaluation import features, metrics
from acfun.evaluation.methods import Method
from acfun.evaluation.suites import Scene
from acfun.face.identity import IdentityEncoder
from acfun.images import contact_sheet, load_image, resize, save_image, tensor_to_pil
from acfun.paths import atomic_write

ROWS_FILE, TABLE_FILE, SHEET_FILE, PLOT_FILE = "results.jsonl", "table.md", "sheet.png", "tradeoff.svg"
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
    count = len(results)
    points = scene.landmarks if scene.truths is None else scene.truths[1]
    embeds = features.extract_identity(encoder, results, points)
    stages = features.extract_stages(base.vae, results)
    style = [stage.expand(count, -1, -1, -1) for stage in features.extract_stages(base.vae, scene.picture)]
    palette = features.extract_lab(resize(scene.picture, results.shape[-1]))
    shades, face_shades = features.extract_luminance(results), features.extract_luminance(scene.faces)
    style_shades = features.extract_luminance(scene.head.image).expand(count, -1, -1)
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
    if scene.head.landmarks is not None:
        sitter = features.extract_identity(encoder, scene.head.image, scene.head.landmarks)
        columns["leakage"] = metrics.compute_cosine(embeds, sitter.expand(count, -1))
    if scene.truths is not None:
        truth = features.extract_stages(base.vae, scene.truths[0])
        columns["to_truth"] = metrics.compute_perceptual_distance(stages, truth)
        columns["ssim_truth"] = metrics.compute_ssim(shades, features.extract_luminance(scene.truths[0]))
    return [{name: float(values[i]) for name, values in columns.items()} for i in range(count)]


def run(
    base: Base,
    encoder: IdentityEncoder,
    scenes: Iterable[Scene],
    methods: Mapping[str, Method],
    seeds: Sequence[int],
    output: Path,
    say: Callable[[str], None],
) -> None:
    """Paint and measure what is not there yet; each trial's rows are written as soon as they are known.

    Args:
        base: that all methods use.
        encoder: that tells people.
        scenes: of the suite.
        methods: by name.
        seeds: of fits and sampling.
        output: folder for rows and pictures.
        say: told of each trial.
    """
    output.mkdir(parents=True, exist_ok=True)
    done = {Trial(row["scene"], row["method"], row["setting"], row["seed"]) for row in read_rows(output)}
    for scene in scenes:
        save_image(tensor_to_pil(scene.picture), output / f"{scene.name}-style.png")
        save_image(tensor_to_pil(scene.faces[:1]), output / f"{scene.name}-face.png")
        if scene.truths is not None:
            save_image(tensor_to_pil(scene.truths[0][:1]), output / f"{scene.name}-truth.png")
        for name, method in methods.items():
            for seed in seeds:
                trials = [Trial(scene.name, name, setting, seed) for setting in method.settings]
                missing = [trial for trial in trials if trial not in done]
                painter = method.prepare(base, scene, seed) if missing else None
                for trial in missing:
                    assert painter is not None
                    results = painter(trial.setting)
                    save_image(tensor_to_pil(results[:1]), output / f"{trial.stem}.png")
                    _append(output, trial, scene, measure(base, encoder, scene, results))
                    say(f"{trial.scene}: {trial.method} {trial.setting:g}, seed {trial.seed}")


def _append(output: Path, trial: Trial, scene: Scene, figures: Sequence[dict[str, float]]) -> None:
    rows = [vars(trial) | {"person": who, **found} for who, found in zip(scene.people, figures, strict=True)]
    with (output / ROWS_FILE).open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def read_rows(output: Path) -> list[Row]:
    """The rows written so far; a last line that was cut off by a crash is left out.

    Raises:
        ConfigError: another line is damaged.
    """
    path = output / ROWS_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ConfigError(
                    f"{path}: line {number} is damaged ({error}); delete it or take another folder"
                ) from error
    return rows


def summarise(rows: Sequence[Row], methods: Mapping[str, Method]) -> str:
    """Each method at its default: means and 95 % bootstrap intervals over people, scenes and seeds, as Markdown."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["method"] in methods and row["setting"] == methods[row["method"]].default:
            groups[row["method"]].append(row)
    names = [name for name in METRICS if any(name in row for row in rows)]
    titles = [f"{name} ({METRICS[name]})" for name in names]
    lines = [f"| method | n | {' | '.join(titles)} |", "|---" * (len(names) + 2) + "|"]
    for method, members in groups.items():
        cells = [_describe([row[name] for row in members if name in row]) for name in names]
        lines.append(f"| {method} | {len(members)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _describe(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high = metrics.bootstrap_interval(torch.tensor(values), torch.Generator().manual_seed(0))
    return f"{sum(values) / len(values):.3f} ({low:.3f} to {high:.3f})"


def write_report(output: Path, methods: Mapping[str, Method], seed: int) -> list[Path]:
    """Write table, trade-off plot and sheet of what there is; returns their paths."""
    rows = read_rows(output)
    with atomic_write(output / TABLE_FILE) as temporary:
        temporary.write_text(summarise(rows, methods), encoding="utf-8")
    plot_tradeoff(rows, methods, output / PLOT_FILE)
    write_sheet(output, rows, methods, seed)
    return [output / TABLE_FILE, output / PLOT_FILE, output / SHEET_FILE]


def plot_tradeoff(rows: Sequence[Row], methods: Mapping[str, Method], path: Path) -> None:
    """Identity against style distance, one curve a method over its dial; further up and to the left is better.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError('the plot needs matplotlib: pip install "acfun[benchmark]"') from error
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
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set(xlabel="distance to the style", ylabel="identity to the person")
    axes.invert_xaxis()
    axes.legend()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="svg")


def write_sheet(output: Path, rows: Sequence[Row], methods: Mapping[str, Method], seed: int) -> None:
    """One row a scene: style, face, truth where there is one, and what each method at its default made of the first."""
    tiles, labels = [], []
    for scene in dict.fromkeys(row["scene"] for row in rows):
        given = [(title, output / f"{scene}-{title}.png") for title in ("style", "face", "truth")]
        shown = [(title, path) for title, path in given if path.is_file()]
        shown += [
            (name, output / f"{Trial(scene, name, method.default, seed).stem}.png") for name, method in methods.items()
        ]
        if all(path.is_file() for _, path in shown):
            tiles += [load_image(path).resize((THUMBNAIL, THUMBNAIL)) for _, path in shown]
            labels += [title for title, _ in shown]
            columns = len(shown)
    if tiles:
        save_image(contact_sheet(tiles, columns, labels), output / SHEET_FILE)
