"""Whether an installation can do the work: each check looks at one thing and says what to do about it."""

import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from acfun import __version__
from acfun.paths import CACHE_DIR_VARIABLE, cache_dir, mini_dir
from acfun.process import has_malloc_settings
from acfun.style_cache import styles_dir

Status = Literal["ok", "note", "problem"]

DISTRIBUTION = "acfun-stylization"
LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "safetensors",
    "pillow",
    "numpy",
    "scikit-image",
)
BASE_PARTS = (
    *("vae", "unet", "text_encoder", "image_encoder"),
    *("face_finder", "segmenter", "identity_encoder", "identity_adapter"),
)
BASE_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer.json",
    "feature_extractor/preprocessor_config.json",
    "samples/style.png",
)
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: of what was looked at.
        status: "note" hinders nothing that was asked for; "problem" does.
        detail: what was found.
        remedy: what to do; empty where nothing is to be done.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""


def examine(faces: str | None = None) -> list[Check]:
    """Run all checks on this process, and where `faces` names a pack of face models, those on it."""
    installed = list_installed()
    return [
        Check("acfun", "ok", f"{__version__}, Python {platform.python_version()}, {platform.platform()}"),
        *(check_library(name, installed, find_requirements()) for name in LIBRARIES),
        check_device(),
        check_threads(),
        check_malloc(),
        check_onnxruntime(installed),
        check_xformers(installed),
        check_insightface(installed),
        check_base(mini_dir()),
        check_cache(cache_dir()),
        *([] if faces is None else check_faces(faces)),
    ]


def list_installed() -> dict[str, str]:
    """Versions of all installed distributions by normalised name."""
    names = ((dist.metadata["Name"], dist.version) for dist in metadata.distributions())
    return {name.lower().replace("_", "-"): version for name, version in names if name}


def find_requirements() -> dict[str, Requirement]:
    """What acfun itself asks for, by name; empty in a checkout that is not installed."""
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return {}
    requirements = [Requirement(line) for line in lines]
    return {
        item.name.lower(): item for item in requirements if item.marker is None or item.marker.evaluate({"extra": ""})
    }


def check_library(name: str, installed: Mapping[str, str], requirements: Mapping[str, Requirement]) -> Check:
    """Whether a required library is there in a version that acfun was made for."""
    requirement = requirements.get(name, Requirement(name))
    remedy = f"pip install '{requirement}'"
    if name not in installed:
        return Check(name, "problem", "not installed", remedy)
    if not requirement.specifier.contains(installed[name], prereleases=True):
        return Check(name, "problem", f"{installed[name]} does not satisfy {requirement.specifier}", remedy)
    return Check(name, "ok", installed[name])


