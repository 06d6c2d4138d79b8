"""ONNX graphs in torch: each operator as ONNX's own reference computes it, gradients, and what is refused."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from acfun.errors import FaceModelError, MissingExtraError
from acfun.face.onnx_module import Graph, Node, OnnxModule, read_graph

SHAPE = (2, 4, 6, 7)


def make_graph(*nodes: Node, **weights: torch.Tensor) -> Graph:
    return Graph(nodes, weights, "image", (None, 3, 4, 4), ("out",))


def test_nodes_run_in_order_and_share_values() -> None:
    first, second = Node("Relu", ("image",), "a", {}), Node("Add", ("a", "image"), "out", {})
    image = torch.randn(1, 3, 4, 4)
    assert torch.equal(OnnxModule(make_graph(first, second))(image), image.relu() + image)


def test_weights_are_buffers_and_integers_are_not() -> None:
    nodes = (Node("Mul", ("image", "factor"), "a", {}), Node("Reshape", ("a", "shape"), "out", {}))
    module = OnnxModule(make_graph(*nodes, factor=torch.tensor(2.0), shape=torch.tensor([0, -1])))
    assert [tuple(buffer.shape) for buffer in module.buffers()] == [()]
    assert not list(module.parameters())
    assert torch.equal(module(torch.ones(2, 3, 4, 4)), torch.full((2, 48), 2.0))


def test_an_unknown_operator_is_named_with_the_known_ones() -> None:
    with pytest.raises(FaceModelError, match=r"face\.onnx uses the operator Gelu, LSTM, .*known are Add, AveragePool"):
        OnnxModule(make_graph(Node("LSTM", ("image",), "a", {}), Node("Gelu", ("a",), "out", {})), "face.onnx")


@pytest.mark.parametrize(
    ("operator", "attributes", "named"),
    [
        ("Conv", {"auto_pad": "SAME_UPPER"}, "auto_pad = 'SAME_UPPER'"),
        ("BatchNormalization", {"training_mode": 1}, "training_mode = 1"),
        ("Relu", {"slope": 0.1}, "slope = 0.1"),
    ],
)
def test_what_an_operator_cannot_do_is_named(operator: str, attributes: dict[str, Any], named: str) -> None:
    with pytest.raises(FaceModelError, match=f"{operator} with {named}"):
        OnnxModule(make_graph(Node(operator, ("image",), "out", attributes)))


def test_without_onnx_the_pip_line_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r'needs the package onnx: pip install "acfun-stylization\[identity\]"'):
        read_graph(tmp_path / "face.onnx")


def noise(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def integers(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


# Operator, its further inputs, its attributes, the version of ONNX.
CASES: list[tuple[str, dict[str, NDArray[Any]], dict[str, Any], int]] = [
    ("Add", {"b": noise(4, 1, 1)}, {}, 13),
    ("Sub", {"b": noise(1)}, {}, 13),
    ("Mul", {"b": noise(4, 1, 1)}, {}, 13),
    ("Div", {"b": noise(1) + 5}, {}, 13),
    ("MatMul", {"b": noise(7, 3)}, {}, 13),
    ("Relu", {}, {}, 13),
    ("LeakyRelu", {}, {"alpha": 0.2}, 13),
    ("Sigmoid", {}, {}, 13),
    ("Identity", {}, {}, 13),
    ("Dropout", {}, {"ratio": 0.4}, 11),
    ("Dropout", {"ratio": np.array(0.4, np.float32)}, {}, 13),
    ("PRelu", {"b": noise(4, 1, 1)}, {}, 13),
    ("Clip", {}, {"min": -0.5, "max": 0.5}, 6),
    ("Clip", {"low": np.array(-0.3, np.float32)}, {}, 13),
    ("Clip", {}, {}, 13),
    ("Conv", {"w": noise(4, 2, 3, 3), "b": noise(4)}, {"group": 2, "pads": [0, 1, 1, 0], "strides": [2, 1]}, 13),
    ("Conv", {"w": noise(5, 4, 2, 2)}, {"dilations": [2, 2], "pads": [1, 2, 1, 2], "kernel_shape": [2, 2]}, 13),
    ("BatchNormalization", {n: np.abs(noise(4)) + i for i, n in enumerate("sbmv")}, {"epsilon": 1e-3}, 15),
    ("GlobalAveragePool", {}, {}, 13),
    ("AveragePool", {}, {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 0]}, 13),
    ("AveragePool", {}, {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1], "count_include_pad": 1}, 13),
    ("MaxPool", {}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, 12),
    ("MaxPool", {}, {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 0, 1]}, 12),
    ("Flatten", {}, {}, 13),
    ("Flatten", {}, {"axis": 2}, 13),
    ("Reshape", {"shape": integers(0, 2, -1)}, {}, 13),
    ("Transpose", {}, {"perm": [0, 2, 3, 1]}, 13),
    ("Unsqueeze", {}, {"axes": [0, 3]}, 11),
    ("Unsqueeze", {"axes": integers(-1, 1)}, {}, 13),
    ("ReduceMean", {}, {"axes": [2, 3], "keepdims": 0}, 13),
    ("ReduceMean", {"axes": integers(1)}, {}, 18),
    ("ReduceMean", {}, {}, 13),
]


def assert_agrees_with_onnx(path: Path, image: NDArray[np.float32]) -> None:
    """Against the numpy interpreter of the package onnx."""
    from onnx.reference import ReferenceEvaluator

    results: Any = ReferenceEvaluator(str(path)).run(None, {"image": image})
    wanted = results[0]
    found = OnnxModule(read_graph(path))(torch.from_numpy(image))
    assert tuple(found.shape) == wanted.shape
    np.testing.assert_allclose(found.numpy(), wanted, atol=2e-5)


def save(nodes: list[Any], weights: dict[str, NDArray[Any]], path: Path, opset: int) -> Path:
    """A graph on an image of `SHAPE`; the shape of the result is left open."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("operator", "weights", "attributes", "opset"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_operators_do_what_onnx_says(
    operator: str, weights: dict[str, NDArray[Any]], attributes: dict[str, Any], opset: int, tmp_path: Path
) -> None:
    helper = pytest.importorskip("onnx").helper
    node = helper.make_node(operator, ["image", *weights], ["out"], **attributes)
    assert_agrees_with_onnx(save([node], weights, tmp_path / "one.onnx", opset), noise(*SHAPE))


