"""Choosing where to compute."""

import torch

from acfun.errors import ConfigError


def select_device(name: str) -> torch.device:
    """The device of a name: "auto" is CUDA, else MPS, else the CPU.

    Raises:
        ConfigError: the device is unknown or absent here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is unknown: use auto, cpu, cuda or mps") from error
    is_absent = (device.type == "cuda" and not torch.cuda.is_available()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if is_absent:
        raise ConfigError(
            f"device {name!r} is not available to this torch: use --device cpu, or install a build for it"
        )
    return device
