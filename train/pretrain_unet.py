"""Train the embedded base's UNet on captioned portraits, in the latent space of its VAE.

    python -m train.pretrain_unet --config train/configs/unet_cpu.toml --base DIR --data SHARDS \
        --held-out SHARDS --output RUN

Schedule and loss are those of `train/diffusion.py`. `--base` holds `vae`, `text_encoder` and `tokenizer`; images are
encoded once and the latents kept in the run folder.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from acfun.base.conditions import Conditions
from acfun.base.group_norm import speed_up_group_norms
from acfun.base.prompts import encode_tokens, tokenize
from acfun.config import load_config
from acfun.images import contact_sheet, save_image, tensor_to_pil
from train import pretraining
from train.diffusion import build_scheduler, compute_velocity_loss, draw_batch, sample_pictures
from train.ema import Ema
from train.latents import Latents, Neighbours, load_latents, load_neighbours

SHEET_PROMPTS = (
    "a photo of a young woman with dark hair",
    "a photo of a smiling old man with grey hair and glasses",
    "a photo of a man with a beard",
    "a photo of a young woman with blond hair",
    "an oil painting of a woman",
    "a pencil sketch of a man with a beard",
    "a flat cartoon of a young woman with red hair",
    "a mosaic of a man",
)


@dataclass(frozen=True, kw_only=True)
class UnetConfig:
    """What a run is.

    Attributes:
        block_out_channels: channels of each level.
        layers_per_block: ResBlocks a level on the way down; one more on the way up.
        attention_levels: how many of the lowest levels attend to the caption.
        num_heads: attention heads.
        batch_size: samples a step.
        learning_rate: of AdamW, peak.
        weight_decay: of AdamW.
        caption_dropout: share of samples trained without a caption.
        snr_gamma: where min-SNR cuts; latents whose fine channels are faint need a high one, or they stay noisy.
        timestep_power: timesteps are drawn as T·u^power, u uniform; below 1 the noisier ones, where layout is decided.
        peak_weight: of `PeakPenalty`.
        ema_decay: of the averaged weights that are exported.
        precision: "bf16" or "no".
        num_threads: CPU threads; 0 leaves torch's own choice.
        use_compile: compile the UNet (GPU).
        seed: of everything random.
    """

    block_out_channels: tuple[int, ...] = (160, 224, 288)
    layers_per_block: int = 1
    attention_levels: int = 2
    num_heads: int = 8
    batch_size: int = 24
    learning_rate: float = 6e-4
    weight_decay: float = 0.01
    caption_dropout: float = 0.1
    snr_gamma: float = 5.0
    timestep_power: float = 1.0
    peak_weight: float = 0.1
    ema_decay: float = 0.9995
    precision: str = "bf16"
    num_threads: int = 0
    use_compile: bool = False
    seed: int = 0


class PeakPenalty:
    """Keeps single positions from outshining the rest of a UNet's maps on the way up.

    Group normalisation takes the scale out of a map, and a UNet needs it: how large the velocity is depends on the
    timestep. Left alone it grows one huge position that sets the norm of all others (the droplets of StyleGAN, Karras
    et al. 2020, https://arxiv.org/abs/1912.04958, section 2), and the picture has a speckle there.
    """

    LIMIT = 9.0  # of a position's energy, in means of the map

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.excesses: list[Tensor] = []
        for block in unet.up_blocks:
            for resnet in block.resnets:
                resnet.register_forward_hook(self._note)

    def _note(self, module: nn.Module, args: tuple[Tensor, ...], features: Tensor) -> None:
        if module.training:
            energy = features.float().square().mean(1).flatten(1)
            self.excesses.append((energy.amax(1) / energy.mean(1).clamp(min=1e-12) / self.LIMIT).log().relu().mean())

    def take(self) -> Tensor:
        """Mean log of the excess over all maps since the last call."""
        excess = torch.stack(self.excesses).mean()
        self.excesses.clear()
        return excess


class UnetTrainer(nn.Module):
    """The UNet and its losses in one module, the one that accelerate prepares."""

    alphas_cumprod: Tensor

    def __init__(self, unet: UNet2DConditionModel, alphas_cumprod: Tensor, snr_gamma: float) -> None:
        super().__init__()
        self.unet, self.peak_penalty = unet, PeakPenalty(unet)
        self.snr_gamma = snr_gamma
        self.register_buffer("alphas_cumprod", alphas_cumprod)

    def forward(
        self, latents: Tensor, noise: Tensor, timesteps: Tensor, prompt_embeds: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`compute_velocity_loss` and the excess of `PeakPenalty`.

        Args:
            latents: (B,C,h,w) clean.
            noise: (B,C,h,w).
            timesteps: (B,).
            prompt_embeds: (B,T,D).
        """
        conditions = Conditions(prompt_embeds=prompt_embeds)
        loss = compute_velocity_loss(
            self.unet, latents, noise, timesteps, conditions, self.alphas_cumprod, self.snr_gamma
        )
        return loss, self.peak_penalty.take() if self.unet.training else torch.zeros_like(loss)


def build_unet(config: UnetConfig, latent_channels: int, sample_size: int, text_dim: int) -> UNet2DConditionModel:
    """Build the UNet; the finest levels have no attention."""
    levels = len(config.block_out_channels)
    plain = levels - config.attention_levels
    down = ("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",) * config.attention_levels
    up = ("CrossAttnUpBlock2D",) * config.attention_levels + ("UpBlock2D",) * plain
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=down,
        up_block_types=up,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        cross_attention_dim=text_dim,
        attention_head_dim=config.num_heads,
        use_linear_projection=True,
    )


