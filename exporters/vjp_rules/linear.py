"""Weighted sums: Gemm, MatMul, Conv."""

from __future__ import annotations

import onnx_ir as ir

from exporters.cotangent import Cotangent, k_into_batch, k_out_of_batch
from exporters.vjp_rules.registry import Site, vjp
from exporters.vjp_rules.windows import Window, scatter_windows, window_of


@vjp("Gemm", sparse=True)
def gemm(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """Y = alpha A' B' + beta C; dA' = alpha G B'^T, dB' = alpha A'^T G, dC = beta G.

    A' and B' are A and B, transposed where the attributes say so.

    With constant B and a one-hot G this is one row of B: nothing is multiplied.
    """
    op = site.op
    a, b = site.input(0), site.input(1)
    trans_a, trans_b = site.attribute("transA", 0), site.attribute("transB", 0)
    alpha, beta = site.attribute("alpha", 1.0), site.attribute("beta", 1.0)
    gradients: list[Cotangent | None] = [None, None, None]
    if site.on(2):
        gradients[2] = g.with_value(op.scale(g.value, site.scalar(beta)))
    if not site.on(0) and not site.on(1):
        return gradients
    g = g.with_value(op.scale(g.value, site.scalar(alpha)))
    if site.on(0) and not trans_a and _is_class_axis(g):
        rows = _row(site, g, b, class_axis=0 if trans_b else 1)
        gradients[0] = Cotangent(op.times(g.value, rows), site.shape(a))
        if not site.on(1):
            return gradients
    g = site.dense(g)
    if site.on(0) and gradients[0] is None:
        into = op.MatMul(g.value, b if trans_b else _transposed(site, b))
        gradients[0] = Cotangent(_transposed(site, into, 3) if trans_a else into, site.shape(a))
    if site.on(1):
        into = op.MatMul(a if trans_a else _transposed(site, a), g.value)
        gradients[1] = Cotangent(_transposed(site, into, 3) if trans_b else into, site.shape(b))
    return gradients


@vjp("MatMul", sparse=True)
def matmul(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """Y = A B over the last two axes; dA = G B^T, dB = A^T G, broadcast over the axes before."""
    op = site.op
    a, b = site.input(0), site.input(1)
    shape_a, shape_b = site.shape(a), site.shape(b)
    if len(shape_a) < 2 or len(shape_b) < 2:
        raise site.unsupported("with a vector as operand")
    if _is_class_axis(g) and not site.on(1) and len(shape_a) == len(shape_b) == 2:
        return [Cotangent(op.times(g.value, _row(site, g, b, class_axis=1)), shape_a)]
    g = site.dense(g)
    lead = g.shape[:-2]
    gradients: list[Cotangent | None] = [None, None]
    if site.on(0):
        value = op.MatMul(g.value, _transposed(site, b, len(shape_b)))
        gradients[0] = Cotangent(value, (*lead, *shape_a[-2:]))
    if site.on(1):
        value = op.MatMul(_transposed(site, a, len(shape_a)), g.value)
        gradients[1] = Cotangent(value, (*lead, *shape_b[-2:]))
    return gradients


@vjp("Conv", sparse=True)
def conv(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """Y = W * X + b, a correlation; dX = G convolved with W: ConvTranspose with the same weights.

    A one-hot G through a 1x1 convolution needs one row of W only.
    """
    op = site.op
    if site.on(1) or site.on(2):
        raise site.unsupported("with weights that depend on the image")
    x, weight = site.input(0), site.input(1)
    shape = site.shape(x)
    kernel = site.shape(weight)[2:]
    if not all(isinstance(size, int) for size in kernel):
        raise site.unsupported("with a kernel size that is only known at run time")
    window = window_of(site, [int(size) for size in kernel])
    groups = site.attribute("group", 1)
    pointwise = window == Window.unit(len(kernel)) and groups == 1
    if pointwise and g.one_hot is not None and g.one_hot.axis == 1 - g.rank:
        rows = op.gather_rows(weight, g.one_hot.index)  # [K, B, C, 1, 1]
        value = op.outer(rows, g.value)
        return [Cotangent(value, shape, g.constant - {1 - g.rank})]
    g = site.dense(g)
    merged = scatter_windows(site, k_into_batch(op, g, site.output), weight, window, groups)
    return [k_out_of_batch(op, merged, g, shape, x)]


def _is_class_axis(g: Cotangent) -> bool:
    return g.one_hot is not None and g.one_hot.axis == -1 and g.rank == 2


def _row(site: Site, g: Cotangent, weight: ir.Value, class_axis: int) -> ir.Value:
    """The chosen class's weights, [K, B, C], out of a matrix with the classes at `class_axis`."""
    assert g.one_hot is not None
    if class_axis == 0:
        return site.op.gather_rows(weight, g.one_hot.index)
    columns = site.op.Gather(weight, g.one_hot.index, axis=1)  # [C, K, B]
    return site.op.transpose(columns, [1, 2, 0])


def _transposed(site: Site, matrix: ir.Value, rank: int = 2) -> ir.Value:
    return site.op.transpose(matrix, [*range(rank - 2), rank - 1, rank - 2])
