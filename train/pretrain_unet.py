"""Train the embedded base's UNet on captioned portraits, in the latent space of its VAE.

    python -m train.pretrain_unet --config train/configs/unet_cpu.toml --base RUN_BASE --data SHARDS \
        --held-out SHARDS --output RUN

v-prediction (Salimans & Ho 2022), min-SNR weights (Hang et al. 2023), zero terminal SNR (Lin et al. 2024). `--base`
holds `vae`, `text_encoder` and `tokenizer`; the latents are encoded once and kept in the run folder.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from acfun.base.group_norm import speed_up_group_norms
from acfun.base.prompts import encode_tokens, tokenize
from acfun.base.vae_features import decode_latents, encode_latents
from acfun.config import load_config
from acfun.images import contact_sheet, save_image, tensor_to_pil
from acfun.paths import atomic_write
from acfun.sampling import denoise, select_timesteps
from train import pretraining

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
        snr_gamma: where min-SNR cuts.
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
    ema_decay: float = 0.9995
    precision: str = "bf16"
    num_threads: int = 0
    use_compile: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Latents:
    """Encoded shards: latents (N,C,h,w) float16 and token ids (N,T)."""

    latents: Tensor
    input_ids: Tensor


class UnetTrainer(nn.Module):
    """The UNet and its loss in one module, the one that accelerate prepares."""

    def __init__(self, unet: UNet2DConditionModel, alphas_cumprod: Tensor, snr_gamma: float) -> None:
        super().__init__()
        self.unet = unet
        self.snr_gamma = snr_gamma
        self.register_buffer("alphas_cumprod", alphas_cumprod)

    def forward(self, latents: Tensor, noise: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        """min-SNR weighted squared error of the velocity, mean over the batch."""
        alphas = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        signal, sigma = alphas.sqrt(), (1 - alphas).sqrt()
        velocity = signal * noise - sigma * latents
        model_pred = self.unet(
            signal * latents + sigma * noise, timesteps, encoder_hidden_states=prompt_embeds, return_dict=False
        )[0]
        snr = (alphas / (1 - alphas)).flatten()
        weights = snr.clamp(max=self.snr_gamma) / (snr + 1)
        return (weights * (model_pred.float() - velocity).square().flatten(1).mean(1)).mean()


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


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule with zero terminal SNR, for v-prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


@torch.no_grad()
def encode_shards(shards: pretraining.Shards, run: "UnetRun") -> Latents:
    """Encode all images, every second one mirrored: left and right mean nothing in a caption."""
    latents = []
    for indices in torch.arange(len(shards)).split(16):
        pixel_values = shards.pixel_values(indices)
        pixel_values = torch.where((indices % 2 == 0)[:, None, None, None], pixel_values, pixel_values.flip(3))
        with run.accelerator.autocast():
            latents.append(encode_latents(run.vae, pixel_values.to(run.accelerator.device)).half().cpu())
    input_ids = tokenize(run.tokenizer, [captions[0] for captions in shards.captions])
    return Latents(torch.cat(latents), input_ids)


def load_latents(shards_dir: Path, path: Path, run: "UnetRun") -> Latents:
    """Read the encoded shards that an earlier start of this run kept at `path`, or encode and keep them."""
    if path.is_file():
        content = torch.load(path, weights_only=True)
        return Latents(content["latents"], content["input_ids"])
    encoded = encode_shards(pretraining.open_shards(shards_dir), run)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        torch.save({"latents": encoded.latents, "input_ids": encoded.input_ids}, temporary)
    return encoded


class UnetRun:
    """One training run: UNet, frozen neighbours, optimiser, one step, and what there is to look at."""

    def __init__(self, config: UnetConfig, base_dir: Path, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        device = accelerator.device
        self.vae = (
            AutoencoderKL.from_pretrained(base_dir / "vae", torch_dtype=torch.float32).to(device).requires_grad_(False)
        )
        self.text_encoder = (
            CLIPTextModel.from_pretrained(base_dir / "text_encoder", dtype=torch.float32)
            .to(device)
            .requires_grad_(False)
        )
        self.tokenizer = CLIPTokenizer.from_pretrained(base_dir / "tokenizer")
        self.scheduler = build_scheduler()
        self.empty_ids = tokenize(self.tokenizer, "")

    def build(self, latents: Tensor) -> None:
        """Build what is trained, for latents (N,C,h,w)."""
        text_dim = self.text_encoder.config.hidden_size
        self.unet = build_unet(self.config, latents.shape[1], latents.shape[-1], text_dim).to(
            memory_format=torch.channels_last
        )
        speed_up_group_norms(self.unet)
        self.unet.to(self.accelerator.device)
        self.ema = pretraining.Ema(self.unet, self.config.ema_decay)
        trainer = UnetTrainer(self.unet, self.scheduler.alphas_cumprod, self.config.snr_gamma)
        optimizer = torch.optim.AdamW(trainer.parameters(), betas=(0.9, 0.99), weight_decay=self.config.weight_decay)
        self.trainer, self.optimizer = self.accelerator.prepare(trainer, optimizer)

    def step(self, data: Latents, progress: float, generator: torch.Generator) -> float:
        """Train on one batch; returns the loss."""
        pretraining.set_learning_rate(
            self.optimizer, self.config.learning_rate * pretraining.compute_cosine_scale(progress)
        )
        loss = self.compute_loss(data, self.config.batch_size, generator)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.trainer.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.unet)
        return float(loss.detach())

    def compute_loss(self, data: Latents, batch_size: int, generator: torch.Generator) -> Tensor:
        """Loss of a random batch."""
        indices = torch.randint(len(data.latents), (batch_size,), generator=generator)
        latents = data.latents[indices].float()
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(len(self.scheduler.alphas_cumprod), (batch_size,), generator=generator)
        ids = data.input_ids[indices].clone()
        ids[torch.rand(batch_size, generator=generator) < self.config.caption_dropout] = self.empty_ids[0]
        device = self.accelerator.device
        with torch.no_grad(), self.accelerator.autocast():
            prompt_embeds = encode_tokens(self.text_encoder, ids.to(device)).float()
        with self.accelerator.autocast():
            loss: Tensor = self.trainer(latents.to(device), noise.to(device), timesteps.to(device), prompt_embeds)
        return loss

    @torch.no_grad()
    def write_sheet(self, path: Path, guidance_scale: float = 3.0, steps: int = 20) -> None:
        """Sample `SHEET_PROMPTS` with the averaged weights, to be looked at."""
        device = self.accelerator.device
        ids = torch.cat([self.empty_ids.expand(len(SHEET_PROMPTS), -1), tokenize(self.tokenizer, SHEET_PROMPTS)])
        hidden = encode_tokens(self.text_encoder, ids.to(device))

        def predict(latents: Tensor, timestep: Tensor) -> Tensor:
            output = self.unet(latents.repeat(2, 1, 1, 1), timestep, encoder_hidden_states=hidden, return_dict=False)[0]
            unconditional, conditional = output.chunk(2)
            return unconditional + guidance_scale * (conditional - unconditional)

        size = self.unet.config.sample_size
        noise = torch.randn(
            (len(SHEET_PROMPTS), self.unet.config.in_channels, size, size), generator=torch.Generator().manual_seed(1)
        )
        with self.ema.applied(self.unet):
            latents = denoise(
                predict, self.scheduler, noise.to(device), select_timesteps(self.scheduler, steps, 1.0, device)
            )
        images = decode_latents(self.vae, latents).clamp(-1, 1).cpu()
        save_image(contact_sheet([tensor_to_pil(image) for image in images], 4, list(SHEET_PROMPTS)), path)

    def parts(self) -> dict[str, pretraining.HasState]:
        """What a checkpoint holds."""
        return {"unet": self.unet, "ema": self.ema, "optimizer": self.optimizer}


def train(args: argparse.Namespace, config: UnetConfig) -> None:
    """Run until the budget ends, then export the averaged UNet as fp16 and the noise schedule."""
    accelerator = pretraining.build_accelerator(args.device, config.precision)
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    run = UnetRun(config, args.base, accelerator)
    data = load_latents(args.data, args.output / "train_latents.pt", run)
    held_out = load_latents(args.held_out, args.output / "held_out_latents.pt", run)
    run.build(data.latents)
    state = pretraining.TrainState()
    if args.resume:
        pretraining.load_checkpoint(args.output, state, generator, **run.parts())
    if config.use_compile:
        run.unet.compile()
    budget, stop = pretraining.Budget(args.minutes, state, args.max_steps), pretraining.catch_stop_signals()
    log, report, save = pretraining.TrainLog(args.output, budget), pretraining.Interval(30), pretraining.Interval(240)
    losses: list[float] = []
    while not budget.is_over() and not stop.is_set():
        losses.append(run.step(data, budget.progress(), generator))
        state.step, state.num_samples = state.step + 1, state.num_samples + config.batch_size
        if report.is_due():
            log.report(loss=float(np.mean(losses)), samples_per_second=state.num_samples / max(state.seconds, 1))
            losses.clear()
        if save.is_due():
            finish(run, args.output, state, generator)
            log.report(held_out=measure(run, held_out))
    finish(run, args.output, state, generator)
    log.report(held_out=measure(run, held_out))


@torch.no_grad()
def measure(run: UnetRun, held_out: Latents) -> float:
    """Loss of the averaged weights on held-out people, always on the same noise."""
    generator = torch.Generator().manual_seed(0)
    with run.ema.applied(run.unet):
        return float(np.mean([float(run.compute_loss(held_out, 32, generator)) for _ in range(4)]))


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
    parser.add_argument("--data", type=Path, required=True, help="folder of training shards")
    parser.add_argument("--held-out", type=Path, required=True, help="folder of shards of people not trained on")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--max-steps", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    config = load_config(UnetConfig, args.config)
    pretraining.prepare_process(config.num_threads)
    train(args, config)


if __name__ == "__main__":
    main()
