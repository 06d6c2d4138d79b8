"""The embedded identity encoder: who a face is, as a direction, whatever the light, the expression or the paint.

Trained by `train/pretrain_identity.py` on crops of `acfun.face.align.face_crop`, with an angular margin (Deng et al.
2019, https://arxiv.org/abs/1801.07698).
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acfun.face.align import IDENTITY_CROP_SIZE
from acfun.face.storage import StoredModule
from acfun.paths import mini_dir

_STRIDE = 16


class _ConvUnit(nn.Sequential):
    """3×3 convolution, batch normalisation, PReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.PReLU(out_channels),
        )


class _ResidualUnit(nn.Module):
    """Two convolutions beside a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.unit = _ConvUnit(channels, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.activation = nn.PReLU(channels)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B,C,h,w) → (B,C,h,w)."""
        activated: Tensor = self.activation(hidden + self.norm(self.conv(self.unit(hidden))))
        return activated


class IdentityEncoder(StoredModule):
    """A small residual network from aligned face crops to unit vectors.

    Args:
        stem_channels: of the first stage, at half the crop's resolution.
        channels: of the three further stages, each at half the resolution of the one before.
        num_units: residual units of those stages.
        head_channels: to which the last map is narrowed before it is flattened.
        embedding_size: width D of the embedding.
    """

    kind, script = "identity encoder", "train/pretrain_identity.py"

    def __init__(
        self,
        *,
        stem_channels: int = 16,
        channels: Sequence[int] = (32, 64, 160),
        num_units: Sequence[int] = (1, 1, 1),
        head_channels: int = 64,
        embedding_size: int = 128,
    ) -> None:
        super().__init__()
        self.config = {
            "stem_channels": stem_channels,
            "channels": list(channels),
            "num_units": list(num_units),
            "head_channels": head_channels,
            "embedding_size": embedding_size,
        }
        self.stages = nn.ModuleList([_ConvUnit(3, stem_channels, stride=2)])
        for inner, outer, count in zip((stem_channels, *channels), channels, num_units, strict=False):
            units = [_ResidualUnit(outer) for _ in range(count)]
            self.stages.append(nn.Sequential(_ConvUnit(inner, outer, stride=2), *units))
        width = IDENTITY_CROP_SIZE // _STRIDE
        self.head = nn.Sequential(
            nn.Conv2d(channels[-1], head_channels, 1, bias=False),
            nn.BatchNorm2d(head_channels),
            nn.Flatten(),
            nn.Linear(head_channels * width**2, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        )
        _start_from_gradients(self.stages[0])

    def encode_stages(self, image: Tensor) -> list[Tensor]:
        """Maps (B,C_i,H/2^i,W/2^i) of the stages i = 1, 2, … of (B,3,H,W) images of any size in [-1,1]."""
        maps = [image]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]

    def forward(self, crops: Tensor) -> Tensor:
        """Identity embeddings (B,D) of unit length, float32, differentiable in the crops.

        Args:
            crops: (B,3,112,112) in [-1,1], from `acfun.face.align.face_crop`.

        Raises:
            ValueError: the crops have another shape.
        """
        check_crops(crops)
        embeds: Tensor = self.head(self.encode_stages(crops)[-1])
        return F.normalize(embeds.float(), dim=1)


def check_crops(crops: Tensor) -> None:
    """Refuse what no identity encoder takes.

    Raises:
        ValueError: the crops are not (B,3,112,112).
    """
    if crops.shape[1:] != (3, IDENTITY_CROP_SIZE, IDENTITY_CROP_SIZE):
        raise ValueError(
            f"crops have shape {tuple(crops.shape)}; the identity encoder takes (B,3,{IDENTITY_CROP_SIZE},"
            f"{IDENTITY_CROP_SIZE}), cut them with acfun.face.align.face_crop"
        )


class FeatureStages(nn.Module):
    """The convolutional stages of an identity encoder, for perceptual distances.

    Args:
        encoder: whose stages to share.
    """

    def __init__(self, encoder: IdentityEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Self:
        """Read the stages of a saved `IdentityEncoder`, in evaluation mode.

        Raises:
            BaseNotFoundError: the folder does not hold one.
        """
        return cls(IdentityEncoder.from_pretrained(directory)).eval()

    def forward(self, image: Tensor) -> list[Tensor]:
        """Four maps, fine to coarse, at 1/2 to 1/16 of the resolution of (B,3,H,W) images of any size in [-1,1]."""
        return self.encoder.encode_stages(image)


@lru_cache(maxsize=1)
def load_identity_encoder() -> IdentityEncoder:
    """Load the encoder embedded in the package, frozen; the same object every time.

    Raises:
        BaseNotFoundError: the installation has none.
    """
    return IdentityEncoder.from_pretrained(mini_dir() / "identity_encoder").requires_grad_(False)


def compute_tar(similarities_same: Tensor, similarities_different: Tensor, far: float) -> float:
    """True accept rate: the part of same-person pairs above the threshold that a part `far` of other pairs exceeds.

    Args:
        similarities_same: (N,) of pairs of one person.
        similarities_different: (M,) of pairs of two people.
        far: false accept rate in (0, 1), at least 1/M to be more than the rate at the highest impostor.
    """
    accepted = int(far * len(similarities_different))
    threshold = similarities_different.sort(descending=True).values[accepted]
    return float((similarities_same > threshold).float().mean())


@torch.no_grad()
def _start_from_gradients(stem: nn.Module) -> None:
    """Let the first filters see neither hue nor mean brightness at first: those tell light and paint apart."""
    conv = next(stem.children())
    assert isinstance(conv, nn.Conv2d)
    grey = conv.weight.mean(1, keepdim=True)
    conv.weight.copy_((grey - grey.mean((2, 3), keepdim=True)).expand_as(conv.weight) * 3**0.5)
