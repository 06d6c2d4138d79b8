"""Train the embedded face finder, detector and landmark regressor together, on portraits with landmarks.

`python train/pretrain_face_finder.py --config train/configs/face_finder_cpu.toml --data SHARDS [SHARDS …] \\
 --held-out SHARDS --output RUN --minutes 18 --resume`

Each folder of shards holds `images.npy` and `landmarks.npy`; every batch comes from one folder, each as often as
the others, and is deformed on the fly. The losses are those of CenterNet (Zhou et al. 2019) for the detector and
distances in the unit frame for the regressor.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from acfun.config import load_config
from acfun.face.align import compose_transforms, measure_pupil_distance
from acfun.face.finder import FaceFinder, fit_pose, regress_landmarks
from acfun.face.networks import LandmarkPrediction, PoseMaps
from train import pretraining
from train.ema import Ema
from train.face_augmentation import sample_framings
from train.face_scenes import (
    COARSE_NOISE,
    FaceBatch,
    FaceShards,
    SceneBatch,
    compute_mean_shape,
    open_face_shards,
    sample_faces,
    sample_scenes,
    to_tensor,
)
from train.faceless import build_backgrounds, mine_crops

# Ears, hairline, neck and the outline of the hair lie where an annotator chose them: they count less.
LOOSE_INDICES = (*range(115, 125), *range(134, 158), 183, 184)
LOOSE_WEIGHT = 0.4
# Every so many steps, in so many pictures without a face, what the detector takes for one is kept for the regressor.
MINING_INTERVAL, MINING_COUNT, MAX_MINED = 10, 24, 1024
LOSS_WEIGHTS = {"landmarks": 10.0, "presence": 0.3, "log_error": 0.1, "heat": 1.0, "pose": 1.0}


@dataclass(frozen=True, kw_only=True)
class FaceFinderConfig:
    """What a run is.

    Attributes:
        detector_channels: of the detector's three levels.
        detector_dilations: of its residual units at stride 8.
        regressor_channels: of the regressor's four levels.
        hidden_size: of the regressor's last hidden layer.
        crop_size: width of the regressor's input, pixels.
        scene_size: width of the detector's training scenes, pixels.
        image_size: shards are averaged down to less than twice this width, pixels.
        num_backgrounds: pictures without a face.
        face_batch_size: crops a step.
        scene_batch_size: scenes a step.
        learning_rate: of AdamW, peak.
        weight_decay: of AdamW.
        ema_decay: of the averaged weights that are exported.
        precision: "bf16" or "no".
        num_threads: CPU threads; 0 leaves torch's own choice.
        seed: of everything random.
    """

    detector_channels: tuple[int, int, int] = (16, 32, 48)
    detector_dilations: tuple[int, ...] = (1, 2, 4, 1)
    regressor_channels: tuple[int, int, int, int] = (16, 32, 64, 128)
    hidden_size: int = 128
    crop_size: int = 96
    scene_size: int = 128
    image_size: int = 128
    num_backgrounds: int = 3000
    face_batch_size: int = 64
    scene_batch_size: int = 12
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    ema_decay: float = 0.998
    precision: str = "bf16"
    num_threads: int = 1
    seed: int = 0


class FaceFinderTrainer(nn.Module):
    """The finder and its losses in one module, the one that accelerate prepares."""

    def __init__(self, finder: FaceFinder) -> None:
        super().__init__()
        self.finder = finder

    def forward(self, faces: FaceBatch, scenes: SceneBatch) -> dict[str, Tensor]:
        """Losses before weighting."""
        prediction = self.finder.regressor(faces.crops.contiguous(memory_format=torch.channels_last))
        maps = self.finder.detector(scenes.images.contiguous(memory_format=torch.channels_last))
        return compute_landmark_losses(prediction, faces) | compute_scene_losses(maps, scenes)


def compute_landmark_losses(prediction: LandmarkPrediction, faces: FaceBatch) -> dict[str, Tensor]:
    """Mean distance in widths of the unit frame, its logarithm as foretold, and whether there is a face."""
    weights = torch.ones(faces.landmarks.shape[1], device=faces.landmarks.device)
    weights[list(LOOSE_INDICES)] = LOOSE_WEIGHT
    distances = (prediction.landmarks - faces.landmarks).norm(dim=-1)[faces.is_face]
    errors = (distances * weights).sum(1) / weights.sum()
    log_error = prediction.log_error[faces.is_face] - errors.detach().log()
    presence = F.binary_cross_entropy_with_logits(prediction.presence, faces.is_face.float())
    return {"landmarks": errors.mean(), "log_error": log_error.abs().mean(), "presence": presence}


def compute_scene_losses(maps: PoseMaps, scenes: SceneBatch) -> dict[str, Tensor]:
    """CenterNet's focal loss of the heat map, and the pose's error relative to the face's width where a face is.

    Notation: heat → Ŷ, target → Y, exponents α = 2 and β = 4 (https://arxiv.org/abs/1904.07850, equation 1).
    """
    target, heat = scenes.heat, maps.heat.sigmoid().clamp(1e-4, 1 - 1e-4)
    is_centre = target == 1
    found = (1 - heat).square() * heat.log() * is_centre
    missed = (1 - target).pow(4) * heat.square() * (1 - heat).log() * ~is_centre
    x, y, width, angle = (values[scenes.where] for values in scenes.pose.unbind(1))
    errors = (
        (maps.x[scenes.where] - x) / width,
        (maps.y[scenes.where] - y) / width,
        (maps.width[scenes.where] / width).log(),
        maps.angle[scenes.where] - angle,
    )
    return {
        "heat": -(found + missed).sum() / is_centre.sum().clamp(min=1),
        "pose": torch.stack([error.abs().mean() for error in errors]).sum(),
    }


class Ring:
    """The newest rows (N,…) of all that were put in, at most `limit`, in half precision."""

    def __init__(self, values: Tensor, limit: int) -> None:
        self.values, self.limit = values.half(), limit

    def extend(self, rows: Tensor) -> None:
        """Put rows in."""
        self.values = torch.cat([self.values, rows.half()])[-self.limit :]

    def state_dict(self) -> dict[str, Tensor]:
        """The rows."""
        return {"values": self.values}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Take them back."""
        self.values = state_dict["values"]


class FaceFinderRun:
    """One training run: data, models, optimiser, and one step."""

    def __init__(self, config: FaceFinderConfig, shards: list[FaceShards], accelerator: Accelerator) -> None:
        self.config, self.shards, self.accelerator = config, shards, accelerator
        self.mean_shape = compute_mean_shape(shards)
        self.backgrounds = build_backgrounds(
            config.num_backgrounds, config.scene_size, shards[0].images, self.mean_shape, config.seed
        )
        self.mined = Ring(torch.zeros(0, 3, config.crop_size, config.crop_size), MAX_MINED)
        self.finder = FaceFinder(  # type: ignore[call-overload]
            detector_channels=config.detector_channels,
            detector_dilations=config.detector_dilations,
            regressor_channels=config.regressor_channels,
            hidden_size=config.hidden_size,
            crop_size=config.crop_size,
            mean_shape=self.mean_shape,
        ).to(memory_format=torch.channels_last)
        trainer = FaceFinderTrainer(self.finder)
        self.optimizer = torch.optim.AdamW(trainer.parameters(), betas=(0.9, 0.99), weight_decay=config.weight_decay)
        self.trainer, self.optimizer = accelerator.prepare(trainer, self.optimizer)
        self.ema = Ema(self.finder, config.ema_decay)

    def sample(self, generator: torch.Generator) -> tuple[FaceBatch, SceneBatch]:
        """Draw one batch of crops and one of scenes, each from one folder of shards."""
        config, device = self.config, self.accelerator.device
        first, second = (self.shards[int(torch.randint(len(self.shards), (), generator=generator))] for _ in range(2))
        faces = sample_faces(
            first,
            self.backgrounds,
            self.mined.values,
            self.mean_shape,
            config.face_batch_size,
            config.crop_size,
            generator,
        )
        scenes = sample_scenes(
            second, self.backgrounds, self.mean_shape, config.scene_batch_size, config.scene_size, generator
        )
        return faces.to(device), scenes.to(device)

    def step(self, index: int, progress: float, generator: torch.Generator) -> dict[str, float]:
        """Train on one batch, the `index`-th; returns the losses."""
        if index % MINING_INTERVAL == 0:
            size = self.config.crop_size
            self.mined.extend(mine_crops(self.finder, self.backgrounds, MINING_COUNT, size, generator))
        scale = pretraining.compute_cosine_scale(progress)
        pretraining.set_learning_rate(self.optimizer, self.config.learning_rate * scale)
        faces, scenes = self.sample(generator)
        with self.accelerator.autocast():
            losses = self.trainer(faces, scenes)
        total = torch.stack([LOSS_WEIGHTS[name] * loss for name, loss in losses.items()]).sum()
        pretraining.descend(self.accelerator, total, self.trainer, self.optimizer, max_norm=2.0)
        self.ema.update(self.finder)
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def parts(self) -> dict[str, pretraining.HasState]:
        """What a checkpoint holds."""
        return {"finder": self.finder, "ema": self.ema, "optimizer": self.optimizer, "mined": self.mined}


@torch.no_grad()
def compute_landmark_error(finder: FaceFinder, shards: FaceShards, repeats: int, seed: int = 0) -> float:
    """Mean distance of the landmarks over the distance of the pupils, from framings as bad as the detector's."""
    generator = torch.Generator().manual_seed(seed)
    device = finder.regressor.mean_shape.device
    was_training = finder.training
    finder.eval()
    figures = []
    for _ in range(repeats):
        for indices in torch.arange(len(shards.images)).split(16):
            images = to_tensor(shards.images[indices.numpy()]).to(device)
            landmarks = shards.landmarks[indices].to(device)
            framings = sample_framings(len(indices), COARSE_NOISE, generator).to(device)
            poses = compose_transforms(fit_pose(landmarks, finder.regressor.mean_shape), framings)
            found = regress_landmarks(finder, images, poses).landmarks
            figures += ((found - landmarks).norm(dim=-1).mean(1) / measure_pupil_distance(landmarks)).tolist()
    finder.train(was_training)
    return float(np.mean(figures))


def train(args: argparse.Namespace, config: FaceFinderConfig) -> None:
    """Run until the budget ends, then export the averaged finder as fp16 to `output/face_finder`."""
    accelerator = pretraining.build_accelerator(args.device, config.precision)
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    run = FaceFinderRun(config, [open_face_shards(path, config.image_size) for path in args.data], accelerator)
    held_out = {path.name: open_face_shards(path, config.image_size) for path in args.held_out}
    state = pretraining.TrainState()
    if args.resume:
        pretraining.load_checkpoint(args.output, state, generator, **run.parts())
    elif args.init is not None:
        run.finder.load_state_dict(FaceFinder.from_pretrained(args.init).state_dict())
        run.ema = Ema(run.finder, config.ema_decay)

    def step(progress: float) -> tuple[dict[str, float], int]:
        return run.step(state.step, progress, generator), config.face_batch_size

    def save() -> dict[str, float]:
        pretraining.save_checkpoint(args.output, state, generator, **run.parts())
        with run.ema.applied(run.finder):
            pretraining.export_half(run.finder, args.output / "face_finder")
            return {name: compute_landmark_error(run.finder, shards, 2) for name, shards in held_out.items()}

    budget = pretraining.Budget(args.minutes, state, args.max_steps)
    pretraining.run_loop(step, save, budget=budget, output=args.output)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of training shards")
    parser.add_argument("--held-out", type=Path, nargs="+", required=True, help="folders of people not trained on")
    parser.add_argument("--init", type=Path, help="face finder to start from, for a round with more data")
    pretraining.add_run_arguments(parser, minutes=18)
    parser.add_argument("--seed", type=int, help="in place of the config's")
    parser.add_argument("--learning-rate", type=float, help="likewise")
    args = parser.parse_args()
    config = load_config(FaceFinderConfig, args.config, {"seed": args.seed, "learning_rate": args.learning_rate})
    pretraining.prepare_process(config.num_threads)
    train(args, config)


if __name__ == "__main__":
    main()
