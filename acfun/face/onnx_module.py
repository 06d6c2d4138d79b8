"""ONNX graphs of face recognition networks as torch modules, which gradients run through.

ONNX Runtime computes such graphs but gives no gradient in the image, which a loss on identity needs. Meant for IResNet,
MobileFaceNet and what is built of the same operators; shapes that a graph computes for itself are not followed.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from acfun.errors import FaceModelError, MissingExtraError
from acfun.face.onnx_operators import OPERATORS, UNKNOWN_VALUES

ONNX_LINE = 'pip install "acfun-stylization[identity]"'


@dataclass(frozen=True)
class Node:
    """One operation of a graph.

    Attributes:
        operator: its name in ONNX, e.g. "Conv".
        inputs: names of tensors; "" where an optional one is left out.
        output: name of the tensor that it makes.
        attributes: by their names in ONNX; tensors as tensors.
    """

    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Graph:
    """What is kept of an ONNX file.

    Attributes:
        nodes: in the order in which they are computed.
        weights: by name; those of half precision are widened to float32.
        input_name: of the image.
        input_shape: of the image; None for a free dimension.
        output_names: of the results.
    """

    nodes: tuple[Node, ...]
    weights: Mapping[str, Tensor]
    input_name: str
    input_shape: tuple[int | None, ...]
    output_names: tuple[str, ...]


class OnnxModule(nn.Module):
    """A graph with one output, run node by node; its weights are buffers and stay as they are.

    Args:
        graph: of known operators.
        name: of the file, for messages.

    Raises:
        FaceModelError: an operator, or an attribute of one, is not known; it is named.
    """

    def __init__(self, graph: Graph, name: str = "the graph") -> None:
        super().__init__()
        _check_operators(graph, name)
        self.nodes, self.input_name, self.output_name = graph.nodes, graph.input_name, graph.output_names[0]
        self._buffer_names: dict[str, str] = {}
        self._integers: dict[str, Tensor] = {}  # shapes and axes, which stay on the CPU
        for number, (weight, tensor) in enumerate(graph.weights.items()):
            if tensor.is_floating_point():
                self._buffer_names[weight] = f"weight_{number}"
                self.register_buffer(f"weight_{number}", tensor)
            else:
                self._integers[weight] = tensor
        self._last_uses = {value: index for index, node in enumerate(graph.nodes) for value in node.inputs}

    def forward(self, image: Tensor) -> Tensor:
        """Run the graph on an image of its input's shape; differentiable in the image."""
        values: dict[str, Tensor] = {self.input_name: image, **self._integers}
        values |= {weight: getattr(self, buffer) for weight, buffer in self._buffer_names.items()}
        for index, node in enumerate(self.nodes):
            arguments = [values[name] if name else None for name in node.inputs]
            values[node.output] = OPERATORS[node.operator](*arguments, **node.attributes)
            for name in node.inputs:
                if self._last_uses[name] == index and name != self.output_name:
                    values.pop(name, None)
        return values[self.output_name]


def read_graph(path: Path) -> Graph:
    """Read an ONNX file.

    Raises:
        MissingExtraError: the package onnx is not installed.
        FaceModelError: the file is damaged or no ONNX graph, or its weights lie in other files.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingExtraError(f"reading {path.name} needs the package onnx: {ONNX_LINE}") from error
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except (DecodeError, OSError, ValueError) as error:
        raise FaceModelError(f"{path} is damaged or no ONNX file", "copy or download it again") from error
    weights = {}
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise FaceModelError(f"{path} keeps its weights in other files", "save the graph as one file")
        weights[tensor.name] = _to_tensor(numpy_helper.to_array(tensor))
    images = [value for value in graph.input if value.name not in weights]
    if not graph.node or not images or not graph.output:
        raise FaceModelError(f"{path} is damaged or no ONNX file", "copy or download it again")
    dimensions = images[0].type.tensor_type.shape.dim
    nodes = [_read_node(node, onnx.helper.get_attribute_value, numpy_helper.to_array) for node in graph.node]
    weights |= {node.output: node.attributes["value"] for node in nodes if _is_constant(node)}
    return Graph(
        nodes=tuple(node for node in nodes if not _is_constant(node)),
        weights=weights,
        input_name=images[0].name,
        input_shape=tuple(int(dimension.dim_value) or None for dimension in dimensions),
        output_names=tuple(value.name for value in graph.output),
    )


def _read_node(node: Any, read_value: Callable[[Any], Any], to_array: Callable[[Any], Any]) -> Node:
    attributes = {}
    for attribute in node.attribute:
        value = read_value(attribute)
        if hasattr(value, "raw_data"):
            value = _to_tensor(to_array(value))
        attributes[attribute.name] = value.decode() if isinstance(value, bytes) else value
    return Node(node.op_type, tuple(node.input), node.output[0], attributes)


def _is_constant(node: Node) -> bool:
    return node.operator == "Constant" and "value" in node.attributes


def _to_tensor(array: Any) -> Tensor:
    tensor = torch.from_numpy(array.copy())
    return tensor.float() if tensor.is_floating_point() else tensor


def _check_operators(graph: Graph, name: str) -> None:
    remedy = f"give another model; known are {', '.join(sorted(OPERATORS))}"
    if unknown := sorted({node.operator for node in graph.nodes} - OPERATORS.keys()):
        raise FaceModelError(f"{name} uses the operator {', '.join(unknown)}, which acfun does not know", remedy)
    for node in graph.nodes:
        known = _list_attributes(node.operator)
        for attribute, value in node.attributes.items():
            if attribute not in known or value in UNKNOWN_VALUES.get(attribute, ()):
                raise FaceModelError(
                    f"{name} uses {node.operator} with {attribute} = {value!r}, which acfun does not know",
                    "give another model, or export this one without it",
                )


def _list_attributes(operator: str) -> set[str]:
    parameters = inspect.signature(OPERATORS[operator]).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
