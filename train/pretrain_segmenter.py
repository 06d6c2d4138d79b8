"""Train the segmenter of photographed portraits.

`python -m train.pretrain_segmenter --config train/configs/segmenter_cpu.toml --labels LABELS.npz --output RUN \\
 --minutes 45 --resume`

Labels are those of `train.label_parts`; people of the held-out split are not trained on, but measured: put before other
grounds, how much of each part is found (intersection over union).
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from acfun.config import load_config
from acfun.errors import DataError
from acfun.face.finder import load_face_finder
from acfun.face.segmenter import PARTS, PortraitSegmenter
from acfun.synthetic.data import require_data_dir, split_people
from train import pretraining
from train.ema import Ema
from train.faceless import build_backgrounds
from train.part_scenes import GROUP_SHARES, LabelledPeople, collect_grounds, group_people, open_labels, sample_scenes

NUM_MEASURED, MEASURED_AT_ONCE = 96, 24


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    """What a run is.

    Attributes:
        channels: of the segmenter's four levels.
        dilations: of its residual units at the coarsest one.
        num_backgrounds: pictures without people, besides the grounds of the photographs.
        batch_size: scenes a step.
        learning_rate: of AdamW, peak.
        weight_decay: of AdamW.
        ema_decay: of the averaged weights that are exported.
        precision: "bf16" or "no".
        num_threads: CPU threads; 0 leaves torch's own choice.
        seed: of everything random.
    """

    channels: tuple[int, int, int, int] = (16, 24, 48, 64)
    dilations: tuple[int, ...] = (1, 2, 3)
    num_backgrounds: int = 1200
    batch_size: int = 24
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    ema_decay: float = 0.998
    precision: str = "bf16"
    num_threads: int = 1
    seed: int = 0


class SegmenterRun:
    """One training run: data, model, optimiser, and one step."""

    def __init__(
        self, config: SegmenterConfig, people: LabelledPeople, held_out: set[str], accelerator: Accelerator
    ) -> None:
        self.config, self.accelerator = config, accelerator
        is_held = np.array([identity in held_out for identity in people.identities])
        self.people, self.others = people.select(np.flatnonzero(~is_held)), people.select(np.flatnonzero(is_held))
        self.groups, self.measured = group_people(self.people), np.concatenate(group_people(self.others))
        if not all(len(group) for group in self.groups) or not len(self.measured):
            raise DataError(
                "the labels lack long-haired or bald people, women, men or held-out ones before plain grounds"
            )
        size = people.layers.shape[1]
        mean_shape = load_face_finder().regressor.mean_shape
        pictures = build_backgrounds(config.num_backgrounds, size, self.people.layers[..., :3], mean_shape, config.seed)
        self.grounds = torch.cat([collect_grounds(self.people), pictures])
        self.segmenter = PortraitSegmenter(channels=config.channels, dilations=config.dilations, crop_size=size).to(
            memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(self.segmenter.parameters(), betas=(0.9, 0.99), weight_decay=config.weight_decay)
        self.trainer, self.optimizer = accelerator.prepare(self.segmenter, optimizer)
        self.ema = Ema(self.segmenter, config.ema_decay)

    def step(self, progress: float, generator: torch.Generator) -> dict[str, float]:
        """Train on one batch; returns the cross-entropy, nats a pixel."""
        scale = pretraining.compute_cosine_scale(progress)
        pretraining.set_learning_rate(self.optimizer, self.config.learning_rate * scale)
        drawn = torch.multinomial(torch.tensor(GROUP_SHARES), self.config.batch_size, True, generator=generator)
        places = torch.rand(len(drawn), generator=generator).tolist()
        pools = [self.groups[group] for group in drawn.tolist()]
        indices = np.array([pool[int(place * len(pool))] for pool, place in zip(pools, places, strict=True)])
        scenes = sample_scenes(self.people, indices, self.grounds, generator)
        images, parts, inside = (values.to(self.accelerator.device) for values in scenes)
        with self.accelerator.autocast():
            logits = self.trainer(images.contiguous(memory_format=torch.channels_last))
        loss = compute_loss(logits, parts, inside)
        pretraining.descend(self.accelerator, loss, self.trainer, self.optimizer, max_norm=2.0)
        self.ema.update(self.segmenter)
        return {"loss": float(loss.detach())}

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Intersection over union by part, of held-out people before plain grounds, put before the same others."""
        generator, common, whole = torch.Generator().manual_seed(0), torch.zeros(len(PARTS)), torch.zeros(len(PARTS))
        for indices in np.resize(self.measured, NUM_MEASURED).reshape(-1, MEASURED_AT_ONCE):
            images, parts, inside = sample_scenes(self.others, indices, self.grounds, generator)
            logits = self.segmenter(images.to(self.accelerator.device)).cpu()
            found = F.interpolate(logits, images.shape[-2:], mode="bilinear").softmax(1)
            common += (torch.minimum(found, parts) * inside).sum((0, 2, 3))
            whole += (torch.maximum(found, parts) * inside).sum((0, 2, 3))
        return {f"iou_{part}": float(share) for part, share in zip(PARTS, common / whole, strict=True)}

    def parts(self) -> dict[str, pretraining.HasState]:
        """What a checkpoint holds."""
        return {"segmenter": self.segmenter, "ema": self.ema, "optimizer": self.optimizer}


def compute_loss(logits: Tensor, parts: Tensor, inside: Tensor) -> Tensor:
    """Cross-entropy of logits (B,4,h,w) and soft parts (B,4,H,W), where these are known, nats a pixel."""
    size = (logits.shape[-2], logits.shape[-1])
    wanted = F.adaptive_avg_pool2d(parts, size)
    known = (F.adaptive_avg_pool2d(inside, size) > 0.99).float()
    entropy = -(wanted * logits.log_softmax(1)).sum(1, keepdim=True)
    return (entropy * known).sum() / known.sum().clamp(min=1)


def train(args: argparse.Namespace, config: SegmenterConfig) -> None:
    """Run until the budget ends, then export the averaged segmenter as fp16 to `output/segmenter`."""
    accelerator = pretraining.build_accelerator(args.device, config.precision)
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    run = SegmenterRun(config, open_labels(args.labels), split_people(require_data_dir())[1], accelerator)
    state = pretraining.TrainState()
    if args.resume:
        pretraining.load_checkpoint(args.output, state, generator, **run.parts())

    def step(progress: float) -> tuple[dict[str, float], int]:
        return run.step(progress, generator), config.batch_size

    def save() -> dict[str, float]:
        pretraining.save_checkpoint(args.output, state, generator, **run.parts())
        with run.ema.applied(run.segmenter):
            pretraining.export_half(run.segmenter, args.output / "segmenter")
            return run.measure()

    budget = pretraining.Budget(args.minutes, state, args.max_steps)
    pretraining.run_loop(step, save, budget=budget, output=args.output)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True, help=".npz of `train.label_parts`")
    pretraining.add_run_arguments(parser, minutes=45)
    args = parser.parse_args()
    config = load_config(SegmenterConfig, args.config, {})
    pretraining.prepare_process(config.num_threads)
    train(args, config)


if __name__ == "__main__":
    main()
