"""The bank of pictures that the identity encoder learns from: who is drawn for a step, and which two pictures."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acfun.errors import DataError
from acfun.synthetic.shards import open_shards
from train.identity_bank import MORPH_PREFIX


@dataclass(frozen=True)
class IdentityBank:
    """images (N,S,S,3) uint8; landmarks (N,189,2) pixels; `rows[i]`: the samples of person i; names of the people."""

    images: NDArray[np.uint8]
    landmarks: Tensor
    rows: tuple[Tensor, ...]
    names: tuple[str, ...]

    def sample_people(self, count: int, real_share: float, generator: torch.Generator) -> Tensor:
        """Draw (count,) different people, `real_share` of them no morphs."""
        is_morph = torch.tensor([name.startswith(MORPH_PREFIX) for name in self.names])
        real, morphs = (~is_morph).nonzero().flatten(), is_morph.nonzero().flatten()
        num_real = min(len(real), max(round(count * real_share), count - len(morphs)))
        parts = ((real, num_real), (morphs, count - num_real))
        return torch.cat([group[torch.randperm(len(group), generator=generator)[:n]] for group, n in parts])

    def sample_pairs(self, people: Tensor, generator: torch.Generator) -> Tensor:
        """Two different samples of each person: (2·B,) indices, all the first ones before all the second ones."""
        pairs = [self.rows[i][torch.randperm(len(self.rows[i]), generator=generator)[:2]] for i in people.tolist()]
        return torch.stack(pairs, 1).flatten()

    def load(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """(images (B,3,S,S) in [-1,1], landmarks (B,189,2))."""
        images = torch.from_numpy(self.images[indices.numpy()]).permute(0, 3, 1, 2).float() / 127.5 - 1
        return images, self.landmarks[indices]


def open_bank(folders: list[Path]) -> IdentityBank:
    """Read banks of one picture size into memory; whoever has a single picture is left out.

    Raises:
        DataError: a folder is not complete.
    """
    shards = [open_shards(folder) for folder in folders]
    samples: dict[str, list[int]] = defaultdict(list)
    for index, label in enumerate(label for shard in shards for label in shard.labels):
        samples[label.attributes["identity"]].append(index)
    rows = {name: torch.tensor(indices) for name, indices in sorted(samples.items()) if len(indices) > 1}
    if len(rows) < 2:
        raise DataError(f"{', '.join(map(str, folders))}: fewer than two people have two pictures; write a larger bank")
    landmarks = torch.from_numpy(np.concatenate([shard.landmarks for shard in shards]))
    return IdentityBank(
        np.concatenate([shard.images for shard in shards]), landmarks, tuple(rows.values()), tuple(rows)
    )
