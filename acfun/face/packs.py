"""Packs of face models as insightface hands them out: a folder of ONNX files, checked before any library sees it.

Where a path is wrong, insightface downloads, creates folders or fails an assertion without a word; what is said here
names the path and the remedy.
"""

import hashlib
import logging
from pathlib import Path

from acfun.errors import FaceModelError
from acfun.face.align import IDENTITY_CROP_SIZE
from acfun.face.onnx_module import Graph, read_graph
from acfun.face.storage import CONFIG_FILE, WEIGHTS_FILE

EMBEDDED = "mini"
MODEL_SUFFIX = ".onnx"
# A detector of insightface has scores and boxes for three to five strides, most have points too.
MIN_DETECTOR_OUTPUTS = 5
# What the names of insightface's packs and recognition files begin with.
_INSIGHTFACE_NAMES = ("buffalo", "antelope", "glint", "w600k", "ms1mv", "webface", "scrfd", "det_", "arcface_r")
INSIGHTFACE_LICENCE = "insightface hands its models out for non-commercial research only"
OTHER_LICENCE = "whether these models may be used for your purpose is for their licence to say"

_logger = logging.getLogger(__name__)


def check_path(source: str | Path) -> Path:
    """An ONNX file, or a folder with some, as an absolute path.

    Raises:
        FaceModelError: there is nothing, a zip file, a folder without models, or one whose models lie a folder deeper.
    """
    path = Path(source).expanduser().absolute()
    if not path.exists():
        raise FaceModelError(
            f"{path}: there is no such folder or file",
            "check the path, or download the pack and unpack it there; acfun downloads no face models",
        )
    if path.is_file():
        if path.suffix.lower() != MODEL_SUFFIX:
            remedy = "unpack it and give the folder" if path.suffix.lower() == ".zip" else "give a folder or *.onnx"
            raise FaceModelError(f"{path} is no ONNX file", remedy)
    elif not list_models(path):
        _refuse_empty(path)
    return path


def _refuse_empty(folder: Path) -> None:
    nested = sorted({path.parent for path in folder.glob(f"*/*{MODEL_SUFFIX}")})
    if nested:
        raise FaceModelError(
            f"{folder} holds no *.onnx, but {nested[0]} does, since the zip file had a folder of its own",
            f"give {nested[0]}, or move its files one folder up",
        )
    raise FaceModelError(f"{folder} holds no *.onnx", "unpack the pack's zip file there once more")


def list_models(folder: Path) -> list[Path]:
    """ONNX files of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == MODEL_SUFFIX and path.is_file())


def find_recognition(source: str | Path) -> tuple[Path, Graph]:
    """The file of a pack that turns aligned crops into embeddings, or the one that was given, and its graph.

    Raises:
        FaceModelError: the path cannot be used, a file is damaged, or none or several are for recognition.
        MissingExtraError: the package onnx is not installed.
    """
    path = check_path(source)
    found, others = {}, []
    for model in [path] if path.is_file() else list_models(path):
        graph = read_graph(model)
        if is_recognition(graph):
            found[model] = graph
        else:
            others.append(f"{model.name} {_describe(graph)}")
    if len(found) > 1:
        names = ", ".join(model.name for model in found)
        raise FaceModelError(f"{path} holds several recognition models ({names})", "give one of these files")
    if not found:
        size = f"(B,3,{IDENTITY_CROP_SIZE},{IDENTITY_CROP_SIZE})"
        raise FaceModelError(
            f"{path} is no recognition model, which takes {size} and gives one output; there is {', '.join(others)}",
            "give a pack with one, such as buffalo_l or antelopev2, or a file of the ArcFace kind",
        )
    return found.popitem()


def find_detection(source: str | Path) -> Path:
    """The file of a pack that finds faces.

    Raises:
        FaceModelError: the path is no folder of models, a file is damaged, or none finds faces.
        MissingExtraError: the package onnx is not installed.
    """
    path = check_path(source)
    if path.is_file():
        raise FaceModelError(f"{path} is a file", "insightface takes a pack: give the folder with det_*.onnx")
    for model in list_models(path):
        if len(read_graph(model).output_names) >= MIN_DETECTOR_OUTPUTS:
            return model
    names = ", ".join(model.name for model in list_models(path))
    raise FaceModelError(
        f"{path} holds no model that finds faces; there is {names}",
        "unpack the whole pack there: det_10g.onnx in buffalo_l, scrfd_10g_bnkps.onnx in antelopev2",
    )


def is_recognition(graph: Graph) -> bool:
    """Whether a graph goes from one aligned crop to one output."""
    return graph.input_shape[1:] == (3, IDENTITY_CROP_SIZE, IDENTITY_CROP_SIZE) and len(graph.output_names) == 1


def describe_licence(path: Path) -> str:
    """What is known of the terms of a file of models, by its name or its folder's."""
    names = (path.name.lower(), path.parent.name.lower())
    is_theirs = any(name.startswith(_INSIGHTFACE_NAMES) for name in names)
    return f"{path.name}: {INSIGHTFACE_LICENCE if is_theirs else OTHER_LICENCE}"


def note_licence(path: Path) -> None:
    """Say under which terms models are used, as a warning of the logger `acfun.face.packs`."""
    _logger.warning(describe_licence(path))


def compute_fingerprint(source: str | Path) -> str:
    """The word "mini" for the embedded models, else a sha256 of the content of a file, or of a folder's models.

    Raises:
        FaceModelError: there is nothing at the path, or a configuration without weights.
    """
    if str(source) == EMBEDDED:
        return EMBEDDED
    path, digest = Path(source).expanduser().absolute(), hashlib.sha256()
    if (path / CONFIG_FILE).is_file():
        models = [path / CONFIG_FILE, path / WEIGHTS_FILE]
        if not models[-1].is_file():
            raise FaceModelError(f"{path} has no {WEIGHTS_FILE}", "copy the identity encoder's folder there once more")
    else:
        models = [check_path(path)] if path.is_file() else list_models(check_path(path))
    for model in models:
        with model.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _describe(graph: Graph) -> str:
    shape = ",".join("?" if size is None else str(size) for size in graph.input_shape)
    return f"({shape}) → {len(graph.output_names)}"
