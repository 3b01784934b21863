"""The original model from target layer to score, in float64, by onnx's reference evaluator.

An oracle for the gradient that shares nothing with the gradient rules. Poolings are our own: the
reference evaluator's give a window too many in ceil_mode.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from exporters import graph
from exporters.classifier import Classifier
from exporters.ort import open_file

_FLOAT = int(ir.DataType.FLOAT)


class Tail:
    """Activations of the target layer, float64 [B, C, h, w], to scores, [B, N]."""

    def __init__(
        self, plain: Classifier, target: ir.Value, score: ir.Value, tensor: NDArray[Any]
    ) -> None:
        """What the tail reads besides the activations is taken from a run on `tensor`."""
        on_path = graph.path(target, score)
        nodes = [
            node
            for node in plain.model.graph
            if any(value in on_path and value is not target for value in node.outputs)
        ]
        self._target = str(target.name)
        known: dict[str, NDArray[Any]] = {}
        from_image: list[str] = []
        for value in {v for node in nodes for v in node.inputs if v is not None} - on_path:
            content = graph.constant(value)
            if content is None:
                from_image.append(str(value.name))
            else:
                known[str(value.name)] = content
        known.update(zip(from_image, _values(plain, from_image, tensor), strict=True))
        self._given = {name: _double(content) for name, content in known.items()}
        self._evaluator = _evaluator(plain, nodes, [self._target, *known], str(score.name))

    def __call__(self, activations: NDArray[np.float64]) -> NDArray[np.float64]:
        """The scores, [B, N], that the activations lead to."""
        feed = {self._target: activations, **self._given}
        scores: NDArray[np.float64] = np.asarray(self._evaluator.run(None, feed)[0])
        return scores.reshape(len(activations), -1)


class AveragePool(OpRun):
    """ONNX's AveragePool: windows that start in the image or in its padding at the beginning."""

    def _run(self, x: Any, count_include_pad: int = 0, **window: Any) -> tuple[Any, ...]:
        values, inside = _windows(x, 0.0, **window)
        _, padded = _windows(x, 0.0, **{**window, "widened": True})
        counted = padded if count_include_pad else inside
        axes = tuple(range(x.ndim, values.ndim))
        return (values.sum(axes) / counted.sum(axes),)


class MaxPool(OpRun):
    """ONNX's MaxPool without its second output."""

    def _run(self, x: Any, storage_order: int = 0, **window: Any) -> tuple[Any, ...]:
        values, _ = _windows(x, -np.inf, **window)
        return (values.max(tuple(range(x.ndim, values.ndim))),)


def _windows(
    x: NDArray[Any],
    fill: float,
    *,
    kernel_shape: Any,
    strides: Any = None,
    dilations: Any = None,
    pads: Any = None,
    ceil_mode: int = 0,
    auto_pad: str = "NOTSET",
    widened: bool = False,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """All windows of x, [B, C, *outputs, *kernel], and which of their entries lie in the image.

    With `widened`, which of them lie in the image or its padding.
    """
    axes = x.ndim - 2
    strides, dilations = list(strides or [1] * axes), list(dilations or [1] * axes)
    pads = list(pads or [0] * (2 * axes))
    places, inside = [], []
    for axis, size in enumerate(x.shape[2:]):
        step, extent = strides[axis], (kernel_shape[axis] - 1) * dilations[axis] + 1
        if auto_pad.startswith("SAME"):
            total = max((-(-size // step) - 1) * step + extent - size, 0)
            first = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
            pads[axis], pads[axis + axes] = first, total - first
        begin, end = pads[axis], pads[axis + axes]
        room = size + begin + end - extent
        count = (-(-room // step) if ceil_mode else room // step) + 1
        if (count - 1) * step >= size + begin:  # would start in the padding at the end
            count -= 1
        offsets = np.arange(kernel_shape[axis]) * dilations[axis]
        place = np.arange(count)[:, None] * step - begin + offsets
        low, high = (-begin, size + end) if widened else (0, size)
        places.append(np.where((place >= 0) & (place < size), place, size))
        inside.append((place >= low) & (place < high))
    bordered = np.pad(x, [(0, 0), (0, 0), *[(0, 1)] * axes], constant_values=fill)
    index = np.ix_(*[place.reshape(-1) for place in places])
    taken = bordered[(slice(None), slice(None), *index)]
    shape = [n for place in places for n in place.shape]
    order = [0, 1, *(2 + 2 * axis for axis in range(axes)), *(3 + 2 * axis for axis in range(axes))]
    values = taken.reshape(*x.shape[:2], *shape).transpose(order)
    mask = np.ones([1] * (2 * axes), bool)
    for axis, part in enumerate(inside):
        sizes = [1] * (2 * axes)
        sizes[axis], sizes[axis + axes] = part.shape
        mask = mask & part.reshape(sizes)
    return values, np.broadcast_to(mask, values.shape)


def _values(plain: Classifier, names: list[str], tensor: NDArray[Any]) -> list[NDArray[Any]]:
    """Values of the model, run on `tensor`."""
    if not names:
        return []
    proto = ir.serde.serialize_model(plain.model)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_file(Path(plain.name), optimise=False, proto=proto)
    values: list[NDArray[Any]] = session.run(names, {str(plain.image.value.name): tensor})
    return values


def _evaluator(plain: Classifier, nodes: list[ir.Node], inputs: list[str], score: str) -> Any:
    protos = [ir.serde.serialize_node(node) for node in nodes]
    for proto in protos:
        for attribute in proto.attribute:
            if proto.op_type == "Cast" and attribute.name == "to" and attribute.i == _FLOAT:
                attribute.i = int(ir.DataType.DOUBLE)
    tail = onnx.helper.make_graph(
        protos,
        "tail",
        [onnx.ValueInfoProto(name=name) for name in inputs],
        [onnx.ValueInfoProto(name=score)],
    )
    opset = onnx.helper.make_opsetid("", plain.model.graph.opset_imports[""])
    model = onnx.helper.make_model(tail, opset_imports=[opset])
    return ReferenceEvaluator(model, new_ops=[AveragePool, MaxPool])


def _double(content: NDArray[Any]) -> NDArray[Any]:
    return content.astype(np.float64) if np.issubdtype(content.dtype, np.floating) else content
