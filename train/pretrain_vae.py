"""Train the embedded base's VAE on portraits, photographs and renderings.

`python -m train.pretrain_vae --config train/configs/vae_cpu.toml --data SHARDS --held-out SHARDS --output RUN`

Three terms, each starting when its time comes: pixels from the first step; perceptual, on features of the embedded
identity encoder, from `perceptual_start`; a small patch discriminator from `adversarial_start` (Rombach et al. 2022,
https://arxiv.org/abs/2112.10752, section 3.1).
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from acfun.base.group_norm import speed_up_group_norms
from acfun.config import load_config
from acfun.evaluation.metrics import compute_perceptual_distance
from acfun.face.identity import FeatureStages
from train import pretraining
from train.ema import Ema
from train.vae_init import initialise_linear
from train.vae_parts import PatchDiscriminator, vary_colours

START_IMAGES = 256


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """What a run is.

    Attributes:
        block_out_channels: channels of each level; the VAE downsamples by 2 between levels.
        layers_per_block: ResBlocks a level in the encoder; the decoder has one more.
        latent_channels: channels of the latents.
        crop_sizes: widths of the square crops, each for an equal part of `crop_until`; whole images afterwards.
        crop_until: progress in [0, 1] at which whole images begin.
        crop_batch_pixels: pixels a batch, so that a smaller crop means a larger batch.
        colour_probability: share of crops whose colours are mixed at random.
        start_steps: steps of the linear start's refinement.
        learning_rate: of AdamW, peak.
        kl_weight: weight of the KL divergence to a normal distribution, per latent value.
        perceptual_weight: weight of the feature distance.
        perceptual_start: progress at which it begins.
        adversarial_weight: weight of the patch discriminator.
        adversarial_start: progress at which it begins.
        ema_decay: of the averaged weights that are exported.
        precision: "bf16" or "no".
        num_threads: CPU threads; 0 leaves torch's own choice.
        trains_encoder: False trains the decoder alone, which leaves the latents, and so a trained UNet, valid.
        use_compile: compile the VAE (GPU).
        seed: of everything random.
    """

    block_out_channels: tuple[int, ...] = (32, 64, 128, 128)
    layers_per_block: int = 1
    latent_channels: int = 16
    crop_sizes: tuple[int, ...] = (64,)
    crop_until: float = 0.6
    crop_batch_pixels: int = 98304
    colour_probability: float = 0.4
    start_steps: int = 800
    learning_rate: float = 6e-4
    kl_weight: float = 1e-6
    perceptual_weight: float = 0.0
    perceptual_start: float = 0.6
    adversarial_weight: float = 0.0
    adversarial_start: float = 0.8
    ema_decay: float = 0.999
    precision: str = "bf16"
    num_threads: int = 0
    trains_encoder: bool = True
    use_compile: bool = False
    seed: int = 0


def build_vae(config: VaeConfig, sample_size: int) -> AutoencoderKL:
    """Build the VAE; without attention, so that its cost stays linear in pixels."""
    levels = len(config.block_out_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=4,
        sample_size=sample_size,
        mid_block_add_attention=False,
    )


def start_vae(config: VaeConfig, data: pretraining.Shards, generator: torch.Generator) -> AutoencoderKL:
    """Build the VAE and give it its linear start, fitted to images that are coloured as those of a batch."""
    vae = build_vae(config, data.images.shape[1])
    indices = torch.randint(len(data), (START_IMAGES,), generator=generator)
    images = vary_colours(data.pixel_values(indices), config.colour_probability, generator)
    initialise_linear(vae, images.contiguous(), generator, config.start_steps)
    return vae


class VaeTrainer(nn.Module):
    """The VAE and its losses in one module, the one that accelerate prepares."""

    def __init__(self, vae: AutoencoderKL, features: nn.Module | None, config: VaeConfig) -> None:
        super().__init__()
        self.vae, self.config = vae, config
        self.frozen_features = [features]  # in a list: neither trained nor saved with the VAE

    def forward(self, pixel_values: Tensor, noise: Tensor, progress: float) -> tuple[dict[str, Tensor], Tensor]:
        """Losses before weighting, and the reconstruction, of (B,3,H,W) images in [-1,1]."""
        with torch.set_grad_enabled(self.config.trains_encoder):
            posterior = self.vae.encode(pixel_values).latent_dist
        reconstruction = self.vae.decode(posterior.mean + posterior.std * noise).sample.float()
        error = reconstruction - pixel_values
        losses = {"pixel": error.abs().mean() + 2 * error.square().mean(), "kl": posterior.kl().mean()}
        features = self.frozen_features[0]
        if features is not None and progress >= self.config.perceptual_start:
            with torch.no_grad():
                wanted = features(pixel_values)
            losses["perceptual"] = compute_perceptual_distance(features(reconstruction), wanted).mean()
        return losses, reconstruction


def sample_batch(data: pretraining.Shards, config: VaeConfig, progress: float, generator: torch.Generator) -> Tensor:
    """Draw crops (B,3,S,S) in [-1,1], flipped half the time."""
    size = data.images.shape[1]
    if progress < config.crop_until:
        size = config.crop_sizes[int(len(config.crop_sizes) * progress / config.crop_until)]
    batch = max(1, config.crop_batch_pixels // size**2)
    indices = torch.randint(len(data), (batch,), generator=generator)
    images = data.pixel_values(indices)
    top, left = (int(torch.randint(images.shape[2] - size + 1, (1,), generator=generator)) for _ in range(2))
    crops = images[:, :, top : top + size, left : left + size]
    flips = torch.rand(batch, generator=generator) < 0.5
    crops = torch.where(flips[:, None, None, None], crops.flip(3), crops)
    return vary_colours(crops, config.colour_probability, generator).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def compute_psnr(vae: AutoencoderKL, data: pretraining.Shards, device: torch.device, limit: int = 128) -> float:
    """Mean PSNR in dB over the first `limit` whole images, 8-bit range, from the posterior's mean."""
    figures = []
    for indices in torch.arange(min(limit, len(data))).split(8):
        pixel_values = data.pixel_values(indices).to(device)
        output = vae.decode(vae.encode(pixel_values).latent_dist.mean).sample.clamp(-1, 1)
        mse = ((output - pixel_values) / 2).square().mean((1, 2, 3))
        figures += (-10 * mse.log10()).tolist()
    return float(np.mean(figures))


