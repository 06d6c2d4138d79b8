"""Identity encoders of other origin: ArcFace-type ONNX files behind the interface of the embedded encoder.

An encoder is a module from crops (B,3,112,112) in [-1,1] of `acfun.face.align.face_crop` to unit vectors (B,D).
"""

from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acfun.errors import FaceModelError
from acfun.face.align import IDENTITY_CROP_SIZE
from acfun.face.identity import IdentityEncoder, check_crops, load_identity_encoder
from acfun.face.onnx_module import Graph, OnnxModule
from acfun.face.packs import EMBEDDED, find_recognition, note_licence
from acfun.face.storage import CONFIG_FILE

# Among how many of its first nodes a graph normalises its own input, as insightface looks for it.
_NUM_FIRST_NODES = 8


class OnnxIdentityEncoder(nn.Module):
    """An ArcFace-type graph as an identity encoder (Deng et al. 2019, https://arxiv.org/abs/1801.07698).

    Args:
        graph: from (B,3,112,112) to (B,D), where (x − 127.5) / 127.5 of RGB values is what it was trained on; one that
            begins with a subtraction and a product, as exports from MXNet do, normalises RGB in [0,255] itself.
        name: of the file, for messages.

    Raises:
        FaceModelError: the graph has an unknown operator.
    """

    def __init__(self, graph: Graph, name: str = "the graph") -> None:
        super().__init__()
        self.network = OnnxModule(graph, name)
        first = {node.operator for node in graph.nodes[:_NUM_FIRST_NODES]}
        self.takes_bytes = "Sub" in first and bool({"Mul", "Div"} & first)
        self.takes_single_crops = graph.input_shape[0] == 1

    def forward(self, crops: Tensor) -> Tensor:
        """Identity embeddings (B,D) of unit length, float32, differentiable in the crops.

        Args:
            crops: (B,3,112,112) in [-1,1], from `acfun.face.align.face_crop`.

        Raises:
            ValueError: the crops have another shape.
        """
        check_crops(crops)
        pixels = (crops.float() + 1) * 127.5 if self.takes_bytes else crops.float()
        parts = pixels.split(1) if self.takes_single_crops else [pixels]
        embeds = torch.cat([self.network(part).flatten(1) for part in parts])
        return F.normalize(embeds, dim=1)


def load_recognition(source: str | Path = EMBEDDED) -> nn.Module:
    """Load an identity encoder, frozen; the same object for the same path.

    The terms of a pack are said as a warning of the logger `acfun.face.packs`.

    Args:
        source: "mini" for the embedded one, the folder of a pack of insightface, an ONNX file, or a folder written by
            `IdentityEncoder.save_pretrained`.

    Raises:
        FaceModelError: there is no such model, or it cannot be run.
        MissingExtraError: it is an ONNX file, and the package onnx is not installed.
    """
    if str(source) == EMBEDDED:
        return load_identity_encoder()
    return _load(Path(source).expanduser().absolute())


@lru_cache(maxsize=2)
def _load(path: Path) -> nn.Module:
    if (path / CONFIG_FILE).is_file():
        return _read_encoder(path)
    model, graph = find_recognition(path)
    encoder = OnnxIdentityEncoder(graph, str(model)).eval()
    _check_output(encoder, model)
    note_licence(model)
    return encoder


def _read_encoder(folder: Path) -> IdentityEncoder:
    try:
        return IdentityEncoder.read(folder).requires_grad_(False)
    except ValueError as error:
        raise FaceModelError(
            str(error), "give a folder written by IdentityEncoder.save_pretrained, a pack of insightface, or *.onnx"
        ) from error


@torch.no_grad()
def _check_output(encoder: OnnxIdentityEncoder, model: Path) -> None:
    """Run two crops: what does not fit together shows here, not in the middle of a fit."""
    crops = torch.linspace(-1, 1, 2 * 3 * IDENTITY_CROP_SIZE**2).view(2, 3, IDENTITY_CROP_SIZE, IDENTITY_CROP_SIZE)
    try:
        embeds = encoder(crops)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise FaceModelError(
            f"{model} cannot be run ({error})", "give another model, or export this one anew"
        ) from error
    if embeds.ndim != 2 or not bool(embeds.isfinite().all()):
        raise FaceModelError(f"{model} gives no finite embeddings", "copy or download it again")
