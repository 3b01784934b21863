"""Quantisation, straight through: rounding is taken for the identity, saturation is not.

The cotangent of a quantised value is that of the number which it stands for, a float.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters import graph
from exporters.cotangent import Cotangent, dense
from exporters.vjp_rules.registry import Site, vjp


@vjp("QuantizeLinear", sparse=True)
def quantize_linear(site: Site, g: Cotangent) -> list[Cotangent]:
    """q = round(x / scale) + zero point, saturated; dx = g where lowest < q < highest, else 0.

    Read off q and not x, which ONNX Runtime's fused int8 kernels never compute. A q at the end of
    its range may be saturated: after a Relu that was merged into it, the lowest is where x <= 0.
    """
    op, x, q = site.op, site.input(0), site.output
    if q.dtype not in _RANGES:
        raise site.unsupported(f"to {q.dtype}")
    assert x.dtype is not None
    lowest, highest = (op.constant(end, ir.DataType.INT32) for end in _RANGES[q.dtype])
    zero = op.constant(0.0, x.dtype)
    wide: ir.Value = op.Cast(q, to=int(ir.DataType.INT32))
    site.shapes[wide] = site.shape(x)

    def rule(g: ir.Value, q: ir.Value) -> ir.Value:
        inside = op.And(op.Greater(q, lowest), op.Less(q, highest))
        return op.Where(inside, g, zero)  # type: ignore[no-any-return]

    return [site.pointwise(_without_one_hot(site, g), rule, wide)]


@vjp("DequantizeLinear", sparse=True)
def dequantize_linear(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = scale (q - zero point); dq = g, the scale being that which q was quantised by."""
    q = site.input(0)
    node = q.producer()
    made_by, read_by = _scale(node), _scale(site.node)
    if made_by is None or read_by is None or not np.array_equal(made_by, read_by):
        raise site.unsupported("with another scale than that of the QuantizeLinear before it")
    return [_without_one_hot(site, g)]


_RANGES = {
    dtype: (int(np.iinfo(dtype.numpy()).min), int(np.iinfo(dtype.numpy()).max))
    for dtype in (
        ir.DataType.INT8,
        ir.DataType.UINT8,
        ir.DataType.INT16,
        ir.DataType.UINT16,
    )
}


def _scale(node: ir.Node | None) -> NDArray[np.generic] | None:
    return graph.constant(node.inputs[1]) if node is not None else None


def _without_one_hot(site: Site, g: Cotangent) -> Cotangent:
    """Spelled out by the float beside the quantised value."""
    float_value = site.input(0) if graph.is_float(site.input(0)) else site.output
    return dense(site.op, g, float_value) if g.one_hot is not None else g
