"""Choosing where to compute, and with which chance."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TypeVar

import torch
from torch import nn

from acfun.errors import ConfigError
from acfun.process import MPS_FALLBACK

Module = TypeVar("Module", bound=nn.Module)

# None leaves it to the base's family and to the device.
DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}


def select_device(name: str) -> torch.device:
    """The device of a name: "auto" is CUDA, else MPS where torch may fall back to the CPU, else the CPU.

    Raises:
        ConfigError: the device is unknown or absent here.
    """
    has_mps, has_fallback = torch.backends.mps.is_available(), os.environ.get(MPS_FALLBACK) == "1"
    is_present = {"cuda": torch.cuda.is_available(), "mps": has_mps and has_fallback, "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, present in is_present.items() if present))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is unknown: use auto, cpu, cuda or mps") from error
    if device.type == "mps" and has_mps and not has_fallback:
        raise ConfigError(f"device 'mps' needs {MPS_FALLBACK}=1, set before torch is imported; or use --device cpu")
    if not is_present.get(device.type, False):
        raise ConfigError(
            f"device {name!r} is not available to this torch: use --device cpu, or install a build for it"
        )
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device itself computes in bfloat16; where it only emulates that, float32 is faster."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


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
