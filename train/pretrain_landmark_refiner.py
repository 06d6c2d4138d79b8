"""Train the landmark refiner of a face finder that is trained already, and export the finder with it.

`python -m train.pretrain_landmark_refiner --config train/configs/landmark_refiner_cpu.toml --finder FINDER \\
 --data SHARDS [SHARDS …] --held-out SHARDS --output RUN --minutes 100 --resume`

Every batch comes from one of the folders, each as often as the others. What is refined is what the finder's regressor
says of the crop, made worse by some of what it is wrong by elsewhere: it knows the people that it was trained on
better than others.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from acfun.config import load_config
from acfun.face.align import INTER_PUPIL_FRACTION
from acfun.face.finder import FaceFinder
from acfun.face.refiner import LandmarkRefiner
from train import pretraining
from train.ema import Ema
from train.face_augmentation import cut_faces, recolour, sample_framings
from train.face_scenes import FINE_NOISE, FaceShards, open_face_shards
from train.pretrain_face_finder import compute_landmark_error

ROUND_WEIGHTS = (0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class RefinerConfig:
    """What a run is.

    Attributes:
        channels: of the refiner's four levels.
        feature_size: of what it looks up in a place.
        hidden_size: of the layer that sees all landmarks.
        crop_size: width of its input, pixels.
        image_size: shards are averaged down to less than twice this width, pixels.
        batch_size: crops a step.
        learning_rate: of AdamW, peak.
        weight_decay: of AdamW.
        ema_decay: of the averaged weights that are exported.
        precision: "bf16" or "no".
        num_threads: CPU threads; 0 leaves torch's own choice.
        seed: of everything random.
    """

    channels: tuple[int, int, int, int] = (16, 24, 48, 64)
    feature_size: int = 16
    hidden_size: int = 128
    crop_size: int = 144
    image_size: int = 256
    batch_size: int = 48
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    ema_decay: float = 0.998
    precision: str = "bf16"
    num_threads: int = 1
    seed: int = 0


class RefinerRun:
    """One training run: data, models, optimiser, and one step."""

    def __init__(
        self, config: RefinerConfig, finder: FaceFinder, shards: list[FaceShards], accelerator: Accelerator
    ) -> None:
        self.config, self.shards, self.accelerator = config, shards, accelerator
        settings = {
            "channels": list(config.channels),
            "feature_size": config.feature_size,
            "hidden_size": config.hidden_size,
            "crop_size": config.crop_size,
        }
        mean_shape = finder.regressor.mean_shape
        self.finder = FaceFinder(**{**finder.config, "mean_shape": mean_shape, "refiner": settings})
        self.finder.detector.load_state_dict(finder.detector.state_dict())
        self.finder.regressor.load_state_dict(finder.regressor.state_dict())
        self.finder.eval().requires_grad_(False).to(accelerator.device)
        assert self.finder.refiner is not None
        self.refiner: LandmarkRefiner = self.finder.refiner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.refiner.train().requires_grad_(True)
        optimizer = torch.optim.AdamW(self.refiner.parameters(), betas=(0.9, 0.99), weight_decay=config.weight_decay)
        self.trainer, self.optimizer = accelerator.prepare(self.refiner, optimizer)
        self.ema = Ema(self.refiner, config.ema_decay)

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw crops (B,3,S,S) in [-1,1] and their landmarks (B,189,2) in the unit square."""
        config, mean_shape = self.config, self.finder.regressor.mean_shape.cpu()
        shards = self.shards[int(torch.randint(len(self.shards), (), generator=generator))]
        images, landmarks = shards.sample(config.batch_size, generator)
        framings = sample_framings(config.batch_size, FINE_NOISE, generator)
        crops, points = cut_faces(images, landmarks, mean_shape, config.crop_size, framings, generator)
        order = torch.randperm(len(crops), generator=generator)  # runs of a batch are recoloured alike
        return recolour(crops[order], generator), points[order]

    @torch.no_grad()
    def guess(self, crops: Tensor, points: Tensor, generator: torch.Generator) -> Tensor:
        """Landmarks (B,189,2) that are about right: the regressor's, and up to as much as it is wrong by elsewhere."""
        size = self.finder.regressor.crop_size
        small = F.interpolate(crops, (size, size), mode="bilinear", antialias=True, align_corners=False)
        guess: Tensor = self.finder.regressor(small).landmarks
        share = torch.rand(len(crops), 1, 1, generator=generator).to(guess)
        return guess + share * (guess - points).roll(1, 0)

    def step(self, progress: float, generator: torch.Generator) -> dict[str, float]:
        """Train on one batch; returns the errors, as fractions of the pupils' distance."""
        scale = pretraining.compute_cosine_scale(progress)
        pretraining.set_learning_rate(self.optimizer, self.config.learning_rate * scale)
        crops, points = (values.to(self.accelerator.device) for values in self.sample(generator))
        guess = self.guess(crops, points, generator)
        with self.accelerator.autocast():
            rounds = self.trainer(
                crops.contiguous(memory_format=torch.channels_last), guess, self.finder.regressor.mean_shape
            )
        errors = [(found - points).norm(dim=-1).mean() / INTER_PUPIL_FRACTION for found in rounds]
        total = torch.stack([weight * error for weight, error in zip(ROUND_WEIGHTS, errors, strict=True)]).sum()
        pretraining.descend(self.accelerator, total, self.trainer, self.optimizer, max_norm=2.0)
        self.ema.update(self.refiner)
        before = (guess - points).norm(dim=-1).mean() / INTER_PUPIL_FRACTION
        return {"before": float(before)} | {f"round_{i}": float(error.detach()) for i, error in enumerate(errors, 1)}

    def parts(self) -> dict[str, pretraining.HasState]:
        """What a checkpoint holds."""
        return {"refiner": self.refiner, "ema": self.ema, "optimizer": self.optimizer}


def train(args: argparse.Namespace, config: RefinerConfig) -> None:
    """Run until the budget ends, then export the finder with the averaged refiner as fp16 to `output/face_finder`."""
    accelerator = pretraining.build_accelerator(args.device, config.precision)
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    finder = FaceFinder.from_pretrained(args.finder)
    run = RefinerRun(config, finder, [open_face_shards(path, config.image_size) for path in args.data], accelerator)
    held_out = {path.name: open_face_shards(path, config.image_size) for path in args.held_out}
    state = pretraining.TrainState()
    if args.resume:
        pretraining.load_checkpoint(args.output, state, generator, **run.parts())

    def step(progress: float) -> tuple[dict[str, float], int]:
        return run.step(progress, generator), config.batch_size

    def save() -> dict[str, float]:
        pretraining.save_checkpoint(args.output, state, generator, **run.parts())
        with run.ema.applied(run.refiner):
            pretraining.export_half(run.finder, args.output / "face_finder")
            return {name: compute_landmark_error(run.finder, shards, 2) for name, shards in held_out.items()}

    budget = pretraining.Budget(args.minutes, state, args.max_steps)
    pretraining.run_loop(step, save, budget=budget, output=args.output)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--finder", type=Path, required=True, help="folder of the face finder that it refines")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of training shards")
    parser.add_argument("--held-out", type=Path, nargs="+", required=True, help="folders of people not trained on")
    pretraining.add_run_arguments(parser, minutes=100)
    args = parser.parse_args()
    config = load_config(RefinerConfig, args.config, {})
    pretraining.prepare_process(config.num_threads)
    train(args, config)


if __name__ == "__main__":
    main()
