"""Linear maps along one axis, transposed: what Slice, Gather, Pad and Resize have in common.

y = M x along an axis, so dx = M^T g along it. A map that only picks entries is a list of positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters.builder import Ops
from exporters.cotangent import Cotangent, scaled
from exporters.probe import Dim, Shape
from exporters.vjp_rules.registry import Site


def moves(g: Cotangent, axis: int) -> bool:
    """Whether g must be dense before its `axis` (negative) changes: for the sake of its index."""
    return g.one_hot is not None and axis in (g.one_hot.axis, -g.rank)


def size_list(op: Ops, like: ir.Value, shape: Shape) -> list[int | ir.Value]:
    """The sizes of `like`, those that are free as vectors of one element."""
    return [
        size if isinstance(size, int) else op.Shape(like, start=axis, end=axis + 1)
        for axis, size in enumerate(shape)
    ]


def reshaped_to(op: Ops, value: ir.Value, sizes: Sequence[int | ir.Value]) -> ir.Value:
    """A tensor [K, ...] as [K, *sizes]; 0 stands for "as it is".

    Where one size is free, K is spelled out: ONNX Runtime turns a target with a single unknown into
    one with -1, which can't be inferred at K = 0.
    """
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) == len(sizes):
        return op.Reshape(value, op.constant([0, *known]))  # type: ignore[no-any-return]
    return op.Reshape(value, with_k(op, value, sizes))  # type: ignore[no-any-return]


def with_k(op: Ops, value: ir.Value, sizes: Sequence[int | ir.Value]) -> ir.Value:
    """The vector [K, *sizes], K that of `value`."""
    return vector(op, [op.Shape(value, start=0, end=1), *sizes])


def vector(op: Ops, sizes: Sequence[int | ir.Value]) -> ir.Value:
    """Sizes, and vectors of such, as one vector."""
    parts: list[ir.Value] = []
    known: list[int] = []
    for size in sizes:
        if isinstance(size, int):
            known.append(size)
            continue
        if known:
            parts.append(op.constant(known))
            known = []
        parts.append(size)
    if known:
        parts.append(op.constant(known))
    return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=0)


def scattered(
    site: Site, g: Cotangent, axis: int, positions: NDArray[np.int64], size: int
) -> Cotangent:
    """dx = g at `positions` of an axis of `size`, zero elsewhere; a position read twice adds up.

    Args:
        site: the node, which read the positions.
        g: cotangent of what was read, not one-hot in a way that `moves`.
        axis: negative.
        positions: where the entries came from, from 0 on.
        size: of the axis in x.
    """
    count = len(positions)
    if (axis in g.constant and count != 1) or len(set(positions.tolist())) < count:
        matrix = np.zeros((count, size))
        matrix[np.arange(count), positions] = 1
        return through_matrix(site, g, axis, matrix)
    first = int(positions[0]) if count else 0
    if not np.array_equal(positions, np.arange(first, first + count)):
        place = np.full(size, count)  # of the zero behind the last
        place[positions] = np.arange(count)
        g = bordered(site, g, axis, 0, 1)
        value = site.op.Gather(g.value, site.op.constant(place), axis=g.rank + axis + 1)
        return replace(g, value=value, shape=_resized(g, axis, size))
    return bordered(site, g, axis, first, size - first - count)


def bordered(site: Site, g: Cotangent, axis: int, before: int, after: int) -> Cotangent:
    """g with zeros before and after it along `axis`, where it is stored in full."""
    size = g.shape[axis]
    assert isinstance(size, int)
    constant = g.constant - {axis}
    if before == after == 0:
        return replace(g, constant=constant)
    borders = [0] * (2 * (g.rank + 1))
    borders[g.rank + 1 + axis] = before
    borders[2 * (g.rank + 1) + axis] = after
    value = site.op.Pad(g.value, site.op.constant(borders), site.scalar(0.0))
    return replace(
        g, value=value, shape=_resized(g, axis, size + before + after), constant=constant
    )


def through_matrix(site: Site, g: Cotangent, axis: int, matrix: NDArray[np.floating]) -> Cotangent:
    """g along `axis` (negative) times a matrix, [size in y, size in x]."""
    op = site.op
    dtype = site.output.dtype
    assert dtype is not None
    shape = _resized(g, axis, matrix.shape[1])
    if axis in g.constant and len(matrix) != 1:
        sums = matrix.sum(0)
        if len(sums) and np.all(sums == sums[0]):
            return replace(scaled(op, g, site.scalar(float(sums[0]))), shape=shape)
        row = op.constant(sums.reshape(-1, *[1] * (-axis - 1)), dtype)
        value = op.times(g.value, op.unsqueeze(row, list(range(g.rank + 1 + axis))))
        return replace(g, value=value, shape=shape, constant=g.constant - {axis})
    value = times_matrix(op, g, axis, op.constant(matrix, dtype))
    return replace(g, value=value, shape=shape, constant=g.constant - {axis})


def summed_up(site: Site, size: ir.Value, indices: ir.Value, g: ir.Value, axis: int) -> ir.Value:
    """Zeros of a size, to which g is added at indices along an axis."""

    def put(zero: ir.Value, added: ir.Value) -> ir.Value:
        zeros = site.op.Expand(zero, size)
        return site.op.ScatterElements(zeros, indices, added, axis=axis, reduction="add")  # type: ignore[no-any-return]

    return in_single(site, g, put)


def in_single(site: Site, g: ir.Value, put: Callable[[ir.Value, ir.Value], ir.Value]) -> ir.Value:
    """What `put` makes of a zero and g.

    Half numbers are added as single ones: ONNX Runtime can't add them on the CPU.
    """
    op, dtype = site.op, site.output.dtype
    assert dtype is not None
    if dtype not in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        return put(op.constant(0.0, dtype), g)
    single = put(op.constant(0.0, ir.DataType.FLOAT), op.Cast(g, to=int(ir.DataType.FLOAT)))
    return op.Cast(single, to=int(dtype))  # type: ignore[no-any-return]


def times_matrix(op: Ops, g: Cotangent, axis: int, matrix: ir.Value) -> ir.Value:
    """g's value, stored in full along `axis`, times a matrix along it."""
    if axis == -2:
        return op.MatMul(op.transpose(matrix, [1, 0]), g.value)  # type: ignore[no-any-return]
    last = [*range(g.rank + 1)]
    last[axis], last[-1] = last[-1], last[axis]  # its own inverse
    return op.transpose(op.MatMul(op.transpose(g.value, last), matrix), last)


def _resized(g: Cotangent, axis: int, size: Dim) -> Shape:
    return tuple(size if a == axis else n for a, n in zip(range(-g.rank, 0), g.shape, strict=True))
