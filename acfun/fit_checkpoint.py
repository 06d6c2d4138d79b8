"""State of a fit on disk: one safetensors, written atomically, from which `resume` continues to the same result."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from acfun.config import FitConfig
from acfun.config_fields import select_fields
from acfun.errors import ConfigError
from acfun.paths import atomic_write
from acfun.style_model import StyleModel

CHECKPOINT_NAME = "fit.safetensors"
FORMAT, FORMAT_VERSION = "acfun-fit", 1
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_RUN_ONLY = select_fields("run", "device", "memory")


def describe_fit(config: FitConfig) -> dict[str, Any]:
    """The config without what belongs to one machine or one run, so that equal fits give equal files."""
    described = asdict(config) | {"face_paths": len(config.face_paths)}
    described |= {name: Path(described[name]).name for name in select_fields("painting", "face_model")}
    if Path(config.image_encoder).is_dir():
        described["image_encoder"] = Path(config.image_encoder).name
    return {name: value for name, value in described.items() if name not in _RUN_ONLY}


def check_resumable(config: FitConfig) -> None:
    """Refuse to resume from a checkpoint of something else, as far as its config tells; no checkpoint is no obstacle.

    Raises:
        ConfigError: the checkpoint is damaged, of another format, or of another configuration.
    """
    if config.resume and config.output_dir is not None:
        path = Path(config.output_dir) / CHECKPOINT_NAME
        if path.is_file():
            _check_config(path, _read_metadata(path), _list_options(config))


class FitCheckpoint:
    """Parameters, AdamW's moments and random states of a run, in `output_dir`.

    Args:
        config: with an `output_dir`.
        base_fingerprint: of the base that is fitted on.
        model: whose trainables are kept.
        optimizer: over those trainables.
        imagery: (F,C,h,w) of the run, kept and put back in place.
        generator: of the run; torch's global states are kept too, dropout draws from them.
    """

    def __init__(
        self,
        config: FitConfig,
        base_fingerprint: str,
        model: StyleModel,
        optimizer: torch.optim.AdamW,
        generator: torch.Generator,
        imagery: Tensor,
    ) -> None:
        assert config.output_dir is not None
        self.path = Path(config.output_dir) / CHECKPOINT_NAME
        self.options = _list_options(config) | {"base_fingerprint": base_fingerprint}
        self.model, self.optimizer, self.generator, self.imagery = model, optimizer, generator, imagery
        device = model.style_embeds.device
        self.cuda_device = device if device.type == "cuda" else None

    def save(self, step: int) -> None:
        """Write the state after `step` steps, whole or not at all; parameters that were never moved have no moments."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.model.named_trainables():
            tensors[f"parameter.{name}"] = parameter.detach()
            moments = self.optimizer.state.get(parameter, {})
            tensors |= {f"{key}.{name}": moments[key] for key in _MOMENTS if key in moments}
        tensors |= {
            "imagery": self.imagery,
            "random.generator": self.generator.get_state(),
            "random.global": torch.get_rng_state(),
        }
        if self.cuda_device is not None:
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.cuda_device)
        metadata = {"format": FORMAT, "format_version": str(FORMAT_VERSION)}
        metadata |= {"step": str(step), "config": json.dumps(self.options, sort_keys=True)}
        content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as temporary:
            temporary.write_bytes(content)

    def load(self) -> int:
        """Put the saved state back; returns the step reached, 0 where nothing was saved.

        Raises:
            ConfigError: the checkpoint is damaged, of another format, or of another configuration or base.
        """
        if not self.path.is_file():
            return 0
        metadata = _read_metadata(self.path)
        _check_config(self.path, metadata, self.options)
        self._restore(safetensors.torch.load_file(self.path))
        return int(metadata["step"])

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_trainables():
            parameter.data.copy_(tensors[f"parameter.{name}"])
            state = {key: tensors[f"{key}.{name}"] for key in _MOMENTS if f"{key}.{name}" in tensors}
            if not state:
                continue
            # AdamW keeps the moments beside the parameter, its step counter only where it is fused.
            on_cpu = set() if self.optimizer.defaults["fused"] else {"step"}
            self.optimizer.state[parameter] = {
                key: value if key in on_cpu else value.to(parameter.device) for key, value in state.items()
            }
        self.imagery.copy_(tensors["imagery"])
        self.generator.set_state(tensors["random.generator"])
        torch.set_rng_state(tensors["random.global"])
        if self.cuda_device is not None and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], self.cuda_device)


def _list_options(config: FitConfig) -> dict[str, Any]:
    """What a checkpoint has in common with the run that goes on from it, as plain values."""
    options: dict[str, Any] = json.loads(json.dumps(asdict(config) | dict.fromkeys(_RUN_ONLY)))
    return options


def _read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a checkpoint.

    Raises:
        ConfigError: it is damaged, or of another format.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except SafetensorError as error:
        raise ConfigError(f"{path} is damaged ({error}): delete it, and fit from the start") from error
    found, known = (metadata.get("format"), metadata.get("format_version")), (FORMAT, str(FORMAT_VERSION))
    if found != known:
        raise ConfigError(
            f"{path} has format {' '.join(map(str, found))}, not {' '.join(known)}: resume with the acfun "
            "that wrote it, or delete it and fit from the start"
        )
    return metadata


def _check_config(path: Path, metadata: dict[str, str], options: dict[str, Any]) -> None:
    """Refuse a checkpoint that was saved with other values of these options (ConfigError)."""
    saved = json.loads(metadata["config"])
    others = [name for name, value in options.items() if saved.get(name) != value]
    if others:
        told = "; ".join(f"{name} is {saved.get(name)!r} there, {options[name]!r} here" for name in others)
        raise ConfigError(
            f"{path} belongs to another configuration or base ({told}): resume with its own, or give another "
            "output_dir, on the command line --run-dir"
        )
