"""Choosing where to compute, and with which chance."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TypeVar

import torch
from torch import nn

from acfun.errors import ConfigError

Module = TypeVar("Module", bound=nn.Module)


def select_device(name: str) -> torch.device:
    """The device of a name: "auto" is CUDA, else MPS, else the CPU.

    Raises:
        ConfigError: the device is unknown or absent here.
    """
    is_present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, present in is_present.items() if present))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is unknown: use auto, cpu, cuda or mps") from error
    if not is_present.get(device.type, False):
        raise ConfigError(
            f"device {name!r} is not available to this torch: use --device cpu, or install a build for it"
        )
    return device


def place(module: Module, device: torch.device) -> Module:
    """The module on a device: itself where it is there already, else a copy, since others may be using it."""
    weight = next(chain(module.parameters(), module.buffers()), None)
    if weight is None:
        return module
    here = weight.device
    is_there = here.type == device.type and device.index in {None, here.index}
    return module if is_there else copy.deepcopy(module).to(device)


@contextmanager
def fork_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, which first weights and dropout draw from, and put them back afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
