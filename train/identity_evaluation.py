"""How well an identity encoder recognises held-out people: smiling, years later, and painted in styles it never saw."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acfun.face.align import face_crop
from acfun.face.identity import IdentityEncoder, compute_tar
from acfun.synthetic.shards import Shards, open_shards
from train.identity_bank import STYLIZED_KINDS

FAR = 1e-2
FIGURES = ("smile", "years", "style")


@dataclass(frozen=True)
class HeldOut:
    """crops (N,3,112,112) in [-1,1]; of each, who, "neutral", "smiling", "grey" or "colour", and the renderer or ""."""

    crops: Tensor
    identities: tuple[str, ...]
    kinds: tuple[str, ...]
    renderers: tuple[str, ...]

    def find(self, kind: str, renderer: str = "") -> dict[str, int]:
        """Index of each person's picture of this kind."""
        rows = zip(self.identities, self.kinds, self.renderers, strict=True)
        return {row[0]: index for index, row in enumerate(rows) if row[1:] == (kind, renderer)}


def open_held_out(folder: Path) -> HeldOut:
    """Cut the crops of what `python -m train.identity_bank --held-out` wrote."""
    shards = open_shards(folder)
    parts = np.array_split(np.arange(len(shards.images)), max(1, len(shards.images) // 64))
    return HeldOut(
        crops=torch.cat([_cut_crops(shards, indices) for indices in parts]),
        identities=tuple(label.attributes["identity"] for label in shards.labels),
        kinds=tuple(Path(label.parents[0]).stem.split("_")[-1] for label in shards.labels),
        renderers=tuple(label.renderer for label in shards.labels),
    )


def _cut_crops(shards: Shards, indices: NDArray[np.intp]) -> Tensor:
    images = torch.from_numpy(shards.images[indices]).permute(0, 3, 1, 2).float() / 127.5 - 1
    return face_crop(images, torch.from_numpy(shards.landmarks[indices]))


@torch.no_grad()
def encode_crops(encoder: IdentityEncoder, crops: Tensor) -> Tensor:
    """Embeddings (N,D) in evaluation mode."""
    was_training = encoder.training
    encoder.eval()
    device = next(encoder.parameters()).device
    embeds = torch.cat([encoder(part.to(device)).cpu() for part in crops.split(64)])
    encoder.train(was_training)
    return embeds


def compute_recognition(encoder: IdentityEncoder, held_out: HeldOut, far: float = FAR) -> dict[str, float]:
    """True accept rates at the false accept rate `far`: "smile", "years", "style", and "style_…" for each renderer.

    smile: studio people, neutral and smiling; years: portraits, grey and colour; style: photograph and the same
    photograph rendered, mean over the renderers. Impostors are all other people's pictures of the second kind.
    """
    embeds = encode_crops(encoder, held_out.crops)

    def compare(first: dict[str, int], second: dict[str, int]) -> float:
        people = sorted(first.keys() & second.keys())
        similarities = embeds[[first[person] for person in people]] @ embeds[[second[person] for person in people]].T
        is_other = ~torch.eye(len(people), dtype=torch.bool)
        return compute_tar(similarities.diagonal(), similarities[is_other], far) if len(people) > 1 else float("nan")

    figures = {
        "smile": compare(held_out.find("neutral"), held_out.find("smiling")),
        "years": compare(held_out.find("grey"), held_out.find("colour")),
    }
    for renderer in sorted(set(held_out.renderers) - {""}):
        photos, rendered = (
            {person: index for kind in STYLIZED_KINDS for person, index in held_out.find(kind, style).items()}
            for style in ("", renderer)
        )
        figures[f"style_{renderer}"] = compare(photos, rendered)
    figures["style"] = float(np.mean([value for name, value in figures.items() if name.startswith("style_")]))
    return figures


def format_table(figures: dict[str, Any]) -> str:
    """The figures as lines of a Markdown table."""
    lines = [f"| {name} | {value:.3f} |" for name, value in figures.items()]
    return "\n".join([f"| held-out pairs | TAR at FAR {FAR:g} |", "|---|---|", *lines])
