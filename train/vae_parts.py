"""What the VAE's training needs besides the VAE: a judge, a perceptual distance, and paintings' colours."""

from itertools import pairwise

import torch
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Four strided convolutions; logits (B,1,H/8,W/8) for overlapping patches."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = [3, width, 2 * width, 4 * width]
        for inner, outer in pairwise(channels):
            layers += [nn.Conv2d(inner, outer, 4, 2, 1), nn.GroupNorm(8, outer), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Score (B,3,H,W) images in [-1,1]."""
        logits: Tensor = self.layers(image)
        return logits


def vary_colours(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Mix the channels of some images (B,3,H,W), greys kept: paintings have colours that photographs of faces lack."""
    batch = len(images)
    mixing = torch.eye(3) * 1.4 + 0.5 * torch.randn((batch, 3, 3), generator=generator)
    mixing = mixing + (1 - mixing.sum(2, keepdim=True)) / 3
    mixed = torch.einsum("bij,bjhw->bihw", mixing, images).clamp(-1, 1)
    chosen = torch.rand(batch, generator=generator) < probability
    return torch.where(chosen[:, None, None, None], mixed, images)