def test_constants_squeeze_concat_and_gemm(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    make, weights = onnx.helper.make_node, {"w": noise(5, 2 * SHAPE[1]), "b": noise(5)}
    nodes = [
        make("Constant", [], ["axes"], value=onnx.numpy_helper.from_array(integers(2, 3))),
        make("Constant", [], ["two"], value=onnx.numpy_helper.from_array(np.array(2.0, np.float16).astype("f4"))),
        make("GlobalAveragePool", ["image"], ["a"]),
        make("Squeeze", ["a", "axes"], ["c"]),
        make("Mul", ["c", "two"], ["d"]),
        make("Concat", ["c", "d"], ["e"], axis=1),
        make("Gemm", ["e", "w", "b"], ["out"], alpha=0.5, beta=2.0, transB=1),
    ]
    assert_agrees_with_onnx(save(nodes, weights, tmp_path / "all.onnx", 13), noise(*SHAPE))


def test_gradients_run_through_a_whole_network(tmp_path: Path) -> None:
    packs = pytest.importorskip("tests.packs", reason="needs the package onnx")
    module = OnnxModule(read_graph(packs.write_recognition(tmp_path / "r50.onnx"))).double()
    image = torch.rand(1, 3, packs.CROP, packs.CROP, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(module(image)[0, 0], image)
    step = torch.randn_like(image)
    with torch.no_grad():
        difference = module(image + 1e-6 * step)[0, 0] - module(image - 1e-6 * step)[0, 0]
    assert float((slope * step).sum()) == pytest.approx(float(difference) / 2e-6, rel=1e-4)


@pytest.mark.parametrize("content", [b"", b"no graph at all", b"\x08\x07"])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    (tmp_path / "face.onnx").write_bytes(content)
    with pytest.raises(FaceModelError, match=r"face\.onnx is damaged or no ONNX file: copy or download it again"):
        read_graph(tmp_path / "face.onnx")


def test_half_precision_is_widened(tmp_path: Path) -> None:
    helper = pytest.importorskip("onnx").helper
    path = save(
        [helper.make_node("Add", ["image", "b"], ["out"])], {"b": noise(1).astype("f2")}, tmp_path / "h.onnx", 13
    )
    assert read_graph(path).weights["b"].dtype == torch.float32
