"""A linear start for the VAE: before its first step it is the best linear transform of its shape.

A random VAE spends much of a short run learning what linear algebra gives in seconds. A diffusers VAE is linear but for
its residual branches and the two normalisations before the output convolutions. So the branches start at zero, and the
trunk carries a `Cascade`: strided convolutions down, nearest-neighbour enlargements and convolutions up, found by
principal components and least squares, then refined together by descent. A normalisation lets a pair of channels ±x
through unharmed, since SiLU(x) - SiLU(-x) = x, and a pair of constants ±C beside it keeps the group's deviation nearly
the same for all images.

A component of standard deviation σ is kept as √σ: latents fall off over their channels as images do, at half the rate
in decibels, so that a diffusion model settles layout and colours before texture.
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

TRUNK_SHARE = 0.75  # of a level's channels; the others start at random
CONSTANT = 2.0  # C, in standard deviations of the values that pass
RIDGE = 1e-4
POSTERIOR_LOG_VARIANCE = -8.0
REFINE_CROP, REFINE_BATCH, REFINE_RATE = 128, 8, 2e-3


@dataclass(frozen=True)
class Cascade:
    """A linear autoencoder: weights (N,K,3,3) of `analysis`, from the image down, and of `synthesis`, back up."""

    analysis: list[Tensor]
    synthesis: list[Tensor]

    def encode(self, images: Tensor) -> Tensor:
        """(B,3,H,W) → (B,C,h,w), padded as diffusers' downsampling pads."""
        for weight in self.analysis:
            images = F.conv2d(F.pad(images, (0, 1, 0, 1)), weight, stride=2)
        return images

    def decode(self, latents: Tensor) -> Tensor:
        """(B,C,h,w) → (B,3,H,W)."""
        for weight in self.synthesis:
            latents = F.conv2d(F.interpolate(latents, scale_factor=2.0, mode="nearest"), weight, padding=1)
        return latents


@torch.no_grad()
def initialise_linear(vae: AutoencoderKL, images: Tensor, generator: torch.Generator, refine_steps: int = 800) -> None:
    """Overwrite the weights of a fresh VAE, in place.

    Args:
        vae: without attention in its middle.
        images: (B,3,H,W) in [-1,1], like those to be trained on; some dozens.
        generator: of the crops that the refinement draws.
        refine_steps: about 0.04 s each on one core.

    Raises:
        ValueError: the trunk is too narrow to carry the latents.
    """
    widths = [int(TRUNK_SHARE * block.downsamplers[0].conv.out_channels) for block in vae.encoder.down_blocks[:-1]]
    cascade = find_cascade(images[:48], widths, vae.config.latent_channels)
    refine_cascade(cascade, images, refine_steps, generator)
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            _clear(module)
    _install_analysis(vae, cascade, cascade.encode(images[:16]))
    _install_synthesis(vae, cascade, cascade.decode(cascade.encode(images[:16])))


def find_cascade(images: Tensor, widths: list[int], latent_channels: int) -> Cascade:
    """Principal components down, least squares up.

    Args:
        images: (B,3,H,W) in [-1,1].
        widths: channels after each downsampling, at most.
        latent_channels: how many of the last are the latents.
    """
    levels, analysis = [images], []
    for width in widths:
        weight = find_components(levels[-1], width)
        analysis.append(F.pad(weight, (0, 1, 0, 1)))
        levels.append(F.conv2d(levels[-1], weight, stride=2))
    features = levels.pop()[:, :latent_channels]
    if features.shape[1] < latent_channels:
        raise ValueError(f"{features.shape[1]} components for {latent_channels} latents: widen block_out_channels")
    analysis[-1] = analysis[-1][:latent_channels]
    synthesis = []
    for target in reversed(levels):
        enlarged = F.interpolate(features, scale_factor=2.0, mode="nearest")
        synthesis.append(solve_convolution(enlarged, target))
        features = F.conv2d(enlarged, synthesis[-1], padding=1)
    return Cascade(analysis, synthesis)


def find_components(features: Tensor, count: int) -> Tensor:
    """Principal components of 2×2 neighbourhoods as a convolution of stride 2.

    Args:
        features: (B,K,H,W): an image, or what this function's own weights made of one.
        count: how many; fewer where there are no more.

    Returns:
        (N,K,2,2) weights, by falling variance, scaled so that what has deviation σ comes out with √σ.
    """
    channels = features.shape[1]
    # A channel that came out with √σ stands for σ, and √σ is its own deviation.
    scale = features.square().mean((0, 2, 3)).sqrt() if channels > 3 else torch.ones(channels)
    blocks = F.unfold(features * scale[:, None, None], 2, stride=2).transpose(1, 2).flatten(0, 1)
    variances, vectors = torch.linalg.eigh(blocks.T @ blocks / len(blocks))
    variances, vectors = variances.flip(0)[:count], vectors.flip(1)[:, :count]
    rows = vectors.T * variances.clamp(min=1e-8).pow(-0.25)[:, None]
    weight: Tensor = rows.view(-1, channels, 2, 2) * scale[:, None, None]
    return weight


