"""Figures and sheets of the embedded base: VAE reconstruction, samples for captions, attributes recovered from samples.

`python -m train.evaluate_mini --base acfun/base/mini --data SHARDS --held-out SHARDS --output RUN`

The attribute probe is a small convolutional network trained here on the training shards' labels; its own accuracy on
held-out people is printed beside what it recovers from the samples, which it bounds.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from acfun.base import Base, load_base
from acfun.base.vae_features import decode_latents, encode_latents
from acfun.images import contact_sheet, save_image, tensor_to_pil
from acfun.synthetic.shards import LABELS_FILE
from train import pretraining

PROBE_SIZE = 64
SAMPLES_PER_CAPTION = 8
CAPTIONS = (
    "a photo of a young woman with dark hair",
    "a photo of a young woman with blond hair",
    "a photo of a smiling woman",
    "a photo of an old woman with grey hair",
    "a photo of a young man with black hair",
    "a photo of a man with a beard",
    "a photo of a smiling man with glasses",
    "a photo of an old man with grey hair",
    "a photo of a bald man",
    "a photo of a middle-aged man with brown hair",
    "an oil painting of a woman with dark hair",
    "an oil painting of an old man",
    "a pencil sketch of a young woman",
    "a charcoal drawing of a man",
    "a watercolour painting of a woman",
    "a flat cartoon of a man with black hair",
    "a mosaic of a woman",
    "a woodcut print of a man",
    "a duotone poster of a young woman",
    "a caricature of a man",
)


@dataclass(frozen=True)
class Attribute:
    """One thing to recover: words in a caption, and the label of a shard that means the same."""

    name: str
    words: tuple[str, ...]
    values: tuple[str, ...]


MEDIA = {
    "photo": "",
    "pencil": "pencil",
    "charcoal": "charcoal",
    "watercolour": "watercolour",
    "oil painting": "oil",
    "cartoon": "cartoon",
    "mosaic": "mosaic",
    "woodcut": "woodcut",
    "duotone": "duotone",
    "caricature": "caricature",
}
HAIR = {"dark hair": "dark", "black hair": "dark", "blond hair": "blond", "grey hair": "grey", "bald": "bald"}
ATTRIBUTES = (
    Attribute("gender", ("woman", "man"), ("woman", "man")),
    Attribute("medium", tuple(MEDIA), tuple(MEDIA.values())),
    Attribute("hair", tuple(HAIR), tuple(HAIR.values())),
)


def read_label(attribute: Attribute, label: dict[str, object]) -> str | None:
    """The value of a shard's label for an attribute, None where it is not known."""
    if attribute.name == "medium":
        renderer = str(label["renderer"])
        return renderer if renderer in attribute.values else None
    known = label["attributes"]
    assert isinstance(known, dict)
    value = known.get(attribute.name)
    value = "dark" if attribute.name == "hair" and value in {"black", "brown"} else value
    return str(value) if value in attribute.values else None


def find_wanted(attribute: Attribute, caption: str) -> str | None:
    """The value that a caption asks for, the last of several matches (so that "woman" is not read as "man")."""
    words = f" {caption} "
    found = [value for word, value in zip(attribute.words, attribute.values, strict=True) if f" {word}" in words]
    return found[0] if found else None


class Probe(nn.Module):
    """Five convolutions and a linear layer on 64 px images."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = [3, width, 2 * width, 4 * width, 4 * width]
        for inner, outer in pairwise(channels):
            layers += [nn.Conv2d(inner, outer, 3, 2, 1), nn.BatchNorm2d(outer), nn.ReLU()]
        self.layers = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(16 * width, classes)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B,K) of images (B,3,64,64) in [-1,1]."""
        logits: Tensor = self.layers(image)
        return logits


def load_small(data: pretraining.Shards) -> Tensor:
    """All images at the probe's size, (N,3,64,64)."""
    parts = [
        F.interpolate(data.pixel_values(part), PROBE_SIZE, mode="area") for part in torch.arange(len(data)).split(64)
    ]
    return torch.cat(parts)


