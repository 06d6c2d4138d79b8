"""Compare objectives and fusion variants where the truth is known.

`python -m benchmarks.ablation --output RUN`

A style image is a procedural rendering of one held-out person, the input the photograph of another, the truth the same
rendering of that other. A style is fitted with the first of six photographs and then painted on all. Every row is
appended to RUN/results.jsonl; a second start goes on where the first one ended. RUN/table.md and RUN/sheet.png are
written at the end, from the rows and pictures there are.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from acfun.base import Base, load_base
from acfun.config import FitConfig, load_config
from acfun.evaluation import features, metrics
from acfun.face.identity import IdentityEncoder, load_identity_encoder
from acfun.fit import fit_style
from acfun.images import array_to_tensor, contact_sheet, load_image, save_image, tensor_to_pil
from acfun.pipelines.face_stylization import FaceStylizationPipeline
from acfun.style import Style
from acfun.synthetic.data import require_data_dir
from acfun.synthetic.renderers import HELD_OUT_RENDERERS, TRAINING_RENDERERS
from acfun.synthetic.samples import build_sampler


@dataclass(frozen=True)
class Variant:
    """Fields of `FitConfig`, and arguments of the pipeline, that differ from the defaults."""

    fit: dict[str, Any]
    sampling: dict[str, Any]


# What the fit alone makes of the noised photograph: no sketch, no guide, no finish.
UNGUIDED: dict[str, Any] = {"imagery_scale": 0.0, "strength": 0.5}
VARIANTS = {
    "default": Variant({}, {}),
    "no fit": Variant({}, {"style_scale": 0.0}),
    "no guide": Variant({}, {"num_guide_steps": 0}),
    "brushwork alone": Variant({}, {"style_scale": 0.0, "num_guide_steps": 0, "strength": 0.05}),
    "imagery, guided": Variant({"objective": "imagery"}, {}),
    "pseudo_pair": Variant({}, UNGUIDED),
    "imagery": Variant({"objective": "imagery"}, UNGUIDED),
    "two_target": Variant({"objective": "two_target"}, UNGUIDED),
    "time_split": Variant({"objective": "time_split"}, UNGUIDED),
    "shared": Variant({"objective": "shared"}, UNGUIDED),
    "AFun alone": Variant({"cfun": "none"}, UNGUIDED),
    "CFun alone": Variant({"use_afun": False}, UNGUIDED),
    "CFun encoder": Variant({"cfun_groups": ("encoder",)}, UNGUIDED),
    "CFun decoder": Variant({"cfun_groups": ("decoder",)}, UNGUIDED),
    "std affine": Variant({"cfun": "std_affine"}, UNGUIDED),
    "mean and std affine": Variant({"cfun": "mean_std_affine"}, UNGUIDED),
    "LoRA in attention": Variant({"cfun": "attention_lora"}, UNGUIDED),
    "pseudo-word alone": Variant({"face_description": ""}, UNGUIDED),
}
STYLES = ("oil", "cartoon", "caricature", "etching", "fauvist", "munch_swirl")
NUM_PEOPLE, NUM_FITTED = 6, 1
METRICS = ("style_distance", "colour_distance", "identity", "to_truth", "ssim_truth", "ghosting", "leakage")


@dataclass(frozen=True)
class Scene:
    """One style and the people to be painted in it: images (1|B,3,S,S) in [-1,1], landmarks (1|B,189,2) pixels."""

    name: str
    style: Tensor
    style_landmarks: Tensor
    faces: Tensor
    landmarks: Tensor
    truths: Tensor
    truth_landmarks: Tensor


def build_scene(name: str, index: int, size: int) -> Scene:
    """Render the style image and the truths of the style called `name` with one set of parameters."""
    renderer = (TRAINING_RENDERERS | HELD_OUT_RENDERERS)[name]
    sampler = build_sampler(require_data_dir(), size, is_held_out=True, rendering_probability=0.0, seed=0)
    people = [sampler(i) for i in (*range(NUM_PEOPLE), NUM_PEOPLE + index)]
    renderings = [renderer.render(person.image, person.landmarks, np.random.default_rng(index)) for person in people]
    photos = torch.cat([array_to_tensor(person.image) for person in people])
    pictures = torch.cat([array_to_tensor(rendering.image) for rendering in renderings])
    points = torch.stack([torch.from_numpy(person.landmarks) for person in people])
    moved = torch.stack([torch.from_numpy(rendering.landmarks) for rendering in renderings])
    return Scene(name, pictures[-1:], moved[-1:], photos[:-1], points[:-1], pictures[:-1], moved[:-1])


def fit(base: Base, scene: Scene, overrides: dict[str, Any], max_steps: int, seed: int) -> Style:
    """Fit the scene's style with its first people."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{i}.png") for i in range(NUM_FITTED + 1)]
        for path, image in zip(paths, (*scene.faces[:NUM_FITTED], scene.style[0]), strict=True):
            save_image(tensor_to_pil(image), path)
        options = {"style_path": paths[-1], "face_paths": tuple(paths[:-1]), "max_steps": max_steps, "seed": seed}
        return fit_style(load_config(FitConfig, overrides=options | overrides), base=base)