def solve_convolution(features: Tensor, target: Tensor) -> Tensor:
    """The 3×3 convolution (M,K,3,3), zero-padded, that maps (B,K,H,W) nearest to (B,M,H,W)."""
    size = features.shape[1] * 9
    products, moments = torch.zeros(size, size), torch.zeros(size, target.shape[1])
    for one, wanted in zip(features, target, strict=True):
        columns = F.unfold(one[None], 3, padding=1)[0]
        products += columns @ columns.T
        moments += columns @ wanted.flatten(1).T
    products += RIDGE * products.diagonal().mean() * torch.eye(size)
    solution: Tensor = torch.linalg.solve(products, moments)
    return solution.T.reshape(target.shape[1], features.shape[1], 3, 3)


@torch.enable_grad()
def refine_cascade(cascade: Cascade, images: Tensor, steps: int, generator: torch.Generator) -> None:
    """Descend on the squared error of reconstructed crops, in place."""
    weights = [weight.requires_grad_() for weight in (*cascade.analysis, *cascade.synthesis)]
    optimizer = torch.optim.Adam(weights, lr=REFINE_RATE, betas=(0.9, 0.99))
    size = min(REFINE_CROP, images.shape[-1])
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = REFINE_RATE * (1 - step / steps)
        indices = torch.randint(len(images), (REFINE_BATCH,), generator=generator)
        top, left = torch.randint(images.shape[-1] - size + 1, (2,), generator=generator).tolist()
        crops = images[indices, :, top : top + size, left : left + size]
        loss = (cascade.decode(cascade.encode(crops)) - crops).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for weight in weights:
        weight.requires_grad_(False)


def _install_analysis(vae: AutoencoderKL, cascade: Cascade, latents: Tensor) -> None:
    encoder = vae.encoder
    _carry(encoder.conv_in, torch.eye(3)[:, :, None, None])
    for block, weight in zip(encoder.down_blocks, cascade.analysis, strict=False):
        if block.resnets[0].conv_shortcut is not None:
            _carry(block.resnets[0].conv_shortcut, torch.eye(weight.shape[1])[:, :, None, None])
        _carry(block.downsamplers[0].conv, weight)
    _end_linearly(encoder.down_blocks[-1], encoder.conv_norm_out, encoder.conv_out, latents)
    encoder.conv_out.weight[latents.shape[1] :] = 0
    encoder.conv_out.bias[latents.shape[1] :] = POSTERIOR_LOG_VARIANCE
    for conv in (vae.quant_conv, vae.post_quant_conv):
        _carry(conv, torch.eye(conv.in_channels)[:, :, None, None])


def _install_synthesis(vae: AutoencoderKL, cascade: Cascade, output: Tensor) -> None:
    decoder = vae.decoder
    _carry(decoder.conv_in, torch.eye(vae.config.latent_channels)[:, :, None, None])
    for block, weight in zip(decoder.up_blocks, cascade.synthesis, strict=False):
        if block.resnets[0].conv_shortcut is not None:
            _carry(block.resnets[0].conv_shortcut, torch.eye(weight.shape[1])[:, :, None, None])
        _carry(block.upsamplers[0].conv, weight)
    _end_linearly(decoder.up_blocks[-1], decoder.conv_norm_out, decoder.conv_out, output)


def _end_linearly(block: Any, norm: nn.GroupNorm, conv: nn.Conv2d, values: Tensor) -> None:
    """Make the last block and what follows it return the (B,K,h,w) values that its first K input channels carry."""
    shortcut = block.resnets[0].conv_shortcut
    if shortcut is None:
        raise ValueError("the linear start needs the outermost and the innermost two of block_out_channels to differ")
    count, width = values.shape[1], norm.num_channels // norm.num_groups
    pairs = -(-count // norm.num_groups)
    if 2 * pairs + 2 > width:
        raise ValueError(f"groups of {width} channels are too narrow for {pairs} pairs and the constants: fewer groups")
    _carry(conv, torch.zeros(count, 1, 1, 1))
    constant = CONSTANT * pairs**0.5 * values.square().mean().sqrt()
    for group in range(norm.num_groups):
        start, end = group * width, group * width + 2 * pairs
        shortcut.weight[start : end + 2] = 0
        shortcut.bias[start : end + 2] = 0
        shortcut.bias[end], shortcut.bias[end + 1] = constant, -constant
        for place, channel in enumerate(range(group * pairs, min((group + 1) * pairs, count))):
            for offset, sign in ((0, 1.0), (1, -1.0)):
                shortcut.weight[start + 2 * place + offset, channel] = sign
                conv.weight[channel, start + 2 * place + offset, 1, 1] = sign
    padded = F.pad(values, (0, 0, 0, 0, 0, shortcut.in_channels - count))
    output = conv(F.silu(norm(shortcut(padded))))[:, :count]
    gains = (output * values).mean((0, 2, 3)) / output.square().mean((0, 2, 3))
    conv.weight[:count] *= gains[:, None, None, None]


def _carry(conv: Any, weight: Tensor) -> None:
    """Let the first outputs of an `nn.Conv2d` be (M,K,·,·) `weight`, 1×1 or of its own size, of its first inputs."""
    rows, columns = weight.shape[:2]
    conv.weight[:rows] = 0
    conv.bias[:rows] = 0
    if weight.shape[2] == conv.kernel_size[0]:
        conv.weight[:rows, :columns] = weight
    else:
        conv.weight[:rows, :columns, 1, 1] = weight[:, :, 0, 0]


def _clear(conv: Any) -> None:
    conv.weight.zero_()
    conv.bias.zero_()
