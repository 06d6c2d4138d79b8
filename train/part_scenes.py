"""What the segmenter is trained on: labelled people, in other colours and other clothes, before other grounds.

A label of `train.label_parts` is right for certain where the ground is plain. Cut out along it, and put before a ground
that has trees, flags or columns, the same person is labelled as well as before, and colours no longer tell who is who.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from acfun.errors import DataError
from acfun.face.align import transform_points
from acfun.face.segmenter import EYES_CENTRE, PARTS, PUPIL_FRACTION
from acfun.masks import fill
from acfun.synthetic.samples import ATTRIBUTES_FILE
from train.face_augmentation import recolour, similarity_about_centre

PLAIN_SPREAD = 0.105  # deviation of a ground's luma, up to which it is plain
MIN_GROUND, SURE_GROUND = 0.12, 0.95  # share of the crop that shows ground for certain, for a ground to be kept
# Of those drawn for training: few have long hair or none, and theirs is harder.
GROUPS = ("long", "bald", "woman", "man")
GROUP_SHARES = (0.4, 0.1, 0.2, 0.3)
BARE_ABOVE = EYES_CENTRE[1] - 0.8 * PUPIL_FRACTION  # share of the crop's height, above which a bald head has no hair
HAIR_RECOLOURED, CLOTHES_RECOLOURED, CLOTHES_PATTERNED, GROUND_REPLACED = 0.35, 0.5, 0.15, 0.75
_FACE, _HAIR, _BODY, _GROUND = (PARTS.index(name) for name in ("face", "hair", "body", "background"))


@dataclass(frozen=True)
class LabelledPeople:
    """Labelled photographs as `train.label_parts` writes them: layers (N,S,S,8), spreads (N,), keys, identities."""

    layers: np.ndarray[Any, np.dtype[np.uint8]]
    spreads: np.ndarray[Any, np.dtype[np.float32]]
    keys: tuple[str, ...]
    identities: tuple[str, ...]

    def select(self, indices: np.ndarray[Any, Any]) -> "LabelledPeople":
        """Some of them."""
        keys, identities = (tuple(names[i] for i in indices.tolist()) for names in (self.keys, self.identities))
        return LabelledPeople(self.layers[indices], self.spreads[indices], keys, identities)

    def read(self, indices: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B,3,S,S) in [-1,1], where the photograph goes on (B,1,S,S), and parts (B,4,S,S) that sum to one."""
        layers = torch.from_numpy(self.layers[indices]).permute(0, 3, 1, 2).float() / 255
        image, inside, parts = layers.split([3, 1, len(PARTS)], 1)
        return 2 * image - 1, inside, parts / parts.sum(1, keepdim=True).clamp(min=1e-3)


def open_labels(path: Path) -> LabelledPeople:
    """Read what `train.label_parts` wrote.

    Raises:
        DataError: the file is not there.
    """
    if not path.is_file():
        raise DataError(f"{path} is no file: write it with train/label_parts.py first")
    with np.load(path) as content:
        names = [tuple(content[name].tolist()) for name in ("keys", "identities")]
        people = LabelledPeople(content["layers"], content["spreads"], *names)
    _bare_heads(people)
    return people


def group_people(people: LabelledPeople) -> list[np.ndarray[Any, Any]]:
    """Indices of those before a plain ground, by `GROUPS`; who is in no table of attributes counts as a man."""
    groups = np.array(_name_groups(people.keys))
    is_plain = people.spreads < PLAIN_SPREAD
    return [np.flatnonzero((groups == name) & is_plain) for name in GROUPS]


def _name_groups(keys: Sequence[str]) -> list[str]:
    with ATTRIBUTES_FILE.open(encoding="utf-8", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}  # captions know no length of hair

    def name_group(row: dict[str, str]) -> str:
        if row.get("hair") == "bald":
            return "bald"
        return "long" if row.get("hair_length") == "long" else row.get("gender", "man")

    return [name_group(rows.get(key, {})) for key in keys]


