"""The bodies of an If or a Loop: which nodes have some, and what they read around them."""

from __future__ import annotations

import onnx_ir as ir

_SUBGRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def has_bodies(node: ir.Node) -> bool:
    """Whether the node holds graphs of its own."""
    return any(attribute.type in _SUBGRAPHS for attribute in node.attributes.values())


def reads(node: ir.Node) -> list[ir.Value]:
    """What the node reads: its inputs, and what the bodies of an If or a Loop read around them."""
    around = [value for value in read_inside(node) if value.graph is node.graph]
    return [value for value in node.inputs if value is not None] + around


def read_inside(node: ir.Node) -> list[ir.Value]:
    """All that the bodies of an If or a Loop read, their own values included."""
    inner = [
        item
        for attribute in node.attributes.values()
        if attribute.type in _SUBGRAPHS
        for body in _bodies(attribute)
        for item in ir.traversal.RecursiveGraphIterator(body)
    ]
    return [value for item in inner for value in item.inputs if value is not None]


def _bodies(attribute: ir.Attr) -> list[ir.Graph]:
    if attribute.type is ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return list(attribute.as_graphs())
