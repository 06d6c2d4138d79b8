"""Averaged weights: what pretraining measures and exports."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Ema:
    """Exponential moving average of a module's parameters, in float32; buffers stay the module's own.

    The decay warms up as min(decay, (1 + n) / (10 + n)) after n updates, to forget the random start early.
    """

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        self.decay, self.num_updates = decay, 0
        self.averages = {name: p.detach().float().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the averages towards the module's parameters."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        parameters = [p.detach().float() for p in module.parameters()]
        torch._foreach_lerp_(list(self.averages.values()), parameters, 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the module's parameters with the averages."""
        for name, parameter in module.named_parameters():
            parameter.copy_(self.averages[name])

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The module, in evaluation mode, carries the averages inside the `with` block and is as it was afterwards."""
        own, is_training = {name: p.detach().clone() for name, p in module.named_parameters()}, module.training
        self.copy_to(module.eval())
        try:
            yield
        finally:
            module.train(is_training)
            with torch.no_grad():
                for name, parameter in module.named_parameters():
                    parameter.copy_(own[name])

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: averages, decay, number of updates."""
        return {"averages": self.averages, "decay": self.decay, "num_updates": self.num_updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; the averages keep the device they are on."""
        for name, average in self.averages.items():
            average.copy_(state["averages"][name])
        self.decay, self.num_updates = state["decay"], state["num_updates"]
