"""Train the embedded identity encoder, or say how good one is.

    python -m train.pretrain_identity --config train/configs/identity_cpu.toml --data BANK --held-out HELD --output RUN
    python -m train.pretrain_identity --evaluate acfun/base/mini/identity_encoder --held-out HELD

BANK and HELD come from `train.identity_bank`. A step sees two pictures each of some people. Two losses: an additive
angular margin against one direction per person (ArcFace, Deng et al. 2019), and a contrast between the people of the
batch (van den Oord et al. 2018), from which an untrained encoder learns sooner.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from acfun.config import load_config
from acfun.face.align import IDENTITY_CROP_SIZE, face_crop
from acfun.face.identity import IdentityEncoder
from train import pretraining
from train.ema import Ema
from train.face_scenes import FaceShards, compute_mean_shape
from train.identity_augmentation import augment_crops
from train.identity_data import IdentityBank, open_bank
from train.identity_evaluation import FIGURES, compute_recognition, encode_crops, format_table, open_held_out
from train.identity_head import fit_head

EXPORT_NAME = "identity_encoder"


@dataclass(frozen=True, kw_only=True)
class IdentityConfig:
    """What a run is.

    Attributes:
        stem_channels: of the encoder's first stage.
        channels: of its three further stages.
        num_units: residual units of those.
        head_channels: of its last, narrowed map.
        embedding_size: width of the embedding.
        batch_size: people a step, two pictures each.
        real_share: part of the people of a step who are no morphs, where there are enough.
        margin: angle that is added between an embedding and its person's direction, radians.
        start_strength: of the augmentation when the run begins, in [0,1].
        ramp: part of the run over which the margin grows from 0, and the augmentation to full strength.
        scale: of the margin loss's cosines.
        temperature: of the contrast.
        contrastive_weight: of the contrast, beside 1 of the margin loss.
        learning_rate: of AdamW, peak.
        prototype_rate: learning rate of the people's directions, as a multiple.
        weight_decay: of the encoder.
        ema_decay: of the averaged weights that are exported.
        precision: "bf16" or "no".
        head_batches: from which `--fit-head` fits the last layer.
        num_threads: CPU threads; 0 leaves torch's own choice.
        seed: of everything random.
    """

    stem_channels: int = 16
    channels: tuple[int, int, int] = (32, 64, 160)
    num_units: tuple[int, int, int] = (1, 1, 1)
    head_channels: int = 64
    embedding_size: int = 128
    batch_size: int = 64
    real_share: float = 0.5
    margin: float = 0.3
    start_strength: float = 0.3
    ramp: float = 0.4
    scale: float = 24.0
    temperature: float = 0.1
    contrastive_weight: float = 1.0
    learning_rate: float = 2e-3
    prototype_rate: float = 5.0
    weight_decay: float = 0.02
    ema_decay: float = 0.99
    precision: str = "bf16"
    head_batches: int = 60
    num_threads: int = 1
    seed: int = 0


class IdentityTrainer(nn.Module):
    """The encoder, one direction per person, and the losses in one module, the one that accelerate prepares."""

    def __init__(self, encoder: IdentityEncoder, prototypes: Tensor, config: IdentityConfig) -> None:
        super().__init__()
        self.encoder, self.config = encoder, config
        self.prototypes = nn.Parameter(prototypes)

    def forward(self, crops: Tensor, people: Tensor, margin: float) -> dict[str, Tensor]:
        """Losses before weighting of (2·B,3,112,112) crops, two of each of the (B,) people."""
        embeds = self.encoder(crops)
        first, second = embeds.chunk(2)
        cosines = embeds @ F.normalize(self.prototypes.float(), dim=1).T
        return {
            "margin": compute_margin_loss(cosines, people.repeat(2), margin, self.config.scale),
            "contrastive": compute_contrastive_loss(first, second, self.config.temperature),
        }


def compute_margin_loss(cosines: Tensor, labels: Tensor, margin: float, scale: float) -> Tensor:
    """Cross-entropy of scale · cos(θ), where the true person's θ counts for θ + margin.

    Notation: scale → s, margin → m (Deng et al. 2019, equation 3).

    Args:
        cosines: (B,C) of embeddings and directions.
        labels: (B,) the true ones.
        margin: radians.
        scale: of the logits.
    """
    true = cosines.gather(1, labels[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
    hardened = (true.acos() + margin).clamp(max=torch.pi).cos()
    return F.cross_entropy(scale * cosines.scatter(1, labels[:, None], hardened), labels)


def compute_contrastive_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding each person's other picture among the batch's, in both directions; unit (B,D) each."""
    logits = first @ second.T / temperature
    labels = torch.arange(len(first), device=first.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


class IdentityRun:
    """One training run: data, models, optimiser, and one step."""

    def __init__(self, config: IdentityConfig, bank: IdentityBank, accelerator: Accelerator, init: Path | None) -> None:
        self.config, self.bank, self.accelerator = config, bank, accelerator
        self.mean_shape = compute_mean_shape([FaceShards(bank.images, bank.landmarks)])
        encoder = IdentityEncoder(
            stem_channels=config.stem_channels,
            channels=config.channels,
            num_units=config.num_units,
            head_channels=config.head_channels,
            embedding_size=config.embedding_size,
        )
        if init is not None:
            encoder.load_state_dict(IdentityEncoder.from_pretrained(init).state_dict())
        encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.encoder = encoder.train()
        prototypes = F.normalize(torch.randn(len(bank.rows), config.embedding_size))
        trainer = IdentityTrainer(self.encoder, prototypes if init is None else self._encode_people(), config)
        groups: list[dict[str, Any]] = [
            {"params": list(encoder.parameters()), "weight_decay": config.weight_decay},
            {"params": [trainer.prototypes], "weight_decay": 0.0, "scale": config.prototype_rate},
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
        self.trainer, self.optimizer = accelerator.prepare(trainer, self.optimizer)
        self.ema = Ema(self.encoder, config.ema_decay)

    def _encode_people(self) -> Tensor:
        """(C,D): each person's first picture as the encoder sees it."""
        first = torch.stack([rows[0] for rows in self.bank.rows])
        parts = [encode_crops(self.encoder, face_crop(*self.bank.load(indices))) for indices in first.split(64)]
        return torch.cat(parts)

    def sample(self, strength: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw (people (B,), crops (2·B,3,112,112)), all the first pictures before all the second ones."""
        people = self.bank.sample_people(self.config.batch_size, self.config.real_share, generator)
        images, landmarks = self.bank.load(self.bank.sample_pairs(people, generator))
        crops = augment_crops(images, landmarks, self.mean_shape, IDENTITY_CROP_SIZE, strength, generator)
        return people, crops.to(self.accelerator.device).contiguous(memory_format=torch.channels_last)

    def fit_head(self, generator: torch.Generator) -> None:
        """Set the encoder's last layer in closed form, see `train.identity_head`; the averages start from there."""
        batches = (self.sample(self.config.start_strength, generator)[1] for _ in range(self.config.head_batches))
        with self.accelerator.autocast():
            fit_head(self.encoder, batches)
        trainer: IdentityTrainer = self.accelerator.unwrap_model(self.trainer)
        trainer.prototypes.data.copy_(self._encode_people())
        self.ema = Ema(self.encoder, self.config.ema_decay)

    def step(self, progress: float, generator: torch.Generator) -> dict[str, float]:
        """Train on one batch; returns the losses."""
        config, device = self.config, self.accelerator.device
        rate = config.learning_rate * pretraining.compute_cosine_scale(progress)
        pretraining.set_learning_rate(self.optimizer, rate)
        ramp = min(1.0, progress / config.ramp)
        people, crops = self.sample(config.start_strength + (1 - config.start_strength) * ramp, generator)
        with self.accelerator.autocast():
            losses = self.trainer(crops, people.to(device), config.margin * ramp)
        self.accelerator.backward(losses["margin"] + config.contrastive_weight * losses["contrastive"])
        self.accelerator.clip_grad_norm_(self.trainer.parameters(), 5.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.encoder)
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def parts(self) -> dict[str, pretraining.HasState]:
        """What a checkpoint holds."""
        return {"trainer": self.trainer, "ema": self.ema, "optimizer": self.optimizer}


def train(args: argparse.Namespace, config: IdentityConfig) -> None:
    """Run until the budget ends; `output/identity_encoder` is the averaged one with the best mean of the figures."""
    accelerator = pretraining.build_accelerator(args.device, config.precision)
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    held_out = open_held_out(args.held_out)
    run = IdentityRun(config, open_bank(args.data), accelerator, args.init)
    state = pretraining.TrainState()
    is_resumed = args.resume and pretraining.load_checkpoint(args.output, state, generator, **run.parts())
    if args.fit_head and not is_resumed:
        run.fit_head(generator)

    def step(progress: float) -> tuple[dict[str, float], int]:
        return run.step(progress, generator), 2 * config.batch_size

    def save() -> dict[str, float]:
        with run.ema.applied(run.encoder):
            figures = compute_recognition(run.encoder, held_out)
            figure = float(np.mean([figures[name] for name in FIGURES]))
            if state.best_figure is None or figure > state.best_figure:
                state.best_figure = figure
                pretraining.export_half(run.encoder, args.output / EXPORT_NAME)
        pretraining.save_checkpoint(args.output, state, generator, **run.parts())
        return {**figures, "mean": figure}

    budget = pretraining.Budget(args.minutes, state, args.max_steps)
    pretraining.run_loop(step, save, budget=budget, output=args.output, save_every=args.save_every)


def main() -> None:
    """Parse the command line, then train or evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", help="banks of training people")
    parser.add_argument("--held-out", type=Path, required=True, help="bank of held-out people")
    parser.add_argument("--evaluate", type=Path, help="folder of an encoder: print its figures and end")
    parser.add_argument("--init", type=Path, help="encoder to start from, for a round with other people")
    parser.add_argument("--fit-head", action="store_true", help="start from a last layer in closed form")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--max-steps", type=int, default=0)
    parser.add_argument("--save-every", type=float, default=180, help="seconds between checkpoints with figures")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    if args.evaluate is not None:
        encoder = IdentityEncoder.from_pretrained(args.evaluate)
        print(format_table(compute_recognition(encoder, open_held_out(args.held_out))))
        return
    if args.data is None or args.output is None:
        parser.error("training needs --data and --output; --evaluate needs neither")
    config = load_config(IdentityConfig, args.config)
    pretraining.prepare_process(config.num_threads)
    train(args, config)


if __name__ == "__main__":
    main()
