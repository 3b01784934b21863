"""The original model from target layer to score, in float64, by onnx's reference evaluator.

An oracle for the gradient that shares nothing with the gradient rules. Operators on integers are
run as the float operators that they stand for (`exporters.quantized`); what they round is settled
by one run of the model itself, and moves with its input from there on: straight through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from exporters import graph
from exporters.builder import Ops
from exporters.classifier import Classifier
from exporters.float64_ops import OPERATORS, below, rounding_as
from exporters.ort import open_file
from exporters.quantized import as_float, expand, form_of, is_boundary, quantisation, saturates

_FLOAT = int(ir.DataType.FLOAT)


class Tail:
    """A value of the network, in float64, to scores, [B, N]."""

    def __init__(
        self, plain: Classifier, target: ir.Value, score: ir.Value, feed: Mapping[str, NDArray[Any]]
    ) -> None:
        """What the tail reads besides the value is taken from a run on `feed`."""
        on_path = graph.path(target, score)
        nodes = [
            node
            for node in plain.model.graph
            if any(value in on_path and value is not target for value in node.outputs)
        ]
        read = {v for node in nodes for v in node.inputs if v is not None}
        read.update(v for node in nodes if _is_dynamic(node) for v in node.outputs[1:])
        found = quantisation(_rounded(target))
        read.update(v for v in (found and (found.scale, found.zero)) or () if v is not None)
        known: dict[str, NDArray[Any]] = {}
        from_image: list[str] = []
        for value in read - on_path:
            content = feed.get(str(value.name), graph.constant(value))
            if content is None:
                from_image.append(str(value.name))
            else:
                known[str(value.name)] = content
        rounded = [str(v.name) for node in nodes for v in node.outputs if quantisation(v)]
        base, *seen = values(plain, [str(target.name), *from_image, *rounded], feed)
        known.update(zip(from_image, seen, strict=False))
        settled = dict(zip(rounded, seen[len(from_image) :], strict=True))
        self._dequantised = quantisation(target) is None
        self._scale = self._zero = np.float64()
        if found is not None:
            self._scale = _number(known, found.scale, 1.0)
            self._zero = _number(known, found.zero, 0.0)
        protos, score_name, constants = _tail(plain, nodes, score)
        known.update(constants)
        self._target = str(target.name)
        self._given = {name: _double(content) for name, content in known.items()}
        unlimited = {str(node.outputs[0].name) for node in nodes if not saturates(node)}
        unlimited.add(str(score.name))
        operators = [rounding_as(settled, unlimited), *OPERATORS]  # the first of a name counts
        self._evaluator = _evaluator(plain, protos, [self._target, *known], score_name, operators)
        if rounded:  # the first run settles what is rounded
            base = base.astype(np.float64)
            self(base if self._dequantised else (base - self._zero) * self._scale)

    def __call__(self, target: NDArray[np.float64]) -> NDArray[np.float64]:
        """The scores, [B, N], that the value leads to; a quantised one as what it stands for."""
        if self._scale == 0:
            return self._run(target)
        steps = target / self._scale - below(target.shape)
        return self._run(steps * self._scale if self._dequantised else steps + self._zero)

    def _run(self, target: NDArray[np.float64]) -> NDArray[np.float64]:
        feed = {self._target: target, **self._given}
        scores: NDArray[np.float64] = np.asarray(self._evaluator.run(None, feed)[0])
        return scores.reshape(len(target), -1)


def _rounded(target: ir.Value) -> ir.Value:
    """What a DequantizeLinear made the target of; else the target itself."""
    node = target.producer()
    dequantised = node is not None and is_boundary(node) and node.op_type == "DequantizeLinear"
    before = node.inputs[0] if node is not None and dequantised else None
    return before or target


def _is_dynamic(node: ir.Node) -> bool:
    return node.op_type == "DynamicQuantizeLinear"


def _number(known: dict[str, NDArray[Any]], value: ir.Value | None, default: float) -> np.float64:
    return np.float64(default if value is None else known[str(value.name)].item())


def values(
    plain: Classifier, names: list[str], feed: Mapping[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    """Values of the model, run on `feed`; an input is what is fed."""
    proto = ir.serde.serialize_model(plain.model)
    present = {value.name for value in proto.graph.output}
    computed = [name for name in dict.fromkeys(names) if name not in feed]
    more = [name for name in computed if name not in present]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in more)
    session = open_file(Path(plain.name), optimise=False, proto=proto)
    found = dict(zip(computed, session.run(computed, dict(feed)), strict=True)) if computed else {}
    return [feed[name] if name in feed else found[name] for name in names]


def _tail(
    plain: Classifier, nodes: list[ir.Node], score: ir.Value
) -> tuple[list[onnx.NodeProto], str, dict[str, NDArray[Any]]]:
    """The nodes in operators of floats, the name of the score, and constants that they need."""
    op = Ops({str(value.name) for node in plain.model.graph for value in node.outputs})
    protos: list[onnx.NodeProto] = []

    def emitted(start: int) -> list[onnx.NodeProto]:
        return [ir.serde.serialize_node(node) for node in op.nodes[start:]]

    for node in nodes:
        start, form = len(op.nodes), form_of(node)
        output = str(node.outputs[0].name)
        if form is not None:
            expansion = expand(op, node, len(plain.shapes[node.outputs[0]]))
            protos += emitted(start)
            ends = [node.inputs[at] for at in form.result] if form.result else []
            kind = "QuantizeLinear" if ends else "Identity"
            protos.append(_node(kind, [expansion.outputs[0], *ends], output))
        elif _is_dynamic(node):
            protos.append(_node("QuantizeLinear", [node.inputs[0], *node.outputs[1:]], output))
        else:
            protos.append(ir.serde.serialize_node(node))
    start = len(op.nodes)
    name = str(as_float(op, score).name)
    protos += emitted(start)
    constants = {str(v.name): v.const_value.numpy() for v in op.initializers if v.const_value}
    return protos, name, constants


def _node(kind: str, given: Sequence[ir.Value | None], output: str) -> onnx.NodeProto:
    return onnx.helper.make_node(kind, ["" if v is None else str(v.name) for v in given], [output])


def _evaluator(
    plain: Classifier,
    protos: list[onnx.NodeProto],
    inputs: list[str],
    score: str,
    operators: list[Any],
) -> Any:
    for proto in protos:
        proto.domain = ""  # ONNX Runtime's own QuantizeLinear is as onnx's
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
    return ReferenceEvaluator(model, new_ops=operators)


def _double(content: NDArray[Any]) -> NDArray[Any]:
    return content.astype(np.float64) if np.issubdtype(content.dtype, np.floating) else content
