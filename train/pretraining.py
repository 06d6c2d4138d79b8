"""What every pretraining script shares: loop, time budget, EMA, schedule, atomic checkpoints, shards, log, export.

A script owns its models and its step; this module owns what must behave the same in every run: stopping in
time, surviving kill -9 (`save_checkpoint` is atomic) and continuing to the same numbers (`--resume`).
"""

import argparse
import copy
import json
import math
import signal
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from acfun.devices import has_bfloat16
from acfun.errors import DataError
from acfun.paths import atomic_write
from acfun.process import restart_with_malloc_settings

CHECKPOINT_NAME = "checkpoint.pt"
REPORT_EVERY = 30.0


# --- process ---


def prepare_process(num_threads: int = 0) -> None:
    """Restart this process once, with malloc settings read at start only; set torch's threads (0 = leave)."""
    restart_with_malloc_settings()
    if num_threads > 0:
        torch.set_num_threads(num_threads)


def build_accelerator(device: str = "auto", precision: str = "bf16") -> Accelerator:
    """Accelerator on the best device ("auto"), "cpu" or "cuda".

    `precision` is "no" or "bf16"; a device that only emulates bfloat16, which is slow, computes in float32.
    """
    if device not in {"auto", "cpu", "cuda"}:
        raise ValueError(f"device {device!r} is unknown: use auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda': torch sees no GPU; use --device cpu or install a CUDA build")
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    return Accelerator(cpu=device == "cpu", mixed_precision=precision if has_bfloat16(chosen) else "no")


def catch_stop_signals() -> threading.Event:
    """An event set by the first Ctrl-C or SIGTERM (the loop then saves and ends); a second one kills."""
    stop = threading.Event()

    def request_stop(number: int, frame: object) -> None:
        stop.set()
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    signal.signal(signal.SIGINT, request_stop)
    signal.signal(signal.SIGTERM, request_stop)
    return stop


# --- progress ---


@dataclass
class TrainState:
    """Where a run stands, saved with every checkpoint; `seconds` counts all its sessions together."""

    step: int = 0
    num_samples: int = 0
    seconds: float = 0.0
    best_figure: float | None = None


class Budget:
    """Ends a run after `minutes` in all or after `max_steps` (0 = no limit), whichever comes first."""

    def __init__(self, minutes: float, state: TrainState, max_steps: int = 0) -> None:
        self.minutes, self.max_steps, self.state = minutes, max_steps, state
        self._seconds_before = state.seconds
        self._start = time.monotonic()

    def progress(self) -> float:
        """Part of the budget spent, in [0,1] (of `max_steps` where set); updates `state.seconds`."""
        self.state.seconds = self._seconds_before + time.monotonic() - self._start
        if self.max_steps:
            return min(self.state.step / self.max_steps, 1.0)
        return min(self.state.seconds / (60 * self.minutes), 1.0)

    def is_over(self) -> bool:
        """True once the steps or the minutes are used up."""
        return self.progress() >= 1.0 or self.state.seconds >= 60 * self.minutes