def _bare_heads(people: LabelledPeople) -> None:
    """Make face of what colours take for hair on top of bald heads, in place."""
    is_bald = np.array([name == "bald" for name in _name_groups(people.keys)])
    tops = people.layers[is_bald, : round(BARE_ABOVE * people.layers.shape[1]), :, 4:]
    tops[..., _FACE] += np.minimum(tops[..., _HAIR], 255 - tops[..., _FACE])
    tops[..., _HAIR] = 0
    people.layers[is_bald, : tops.shape[1], :, 4:] = tops


def collect_grounds(people: LabelledPeople) -> Tensor:
    """The grounds of photographs, (M,3,S,S) uint8, what people hide of them filled from around."""
    grounds = []
    for index in range(len(people.keys)):
        image, inside, parts = people.read(np.array([index]))
        known = ((parts[:, _GROUND, None] > SURE_GROUND) & (inside > SURE_GROUND)).float()
        if known.mean() >= MIN_GROUND:
            grounds.append(((fill(image, known).clamp(-1, 1) + 1) * 127.5).byte())
    return torch.cat(grounds) if grounds else torch.zeros(0, 3, *people.layers.shape[1:3], dtype=torch.uint8)


def sample_scenes(
    people: LabelledPeople, indices: np.ndarray[Any, Any], grounds: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw scenes of the people at `indices` (B,), before some of the grounds (M,3,S,S) uint8.

    Returns:
        (images (B,3,S,S) in [-1,1], 0 outside the photograph; parts (B,4,S,S); where they are known (B,1,S,S)).
    """
    count = len(indices)

    def chance(share: float) -> Tensor:
        return (torch.rand(count, 1, 1, 1, generator=generator) < share).float()

    def draw_grounds() -> Tensor:
        drawn = grounds[torch.randint(len(grounds), (count,), generator=generator)].float() / 127.5 - 1
        return torch.where(chance(0.5) > 0, drawn.flip(3), drawn)

    layers = torch.cat(people.read(indices), 1)
    layers = torch.where(chance(0.5) > 0, layers.flip(3), layers)
    image, inside, parts = _move(layers, generator).split([3, 1, len(PARTS)], 1)
    inside = (inside > 0.98).float()
    hair, body, ground = (parts[:, part, None] for part in (_HAIR, _BODY, _GROUND))
    image = torch.lerp(image, _shift_colours(image, generator), hair * chance(HAIR_RECOLOURED))
    image = torch.lerp(image, _shift_colours(image, generator), body * chance(CLOTHES_RECOLOURED))
    image = torch.lerp(image, 0.7 * draw_grounds() + 0.3 * image, body * chance(CLOTHES_PATTERNED))
    image = torch.lerp(image, draw_grounds(), ground * chance(GROUND_REPLACED))
    order = torch.randperm(count, generator=generator)  # runs of a batch are recoloured alike
    return recolour(image[order], generator) * inside[order], parts[order], inside[order]


def _move(layers: Tensor, generator: torch.Generator) -> Tensor:
    """Layers (B,C,S,S) turned, scaled and moved; 0 where there is nothing."""
    count, size = len(layers), layers.shape[-1]
    angle = 0.18 * torch.randn(count, generator=generator)
    scale = (0.22 * torch.randn(count, generator=generator)).exp()
    framings = similarity_about_centre(angle, scale, 0.1 * torch.randn(count, 2, generator=generator))
    ticks = (torch.arange(size) + 0.5) / size
    points = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1).reshape(1, -1, 2)
    source = transform_points(points, framings)
    grid = (2 * source - 1).reshape(count, size, size, 2)
    return F.grid_sample(layers, grid, padding_mode="zeros", align_corners=False)


def _shift_colours(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B,3,S,S) in other colours, lighter or darker."""
    count = len(images)
    contrast = 0.5 + torch.rand(count, 1, 1, generator=generator)
    mixing = torch.eye(3) * contrast + 0.2 * torch.randn(count, 3, 3, generator=generator)
    shift = 0.35 * torch.randn(count, 3, 1, generator=generator)
    return (mixing @ images.flatten(2) + shift).view_as(images).clamp(-1, 1)
