"""One-shot face stylization: one painting and one photograph give the portrait in the painting's style.

The names below are loaded when they are first used, so that `import acfun` stays fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acfun.base import load_base
    from acfun.config import FitConfig
    from acfun.face.finder import find_faces
    from acfun.fit import fit_style
    from acfun.images import load_image
    from acfun.lora_import import import_lora
    from acfun.pipelines import build_pipeline
    from acfun.pipelines.face_stylization import FaceStylizationPipeline
    from acfun.pipelines.face_stylization_xl import FaceStylizationXLPipeline
    from acfun.style import Style

__all__ = [
    "FaceStylizationPipeline",
    "FaceStylizationXLPipeline",
    "FitConfig",
    "Style",
    "__version__",
    "build_pipeline",
    "find_faces",
    "fit_style",
    "import_lora",
    "load_base",
    "load_image",
]

__version__: str

_DISTRIBUTION = "acfun-stylization"
_MODULES = {
    "FaceStylizationPipeline": "acfun.pipelines.face_stylization",
    "FaceStylizationXLPipeline": "acfun.pipelines.face_stylization_xl",
    "FitConfig": "acfun.config",
    "Style": "acfun.style",
    "build_pipeline": "acfun.pipelines",
    "find_faces": "acfun.face.finder",
    "fit_style": "acfun.fit",
    "import_lora": "acfun.lora_import",
    "load_base": "acfun.base",
    "load_image": "acfun.images",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _find_version()
    elif name in _MODULES:
        from acfun.noise import without_messages

        with without_messages():
            value = getattr(importlib.import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _find_version() -> str:
    """Version of the installed distribution; "0+unknown" in a checkout that is not installed."""
    from importlib import metadata

    try:
        return metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "0+unknown"