def train_probe(images: Tensor, targets: Tensor, classes: int, generator: torch.Generator, epochs: int = 12) -> Probe:
    """Fit a probe, classes weighted by rarity."""
    probe = Probe(classes)
    weights = (len(targets) / torch.bincount(targets, minlength=classes).clamp(min=1)).sqrt()
    optimizer = torch.optim.AdamW(probe.parameters(), lr=2e-3, weight_decay=0.02)
    steps = epochs * (len(images) // 64 + 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        indices = torch.randint(len(images), (64,), generator=generator)
        batch = images[indices]
        batch = torch.where(torch.rand(64, 1, 1, 1, generator=generator) < 0.5, batch, batch.flip(3))
        loss = F.cross_entropy(
            probe(batch + 0.05 * torch.randn(batch.shape, generator=generator)), targets[indices], weights
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return probe.eval()


def read_labels(*folders: Path) -> list[dict[str, object]]:
    """The labels of shards, in the order of their images."""
    return [label for folder in folders for label in json.loads((folder / LABELS_FILE).read_text(encoding="utf-8"))]


@torch.no_grad()
def sample_captions(base: Base, captions: Sequence[str], guidance_scale: float, steps: int, seed: int) -> Tensor:
    """One image a caption, (B,3,S,S) in [-1,1]."""
    from acfun.pipelines.face_stylization import FaceStylizationPipeline

    pipe = FaceStylizationPipeline.from_base(base)
    latents = pipe(
        list(captions),
        guidance_scale=guidance_scale,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
    ).images
    return torch.cat([decode_latents(base.vae, part) for part in latents.split(4)]).clamp(-1, 1)


@torch.no_grad()
def compute_psnr(vae: AutoencoderKL, data: pretraining.Shards, indices: Sequence[int]) -> float:
    """Mean PSNR in dB of reconstructions of the images at `indices`."""
    figures = []
    for index in indices:
        image = data.pixel_values(torch.tensor([index]))
        error = (decode_latents(vae, encode_latents(vae, image)).clamp(-1, 1) - image) / 2
        figures.append(float(-10 * error.square().mean().log10()))
    return float(np.mean(figures))


def evaluate(args: argparse.Namespace) -> dict[str, float]:
    """Measure everything, write the sheet; returns the figures by name."""
    generator = torch.Generator().manual_seed(args.seed)
    torch.manual_seed(args.seed)
    base = load_base(args.base)
    data, held_out = pretraining.open_shards(*args.data), pretraining.open_shards(args.held_out)
    labels, held_labels = read_labels(*args.data), read_labels(args.held_out)
    photos = [index for index, label in enumerate(held_labels) if not label["renderer"]]
    renderings = [index for index, label in enumerate(held_labels) if label["renderer"]]
    figures = {
        "psnr_photos": compute_psnr(base.vae, held_out, photos),
        "psnr_renderings": compute_psnr(base.vae, held_out, renderings),
    }
    rounds = [
        sample_captions(base, CAPTIONS, args.guidance_scale, args.steps, args.seed + turn)
        for turn in range(SAMPLES_PER_CAPTION)
    ]
    args.output.mkdir(parents=True, exist_ok=True)
    sheet = [tensor_to_pil(image) for image in rounds[0]]
    save_image(
        contact_sheet(sheet, 5, [caption.removeprefix("a ") for caption in CAPTIONS]), args.output / "captions.png"
    )
    small, held_small = load_small(data), load_small(held_out)
    samples = [F.interpolate(images, PROBE_SIZE, mode="area") for images in rounds]
    for attribute in ATTRIBUTES:
        values = sorted(set(attribute.values))
        known = [
            (i, values.index(value))
            for i, label in enumerate(labels)
            if (value := read_label(attribute, label)) is not None
        ]
        indices, targets = (torch.tensor(column) for column in zip(*known, strict=True))
        probe = train_probe(small[indices], targets, len(values), generator)
        with torch.no_grad():
            tested = [
                (i, values.index(value))
                for i, label in enumerate(held_labels)
                if (value := read_label(attribute, label)) is not None
            ]
            own = [int(probe(held_small[i : i + 1]).argmax()) == target for i, target in tested]
            wanted = [
                (i, values.index(value))
                for i, caption in enumerate(CAPTIONS)
                if (value := find_wanted(attribute, caption)) is not None
            ]
            recovered = [int(probe(images[i : i + 1]).argmax()) == target for images in samples for i, target in wanted]
        figures |= {
            f"probe_{attribute.name}": float(np.mean(own)),
            f"recovered_{attribute.name}": float(np.mean(recovered)),
        }
    return figures


def main() -> None:
    """Parse the command line and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="mini")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of training shards")
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--guidance-scale", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    figures = evaluate(args)
    (args.output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
