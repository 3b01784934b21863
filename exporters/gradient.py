"""Reverse-mode differentiation of an ONNX graph, in ONNX operators.

The walk goes from the score back to the target layer, over the nodes between them only. Each rule
turns the cotangent of a node's output into those of its inputs; here they are brought back to the
shapes of the inputs (broadcasting is undone in this one place) and summed where a value is read
more than once.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from exporters import graph
from exporters.builder import Ops
from exporters.cotangent import Cotangent, Zero, add, dense, unbroadcast, zero
from exporters.probe import Shapes
from exporters.quantized import as_float
from exporters.subgraphs import reads
from exporters.vjp_rules import Site, rule_for
from xai_onnx.errors import TargetLayerError, UnsupportedOperatorError


def vjp(
    op: Ops,
    model: ir.Model,
    wrt: Sequence[ir.Value],
    of: ir.Value,
    cotangent: Cotangent,
    shapes: Shapes,
) -> list[Cotangent]:
    """The vector-Jacobian product: `cotangent` of `of`, carried back to each of `wrt` in one walk.

    Args:
        op: where the nodes are emitted.
        model: the model, unchanged.
        wrt: the values to differentiate with respect to.
        of: the value that is differentiated.
        cotangent: of `of`, with K leading (see `exporters.cotangent`).
        shapes: measured shapes of all values between the two.

    Raises:
        TargetLayerError: no float path leads from one of `wrt` to `of`.
        UnsupportedOperatorError: an operator between them has no rule, or not in this form.
    """
    on_path: set[ir.Value] = set()
    for start in wrt:
        between = graph.path(start, of)
        if not between:
            raise TargetLayerError(f"{start.name!r} does not reach the score {of.name!r}")
        on_path |= between
        missing = without_rule(model, start, of)
        if missing:
            node = missing[0]
            raise UnsupportedOperatorError(
                f"no gradient rule for {node.op_type!r} (node {node.name!r}), which lies between "
                f"target layer {start.name!r} and score {of.name!r}; choose a later target layer, "
                "or see exporters/vjp_rules"
            )
    terms: dict[ir.Value, list[Cotangent]] = {of: [cotangent]}
    for node in reversed(list(model.graph)):
        if not any(output in terms for output in node.outputs):
            continue
        for output in node.outputs:
            if output in terms:
                terms[output] = [add(op, terms[output], as_float(op, output))]
        if on_path.isdisjoint(value for value in node.inputs if value is not None):
            continue
        site = Site(node, op, shapes, on_path, of)
        rule = rule_for(node)
        assert rule is not None
        cotangents: list[Cotangent | None] = []
        for output in node.outputs:
            g = terms[output][0] if output in terms else None
            cotangents.append(g if g is None or rule.sparse else dense(op, g, as_float(op, output)))
        gradients = rule.function(site, cotangents)
        for index, value in enumerate(node.inputs):
            if value in on_path:
                gradient = gradients[index] if index < len(gradients) else None
                if gradient is None:
                    raise site.unsupported(f"with input {index} on the way to the target layer")
                if isinstance(gradient, Zero):
                    continue
                assert value is not None
                like = as_float(op, site.output)
                reduced = unbroadcast(op, gradient, site.shape(value), like)
                terms.setdefault(value, []).append(reduced)
    return [
        add(op, terms[value], as_float(op, value))
        if value in terms
        else _zero(op, cotangent, value, shapes)
        for value in wrt
    ]


def _zero(op: Ops, cotangent: Cotangent, value: ir.Value, shapes: Shapes) -> Cotangent:
    dtype = as_float(op, value).dtype
    assert dtype is not None
    return zero(op, cotangent, shapes[value], dtype)


def without_rule(model: ir.Model, wrt: ir.Value, of: ir.Value) -> list[ir.Node]:
    """The nodes between `wrt` and `of` that can't be differentiated, the last one first."""
    on_path = graph.path(wrt, of)
    between = [
        node
        for node in model.graph
        if not on_path.isdisjoint(reads(node))
        and any(value in on_path and value is not wrt for value in node.outputs)
    ]
    return [node for node in reversed(between) if not _has_rule(node, on_path)]


def _has_rule(node: ir.Node, on_path: set[ir.Value]) -> bool:
    rule = rule_for(node)
    return rule is not None and (rule.every_output or on_path.isdisjoint(node.outputs[1:]))
