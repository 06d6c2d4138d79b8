"""Finding faces with insightface's detectors, for pictures in which the embedded detector finds none.

The detector says where the five points of a face are; the embedded network finds all 189 landmarks from there.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from acfun.errors import FaceModelError, MissingExtraError
from acfun.face.finder import FaceFinder, load_face_finder
from acfun.face.packs import EMBEDDED, find_detection, note_licence
from acfun.paths import mini_dir

FACES_LINE = 'pip install "acfun-stylization[faces]"'
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"
CUDA_REMEDY = "pip uninstall -y onnxruntime, then pip install onnxruntime-gpu; or choose the device cpu"
# Photographs ask for more; painted faces score low, and what is fainter in one of their views counts as unseen there.
MIN_DETECTION_SCORE = 0.2


class InsightFaceDetector:
    """insightface's detector as a `PointDetector`.

    Args:
        analysis: a prepared `insightface.app.FaceAnalysis`.
    """

    def __init__(self, analysis: Any) -> None:
        self.analysis = analysis

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Itself: the library's sessions cannot be copied, and need not be."""
        return self

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Eyes, nose and corners of the mouth (N,5,2) in pixels, and scores (N,) in [0,1], of (1,3,H,W) in [-1,1].

        Raises:
            FaceModelError: the detector finds boxes only.
        """
        pixels = ((image[0].float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        found = self.analysis.get(np.ascontiguousarray(pixels.permute(1, 2, 0).flip(-1).numpy()))
        if any(face.kps is None for face in found):
            raise FaceModelError(
                "the pack's detector finds boxes only", "give a pack with points, such as buffalo_l or antelopev2"
            )
        points = torch.tensor(np.array([face.kps for face in found], np.float32)).view(-1, 5, 2)
        return points.to(image), torch.tensor([float(face.det_score) for face in found]).to(image)


def load_finder(source: str | Path = EMBEDDED, device: str = "auto") -> FaceFinder:
    """Load a face finder; the same object for the same arguments.

    The terms of a pack are said as a warning of the logger `acfun.face.packs`.

    Args:
        source: "mini" for the embedded finder, or the folder of a pack of insightface, whose detector then takes the
            place of the embedded one.
        device: where insightface computes: "cuda" needs its GPU runtime, anything else takes what there is.

    Raises:
        FaceModelError: the pack cannot be used, both builds of onnxruntime are installed, or there is none for CUDA.
        MissingExtraError: insightface or onnx is not installed.
    """
    if str(source) == EMBEDDED:
        return load_face_finder()
    return _load(Path(source).expanduser().absolute(), device)


@lru_cache(maxsize=1)
def _load(path: Path, device: str) -> FaceFinder:
    model = find_detection(path)
    check_runtimes({name: _find_version(name) for name in RUNTIMES})
    try:
        import onnxruntime
        from insightface.app import FaceAnalysis
    except ImportError as error:
        raise MissingExtraError(f"finding faces with {path} needs insightface and onnxruntime: {FACES_LINE}") from error
    providers = choose_providers(device, onnxruntime.get_available_providers())
    try:
        analysis = FaceAnalysis(name=str(path), allowed_modules=["detection"], providers=providers)
        analysis.prepare(ctx_id=0, det_thresh=MIN_DETECTION_SCORE)
    # Damaged weights and unfit runtimes fail in many ways, with exceptions of onnxruntime's own.
    except Exception as error:
        raise FaceModelError(
            f"insightface cannot use {path} ({type(error).__name__}: {error})", "unpack the pack there once more"
        ) from error
    finder = FaceFinder.from_pretrained(mini_dir() / "face_finder").requires_grad_(False)
    finder.point_detector = InsightFaceDetector(analysis)
    note_licence(model)
    return finder


def check_runtimes(installed: Mapping[str, str | None]) -> None:
    """Refuse two builds of onnxruntime: they share one folder, and the last one installed wins.

    Args:
        installed: version by name of distribution; None or missing where it is not installed.

    Raises:
        FaceModelError: both are.
    """
    if all(installed.get(name) for name in RUNTIMES):
        raise FaceModelError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install the one you need (-gpu with a GPU)",
        )


def choose_providers(device: str, available: Sequence[str]) -> list[str]:
    """What onnxruntime shall compute with, which otherwise falls back to the CPU without a word.

    Args:
        device: "cuda" insists; "auto" takes CUDA where there is one; anything else is the CPU.
        available: `onnxruntime.get_available_providers()`.

    Raises:
        FaceModelError: CUDA is asked for, and this onnxruntime has none.
    """
    has_cuda = CUDA_PROVIDER in available
    if device.startswith("cuda") and not has_cuda:
        raise FaceModelError(
            f"onnxruntime has no {CUDA_PROVIDER}, only {', '.join(available)}: insightface would compute on the CPU",
            CUDA_REMEDY,
        )
    uses_cuda = has_cuda and device.startswith(("cuda", "auto"))
    return [CUDA_PROVIDER, CPU_PROVIDER] if uses_cuda else [CPU_PROVIDER]


def _find_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
