"""Settings of the process that must be there before the heavy libraries are."""

import os
import sys

# glibc by default hands big buffers back to the kernel at every step: half of a convnet's speed on a CPU.
MALLOC_SETTINGS = {"MALLOC_MMAP_THRESHOLD_": "8589934592", "MALLOC_TRIM_THRESHOLD_": "17179869184"}


# Some of what acfun computes has no kernel on Apple's GPUs; torch, which reads this when it is imported, then takes the
# CPU.
MPS_FALLBACK = "PYTORCH_ENABLE_MPS_FALLBACK"


def allow_mps_fallback() -> None:
    """Let torch compute on the CPU what Apple's GPUs cannot; call it before torch is imported."""
    os.environ.setdefault(MPS_FALLBACK, "1")


def has_malloc_settings() -> bool:
    """Whether malloc keeps big buffers, or is not the one that these settings are for."""
    return sys.platform != "linux" or MALLOC_SETTINGS.keys() <= os.environ.keys()


def restart_with_malloc_settings() -> None:
    """On Linux, restart this process once with malloc settings that are read at start only; elsewhere do nothing.

    Settings of the user's own are kept. Call it first thing: what the process holds in memory is lost.
    """
    if not has_malloc_settings():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**MALLOC_SETTINGS, **os.environ})
