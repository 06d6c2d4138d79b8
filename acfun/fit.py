"""Fitting a style: encode once, loop, return the style."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from acfun.afun import AFunOptions
from acfun.base import Base, load_base
from acfun.base.image_embeds import encode_style_image
from acfun.base.prompts import tokenize
from acfun.base.vae_features import decode_latents
from acfun.cfun import CFunOptions
from acfun.config import FitConfig
from acfun.devices import select_device
from acfun.fit_checkpoint import FitCheckpoint, describe_fit
from acfun.fit_data import FitData
from acfun.fit_prepare import prepare
from acfun.images import load_image, pil_to_tensor
from acfun.losses import predict_original_sample, total_loss
from acfun.objectives import OBJECTIVES, Batch
from acfun.style import Style
from acfun.style_model import StyleModel, build_style_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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


def fit_style(config: FitConfig, *, base: Base | None = None, report: Report | None = None) -> Style:
    """Fit one style image.

    A run folder (`config.output_dir`) holds the config, the checkpoint and, at the end, nothing that a style file does not. Ctrl-C
    ends the loop after the step in hand, leaves a checkpoint, and returns the style as it is.

    Args:
        config: what to fit; see `FitConfig`.
        base: an already loaded base, in the dtype and on the device to be used; otherwise `config.base` is loaded.
        report: called after every step, on the main process.

    Raises:
        ImageError: an image cannot be read.
        NoFaceFoundError: a face photograph without a face.
        ConfigError: a checkpoint of another configuration is to be resumed.
    """
    accelerator = Accelerator(cpu=config.device == "cpu")
    device = select_device(config.device) if accelerator.num_processes == 1 else accelerator.device
    base = base or load_base(config.base, dtype=DTYPES[config.dtype], device=device)
    generator = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)
    data = prepare(config, base, generator)
    model = build_model(config, base, generator)
    try:
        _run(config, base, data, model, accelerator, generator, report)
        return Style.from_model(model, base, config=describe_fit(config))
    finally:
        model.eject()


def build_model(config: FitConfig, base: Base, generator: torch.Generator) -> StyleModel:
    """Put the fresh style that a config asks for into a base."""
    width = base.text_encoder.config.hidden_size
    style_embeds = encode_style_image(base, pil_to_tensor(load_image(config.style_path)))
    return build_style_model(
        base,
        style_embeds,
        afun=AFunOptions.for_width(width) if config.use_afun else None,
        cfun=None
        if config.cfun == "none"
        else CFunOptions(variant=config.cfun, groups=config.cfun_groups, rank=config.cfun_rank),
        placeholder=config.placeholder,
        num_vectors=config.num_token_vectors,
        generator=generator,
    )


def _run(
    config: FitConfig,
    base: Base,
    data: FitData,
    model: StyleModel,
    accelerator: Accelerator,
    generator: torch.Generator,
    report: Report | None,
) -> None:
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=config.learning_rate, weight_decay=0.0)
    checkpoint = None if config.output_dir is None else FitCheckpoint(config, model, optimizer, generator)
    step = checkpoint.load() if checkpoint is not None and config.resume else 0
    prepared, prepared_optimizer = accelerator.prepare(model, optimizer)
    input_ids = tokenize(_tokenizer_of(model, base), [config.prompt()]).to(base.unet.device)
    alphas_cumprod = base.scheduler.alphas_cumprod.to(base.unet.device)
    objective, weights = OBJECTIVES[config.objective], config.loss_weights()
    start, first = time.monotonic(), step
    model.train()
    with _interruptible() as is_interrupted:
        while step < config.max_steps and not is_interrupted():
            batch = objective.sample(
                data, data.num_train_timesteps, config.batch_size * accelerator.num_processes, generator
            )
            batch = _take_share(batch, accelerator.process_index, accelerator.num_processes)
            pred, alphas = _predict(prepared, batch, input_ids, alphas_cumprod, base)
            losses = objective.compute(data, batch, pred, alphas, frozenset(weights))
            accelerator.backward(total_loss(losses, weights))
            accelerator.clip_grad_norm_(model.trainable_parameters(), config.max_grad_norm)
            prepared_optimizer.step()
            prepared_optimizer.zero_grad(set_to_none=True)
            step += 1
            is_due = bool(config.checkpoint_every) and step % config.checkpoint_every == 0
            if checkpoint is not None and (is_due or is_interrupted()) and accelerator.is_main_process:
                checkpoint.save(step)
            if report is not None and accelerator.is_main_process:
                left = (time.monotonic() - start) / (step - first) * (config.max_steps - step)
                is_preview = bool(config.preview_every) and step % config.preview_every == 0
                preview = _decode(data, pred, len(batch.faces)) if is_preview else None
                report(
                    Progress(
                        step, config.max_steps, {name: float(loss) for name, loss in losses.items()}, left, preview
                    )
                )
    model.eval()


def _predict(model: Any, batch: Batch, input_ids: Tensor, alphas_cumprod: Tensor, base: Base) -> tuple[Tensor, Tensor]:
    """x̂0 (B,C,h,w) in float32 and ᾱ (B,) of a batch."""
    alphas = alphas_cumprod[batch.timesteps].to(batch.latents)
    signal, sigma = (part.sqrt().view(-1, 1, 1, 1) for part in (alphas, 1 - alphas))
    noisy_latents = signal * batch.latents + sigma * batch.noise
    model_pred = model(noisy_latents, batch.timesteps, input_ids=input_ids.expand(len(noisy_latents), -1))
    prediction_type = base.scheduler.config.prediction_type
    return predict_original_sample(model_pred, noisy_latents, alphas, prediction_type), alphas


def _take_share(batch: Batch, index: int, count: int) -> Batch:
    """The rows of one process: every process draws the whole batch, so one and two processes see the same rows."""
    if count == 1:
        return batch
    num_faces = len(batch.faces)
    rows = [*range(index, num_faces, count), *range(num_faces + index, len(batch.latents), count)]
    return Batch(
        latents=batch.latents[rows],
        noise=batch.noise[rows],
        timesteps=batch.timesteps[rows],
        faces=batch.faces[index::count],
        directions=batch.directions,
    )


def _decode(data: FitData, pred: Tensor, count: int) -> Tensor:
    with torch.no_grad():
        return decode_latents(data.vae, pred[:count].detach()).float().clamp(-1, 1).cpu()


def _tokenizer_of(model: StyleModel, base: Base) -> Any:
    return base.tokenizer if model.token is None else model.token.tokenizer


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C only sets a flag, so that the step in hand is finished and saved; a second one interrupts as usual."""
    interrupted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        interrupted.append(number)
        signal.signal(signal.SIGINT, previous)

    if threading.current_thread() is not threading.main_thread():  # where Python allows no handler and sends no Ctrl-C
        yield lambda: False
        return
    previous = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(interrupted)
    finally:
        signal.signal(signal.SIGINT, previous)
