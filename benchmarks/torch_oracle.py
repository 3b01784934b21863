"""Run an ONNX classifier in torch, so that torch.autograd can say what its gradient is.

An interpreter for the operators of the sample models; an operator it doesn't know is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

Attributes = dict[str, Any]


def activations_and_gradient(
    path: Path, layer: str, score: str, images: NDArray[np.float32], classes: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The activations at value `layer`, and torch.autograd's gradient there.

    Args:
        path: a plain ONNX classifier with one input.
        layer: name of the value to differentiate with respect to, [B, C, h, w].
        score: name of the value that is differentiated, [B, N].
        images: the input tensor.
        classes: int64 [B], the class of each image.
    """
    graph = onnx.load(path).graph
    values = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    values[graph.input[0].name] = torch.from_numpy(images)
    with torch.enable_grad():
        for node in graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            inputs = [values[name] if name else None for name in node.input]
            values[node.output[0]] = OPERATORS[node.op_type](inputs, attributes)
            if node.output[0] == layer:
                values[layer] = values[layer].detach().requires_grad_()
        chosen = values[score].gather(1, torch.from_numpy(classes)[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, values[layer])
    return values[layer].detach().numpy(), gradient.numpy()


def _conv(x: list[Any], a: Attributes) -> Tensor:
    pads = a.get("pads", [0, 0, 0, 0])
    padded = functional.pad(x[0], (pads[1], pads[3], pads[0], pads[2]))
    bias = x[2] if len(x) > 2 else None
    return functional.conv2d(
        padded, x[1], bias, a.get("strides", 1), 0, a.get("dilations", 1), a.get("group", 1)
    )


def _max_pool(x: list[Any], a: Attributes) -> Tensor:
    assert not any(a.get("pads", [0]))
    return functional.max_pool2d(
        x[0], a["kernel_shape"], a["strides"], ceil_mode=bool(a.get("ceil_mode", 0))
    )


def _clip(x: list[Any], _a: Attributes) -> Tensor:
    assert (float(x[1]), float(x[2])) == (0.0, 6.0)
    return functional.relu6(x[0])


def _reduce_mean(x: list[Any], a: Attributes) -> Tensor:
    axes = a["axes"] if "axes" in a else [int(axis) for axis in x[1]]
    return x[0].mean(axes, keepdim=bool(a.get("keepdims", 1)))


def _gemm(x: list[Any], a: Attributes) -> Tensor:
    assert a.get("alpha", 1.0) == a.get("beta", 1.0) == 1.0
    weight = x[1].T if a.get("transB", 0) else x[1]
    return x[0] @ weight + x[2]


def _pad(x: list[Any], _a: Attributes) -> Tensor:
    pads = [int(size) for size in x[1]]
    axes = len(pads) // 2
    order = [pads[i] for axis in reversed(range(axes)) for i in (axis, axis + axes)]
    return functional.pad(x[0], order)


def _cast(x: list[Any], a: Attributes) -> Tensor:
    types = {1: torch.float32, 7: torch.int64, 10: torch.float16}
    return x[0].to(types[a["to"]])


def _reshape(x: list[Any], _a: Attributes) -> Tensor:
    sizes = [int(size) for size in x[1]]
    return x[0].reshape([x[0].shape[i] if size == 0 else size for i, size in enumerate(sizes)])


OPERATORS: dict[str, Callable[[list[Any], Attributes], Tensor]] = {
    "Add": lambda x, a: x[0] + x[1],
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda x, a: torch.cat(x, a["axis"]),
    "Conv": _conv,
    "Flatten": lambda x, a: x[0].flatten(a.get("axis", 1)),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x, a: x[0].mean((-2, -1), keepdim=True),
    "MaxPool": _max_pool,
    "Pad": _pad,
    "ReduceMean": _reduce_mean,
    "Relu": lambda x, a: functional.relu(x[0]),
    "Reshape": _reshape,
}
