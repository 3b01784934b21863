"""The original model from target layer to score, in float64, by onnx's reference evaluator.

An oracle for the gradient that shares nothing with the gradient rules.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from exporters import graph
from exporters.classifier import Classifier
from exporters.float64_ops import OPERATORS
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
    return ReferenceEvaluator(model, new_ops=list(OPERATORS))


def _double(content: NDArray[Any]) -> NDArray[Any]:
    return content.astype(np.float64) if np.issubdtype(content.dtype, np.floating) else content
