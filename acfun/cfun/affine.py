"""CFun as the paper writes it: the channels of a ResBlock's output, scaled and shifted by their statistics.

Notation: x → output of a ResBlock, σ(x) → standard deviation over H and W, γ and β → `gain` + 1 and `shift`.

    CFun(x) = γ(σ(x)) · x + β(σ(x))

Source: ACFun: Abstract-Concrete Fusion Facial Stylization (NeurIPS 2024). γ and β are one two-layer network
whose narrow middle keeps a whole style small; its last layer starts at zero, so a fresh CFun changes nothing.
"""

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from acfun.cfun.sites import Group, Site, find_res_blocks


class StatisticsToAffine(nn.Module):
    """Maps channel statistics to (gain, shift): num_statistics · C → rank → 2 · C, zero at initialisation."""

    def __init__(self, num_channels: int, num_statistics: int, rank: int) -> None:
        super().__init__()
        self.to_hidden = nn.Linear(num_statistics * num_channels, rank)
        self.activation = nn.SiLU()
        self.to_affine = nn.Linear(rank, 2 * num_channels)
        nn.init.zeros_(self.to_affine.weight)
        nn.init.zeros_(self.to_affine.bias)

    def forward(self, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """(B, num_statistics · C) → gain and shift, each (B,C,1,1)."""
        # Deviations differ by orders of magnitude between blocks; taken as they are, a few steps can blow a fit up.
        compressed = statistics.sign() * statistics.abs().log1p()
        affine = self.to_affine(self.activation(self.to_hidden(compressed)))
        gain, shift = affine[..., None, None].chunk(2, dim=1)
        return gain, shift


class AffineBlock(nn.Module):
    """A ResBlock (`base_layer`) followed by CFun; stands where the ResBlock stood."""

    scale: Tensor

    def __init__(self, base_layer: nn.Module, num_channels: int, *, use_mean: bool, rank: int) -> None:
        super().__init__()
        # The base comes first: libraries read a model's dtype from its first parameter.
        self.base_layer = base_layer
        self.use_mean = use_mean
        self.affine = StatisticsToAffine(num_channels, 2 if use_mean else 1, rank)
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def forward(self, hidden_states: Tensor, temb: Tensor | None = None) -> Tensor:
        """(B,C_in,H,W) and the time embedding → (B,C,H,W) in the base's dtype."""
        output: Tensor = self.base_layer(hidden_states, temb)
        gain, shift = self.affine(self._compute_statistics(output).to(self.affine.to_hidden.weight.dtype))
        styled: Tensor = output * (1 + self.scale * gain) + self.scale * shift
        return styled.to(output.dtype)

    def _compute_statistics(self, output: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(output.float(), dim=(2, 3), correction=0)
        return torch.cat([mean, deviation], dim=1) if self.use_mean else deviation


class AffineVariant:
    """CFun on whole ResBlocks, driven by the deviation alone or (unstable in the paper) with the mean."""

    def __init__(self, *, use_mean: bool) -> None:
        self.use_mean = use_mean

    def find_sites(self, unet: nn.Module, groups: tuple[Group, ...]) -> list[Site]:
        return find_res_blocks(unet, groups)

    def wrap(self, sites: list[Site], rank: int) -> list[nn.Module]:
        return [self._wrap_block(site.module, rank) for site in sites]

    def scale_of(self, layer: nn.Module) -> Tensor:
        return layer.get_buffer("scale")

    def _wrap_block(self, res_block: nn.Module, rank: int) -> AffineBlock:
        assert isinstance(res_block, ResnetBlock2D)
        return AffineBlock(res_block, res_block.out_channels, use_mean=self.use_mean, rank=rank)