@torch.no_grad()
def measure_scaling(vae: AutoencoderKL, data: pretraining.Shards, device: torch.device) -> float:
    """1 / standard deviation of the latents, the VAE's `scaling_factor`."""
    indices = torch.arange(0, len(data), max(1, len(data) // 256))[:256]
    latents = [vae.encode(data.pixel_values(part).to(device)).latent_dist.mean for part in indices.split(16)]
    return 1.0 / float(torch.cat(latents).std())


class VaeRun:
    """One training run: models, optimisers, and one step of both players."""

    def __init__(
        self, config: VaeConfig, vae: AutoencoderKL, features: nn.Module | None, accelerator: Accelerator
    ) -> None:
        self.config, self.accelerator = config, accelerator
        self.vae = vae.to(memory_format=torch.channels_last)
        if accelerator.device.type == "cpu":
            speed_up_group_norms(self.vae)
        self.discriminator = PatchDiscriminator()
        self.ema = Ema(self.vae, config.ema_decay)
        trainer = VaeTrainer(self.vae, features, config)
        self.vae.encoder.requires_grad_(config.trains_encoder)
        self.vae.quant_conv.requires_grad_(config.trains_encoder)
        trained = [parameter for parameter in trainer.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.99), weight_decay=1e-4)
        self.judge_optimizer = torch.optim.AdamW(self.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.9))
        self.trainer, self.optimizer = accelerator.prepare(trainer, self.optimizer)
        self.discriminator.to(accelerator.device)
        self.ema.averages = {name: value.to(accelerator.device) for name, value in self.ema.averages.items()}

    def step(self, pixel_values: Tensor, progress: float, generator: torch.Generator) -> dict[str, float]:
        """Train on one batch; returns the losses."""
        config = self.config
        pretraining.set_learning_rate(self.optimizer, config.learning_rate * pretraining.compute_cosine_scale(progress))
        factor = 2 ** (len(config.block_out_channels) - 1)
        batch, _, height, width = pixel_values.shape
        noise = torch.randn((batch, config.latent_channels, height // factor, width // factor), generator=generator)
        device = self.accelerator.device
        pixel_values = pixel_values.to(device)
        with self.accelerator.autocast():
            losses, reconstruction = self.trainer(pixel_values, noise.to(device), progress)
            weights = {
                "pixel": 1.0,
                "kl": config.kl_weight / noise[0].numel(),
                "perceptual": config.perceptual_weight,
            }
            if config.adversarial_weight and progress >= config.adversarial_start:
                losses["adversarial"] = -self.discriminator(reconstruction).mean()
                weights["adversarial"] = config.adversarial_weight
        self.accelerator.backward(torch.stack([weights[name] * loss for name, loss in losses.items()]).sum())
        self.accelerator.clip_grad_norm_(self.trainer.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.vae)
        if "adversarial" in losses:
            losses["judge"] = self._step_judge(pixel_values, reconstruction.detach())
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _step_judge(self, real: Tensor, fake: Tensor) -> Tensor:
        self.judge_optimizer.zero_grad(set_to_none=True)
        with self.accelerator.autocast():
            loss = F.relu(1 - self.discriminator(real)).mean() + F.relu(1 + self.discriminator(fake)).mean()
        self.accelerator.backward(loss)
        self.judge_optimizer.step()
        return loss.detach()

    def parts(self) -> dict[str, pretraining.HasState]:
        """What a checkpoint holds."""
        return {
            "vae": self.vae, "ema": self.ema, "optimizer": self.optimizer,
            "discriminator": self.discriminator, "judge_optimizer": self.judge_optimizer,
        }  # fmt: skip


def train(args: argparse.Namespace, config: VaeConfig) -> None:
    """Run until the budget ends, then export the averaged VAE as fp16 to `output/vae`."""
    accelerator = pretraining.build_accelerator(args.device, config.precision)
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    data, held_out = pretraining.open_shards(*args.data), pretraining.open_shards(args.held_out)
    if args.start is not None:
        vae = AutoencoderKL.from_pretrained(args.start, torch_dtype=torch.float32)
    elif args.resume and (args.output / pretraining.CHECKPOINT_NAME).is_file():
        vae = build_vae(config, data.images.shape[1])  # the checkpoint has the weights
    else:
        vae = start_vae(config, data, generator)
    run = VaeRun(config, vae, load_features(args.features, accelerator), accelerator)
    state = pretraining.TrainState()
    if args.resume:
        pretraining.load_checkpoint(args.output, state, generator, **run.parts())
    if config.use_compile:
        run.trainer.compile()

    def step(progress: float) -> tuple[dict[str, float], int]:
        batch = sample_batch(data, config, progress, generator)
        return run.step(batch, progress, generator), len(batch)

    def save() -> dict[str, float]:
        pretraining.save_checkpoint(args.output, state, generator, **run.parts())
        with run.ema.applied(run.vae):
            return {"psnr": compute_psnr(run.vae, held_out, accelerator.device)}

    budget = pretraining.Budget(args.minutes, state, args.max_steps)
    pretraining.run_loop(step, save, budget=budget, output=args.output)
    run.ema.copy_to(run.vae)
    if config.trains_encoder:
        run.vae.register_to_config(scaling_factor=measure_scaling(run.vae, data, accelerator.device))
    pretraining.export_half(run.vae, args.output / "vae")


def load_features(path: Path | None, accelerator: Accelerator) -> nn.Module | None:
    """Load the identity encoder's convolutional stages for the perceptual term; None without a path."""
    if path is None:
        return None
    return FeatureStages.from_pretrained(path).requires_grad_(False).eval().to(accelerator.device)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of training shards")
    parser.add_argument("--held-out", type=Path, required=True, help="folder of shards of people not trained on")
    parser.add_argument("--features", type=Path, help="identity encoder's folder, for the perceptual term")
    parser.add_argument("--start", type=Path, help="VAE folder to start from, instead of the linear start")
    pretraining.add_run_arguments(parser, minutes=40)
    args = parser.parse_args()
    config = load_config(VaeConfig, args.config)
    pretraining.prepare_process(config.num_threads)
    train(args, config)


if __name__ == "__main__":
    main()