def paint(base: Base, scene: Scene, style: Style, options: dict[str, Any], seed: int) -> Tensor:
    """Paint the scene's people in a style: (B,3,S,S) in [-1,1]."""
    pipe = FaceStylizationPipeline.from_base(base)
    pipe.load_style(style)
    prompt = style.config["face_description"]
    try:
        images: Tensor = pipe(
            f"a painting of {prompt}" if prompt else None,
            face=scene.faces,
            face_landmarks=scene.landmarks,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
            **options,
        ).images
    finally:
        pipe.unload_style()
    return images * 2 - 1


def measure(base: Base, encoder: IdentityEncoder, scene: Scene, results: Tensor) -> list[dict[str, float]]:
    """The metrics of each result."""
    count = len(results)
    embeds = features.extract_identity(encoder, results, scene.truth_landmarks)
    person = features.extract_identity(encoder, scene.faces, scene.landmarks)
    sitter = features.extract_identity(encoder, scene.style, scene.style_landmarks).expand(count, -1)
    stages, truth = (features.extract_stages(base.vae, images) for images in (results, scene.truths))
    style = [stage.expand(count, -1, -1, -1) for stage in features.extract_stages(base.vae, scene.style)]
    palette, lab = features.extract_lab(scene.style), [features.extract_lab(image) for image in results]
    luminance = [features.extract_luminance(images) for images in (results, scene.faces, scene.style, scene.truths)]
    columns = {
        "style_distance": metrics.compute_style_distance(stages, style),
        "colour_distance": torch.stack([metrics.compute_colour_distance(colours, palette) for colours in lab]),
        "identity": metrics.compute_cosine(embeds, person),
        "to_truth": metrics.compute_perceptual_distance(stages, truth),
        "ssim_truth": metrics.compute_ssim(luminance[0], luminance[3]),
        "ghosting": metrics.compute_ghosting(luminance[0], luminance[1], luminance[2].expand(count, -1, -1)),
        "leakage": metrics.compute_cosine(embeds, sitter),
    }
    return [{name: float(values[i]) for name, values in columns.items()} for i in range(count)]


def run(args: argparse.Namespace) -> None:
    """Fit and measure what is not there yet, then write table and sheet."""
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "results.jsonl"
    done = {(row["variant"], row["style"]) for row in read_rows(path)}
    base, encoder = load_base(args.base), load_identity_encoder()
    for index, name in enumerate(args.styles):
        scene = build_scene(name, index, base.resolution)
        save_image(tensor_to_pil(scene.style), args.output / f"{name}-style.png")
        styles: dict[str, Style] = {}
        for variant in args.variants:
            if (variant, name) in done:
                continue
            if variant == "photograph":
                results = scene.faces
            elif variant == "truth":
                results = scene.truths
            else:
                parts = VARIANTS[variant]
                key = json.dumps(parts.fit)
                if key not in styles:
                    styles[key] = fit(base, scene, parts.fit, args.max_steps, args.seed)
                options = {"num_inference_steps": args.steps} | parts.sampling
                results = paint(base, scene, styles[key], options, args.seed)
            rows = [
                {"variant": variant, "style": name, "person": person, "seed": args.seed, **figures}
                for person, figures in enumerate(measure(base, encoder, scene, results))
            ]
            save_image(tensor_to_pil(results[:1]), args.output / f"{name}-{variant}.png")
            with path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            print(f"{name}, {variant}: " + ", ".join(f"{key} {rows[0][key]:.3f}" for key in METRICS), flush=True)
    table = format_table(read_rows(path))
    (args.output / "table.md").write_text(table, encoding="utf-8")
    print(table)
    write_sheet(args.output, args.styles, ("style", *args.variants))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows written so far."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """Means with 95 % bootstrap intervals, one line a variant, as Markdown."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["variant"]].append(row)
    lines = [f"| variant | n | {' | '.join(METRICS)} |", "|---" * (len(METRICS) + 2) + "|"]
    for variant, members in groups.items():
        cells = []
        for name in METRICS:
            values = torch.tensor([row[name] for row in members])
            low, high = metrics.bootstrap_interval(values, torch.Generator().manual_seed(0))
            cells.append(f"{values.mean():.3f} ({low:.3f} to {high:.3f})")
        lines.append(f"| {variant} | {len(members)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_sheet(folder: Path, styles: Sequence[str], titles: Sequence[str]) -> None:
    """One row a style: photograph, style image, truth, and what each variant made of the first person."""
    pictures = [(title, folder / f"{style}-{title}.png") for style in styles for title in titles]
    present = {title for title, path in pictures if path.is_file()}
    shown = [(title, path) for title, path in pictures if title in present]
    if all(path.is_file() for _, path in shown):
        images = [load_image(path).resize((160, 160)) for _, path in shown]
        save_image(contact_sheet(images, len(present), [title for title, _ in shown]), folder / "sheet.png")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--base", default="mini")
    parser.add_argument("--styles", nargs="+", default=STYLES, choices=sorted(TRAINING_RENDERERS | HELD_OUT_RENDERERS))
    choices = ["photograph", "truth", *VARIANTS]
    parser.add_argument("--variants", nargs="+", default=choices, choices=choices)
    parser.add_argument("--max-steps", type=int, default=60)
    parser.add_argument("--steps", type=int, default=20, help="sampling steps")
    parser.add_argument("--seed", type=int, default=0)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
