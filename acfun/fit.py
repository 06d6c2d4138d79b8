"""Fitting a style: encode once, loop, return the style."""

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch
from accelerate import Accelerator
from torch import Tensor

from acfun.base import Base, load_base
from acfun.base.image_embeds import encode_style_image, require_image_encoder
from acfun.base.sources import mark_local
from acfun.base.vae_features import decode_latents
from acfun.config import FitConfig
from acfun.devices import DTYPES, fork_seed, select_device
from acfun.errors import ConfigError, FitDivergedError
from acfun.fit_checkpoint import FitCheckpoint, describe_fit
from acfun.fit_data import FitData
from acfun.fit_prepare import prepare, prepare_style
from acfun.fit_setup import ROOMY, build_model, resting, set_up
from acfun.imagery import TERMS
from acfun.images import load_image, pil_to_tensor
from acfun.losses import predict_original_sample, total_loss
from acfun.objectives import OBJECTIVES, Batch
from acfun.planner import Plan, choose_plan
from acfun.style import Style
from acfun.style_model import StyleModel

MAX_SPOILT_STEPS = 5
SAVE_SECONDS = 180.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
WARMUP, FIRST_RATE = 0.05, 0.005
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """What a fit reports after each step.

    Attributes:
        step: steps done.
        max_steps: steps in all.
        losses: by name, before weighting.
        seconds_left: expected.
        preview: predicted pictures (B,3,S,S) in [-1,1], on steps that ask for a preview.
    """

    step: int
    max_steps: int
    losses: dict[str, float]
    seconds_left: float
    preview: Tensor | None


Report = Callable[[Progress], None]


def fit_style(
    config: FitConfig, *, base: Base | None = None, plan: Plan | None = None, report: Report | None = None
) -> Style:
    """Fit one style image.

    With `max_steps` 0 nothing is learned: the style is the style image, and photographs of faces are not looked at.
    Ctrl-C or SIGTERM ends the loop after the step in hand and returns the style as it is. Where there is a run folder
    (`config.output_dir`), a checkpoint is left there then, at the end, and every `SAVE_SECONDS`. The base and torch's
    global generator (of CPU and CUDA) are afterwards what they were.

    Args:
        config: what to fit; see `FitConfig`.
        base: an already loaded base, in the dtype and on the device to be used; otherwise `config.base` is loaded, on
            `config.device`, or on the devices that `accelerate launch` gives to several processes.
        plan: of `acfun.planner.choose_plan` for this fit; None: made here.
        report: called after every step, on the main process.

    Raises:
        ImageError: an image cannot be read.
        NoFaceFoundError: a face photograph without a face.
        BaseNotFoundError: there is no such base, or it has no image encoder.
        ConfigError: options that contradict each other, a base in float16, a fit that needs more memory than it may
            take, or a checkpoint of another configuration that is to be resumed.
        FitDivergedError: the losses are no numbers any more.
    """
    # What is on a device already stays there.
    accelerator = Accelerator(device_placement=False)
    if base is None:
        device = select_device(config.device) if accelerator.num_processes == 1 else accelerator.device
        base = load_base(
            config.base,
            config=config.base_config,
            image_encoder=config.image_encoder,
            dtype=DTYPES[config.dtype],
            device=device,
        )
    require_image_encoder(base)
    if config.max_steps and base.dtype is torch.float16:
        raise ConfigError(
            f"base {base.name!r} is in float16, in which gradients vanish: load it in float32 or bfloat16, as "
            "load_base(…, dtype=torch.bfloat16)"
        )
    plan = plan or choose_plan(config, base)
    measures = ROOMY if plan is None else plan.measures
    generator = torch.Generator().manual_seed(config.seed)
    with fork_seed(config.seed, base.device), set_up(base, measures, base.device):
        with resting(measures, base.image_encoder):
            data = prepare(config, base, generator) if config.max_steps else None
            style_image = prepare_style(config, base) if data is None else data.style
        style_embeds = encode_style_image(base, pil_to_tensor(load_image(config.style_path)))
        model = build_model(config, base, style_embeds, generator)
        decodes = config.preview_every > 0 or not TERMS.isdisjoint(config.loss_weights())
        try:
            description = describe_fit(config) | {"dtype": str(base.dtype).removeprefix("torch."), "base": base.name}
            if data is not None:
                with resting(measures, base.image_encoder, None if decodes else base.vae):
                    loop = FitLoop(config, base, data, model, accelerator, generator)
                    loop.run(report)
                # A whole fit needs no word of it.
                description |= {"steps_done": loop.step} if loop.step < config.max_steps else {}
            if config.base_config is not None:
                description["base_config"] = mark_local(config.base_config)
            return Style.from_model(model, base, image=style_image, config=description).round_to_half()
        finally:
            model.eject()


