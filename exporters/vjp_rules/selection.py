"""Operators that select or order entries by what is only known at run time, and their inverses."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporters.cotangent import ZERO, Cotangent, Zero
from exporters.vjp_rules.along_axis import reshaped_to, size_list, vector, with_k
from exporters.vjp_rules.indexing import summed_at
from exporters.vjp_rules.registry import Site, vjp


@vjp("TopK")
def top_k(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = the k largest or smallest x along an axis; dx = g where they stood, zeros elsewhere."""
    op, x, places = site.op, site.input(0), site.node.outputs[1]
    shape = site.shape(x)
    axis = site.attribute("axis", -1) % g.rank
    zeros = op.Expand(site.scalar(0.0), with_k(op, g.value, size_list(op, x, shape)))
    indices = op.Expand(places, op.Shape(g.value))
    return [Cotangent(op.ScatterElements(zeros, indices, g.value, axis=axis + 1), shape)]


@vjp("Compress")
def compress(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = the x along an axis for which a condition holds; dx = g there, zeros elsewhere.

    Without an axis x is taken as one row.
    """
    op, x = site.op, site.input(0)
    shape = site.shape(x)
    sizes = size_list(op, x, shape)
    places = op.Reshape(op.NonZero(site.input(1)), op.constant([-1]))
    if "axis" not in site.node.attributes:
        count = op.Reshape(op.Size(x), op.constant([1]))
        row = op.transpose(summed_at(site, op.transpose(g.value, [1, 0]), places, count), [1, 0])
        return [Cotangent(reshaped_to(op, row, sizes), shape)]
    axis = site.attribute("axis", 0) % g.rank
    front = [axis + 1, *(other for other in range(g.rank + 1) if other != axis + 1)]
    summed = summed_at(site, op.transpose(g.value, front), places, sizes[axis])
    return [Cotangent(op.transpose(summed, [int(a) for a in np.argsort(front)]), shape)]


@vjp("ReverseSequence")
def reverse_sequence(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x, the first n_b entries of row b reversed; dx = g, reversed likewise."""
    op, last = site.op, [*range(1, g.rank + 1), 0]
    axes = {"time_axis": 0, "batch_axis": 1}
    kept = {name: site.attribute(name, default) for name, default in axes.items()}
    turned = op.ReverseSequence(op.transpose(g.value, last), site.input(1), **kept)
    return [g.with_value(op.transpose(turned, [g.rank, *range(g.rank)]))]


@vjp("MaxUnpool")
def max_unpool(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x at positions of a larger image, zeros elsewhere; dx = g, read there."""
    op, x = site.op, site.input(0)
    row = reshaped_to(op, g.value, [op.Reshape(op.Size(site.output), op.constant([1]))])
    return [Cotangent(op.Gather(row, site.input(1), axis=1), site.shape(x))]


@vjp("OneHot")
def one_hot(site: Site, g: Cotangent) -> list[Cotangent | Zero]:
    """y = off + (on - off) h, h = 1 at the indices, else 0; doff = sum g (1 - h), don = sum g h."""
    op, dtype = site.op, site.output.dtype
    assert dtype is not None
    ends = op.constant([0.0, 1.0], ir.DataType.FLOAT)
    axis = site.attribute("axis", -1)
    h = op.Cast(op.OneHot(site.input(0), site.input(1), ends, axis=axis), to=int(dtype))
    every = op.constant(list(range(1, g.rank + 1)))
    on = op.ReduceSum(op.Mul(g.value, h), every, keepdims=0)
    off = op.Sub(op.ReduceSum(g.value, every, keepdims=0), on)
    values = op.Concat(op.unsqueeze(off, [1]), op.unsqueeze(on, [1]), axis=1)
    return [ZERO, ZERO, Cotangent(values, (2,))]


@vjp("TensorScatter")
def tensor_scatter(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = x with an update from a place on that each image has; dx = g, 0 there; du = g there."""
    op, update = site.op, site.input(1)
    rank, axis = g.rank, site.attribute("axis", -2) % g.rank
    shape = site.shape(update)
    batch, count = (op.Squeeze(op.Shape(update, start=a, end=a + 1)) for a in (0, axis))
    places = op.unsqueeze(op.Range(op.constant(0), count, op.constant(1)), [0])
    if len(site.node.inputs) > 2 and site.node.inputs[2] is not None:
        places = op.Add(places, op.unsqueeze(site.input(2), [1]))
    size = op.Squeeze(op.Shape(site.input(0), start=axis, end=axis + 1))
    places = op.Mod(places, size)  # of "circular"; the others don't reach the end
    places = op.Expand(places, vector(op, [op.Reshape(batch, op.constant([1])), 1]))
    between = [other for other in range(1, rank) if other != axis]
    indices = op.unsqueeze(places, between)  # [B, 1, ..., count, ..., 1]
    sizes = size_list(op, update, shape)
    indices = op.Expand(indices, with_k(op, g.value, sizes))
    data = op.ScatterElements(
        g.value,
        indices,
        op.Expand(site.scalar(0.0), with_k(op, g.value, sizes)),
        axis=axis + 1,
    )
    read = op.GatherElements(g.value, indices, axis=axis + 1)
    return [
        g.with_value(data) if site.on(0) else None,
        Cotangent(read, shape) if site.on(1) else None,
    ]
