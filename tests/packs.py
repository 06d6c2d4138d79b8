"""Packs of face models in insightface's layout: its file names and the shapes of its models, with tiny contents."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CROP = 112
DETECTOR_SIZE = 640
STRIDES, ANCHORS = (8, 16, 32), 2
EMBEDDING_SIZE = 12
OPSET = 11

Arrays = dict[str, NDArray[Any]]


def save_graph(
    path: Path,
    nodes: Sequence[Any],
    weights: Arrays,
    input_shape: Sequence[int | str],
    output_shapes: Mapping[str, Sequence[int | str]],
    opset: int = OPSET,
) -> Path:
    """Write a graph of float32 tensors whose input is `image`."""
    graph = helper.make_graph(
        list(nodes),
        path.stem,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, list(input_shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in output_shapes.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def draw_weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Arrays:
    """Random weights; those whose names end in `var` are positive."""
    generator = np.random.default_rng(seed)
    weights = {name: generator.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    return {name: np.abs(array) + 0.5 if name.endswith("var") else array for name, array in weights.items()}


def write_recognition(path: Path, *, seed: int = 0, batch: int | str = "None") -> Path:
    """An IResNet of one block: Conv, PRelu, a block with BatchNormalization and a shortcut, Flatten, Gemm."""
    norm = ("scale", "bias", "mean", "var")
    shapes: dict[str, tuple[int, ...]] = {"stem": (4, 3, 3, 3), "stem_bias": (4,), "slope": (4, 1, 1)}
    shapes |= {"conv": (4, 4, 3, 3), "shortcut": (4, 4, 1, 1), "linear": (EMBEDDING_SIZE, 4 * 14 * 14)}
    shapes |= {f"norm_{name}": (4,) for name in norm} | {"linear_bias": (EMBEDDING_SIZE,)}
    shapes |= {f"last_{name}": (EMBEDDING_SIZE,) for name in norm}
    conv: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "dilations": [1, 1], "group": 1}
    nodes = [
        helper.make_node("Conv", ["image", "stem", "stem_bias"], ["a"], strides=[4, 4], **conv),
        helper.make_node("PRelu", ["a", "slope"], ["b"]),
        helper.make_node("BatchNormalization", ["b", *(f"norm_{n}" for n in norm)], ["c"], epsilon=1e-5, momentum=0.9),
        helper.make_node("Conv", ["c", "conv"], ["d"], strides=[2, 2], **conv),
        helper.make_node("Conv", ["b", "shortcut"], ["e"], strides=[2, 2], kernel_shape=[1, 1]),
        helper.make_node("Add", ["d", "e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"], axis=1),
        helper.make_node("Gemm", ["g", "linear", "linear_bias"], ["h"], alpha=1.0, beta=1.0, transB=1),
        helper.make_node("BatchNormalization", ["h", *(f"last_{n}" for n in norm)], ["out"], epsilon=2e-5),
    ]
    return save_graph(path, nodes, draw_weights(shapes, seed), (batch, 3, CROP, CROP), {"out": (batch, EMBEDDING_SIZE)})


def write_mxnet_recognition(path: Path) -> Path:
    """As MXNet exports: the graph normalises its input, slopes are flat, Dropout and Reshape before the last layer."""
    weights = draw_weights({"conv": (4, 3, 7, 7), "slope": (4,), "linear": (4 * 256, EMBEDDING_SIZE)})
    weights |= {"minus": np.array([127.5], np.float32), "times": np.array([1 / 127.5], np.float32)}
    weights["shape"] = np.array([0, -1], np.int64)
    nodes = [
        helper.make_node("Sub", ["image", "minus"], ["a"], name="_minusscalar0"),
        helper.make_node("Mul", ["a", "times"], ["b"], name="_mulscalar0"),
        helper.make_node("Conv", ["b", "conv"], ["c"], strides=[7, 7]),
        helper.make_node("PRelu", ["c", "slope"], ["d"]),
        helper.make_node("Dropout", ["d"], ["e"], ratio=0.4),
        helper.make_node("Reshape", ["e", "shape"], ["f"]),
        helper.make_node("MatMul", ["f", "linear"], ["out"]),
    ]
    return save_graph(path, nodes, weights, (1, 3, CROP, CROP), {"out": (1, EMBEDDING_SIZE)})


def write_flat(path: Path, size: int, width: int) -> Path:
    """What stands for the models of landmarks and attributes: (B,3,size,size) → (B,width)."""
    weights = draw_weights({"linear": (width, 3)})
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["a"]),
        helper.make_node("Flatten", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "linear"], ["out"], transB=1),
    ]
    return save_graph(path, nodes, weights, ("None", 3, size, size), {"out": ("None", width)})


def write_detector(path: Path, points: NDArray[np.float32], score: float = 0.9) -> Path:
    """A detector of SCRFD's outputs that sees one face whatever it is shown.

    Args:
        path: to write.
        points: (5,2) of the face in a picture whose longer side is 640 pixels.
        score: of the face.
    """
    low, high = points.min(0) - 20, points.max(0) + 20
    stride, cells = STRIDES[-1], DETECTOR_SIZE // STRIDES[-1]
    cell = (points.mean(0) // stride).astype(int)
    centre, anchor = cell * stride, ANCHORS * (cell[1] * cells + cell[0])
    weights: Arrays = {}
    for kind, width in {"score": 1, "bbox": 4, "kps": 10}.items():
        for step in STRIDES:
            weights[f"{kind}_{step}_value"] = np.zeros((ANCHORS * (DETECTOR_SIZE // step) ** 2, width), np.float32)
    sides = np.concatenate([centre - low, high - centre])
    weights[f"score_{stride}_value"][anchor] = score
    weights[f"bbox_{stride}_value"][anchor] = sides / stride
    weights[f"kps_{stride}_value"][anchor] = ((points - centre) / stride).reshape(-1)
    outputs: dict[str, Sequence[int | str]] = {
        name.removesuffix("_value"): array.shape for name, array in weights.items()
    }
    # The picture counts nothing, but a graph must look at it.
    weights["zero"] = np.zeros(1, np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["seen"]),
        helper.make_node("Mul", ["seen", "zero"], ["nothing"]),
        helper.make_node("ReduceMean", ["nothing"], ["none"], keepdims=0),
        *(helper.make_node("Add", [f"{name}_value", "none"], [name]) for name in outputs),
    ]
    return save_graph(path, nodes, weights, (1, 3, DETECTOR_SIZE, DETECTOR_SIZE), outputs)


def write_pack(folder: Path, points: NDArray[np.float32] | None = None) -> Path:
    """The five files of buffalo_l; the detector sees its face at `points` (5,2)."""
    seen = np.array([[250, 250], [390, 250], [320, 330], [260, 400], [380, 400]], np.float32)
    write_flat(folder / "1k3d68.onnx", 192, 68 * 3)
    write_flat(folder / "2d106det.onnx", 192, 106 * 2)
    write_detector(folder / "det_10g.onnx", seen if points is None else points)
    write_flat(folder / "genderage.onnx", 96, 3)
    write_recognition(folder / "w600k_r50.onnx")
    return folder