class Interval:
    """`is_due()` is true once every `seconds`, first after one interval: for checkpoints and log lines."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """True when the interval has passed since the last time this returned true."""
        is_due = time.monotonic() - self._last >= self.seconds
        if is_due:
            self._last = time.monotonic()
        return is_due


def compute_cosine_scale(progress: float, warmup: float = 0.02, final: float = 0.02) -> float:
    """Learning rate factor at `progress` in [0,1]: linear warm-up, then half a cosine from 1 to `final`."""
    if progress < warmup:
        return max(progress / warmup, 0.01)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every parameter group `learning_rate`, times the group's own "scale" entry where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("scale", 1.0)


def descend(
    accelerator: Accelerator, loss: Tensor, module: torch.nn.Module, optimizer: torch.optim.Optimizer, max_norm: float
) -> None:
    """Take one step down a loss, with gradients of all of the module's parameters no longer than `max_norm`."""
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(module.parameters(), max_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


# --- loop ---


def add_run_arguments(parser: argparse.ArgumentParser, minutes: float) -> None:
    """The options of a run that every script has: `output`, `minutes`, `max_steps`, `device`, `resume`."""
    parser.add_argument("--output", type=Path, required=True, help="checkpoint, log and what was trained")
    parser.add_argument("--minutes", type=float, default=minutes, help="in all, together with resumed runs")
    parser.add_argument("--max-steps", type=int, default=0, help="end after so many; 0 for the minutes alone")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the output folder")


def run_loop(
    step: Callable[[float], tuple[Mapping[str, float], int]],
    save: Callable[[], Mapping[str, float]],
    *,
    budget: Budget,
    output: Path,
    save_every: float = 180,
) -> None:
    """Take steps until the budget is spent or the user stops; report each half minute, save on the way and at the end.

    Args:
        step: progress in [0,1] → losses by name, and how many samples were trained on.
        save: writes the checkpoint; returns figures to be reported.
        budget: counts steps and samples in its state.
        output: folder of the log.
        save_every: seconds.
    """
    stop, log, totals = catch_stop_signals(), TrainLog(output, budget), defaultdict[str, list[float]](list)
    report_due, save_due = Interval(REPORT_EVERY), Interval(save_every)
    state = budget.state
    while not budget.is_over() and not stop.is_set():
        losses, num_samples = step(budget.progress())
        state.step, state.num_samples = state.step + 1, state.num_samples + num_samples
        for name, loss in losses.items():
            totals[name].append(loss)
        if report_due.is_due():
            means = {name: sum(values) / len(values) for name, values in totals.items()}
            log.report(**means, samples_per_second=state.num_samples / max(state.seconds, 1))
            totals.clear()
        if save_due.is_due():
            log.report(**save())
    log.report(**save())


# --- checkpoints ---


class HasState(Protocol):
    """A module, optimizer, Ema or scheduler: whatever saves itself as a dict and takes it back."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object: ...


def save_checkpoint(directory: Path, state: TrainState, generator: torch.Generator, **parts: HasState) -> None:
    """Write `directory/checkpoint.pt`: `parts` by name, the state and the generators; whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
    content["train_state"] = asdict(state)
    content["generator"] = generator.get_state()
    content["global_generator"] = torch.get_rng_state()
    with atomic_write(directory / CHECKPOINT_NAME) as temporary:
        torch.save(content, temporary)


def load_checkpoint(directory: Path, state: TrainState, generator: torch.Generator, **parts: Any) -> bool:
    """Put a saved checkpoint back into `state`, `generator` and `parts` in place; False when there is none.

    Raises DataError when the checkpoint was made of other parts.
    """
    path = directory / CHECKPOINT_NAME
    if not path.is_file():
        return False
    content = torch.load(path, map_location="cpu", weights_only=True)
    if missing := parts.keys() - content.keys():
        raise DataError(f"{path} has no {', '.join(sorted(missing))}: it belongs to another script or version")
    for name, part in parts.items():
        part.load_state_dict(content[name])
    vars(state).update(content["train_state"])
    generator.set_state(content["generator"])
    torch.set_rng_state(content["global_generator"])
    return True


def export_half(module: Any, directory: Path) -> None:
    """Save a diffusers or transformers model as fp16 into `directory`, whose files are replaced once all are written.

    Each file is replaced at once, so that a kill at any time leaves a model there.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as temporary:
        written = Path(temporary) / directory.name
        copy.deepcopy(module).to("cpu", torch.float16).save_pretrained(written, safe_serialization=True)
        directory.mkdir(exist_ok=True)
        names = [path.name for path in written.iterdir()]
        for name in names:
            (written / name).replace(directory / name)
        for path in directory.iterdir():
            if path.is_file() and path.name not in names:
                path.unlink()


# --- data and log ---


@dataclass(frozen=True)
class Shards:
    """Images on disk, uint8 (N,H,W,3), and `captions[i]`, the texts of image i (at least one)."""

    images: np.ndarray[Any, np.dtype[np.uint8]]
    captions: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.captions)

    def pixel_values(self, indices: Tensor) -> Tensor:
        """(B,3,H,W) float32 in [-1,1], channels last in memory, of the images at `indices` (B,)."""
        # Read in file order: the pages of a memmap come from disk one after the other then.
        order = torch.argsort(indices)
        batch = torch.from_numpy(np.ascontiguousarray(self.images[indices[order].numpy()]))
        return (batch[torch.argsort(order)].permute(0, 3, 1, 2).float() / 127.5) - 1

    def sample_captions(self, indices: Tensor, generator: torch.Generator) -> list[str]:
        """One of each image's captions, drawn evenly."""
        draws = torch.rand(len(indices), generator=generator).tolist()
        texts = [self.captions[i] for i in indices.tolist()]
        return [choices[int(draw * len(choices))] for choices, draw in zip(texts, draws, strict=True)]


def open_shards(*directories: Path) -> Shards:
    """Map `images.npy` and read the captions of a folder, or read several into memory one after the other.

    Captions are those of `labels.json` (as `acfun.synthetic.shards` writes it), or, where there is one, of
    `captions.json`: N texts, or N lists of texts.

    Raises:
        DataError: files are missing or do not fit together.
    """
    parts = [_open_folder(directory) for directory in directories]
    if len(parts) == 1:
        return parts[0]
    captions = tuple(texts for part in parts for texts in part.captions)
    return Shards(np.concatenate([part.images for part in parts]), captions)


def _open_folder(directory: Path) -> Shards:
    captions_path = directory / "captions.json"
    if not captions_path.is_file():
        captions_path = directory / "labels.json"
    if not captions_path.is_file() or not (directory / "images.npy").is_file():
        raise DataError(f"{directory} has no images.npy or no labels.json: write shards into it first")
    images = np.load(directory / "images.npy", mmap_mode="r")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise DataError(f"{directory}/images.npy is {images.dtype} {images.shape}, not uint8 (N,H,W,3)")
    entries = json.loads(captions_path.read_text(encoding="utf-8"))
    texts = [entry["caption"] if isinstance(entry, dict) else entry for entry in entries]
    captions = tuple((text,) if isinstance(text, str) else tuple(text) for text in texts)
    if len(captions) != len(images) or not all(captions):
        raise DataError(f"{captions_path} captions {len(captions)} of {len(images)} images, or one is empty")
    return Shards(images, captions)


class TrainLog:
    """Prints one line per report and appends it to `directory/log.jsonl`."""

    def __init__(self, directory: Path, budget: Budget) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path, self.budget = directory / "log.jsonl", budget

    def report(self, **figures: float) -> None:
        """Report `figures` (plain numbers, already averaged) at the present step."""
        progress, state = self.budget.progress(), self.budget.state
        line = {"step": state.step, "samples": state.num_samples, "seconds": round(state.seconds, 1)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line | figures) + "\n")
        texts = " ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"{progress:6.1%} step {state.step} {state.seconds / 60:.1f} min  {texts}", flush=True)
