"""Train an identity adapter for the embedded base's UNet: pictures of a person from an embedding of the face.

    python -m train.pretrain_identity_adapter --config train/configs/identity_adapter_cpu.toml --base acfun/base/mini \
        --data SHARDS --held-out SHARDS --output RUN

The UNet is frozen and learns to denoise portraits with the identity embedding of their own face beside the caption
(`acfun.identity_adapter`); the adapter is written as `RUN/identity_adapter/ip_adapter.safetensors`. `--base` is a whole
base; `--data` and `--held-out` are shards that `train/make_shards.py` wrote, with landmarks.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, IPAdapterAttnProcessor
from safetensors.torch import save_file
from torch import Tensor, nn

from acfun.base.conditions import Conditions
from acfun.base.group_norm import speed_up_group_norms
from acfun.base.prompts import encode_tokens, tokenize
from acfun.config import load_config
from acfun.errors import DataError
from acfun.face.align import face_crop
from acfun.face.finder import load_face_finder
from acfun.face.identity import IdentityEncoder
from acfun.identity_adapter import ADAPTER_FILE, ADAPTER_FOLDER, flatten_adapter, read_adapter, start_adapter
from acfun.images import contact_sheet, save_image, tensor_to_pil
from acfun.paths import atomic_write
from acfun.portrait import find_landmarks
from acfun.synthetic.shards import open_shards
from train import pretraining
from train.diffusion import build_scheduler, compute_velocity_loss, draw_batch, sample_pictures
from train.ema import Ema
from train.latents import Latents, load_latents, load_neighbours

NUM_SITTERS = 12
SITTER_PROMPT = "a photo of a person"
ENCODED_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class IdentityAdapterConfig:
    """What a run is.

    Attributes:
        batch_size: samples a step.
        learning_rate: of AdamW, peak.
        weight_decay: of AdamW.
        caption_dropout: share of samples trained without a caption.
        identity_dropout: share of samples trained with an embedding of zeros, which guidance starts from.
        snr_gamma: where min-SNR cuts.
        timestep_power: timesteps are drawn as T·u^power, u uniform.
        ema_decay: of the averaged weights that are exported.
        precision: "bf16" or "no".
        num_threads: CPU threads; 0 leaves torch's own choice.
        seed: of everything random.
    """

    batch_size: int = 24
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    caption_dropout: float = 0.3
    identity_dropout: float = 0.1
    snr_gamma: float = 50.0
    timestep_power: float = 0.6
    ema_decay: float = 0.999
    precision: str = "bf16"
    num_threads: int = 0
    seed: int = 0


@torch.no_grad()
def embed_faces(folders: Sequence[Path], encoder: nn.Module, device: torch.device) -> Tensor:
    """Identity embeddings (N,D), on the CPU, of the portraits in folders of shards, one folder after the other."""
    embeds = []
    for folder in folders:
        shards = open_shards(folder)
        for indices in np.array_split(np.arange(len(shards.images)), max(1, len(shards.images) // ENCODED_AT_ONCE)):
            images = torch.from_numpy(shards.images[indices]).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
            landmarks = torch.from_numpy(shards.landmarks[indices]).to(device)
            embeds.append(encoder(face_crop(images, landmarks)).cpu())
    return torch.cat(embeds)


class AdapterRun:
    """One training run: a frozen UNet with an adapter in it, optimiser, one step, and what there is to look at."""

    def __init__(
        self, config: IdentityAdapterConfig, base: Path, encoder: nn.Module, embed_size: int, accelerator: Accelerator
    ) -> None:
        self.config, self.accelerator, device = config, accelerator, accelerator.device
        self.neighbours, self.encoder = load_neighbours(base, device), encoder
        self.scheduler = build_scheduler()
        self.empty_ids = tokenize(self.neighbours.tokenizer, "")
        unet: Any = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32)
        unet._load_ip_adapter_weights(start_adapter(unet, embed_size))
        if device.type == "cpu":
            speed_up_group_norms(unet)
            unet.set_attn_processor({name: _unfuse(part) for name, part in unet.attn_processors.items()})
        self.unet = unet.to(device, memory_format=torch.channels_last).requires_grad_(False)
        self.adapter = nn.ModuleList([unet.encoder_hid_proj, *_find_processors(unet)]).to(device).requires_grad_(True)
        self.ema = Ema(self.adapter, config.ema_decay)
        optimizer = torch.optim.AdamW(self.adapter.parameters(), betas=(0.9, 0.99), weight_decay=config.weight_decay)
        self.optimizer = accelerator.prepare(optimizer)

    def step(self, data: Latents, embeds: Tensor, progress: float, generator: torch.Generator) -> dict[str, float]:
        """Train on one batch; returns the losses."""
        pretraining.set_learning_rate(
            self.optimizer, self.config.learning_rate * pretraining.compute_cosine_scale(progress)
        )
        loss = self.compute_loss(data, embeds, self.config.batch_size, generator)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.adapter.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.adapter)
        return {"loss": float(loss.detach())}

    def compute_loss(
        self,
        data: Latents,
        embeds: Tensor,
        batch_size: int,
        generator: torch.Generator,
        identity_dropout: float | None = None,
    ) -> Tensor:
        """min-SNR weighted squared error of the velocity of a random batch, ()."""
        config, device = self.config, self.accelerator.device
        indices, ids, noise, timesteps = draw_batch(
            data, self.empty_ids, batch_size, config.caption_dropout, config.timestep_power, self.scheduler, generator
        )
        share = config.identity_dropout if identity_dropout is None else identity_dropout
        is_shown = torch.rand(batch_size, generator=generator) >= share
        shown = (embeds[indices] * is_shown[:, None])[:, None].to(device)
        with torch.no_grad(), self.accelerator.autocast():
            prompt_embeds = encode_tokens(self.neighbours.text_encoder, ids.to(device)).float()
        with self.accelerator.autocast():
            return compute_velocity_loss(
                self.unet,
                data.latents[indices].float().to(device),
                noise.to(device),
                timesteps.to(device),
                Conditions(prompt_embeds=prompt_embeds, image_embeds=[shown]),
                self.scheduler.alphas_cumprod.to(device),
                config.snr_gamma,
            )

    @torch.no_grad()
    def sample(self, embeds: Tensor, guidance_scale: float = 3.0, steps: int = 16) -> Tensor:
        """Photographs (B,3,H,W) in [-1,1] of the people with these embeddings (B,D), by the averaged weights."""
        device, count = self.accelerator.device, len(embeds)
        ids = tokenize(self.neighbours.tokenizer, [""] * count + [SITTER_PROMPT] * count)
        shown = torch.cat([torch.zeros_like(embeds), embeds])[:, None].to(device)
        conditions = Conditions(
            prompt_embeds=encode_tokens(self.neighbours.text_encoder, ids.to(device)), image_embeds=[shown]
        )
        with self.ema.applied(self.adapter):
            return sample_pictures(self.unet, self.neighbours.vae, self.scheduler, conditions, guidance_scale, steps)

    @torch.no_grad()
    def measure(self, held_out: Latents, embeds: Tensor) -> dict[str, float]:
        """Losses on held-out people with and without their embeddings, always on the same noise."""
        figures = {}
        for name, dropout in (("held_out", 0.0), ("held_out_nobody", 1.0)):
            generator = torch.Generator().manual_seed(0)
            with self.ema.applied(self.adapter):
                losses = [self.compute_loss(held_out, embeds, 32, generator, dropout) for _ in range(4)]
            figures[name] = float(torch.stack(losses).mean())
        return figures

    def parts(self) -> dict[str, pretraining.HasState]:
        """What a checkpoint holds."""
        return {"adapter": self.adapter, "ema": self.ema, "optimizer": self.optimizer}


def _find_processors(unet: Any) -> list[nn.Module]:
    return [part for part in unet.attn_processors.values() if isinstance(part, nn.Module)]


def _unfuse(processor: Any) -> Any:
    """The same processor without fused attention, whose backward pass is slow on the CPU."""
    if not isinstance(processor, nn.Module):
        return AttnProcessor()
    plain = IPAdapterAttnProcessor(processor.hidden_size, processor.cross_attention_dim, processor.num_tokens)
    plain.load_state_dict(processor.state_dict())
    return plain


@torch.no_grad()
def compare_people(run: AdapterRun, embeds: Tensor, path: Path, originals: Tensor) -> dict[str, float]:
    """Sample people whom nothing was trained on, write a sheet of them, and measure how like themselves they are.

    Args:
        run: what samples.
        embeds: (B,D) of the people.
        path: of the sheet: photographs above, samples below.
        originals: (B,3,H,W) in [-1,1].
    """
    pictures, finder = run.sample(embeds), load_face_finder()
    landmarks = torch.cat([find_landmarks(picture, finder) for picture in pictures.split(1)])
    found = run.encoder(face_crop(pictures.to(run.accelerator.device), landmarks.to(run.accelerator.device))).cpu()
    likeness = found @ embeds.T
    others = likeness[~torch.eye(len(embeds), dtype=torch.bool)]
    rows = [tensor_to_pil(image) for image in torch.cat([originals, pictures])]
    save_image(contact_sheet(rows, len(embeds)), path)
    return {"identity": float(likeness.diag().mean()), "identity_to_others": float(others.mean())}


def train(args: argparse.Namespace, config: IdentityAdapterConfig) -> None:
    """Run until the budget ends, then export the averaged adapter as fp16."""
    accelerator = pretraining.build_accelerator(args.device, config.precision)
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    encoder = IdentityEncoder.from_pretrained(args.base / "identity_encoder").to(accelerator.device)
    embeds, held_out_embeds = (embed_faces(part, encoder, accelerator.device) for part in (args.data, [args.held_out]))
    run = AdapterRun(config, args.base, encoder, embeds.shape[1], accelerator)
    data = load_latents(args.data, args.output / "train_latents.pt", run.neighbours, accelerator)
    held_out = load_latents([args.held_out], args.output / "held_out_latents.pt", run.neighbours, accelerator)
    if (len(embeds), len(held_out_embeds)) != (len(data.latents), len(held_out.latents)):
        raise DataError(f"{args.output} holds latents of other shards: give another --output, or those shards")
    shards = open_shards(args.held_out)
    # One photograph a person, the last there is: likeness to others must not be one's own.
    photographed = {labels.parents: i for i, labels in enumerate(shards.labels) if not labels.renderer}
    sitters = list(photographed.values())[:NUM_SITTERS]
    originals = torch.from_numpy(shards.images[sitters]).permute(0, 3, 1, 2).float() / 127.5 - 1
    state = pretraining.TrainState()
    if args.resume:
        pretraining.load_checkpoint(args.output, state, generator, **run.parts())

    def step(progress: float) -> tuple[dict[str, float], int]:
        return run.step(data, embeds, progress, generator), config.batch_size

    def save() -> dict[str, float]:
        pretraining.save_checkpoint(args.output, state, generator, **run.parts())
        path = args.output / ADAPTER_FOLDER / ADAPTER_FILE
        path.parent.mkdir(exist_ok=True)
        with run.ema.applied(run.adapter), atomic_write(path) as temporary:
            save_file(flatten_adapter(read_adapter(run.unet), torch.float16), temporary)
        sheet = args.output / f"samples_{state.step:06d}.png"
        return run.measure(held_out, held_out_embeds) | compare_people(run, held_out_embeds[sitters], sheet, originals)

    budget = pretraining.Budget(args.minutes, state, args.max_steps)
    pretraining.run_loop(step, save, budget=budget, output=args.output, save_every=400)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True, help="folder of a whole base, identity encoder included")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of training shards")
    parser.add_argument("--held-out", type=Path, required=True, help="folder of held-out shards")
    pretraining.add_run_arguments(parser, minutes=60)
    args = parser.parse_args()
    config = load_config(IdentityAdapterConfig, args.config)
    pretraining.prepare_process(config.num_threads)
    train(args, config)


if __name__ == "__main__":
    main()
