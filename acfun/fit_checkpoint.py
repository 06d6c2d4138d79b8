"""State of a fit on disk: one safetensors, written atomically, from which `resume` continues to the same result."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from acfun.config import FitConfig
from acfun.errors import ConfigError
from acfun.paths import atomic_write
from acfun.style_model import StyleModel

CHECKPOINT_NAME = "fit.safetensors"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_RUN_ONLY = {"output_dir", "resume", "preview_every", "checkpoint_every", "device"}


def describe_fit(config: FitConfig) -> dict[str, Any]:
    """The config without what belongs to one machine or one run, so that equal fits give equal files."""
    described = asdict(config) | {"style_path": Path(config.style_path).name, "face_paths": len(config.face_paths)}
    return {name: value for name, value in described.items() if name not in _RUN_ONLY}


class FitCheckpoint:
    """Parameters, AdamW's moments and random states of a run, in `output_dir`.

    Args:
        config: with an `output_dir`.
        model: whose trainables are kept.
        optimizer: over those trainables.
        generator: of the run; torch's global state is kept too, dropout draws from it.
    """

    def __init__(
        self, config: FitConfig, model: StyleModel, optimizer: torch.optim.AdamW, generator: torch.Generator
    ) -> None:
        assert config.output_dir is not None
        self.path = Path(config.output_dir) / CHECKPOINT_NAME
        self.signature = json.dumps(asdict(config) | dict.fromkeys(_RUN_ONLY), sort_keys=True)
        self.model, self.optimizer, self.generator = model, optimizer, generator

    def save(self, step: int) -> None:
        """Write the state after `step` steps, whole or not at all."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.model.named_trainables():
            tensors[f"parameter.{name}"] = parameter.detach()
            moments = self.optimizer.state[parameter]
            tensors |= {f"{key}.{name}": moments[key] for key in _MOMENTS}
        tensors |= {"random.generator": self.generator.get_state(), "random.global": torch.get_rng_state()}
        metadata = {"step": str(step), "config": self.signature}
        content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as temporary:
            temporary.write_bytes(content)

    def load(self) -> int:
        """Put the saved state back; returns the step reached, 0 where nothing was saved.

        Raises:
            ConfigError: the checkpoint belongs to another configuration.
        """
        if not self.path.is_file():
            return 0
        with safe_open(self.path, "pt") as file:
            metadata = file.metadata()
            if metadata["config"] != self.signature:
                raise ConfigError(
                    f"{self.path} belongs to another configuration: resume with its own, or give another output_dir"
                )
            for name, parameter in self.model.named_trainables():
                parameter.data.copy_(file.get_tensor(f"parameter.{name}"))
                state = {key: file.get_tensor(f"{key}.{name}") for key in _MOMENTS}
                # AdamW keeps its step counter on the CPU, the moments beside the parameter.
                self.optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
                }
            self.generator.set_state(file.get_tensor("random.generator"))
            torch.set_rng_state(file.get_tensor("random.global"))
        return int(metadata["step"])
