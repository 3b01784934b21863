"""Quantisation, straight through: rounding is taken for the identity, saturation is not.

The cotangent of a quantised value is that of the number which it stands for, a float. Scales and
zero points, those of DynamicQuantizeLinear too, are taken for constants.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporters import graph
from exporters.cotangent import Cotangent, Zero, transposed
from exporters.quantized import (
    RANGES,
    Quantisation,
    expand,
    form_of,
    is_vector,
    quantisation,
    saturates,
)
from exporters.vjp_rules.registry import Cotangents, Gradients, Rule, Site, vjp


@vjp("QuantizeLinear", sparse=True)
def quantize_linear(site: Site, g: Cotangent) -> list[Cotangent]:
    """q = round(x / scale) + zero point, saturated; dx = g where lowest < q < highest, else 0.

    Read off q and not x, which ONNX Runtime's fused int8 kernels never compute. A q at the end of
    its range may be saturated: after a Relu that was merged into it, the lowest is where x <= 0.
    An average or a maximum isn't (`exporters.quantized.saturates`).
    """
    return [_unless_saturated(site, g, site.output)]


@vjp("DequantizeLinear", sparse=True)
def dequantize_linear(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = scale (q - zero point); dq = g scale / scale_q, q having been quantised by scale_q."""
    axis = site.attribute("axis", 1)
    return [rescaled(site, g, Quantisation(site.input(1), None, axis), site.input(0))]


@vjp("DynamicQuantizeLinear", sparse=True)
def dynamic_quantize_linear(site: Site, g: Cotangent) -> list[Cotangent]:
    """q = round(x / scale) + zero point, scale and zero point such that none saturates; dx = g."""
    return [g]


def straight_through(rule: Rule) -> Rule:
    """The rule of an operator on integers, from that of the float operator that it stands for.

    It is differentiated at the numbers that its operands stand for; where its result is quantised,
    g is 0 at the ends of the range, as for QuantizeLinear.
    """

    def function(site: Site, cotangents: Cotangents) -> Gradients:
        if form_of(site.node) is None and any(map(_by_axis, site.node.outputs)):
            raise site.unsupported("with a scale for each place along an axis")
        inner, sources, channels_last = _float_site(site)
        rank = len(site.shape(site.output))
        to_last = [0, *range(2, rank), 1]
        given: list[Cotangent | None] = []
        for q, g in zip(site.node.outputs, cotangents, strict=True):
            if g is not None and form_of(site.node) is not None and q.dtype in RANGES:
                g = _unless_saturated(site, g, q)
            given.append(transposed(site.op, g, to_last) if g and channels_last else g)
        gradients: list[Cotangent | Zero | None] = [None] * len(site.node.inputs)
        results = rule.function(inner, given)
        for (at, by), gradient in zip(sources.items(), results, strict=False):
            if isinstance(gradient, Cotangent) and channels_last and at == 0:
                gradient = transposed(site.op, gradient, [0, rank - 1, *range(1, rank - 1)])
            if isinstance(gradient, Cotangent) and by is not None:
                gradient = rescaled(site, gradient, by, site.input(at))
            gradients[at] = gradient
        return gradients

    return Rule(function, rule.sparse, rule.every_output)


def _float_site(site: Site) -> tuple[Site, dict[int, Quantisation | None], bool]:
    """The float operator as a site of its own, where each input is in its source's place."""
    rank = len(site.shape(site.output))
    expansion = expand(site.op, site.node, rank)
    node, last = expansion.node, expansion.channels_last
    on_path = set()
    for value, at in zip(node.inputs, expansion.sources, strict=True):
        source = site.node.inputs[at]
        if value is None or source is None:
            continue
        shape = site.shape(source)
        moved = last and at == 0
        site.shapes[value] = (shape[0], shape[-1], *shape[1:-1]) if moved else shape
        if source in site.on_path:
            on_path.add(value)
    for result, output in zip(node.outputs, site.node.outputs, strict=True):
        shape = site.shape(output)
        site.shapes[result] = (shape[0], shape[-1], *shape[1:-1]) if last else shape
    inner = Site(node, site.op, site.shapes, on_path, site.end, site.node)
    return inner, expansion.sources, last


def _unless_saturated(site: Site, g: Cotangent, q: ir.Value) -> Cotangent:
    """g where q lies inside its range, else 0; the score's own range doesn't count."""
    if q is site.end or not saturates(site.node):
        return g
    op, by = site.op, quantisation(q)
    if q.dtype not in RANGES or by is None:
        raise site.unsupported(f"to {q.dtype}")
    assert by.scale is not None
    lowest, highest = (op.constant(end, ir.DataType.INT32) for end in RANGES[q.dtype])
    zero = op.constant(0.0, by.scale.dtype or ir.DataType.FLOAT)

    def rule(g: ir.Value, q: ir.Value) -> ir.Value:
        wide = op.Cast(q, to=int(ir.DataType.INT32))
        inside = op.And(op.Greater(wide, lowest), op.Less(wide, highest))
        return op.Where(inside, g, zero)  # type: ignore[no-any-return]

    return site.pointwise(g, rule, q)


def rescaled(site: Site, g: Cotangent, read: Quantisation, q: ir.Value) -> Cotangent:
    """g, of a number that was read off q by one scale, for the number that q was made of."""
    made = quantisation(q)
    if made is None or (read.scale is made.scale and read.axis == made.axis):
        return g
    op = site.op
    first, second = graph.constant(read.scale), graph.constant(made.scale)
    if first is not None and second is not None and np.array_equal(first, second):
        return g
    if is_vector(read.scale) or is_vector(made.scale):
        raise site.unsupported("with other scales along an axis than those it was quantised by")
    value = g.value if read.scale is None else op.Mul(g.value, read.scale)
    return g.with_value(value if made.scale is None else op.Div(value, made.scale))


def _by_axis(q: ir.Value) -> bool:
    found = quantisation(q)
    return found is not None and is_vector(found.scale)
