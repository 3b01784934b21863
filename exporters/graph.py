"""Questions about a graph: what depends on what, what is constant, what dominates."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

FLOATS = frozenset(
    {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
)


_SUBGRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli"}
    | {"Multinomial"}
)


def is_float(value: ir.Value) -> bool:
    """Whether the value's type is one that gradients flow through."""
    return value.dtype in FLOATS


def _is_quantised(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type == "QuantizeLinear" and node.domain == ""


def reads(node: ir.Node) -> list[ir.Value]:
    """What the node reads: its inputs, and what the bodies of an If or a Loop read around them."""
    inner = [
        item
        for attribute in node.attributes.values()
        if attribute.type in _SUBGRAPHS
        for body in _bodies(attribute)
        for item in ir.traversal.RecursiveGraphIterator(body)
    ]
    captured = [value for item in inner for value in item.inputs]
    around = [value for value in captured if value is not None and value.graph is node.graph]
    return [value for value in node.inputs if value is not None] + around


def _bodies(attribute: ir.Attr) -> list[ir.Graph]:
    if attribute.type is ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return list(attribute.as_graphs())


def descendants(start: ir.Value) -> set[ir.Value]:
    """`start` and all values that depend on it through values of float type.

    A quantised value counts as one, where a QuantizeLinear makes it.
    """
    main = start.graph
    assert isinstance(main, ir.Graph)
    found = {start}
    for node in main:  # in topological order
        if not found.isdisjoint(reads(node)):
            found.update(v for v in node.outputs if is_float(v) or _is_quantised(v))
    return found


def ancestors(end: ir.Value) -> set[ir.Value]:
    """`end` and all values that it depends on."""
    found = {end}
    waiting = [end]
    while waiting:
        node = waiting.pop().producer()
        for value in () if node is None else reads(node):
            if value not in found:
                found.add(value)
                waiting.append(value)
    return found


def path(start: ir.Value, end: ir.Value) -> set[ir.Value]:
    """The values that carry the gradient from `end` to `start`, both included; empty if none do."""
    between = descendants(start) & ancestors(end)
    return between if end in between else set()


def spine(start: ir.Value, end: ir.Value, graph: ir.Graph) -> list[ir.Value]:
    """The dominators of `end`: float values that every path from `start` crosses, in order."""
    on_path = path(start, end)
    dominators: dict[ir.Value, frozenset[ir.Value]] = {start: frozenset({start})}
    order = [start]
    for node in graph:
        reached = [value for value in reads(node) if value in on_path and value in dominators]
        if not reached:
            continue
        shared = frozenset.intersection(*(dominators[value] for value in reached))
        for output in node.outputs:
            if output in on_path and output is not start:
                dominators[output] = shared | {output}
                order.append(output)
    crossed = dominators.get(end, frozenset())
    return [value for value in order if value in crossed and is_float(value)]


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The value's content if it is known at build time, computed if need be, else ``None``."""
    if value is None:
        return None
    if value.const_value is not None and not value.is_graph_input():
        return value.const_value.numpy()
    if any(item.is_graph_input() for item in ancestors(value)):
        return None
    node = value.producer()
    if node is None or node.domain != "" or node.op_type in _RANDOM:
        return None
    if any(attribute.type in _SUBGRAPHS for attribute in node.attributes.values()):
        return None
    inputs = [constant(item) for item in node.inputs]
    if any(got is None and item is not None for got, item in zip(inputs, node.inputs, strict=True)):
        return None
    return _evaluate(node, inputs)[value.index() or 0]


def _evaluate(
    node: ir.Node, inputs: Iterable[NDArray[np.generic] | None]
) -> list[NDArray[np.generic]]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    assert node.graph is not None
    given = {
        str(item.name): array
        for item, array in zip(node.inputs, inputs, strict=True)
        if item is not None and array is not None
    }
    proto = ir.serde.serialize_node(node)
    graph = onnx.helper.make_graph(
        [proto],
        "constant",
        [
            onnx.helper.make_tensor_value_info(name, _onnx_type(array), array.shape)
            for name, array in given.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in proto.output if name],
    )
    version = node.version or node.graph.opset_imports.get("", 18)
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        version = max(version, 21)  # the evaluator has none before 19; they mean the same
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)])
    return list(ReferenceEvaluator(model).run(None, given))


def _onnx_type(array: NDArray[np.generic]) -> int:
    return int(ir.DataType.from_numpy(array.dtype))