def compute_rate_scale(progress: float) -> float:
    """Learning rate factor at `progress` in [0,1]: a short linear rise, then half a cosine to zero."""
    return min(1.0, (progress + FIRST_RATE) / WARMUP) * 0.5 * (1 + math.cos(math.pi * progress))


class FitLoop:
    """The loop of one fit and what it needs, on one of possibly several processes."""

    def __init__(
        self,
        config: FitConfig,
        base: Base,
        data: FitData,
        model: StyleModel,
        accelerator: Accelerator,
        generator: torch.Generator,
    ) -> None:
        self.config, self.data, self.accelerator, self.generator = config, data, accelerator, generator
        self.objective, self.weights = OBJECTIVES[config.objective], config.loss_weights()
        self.prediction_type = base.scheduler.config.prediction_type
        self.alphas_cumprod = base.scheduler.alphas_cumprod.to(base.device)
        self.input_ids = model.tokenize(config.prompt()).to(base.device)
        self.parameters = model.trainable_parameters()
        is_fused = base.device.type == "cuda"
        optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, weight_decay=0.0, fused=is_fused)
        # Without pairs the imagery is what the fit so far makes of the faces.
        self.imagery = (data.face_latents if data.pair_latents is None else data.pair_latents).clone()
        self.step, self.spoilt, self.checkpoint = 0, 0, None
        if config.output_dir is not None:
            self.checkpoint = FitCheckpoint(config, base.fingerprint, model, optimizer, generator, self.imagery)
        if self.checkpoint is not None and config.resume:
            self.step = self.checkpoint.load()
        self.model, self.optimizer = accelerator.prepare(model, optimizer)

    def run(self, report: Report | None) -> None:
        """Take the steps that are left, saving and reporting; a signal to stop ends the loop after a whole step."""
        config, start, first, saved = self.config, time.monotonic(), self.step, self.step
        last_save = start
        self.model.train()
        with _interruptible() as is_interrupted:
            while self.step < config.max_steps and not self._any_process(is_interrupted()):
                losses, pred = self.take_step()
                self.step += 1
                if _is_due(self.step, config.checkpoint_every) or time.monotonic() - last_save >= SAVE_SECONDS:
                    self._save()
                    saved, last_save = self.step, time.monotonic()
                if report is not None and self.accelerator.is_main_process:
                    left = (time.monotonic() - start) / (self.step - first) * (config.max_steps - self.step)
                    preview = self._decode(pred) if _is_due(self.step, config.preview_every) else None
                    figures = {name: float(loss) for name, loss in losses.items()}
                    report(Progress(self.step, config.max_steps, figures, left, preview))
            if saved < self.step:
                self._save()
        self.model.eval()

    def take_step(self) -> tuple[dict[str, Tensor], Tensor]:
        """One optimiser step; losses of all processes by name, and this one's predicted clean latents (B,C,h,w)."""
        config, accelerator = self.config, self.accelerator
        # Every process draws the whole batch, so that one and several processes see the same rows.
        names, num_faces = frozenset(self.weights), config.batch_size * accelerator.num_processes
        batch = self.objective.sample(self.data, num_faces, self.generator, names, self.imagery)
        batch = _take_share(batch, accelerator.process_index, accelerator.num_processes)
        pred, alphas = self._predict(batch)
        if self.data.pair_latents is None:
            self._note_imagery(batch, pred.detach())
        losses = self.objective.compute(self.data, batch, pred, alphas, names)
        accelerator.backward(total_loss(losses, self.weights))
        norm = accelerator.clip_grad_norm_(self.parameters, config.max_grad_norm)
        self._step_unless_spoilt(float(norm))
        self.optimizer.zero_grad(set_to_none=True)
        return {name: accelerator.reduce(loss.detach(), "mean") for name, loss in losses.items()}, pred

    def _note_imagery(self, batch: Batch, pred: Tensor) -> None:
        """Move the imagery of the batch's faces towards what was just predicted, the more the less noise there was."""
        levels = (batch.timesteps / self.data.num_train_timesteps).tolist()
        for row, index in enumerate(batch.indices):
            if pred[row].isfinite().all():
                self.imagery[index].lerp_(pred[row], 1 - levels[row])

    def _step_unless_spoilt(self, grad_norm: float) -> None:
        """Leave out a step whose gradient is no number; several in a row mean that the fit has come apart."""
        self.spoilt = 0 if math.isfinite(grad_norm) else self.spoilt + 1
        if self.spoilt > MAX_SPOILT_STEPS:
            raise FitDivergedError(
                f"the last {self.spoilt} gradients were {grad_norm}: the fit has come apart at step {self.step}; "
                f"lower learning_rate, which is {self.config.learning_rate:g}"
            )
        if not self.spoilt:
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.learning_rate * compute_rate_scale(self.step / self.config.max_steps)
            self.optimizer.step()

    def _predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """x̂0 (B,C,h,w) in float32 and ᾱ (B,) of a batch."""
        alphas = self.alphas_cumprod[batch.timesteps].to(batch.latents)
        signal, sigma = (part.sqrt().view(-1, 1, 1, 1) for part in (alphas, 1 - alphas))
        noisy_latents = signal * batch.latents + sigma * batch.noise
        model_pred = self.model(noisy_latents, batch.timesteps, input_ids=self.input_ids)
        return predict_original_sample(model_pred, noisy_latents, alphas, self.prediction_type), alphas

    def _save(self) -> None:
        """Leave a checkpoint if there is a run folder; one that cannot be written is logged, and the fit goes on."""
        if self.checkpoint is None or not self.accelerator.is_main_process:
            return
        try:
            self.checkpoint.save(self.step)
        except OSError as error:
            path = self.checkpoint.path
            _logger.warning("%s: the checkpoint cannot be written (%s); make room there", path, error.strerror or error)

    @torch.no_grad()
    def _decode(self, pred: Tensor) -> Tensor:
        """Pictures of the batch's faces, which come first."""
        return decode_latents(self.data.vae, pred[: self.config.batch_size]).clamp(-1, 1).cpu()

    def _any_process(self, flag: bool) -> bool:
        """Whether the flag is up on any process: they must leave the loop together."""
        if self.accelerator.num_processes == 1:
            return flag
        flags = self.accelerator.gather(torch.tensor([flag], device=self.accelerator.device))
        return bool(flags.any())


def _take_share(batch: Batch, index: int, count: int) -> Batch:
    """The rows of process `index` of `count`."""
    if count == 1:
        return batch
    num_faces = len(batch.faces)
    rows = [*range(index, num_faces, count), *range(num_faces + index, len(batch.latents), count)]
    return Batch(
        latents=batch.latents[rows],
        noise=batch.noise[rows],
        timesteps=batch.timesteps[rows],
        faces=batch.faces[index::count],
        indices=batch.indices[index::count],
        directions=batch.directions,
    )


def _is_due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C or SIGTERM only sets a flag, so that the step in hand is finished; a second interrupts at once.

    This holds for a job in the background too, which a shell starts with the signal ignored.
    """
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handler and sends no Ctrl-C
        yield lambda: False
        return
    interrupted = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        for each in previous:
            signal.signal(each, signal.default_int_handler)

    # A handler that is not Python's own is None, and could not be put back.
    previous = {number: handler for number in STOP_SIGNALS if (handler := signal.getsignal(number)) is not None}
    for number in previous:
        signal.signal(number, note)
    try:
        yield interrupted.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
