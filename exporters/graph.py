"""Questions about a graph: what depends on what, what is constant, what dominates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters.quantized import FLOATS, carries, is_boundary
from exporters.subgraphs import has_bodies, reads

_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli"}
    | {"Multinomial"}
)


def names(graph: ir.Graph) -> set[str]:
    """Every name that the graph uses: of values, initializers, inputs and nodes."""
    made = [value for node in graph for value in node.outputs]
    values = [*graph.inputs, *graph.initializers.values(), *made]
    return {str(value.name) for value in values} | {str(node.name) for node in graph}


def is_float(value: ir.Value) -> bool:
    """Whether the value is of float type."""
    return value.dtype in FLOATS


def descendants(start: ir.Value) -> set[ir.Value]:
    """`start` and all values that depend on it through floats, or integers that stand for some."""
    main = start.graph
    assert isinstance(main, ir.Graph)
    found = {start}
    for node in main:  # in topological order
        if not found.isdisjoint(reads(node)):
            found.update(value for value in node.outputs if carries(value))
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
    """The values that carry the gradient from `end` to `start`, both included; empty if none do.

    What only decides an index or a size is not among them.
    """
    reached = descendants(start)
    if end not in reached:
        return set()
    found, waiting = {end}, [end]
    while waiting:
        value = waiting.pop()
        node = value.producer()
        for item in () if node is None or value is start else reads(node):
            if item in reached and item not in found:
                found.add(item)
                waiting.append(item)
    return found


def spine(start: ir.Value, end: ir.Value, graph: ir.Graph) -> list[ir.Value]:
    """The dominators of `end`: values that every path from `start` crosses, in order.

    What a QuantizeLinear gives is left out: the float before it says the same.
    """
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
    return [value for value in order if value in crossed and not _is_rounded_only(value)]


def _is_rounded_only(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and is_boundary(node) and not is_float(value)


def constant(
    value: ir.Value | None, sizes: Mapping[ir.Value, tuple[int, ...]] = MappingProxyType({})
) -> NDArray[np.generic] | None:
    """The value's content if it is known at build time, computed if need be, else ``None``.

    `sizes` are shapes that Shape and Size may be taken to give.
    """
    if value is None:
        return None
    if value.const_value is not None and not value.is_graph_input():
        return value.const_value.numpy()
    if any(item.is_graph_input() for item in _made_from(value, sizes)):
        return None
    node = value.producer()
    if node is None or node.op_type in _RANDOM or not (node.domain == "" or is_boundary(node)):
        return None
    if has_bodies(node):
        return None
    if _gives_size(node, sizes):
        return _size_given(node, sizes)
    inputs = [constant(item, sizes) for item in node.inputs]
    if any(got is None and item is not None for got, item in zip(inputs, node.inputs, strict=True)):
        return None
    return _evaluate(node, inputs)[value.index() or 0]


def _made_from(value: ir.Value, sizes: Mapping[ir.Value, tuple[int, ...]]) -> set[ir.Value]:
    """`ancestors`, but for what only gives a size that is known."""
    found = {value}
    waiting = [value]
    while waiting:
        node = waiting.pop().producer()
        for item in [] if node is None or _gives_size(node, sizes) else reads(node):
            if item not in found:
                found.add(item)
                waiting.append(item)
    return found


def _gives_size(node: ir.Node, sizes: Mapping[ir.Value, tuple[int, ...]]) -> bool:
    return node.op_type in ("Shape", "Size") and node.domain == "" and node.inputs[0] in sizes


def _size_given(node: ir.Node, sizes: Mapping[ir.Value, tuple[int, ...]]) -> NDArray[np.generic]:
    """What a Shape or a Size comes to."""
    (item,) = node.inputs
    assert item is not None
    shape = sizes[item]
    if node.op_type == "Size":
        return np.array(math.prod(shape))
    ends = (node.attributes[name].as_int() if name in node.attributes else None for name in _ENDS)
    return np.array(shape[slice(*ends)], np.int64)


_ENDS = ("start", "end")


def _evaluate(
    node: ir.Node, inputs: Iterable[NDArray[np.generic] | None]
) -> list[NDArray[np.generic]]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    given = {
        str(item.name): array
        for item, array in zip(node.inputs, inputs, strict=True)
        if item is not None and array is not None
    }
    proto = ir.serde.serialize_node(node)
    proto.domain = ""  # ONNX Runtime's own QuantizeLinear is as onnx's
    graph = onnx.helper.make_graph(
        [proto],
        "constant",
        [
            onnx.helper.make_tensor_value_info(name, _onnx_type(array), array.shape)
            for name, array in given.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in proto.output if name],
    )
    imported = 18 if node.graph is None else node.graph.opset_imports.get("", 18)
    version = node.version or imported
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        version = max(version, 21)  # the evaluator has none before 19; they mean the same
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)])
    return list(ReferenceEvaluator(model).run(None, given))


def _onnx_type(array: NDArray[np.generic]) -> int:
    return int(ir.DataType.from_numpy(array.dtype))