class UnetRun:
    """One training run: UNet, frozen neighbours, optimiser, one step, and what there is to look at."""

    def __init__(self, config: UnetConfig, neighbours: Neighbours, latents: Tensor, accelerator: Accelerator) -> None:
        self.config, self.neighbours, self.accelerator = config, neighbours, accelerator
        self.scheduler = build_scheduler()
        self.empty_ids = tokenize(neighbours.tokenizer, "")
        text_dim = neighbours.text_encoder.config.hidden_size
        unet = build_unet(config, latents.shape[1], latents.shape[-1], text_dim)
        self.unet = unet.to(accelerator.device, memory_format=torch.channels_last)
        if accelerator.device.type == "cpu":
            speed_up_group_norms(self.unet)
            self.unet.set_attn_processor(AttnProcessor())  # the backward pass of torch's fused attention is slow there
        self.ema = Ema(self.unet, config.ema_decay)
        trainer = UnetTrainer(self.unet, self.scheduler.alphas_cumprod, config.snr_gamma)
        optimizer = torch.optim.AdamW(trainer.parameters(), betas=(0.9, 0.99), weight_decay=config.weight_decay)
        self.trainer, self.optimizer = accelerator.prepare(trainer, optimizer)

    def start_from(self, directory: Path) -> None:
        """Take the weights of an exported UNet, for the same latents, in place of the random ones."""
        start = UNet2DConditionModel.from_pretrained(directory, torch_dtype=torch.float32)
        self.unet.load_state_dict(start.state_dict())
        self.ema = Ema(self.unet, self.config.ema_decay)

    def step(self, data: Latents, progress: float, generator: torch.Generator) -> dict[str, float]:
        """Train on one batch; returns the losses."""
        pretraining.set_learning_rate(
            self.optimizer, self.config.learning_rate * pretraining.compute_cosine_scale(progress)
        )
        loss, peak = self.compute_losses(data, self.config.batch_size, generator)
        self.accelerator.backward(loss + self.config.peak_weight * peak)
        self.accelerator.clip_grad_norm_(self.trainer.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.unet)
        return {"loss": float(loss.detach()), "peak": float(peak.detach())}

    def compute_losses(self, data: Latents, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """What `UnetTrainer` makes of a random batch."""
        config = self.config
        indices, ids, noise, timesteps = draw_batch(
            data, self.empty_ids, batch_size, config.caption_dropout, config.timestep_power, self.scheduler, generator
        )
        latents = data.latents[indices].float()
        device = self.accelerator.device
        with torch.no_grad(), self.accelerator.autocast():
            prompt_embeds = encode_tokens(self.neighbours.text_encoder, ids.to(device)).float()
        with self.accelerator.autocast():
            losses: tuple[Tensor, Tensor] = self.trainer(
                latents.to(device), noise.to(device), timesteps.to(device), prompt_embeds
            )
        return losses

    @torch.no_grad()
    def write_sheet(self, path: Path, guidance_scale: float = 3.0, steps: int = 20) -> None:
        """Sample `SHEET_PROMPTS` with the averaged weights, to be looked at."""
        device, neighbours = self.accelerator.device, self.neighbours
        ids = torch.cat([self.empty_ids.expand(len(SHEET_PROMPTS), -1), tokenize(neighbours.tokenizer, SHEET_PROMPTS)])
        conditions = Conditions(prompt_embeds=encode_tokens(neighbours.text_encoder, ids.to(device)))
        with self.ema.applied(self.unet):
            images = sample_pictures(self.unet, neighbours.vae, self.scheduler, conditions, guidance_scale, steps)
        save_image(contact_sheet([tensor_to_pil(image) for image in images], 4, list(SHEET_PROMPTS)), path)

    def parts(self) -> dict[str, pretraining.HasState]:
        """What a checkpoint holds."""
        return {"unet": self.unet, "ema": self.ema, "optimizer": self.optimizer}


def train(args: argparse.Namespace, config: UnetConfig) -> None:
    """Run until the budget ends, then export the averaged UNet as fp16 and the noise schedule."""
    accelerator = pretraining.build_accelerator(args.device, config.precision)
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    neighbours = load_neighbours(args.base, accelerator.device)
    data = load_latents(args.data, args.output / "train_latents.pt", neighbours, accelerator)
    held_out = load_latents([args.held_out], args.output / "held_out_latents.pt", neighbours, accelerator)
    run = UnetRun(config, neighbours, data.latents, accelerator)
    state = pretraining.TrainState()
    if args.start is not None:
        run.start_from(args.start)
    if args.resume:
        pretraining.load_checkpoint(args.output, state, generator, **run.parts())
    if config.use_compile:
        run.unet.compile()

    def step(progress: float) -> tuple[dict[str, float], int]:
        return run.step(data, progress, generator), config.batch_size

    def save() -> dict[str, float]:
        finish(run, args.output, state, generator)
        return {"held_out": measure(run, held_out)}

    budget = pretraining.Budget(args.minutes, state, args.max_steps)
    pretraining.run_loop(step, save, budget=budget, output=args.output, save_every=240)


@torch.no_grad()
def measure(run: UnetRun, held_out: Latents) -> float:
    """Loss of the averaged weights on held-out people, always on the same noise."""
    generator = torch.Generator().manual_seed(0)
    with run.ema.applied(run.unet):
        return float(np.mean([float(run.compute_losses(held_out, 32, generator)[0]) for _ in range(4)]))


def finish(run: UnetRun, output: Path, state: pretraining.TrainState, generator: torch.Generator) -> None:
    """Write checkpoint, export and sheet."""
    pretraining.save_checkpoint(output, state, generator, **run.parts())
    with run.ema.applied(run.unet):
        pretraining.export_half(run.unet, output / "unet")
    run.scheduler.save_pretrained(output / "scheduler")
    run.write_sheet(output / f"samples_{state.step:06d}.png")


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True, help="folder with vae, text_encoder, tokenizer")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of training shards")
    parser.add_argument("--held-out", type=Path, required=True, help="folder of shards of people not trained on")
    parser.add_argument("--start", type=Path, help="UNet folder to go on from, instead of random weights")
    pretraining.add_run_arguments(parser, minutes=45)
    args = parser.parse_args()
    config = load_config(UnetConfig, args.config)
    pretraining.prepare_process(config.num_threads)
    train(args, config)


if __name__ == "__main__":
    main()