def check_device() -> Check:
    """Which accelerator torch sees."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Check("device", "ok", f"cuda: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        return Check("device", "ok", "mps")
    return Check("device", "ok", "cpu: no accelerator is seen; the embedded base is made for that")


def check_threads() -> Check:
    """How many of the cores torch uses."""
    import torch

    used, cores = (
        torch.get_num_threads(),
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    )
    detail = f"{used} threads on {cores} cores"
    if cores is not None and used < cores // 2:
        return Check("threads", "note", detail, "unset OMP_NUM_THREADS, unless other programs compute on these cores")
    return Check("threads", "ok", detail)


def check_malloc() -> Check:
    """Whether malloc keeps big buffers, which doubles the speed on a CPU."""
    if has_malloc_settings():
        return Check("malloc", "ok", "big buffers are kept between steps")
    return Check(
        "malloc",
        "note",
        "big buffers are returned to the kernel at every step, which is slow on a CPU",
        "use the acfun command, or set MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ as in acfun/process.py",
    )


def check_onnxruntime(installed: Mapping[str, str]) -> Check:
    """Whether the CPU and the GPU build lie over each other: they share one folder, and the last one installed wins."""
    from acfun.errors import FaceModelError
    from acfun.face.detection import RUNTIMES, check_runtimes

    builds = [name for name in RUNTIMES if name in installed]
    try:
        check_runtimes(installed)
    except FaceModelError as error:
        return Check("onnxruntime", "problem", error.problem, error.remedy)
    detail = ", ".join(f"{name} {installed[name]}" for name in builds)
    return Check("onnxruntime", "ok", detail or "not installed; only insightface needs it")


def check_xformers(installed: Mapping[str, str]) -> Check:
    """Whether xformers computes; importing proves nothing, since its CPU build imports and then raises."""
    import torch

    if "xformers" not in installed:
        return Check("xformers", "ok", "not installed; torch's own attention is used")
    if not torch.cuda.is_available():
        return Check(
            "xformers", "note", f"{installed['xformers']}, of no use without CUDA; torch's own attention is used"
        )
    try:
        from xformers.ops import memory_efficient_attention

        query = torch.zeros(1, 8, 1, 16, device="cuda", dtype=torch.float16)
        memory_efficient_attention(query, query, query)
    # Builds for another torch or CUDA fail in many ways: ImportError, RuntimeError, NotImplementedError.
    except Exception as error:
        return Check(
            "xformers",
            "note",
            f"{installed['xformers']} does not work here ({type(error).__name__}: {error})",
            "pip install a build for this torch, or do without: torch's own attention is used",
        )
    return Check("xformers", "ok", installed["xformers"])


def check_insightface(installed: Mapping[str, str]) -> Check:
    """Whether the optional face library is there."""
    if "insightface" in installed:
        return Check("insightface", "ok", f"{installed['insightface']} (its models are for research only)")
    return Check("insightface", "ok", "not installed; only --face-detector needs it")


def check_faces(source: str) -> list[Check]:
    """Whether a pack of face models can tell people apart, and find faces; loads the models."""
    from acfun.errors import FaceModelError, MissingExtraError
    from acfun.face.detection import load_finder
    from acfun.face.packs import check_path, describe_licence
    from acfun.face.recognition import load_recognition

    try:
        path = check_path(source)
    except FaceModelError as error:
        return [Check("face models", "problem", error.problem, error.remedy)]
    checks = [Check("face models", "ok", describe_licence(path))]
    uses: dict[str, Callable[[str], object]] = {"identity encoder": load_recognition}
    uses |= {"face detector": load_finder} if path.is_dir() else {}
    for name, load in uses.items():
        try:
            load(source)
            checks.append(Check(name, "ok", f"{path} can be used"))
        except FaceModelError as error:
            checks.append(Check(name, "problem", error.problem, error.remedy))
        except MissingExtraError as error:
            problem, _, line = str(error).rpartition(": ")
            checks.append(Check(name, "problem", problem, line))
    return checks


def check_base(directory: Path) -> Check:
    """Whether the embedded base is whole, and how large its parts are."""
    sizes = {
        part: sum(path.stat().st_size for path in (directory / part).rglob("*.safetensors")) for part in BASE_PARTS
    }
    missing = [f"weights of {part}" for part, size in sizes.items() if size == 0]
    missing += [name for name in BASE_FILES if not (directory / name).is_file()]
    if missing:
        return Check(
            "embedded base",
            "problem",
            f"{directory} has no {', no '.join(missing)}",
            "reinstall acfun, or train the parts with train/pretrain_*.py",
        )
    parts = ", ".join(f"{part} {size / MEGABYTE:.1f}" for part, size in sizes.items())
    return Check("embedded base", "ok", f"{sum(sizes.values()) / MEGABYTE:.1f} MB: {parts}")


def check_cache(directory: Path) -> Check:
    """Whether fitted styles can be kept."""
    remedy = f"set {CACHE_DIR_VARIABLE} to a folder that can be written to"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        return Check("cache", "problem", f"{directory} cannot be written to ({error.strerror})", remedy)
    sizes = [path.stat().st_size for path in styles_dir().glob("*.safetensors")]
    return Check("cache", "ok", f"{directory}: {len(sizes)} styles, {sum(sizes) / MEGABYTE:.1f} MB")
