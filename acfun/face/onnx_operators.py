"""What the operators of ONNX do to torch tensors: those of face recognition networks; arguments are named as in ONNX.

Definitions: https://onnx.ai/onnx/operators/. What versions of ONNX moved from attributes to inputs is
taken from either.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: Sequence[int] = (),
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
    auto_pad: str = "NOTSET",
) -> Tensor:
    padded, padding = _pad(x, pads)
    return F.conv2d(padded, weight, bias, tuple(strides), padding, tuple(dilations), group)


def _pad(x: Tensor, pads: Sequence[int], value: float = 0.0) -> tuple[Tensor, tuple[int, int]]:
    """What is left to be padded evenly, and by how much: ONNX gives (top, left, bottom, right)."""
    top, left, bottom, right = pads
    if (top, left) == (bottom, right):
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom), value=value), (0, 0)


def _batch_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    training_mode: int = 0,
) -> Tensor:
    return F.batch_norm(x, mean, var, scale, bias, eps=epsilon)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    # Exports from MXNet keep slopes as (C,), where ONNX means (C,1,1).
    return F.prelu(x, slope.flatten())


def _clip(
    x: Tensor,
    low: Tensor | None = None,
    high: Tensor | None = None,
    *,
    min: float | None = None,
    max: float | None = None,
) -> Tensor:
    bounds: tuple[Any, Any] = (low if min is None else min, high if max is None else max)
    return x if bounds[0] is bounds[1] is None else torch.clamp(x, *bounds)


def _dropout(x: Tensor, *options: Tensor | None, ratio: float = 0.5, seed: int = 0) -> Tensor:
    return x


def _gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    product = alpha * (a.T if transA else a) @ (b.T if transB else b)
    return product if c is None else product + beta * c


def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape.tolist())])


def _squeeze(x: Tensor, positions: Tensor | None = None, *, axes: Sequence[int] | None = None) -> Tensor:
    chosen = axes if positions is None else positions.tolist()
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


def _unsqueeze(x: Tensor, positions: Tensor | None = None, *, axes: Sequence[int] = ()) -> Tensor:
    chosen = axes if positions is None else positions.tolist()
    for axis in sorted(axis % (x.ndim + len(chosen)) for axis in chosen):
        x = x.unsqueeze(axis)
    return x


def _max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    ceil_mode: int = 0,
    storage_order: int = 0,
    auto_pad: str = "NOTSET",
) -> Tensor:
    padded, padding = _pad(x, pads, value=float("-inf"))
    return F.max_pool2d(padded, tuple(kernel_shape), tuple(strides), padding, tuple(dilations), bool(ceil_mode))


def _average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    auto_pad: str = "NOTSET",
) -> Tensor:
    counted, padding = _pad(torch.stack([x, torch.ones_like(x)]), pads)
    kernel, step, is_ceil = tuple(kernel_shape), tuple(strides), bool(ceil_mode)
    sums, counts = (F.avg_pool2d(part, kernel, step, padding, is_ceil) for part in counted)
    return sums if count_include_pad else sums / counts


def _mean(x: Tensor, positions: Tensor | None = None, *, axes: Sequence[int] = (), keepdims: int = 1) -> Tensor:
    chosen = axes if positions is None else positions.tolist()
    return x.mean(tuple(chosen) or tuple(range(x.ndim)), keepdim=bool(keepdims))


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda a, b: a + b,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    "Conv": _conv,
    "Div": lambda a, b: a / b,
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "Identity": lambda x: x,
    "LeakyRelu": lambda x, *, alpha=0.01: F.leaky_relu(x, alpha),
    "MatMul": lambda a, b: a @ b,
    "MaxPool": _max_pool,
    "Mul": lambda a, b: a * b,
    "PRelu": _prelu,
    "ReduceMean": _mean,
    "Relu": lambda x: F.relu(x),
    "Reshape": _reshape,
    "Sigmoid": lambda x: torch.sigmoid(x),
    "Squeeze": _squeeze,
    "Sub": lambda a, b: a - b,
    "Transpose": lambda x, *, perm: x.permute(tuple(perm)),
    "Unsqueeze": _unsqueeze,
}
# Values of known attributes that the functions above leave out.
UNKNOWN_VALUES: dict[str, tuple[Any, ...]] = {
    "auto_pad": ("SAME_UPPER", "SAME_LOWER"),
    "training_mode": (1,),
    "spatial": (0,),
    "allowzero": (1,),
}
