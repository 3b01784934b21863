"""Reverse-mode differentiation of an ONNX graph, in ONNX operators.

The walk goes from the score back to the target layer, over the nodes between them only. Each rule
turns the cotangent of a node's output into those of its inputs; here they are brought back to the
shapes of the inputs (broadcasting is undone in this one place) and summed where a value is read
more than once.
"""

from __future__ import annotations

import onnx_ir as ir

from exporters import graph
from exporters.builder import Ops
from exporters.cotangent import Cotangent, add, dense, unbroadcast
from exporters.probe import Shapes
from exporters.vjp_rules import VJP_RULES, Site
from xai_onnx.errors import TargetLayerError, UnsupportedOperatorError


def vjp(
    op: Ops, model: ir.Model, wrt: ir.Value, of: ir.Value, cotangent: Cotangent, shapes: Shapes
) -> Cotangent:
    """The vector-Jacobian product: `cotangent` of `of`, carried back to `wrt`.

    Args:
        op: where the nodes are emitted.
        model: the model, unchanged.
        wrt: the value to differentiate with respect to.
        of: the value that is differentiated.
        cotangent: of `of`, with K leading (see `exporters.cotangent`).
        shapes: measured shapes of all values between the two.

    Raises:
        TargetLayerError: no float path leads from `wrt` to `of`.
        UnsupportedOperatorError: an operator between them has no rule, or not in this form.
    """
    on_path = graph.path(wrt, of)
    if not on_path:
        raise TargetLayerError(f"{wrt.name!r} does not reach the score {of.name!r}")
    terms: dict[ir.Value, list[Cotangent]] = {of: [cotangent]}
    missing = without_rule(model, wrt, of)
    if missing:
        node = missing[0]
        raise UnsupportedOperatorError(
            f"no gradient rule for {node.op_type!r} (node {node.name!r}), which lies between "
            f"target layer {wrt.name!r} and score {of.name!r}; choose a later target layer, or "
            "see exporters/vjp_rules"
        )
    for node in reversed(list(model.graph)):
        if wrt in node.outputs or not any(output in terms for output in node.outputs):
            continue
        site = Site(node, op, shapes, on_path)
        rule = VJP_RULES[node.op_type]
        cotangents: list[Cotangent | None] = []
        for output in node.outputs:
            g = add(op, terms.pop(output), output) if output in terms else None
            cotangents.append(g if g is None or rule.sparse else dense(op, g, output))
        gradients = rule.function(site, cotangents)
        for index, value in enumerate(node.inputs):
            if value in on_path:
                gradient = gradients[index] if index < len(gradients) else None
                if gradient is None:
                    raise site.unsupported(f"with input {index} on the way to the target layer")
                assert value is not None
                reduced = unbroadcast(op, gradient, site.shape(value), site.output)
                terms.setdefault(value, []).append(reduced)
    return add(op, terms[wrt], wrt)


def without_rule(model: ir.Model, wrt: ir.Value, of: ir.Value) -> list[ir.Node]:
    """The nodes between `wrt` and `of` that can't be differentiated, the last one first."""
    on_path = graph.path(wrt, of)
    between = [
        node
        for node in model.graph
        if not on_path.isdisjoint(graph.reads(node))
        and any(value in on_path and value is not wrt for value in node.outputs)
    ]
    return [
        node
        for node in reversed(between)
        if node.domain not in ("", "ai.onnx")
        or node.op_type not in VJP_RULES
        or (
            not VJP_RULES[node.op_type].every_output
            and any(value in on_path for value in node.outputs[1:])
        )
    ]
