"""Operators that pick entries by position."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters.cotangent import Cotangent
from exporters.vjp_rules.along_axis import (
    in_single,
    moves,
    reshaped_to,
    scattered,
    size_list,
    summed_up,
    with_k,
)
from exporters.vjp_rules.registry import Site, as_array, vjp


@vjp("Slice", sparse=True)
def slice_(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = entries of x from start to end by steps; dx = g at those places, zeros elsewhere."""
    x = site.input(0)
    shape = site.shape(x)
    count = site.shape(site.input(1))[0]
    assert isinstance(count, int)
    given = as_array(site.given(3), range(count))
    cuts = {axis % g.rank - g.rank: _cut(site, place) for place, axis in enumerate(given)}
    at_run_time = any(
        not isinstance(part, int) for axis, cut in cuts.items() for part in (*cut, shape[axis])
    )
    if at_run_time or any(moves(g, axis) for axis in cuts):
        g = site.dense(g)
    for axis, cut in cuts.items():
        size, known = shape[axis], [part for part in cut if isinstance(part, int)]
        if isinstance(size, int) and len(known) == len(cut):
            start, end, step = known
            g = scattered(site, g, axis, np.arange(size)[start:end:step], size)
        elif known != [0, _END, 1]:
            g = _placed_at_run_time(site, g, axis, cut)
    return [replace(g, shape=shape)]


def _cut(site: Site, place: int) -> list[int | ir.Value]:
    """Start, end and step of a Slice along its axis number `place`; vectors where not known."""
    cut: list[int | ir.Value] = []
    for index in (1, 2, 4):
        if index >= len(site.node.inputs) or site.node.inputs[index] is None:
            cut.append(1)
            continue
        known = site.known(index)
        if known is not None:
            cut.append(int(known[place]))
            continue
        cut.append(site.op.Gather(_int64(site, index), site.op.constant([place])))
    return cut


def _int64(site: Site, index: int) -> ir.Value:
    value = site.input(index)
    if value.dtype == ir.DataType.INT64:
        return value
    return site.op.Cast(value, to=int(ir.DataType.INT64))  # type: ignore[no-any-return]


_END = 2**63 - 1


def _placed_at_run_time(
    site: Site, g: Cotangent, axis: int, cut: list[int | ir.Value]
) -> Cotangent:
    """dx of a Slice known at run time only: where each entry went is found by slicing, too."""
    op, x = site.op, site.input(0)
    zero, one = op.constant(0), op.constant(1)
    rest = {} if axis == -1 else {"end": axis + 1}
    size = op.Shape(x, start=axis, **rest)
    start, end, step = (op.constant([part]) if isinstance(part, int) else part for part in cut)
    whole = op.Range(zero, op.Squeeze(size), one)
    read = op.Slice(whole, start, end, op.constant([0]), step)
    count = op.Shape(read)
    places = op.Expand(count, size)  # of the zero behind the last
    places = op.ScatterElements(places, read, op.Range(zero, op.Squeeze(count), one))
    borders = [0] * (2 * (g.rank + 1))
    borders[axis] = 1
    padded = op.Pad(g.value, op.constant(borders), site.scalar(0.0))
    return g.with_value(op.Gather(padded, places, axis=g.rank + axis + 1))


@vjp("Gather", sparse=True)
def gather(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x at indices along an axis; dx = g summed up at the indices, zeros elsewhere."""
    op, x = site.op, site.input(0)
    shape = site.shape(x)
    rank = len(shape)
    axis = site.attribute("axis", 0) % rank - rank
    size, place = shape[axis], rank + axis
    known = site.known(1)
    if known is None or not isinstance(size, int):
        return [_gathered_at_run_time(site, site.dense(g), place)]
    indices = known.astype(np.int64) % size
    if indices.ndim == 0:
        if g.one_hot is not None and axis == -rank:
            g = site.dense(g)
        g = _with_axis(site, g, axis)
    elif indices.ndim > 1:
        sizes = [*[0] * place, indices.size, *size_list(op, x, shape)[place + 1 :]]
        value = reshaped_to(op, site.dense(g).value, sizes)
        g = Cotangent(value, (*shape[:place], indices.size, *shape[place + 1 :]))
    elif moves(g, axis):
        g = site.dense(g)
    return [replace(scattered(site, g, axis, indices.reshape(-1), size), shape=shape)]


def _gathered_at_run_time(site: Site, g: Cotangent, place: int) -> Cotangent:
    """dx of a Gather along axis `place` whose indices or size are known at run time only."""
    op, x = site.op, site.input(0)
    shape = site.shape(x)
    sizes = size_list(op, x, shape)
    rank = len(site.shape(site.input(1)))
    positions = op.Reshape(_int64(site, 1), op.constant([-1]))
    outer = size_list(op, site.output, g.shape)
    value = reshaped_to(op, g.value, [*outer[:place], op.Shape(positions), *outer[place + rank :]])
    front = [place + 1, *range(place + 1), *range(place + 2, len(shape) + 1)]
    summed = summed_at(site, op.transpose(value, front), positions, sizes[place])
    return Cotangent(op.transpose(summed, [int(a) for a in np.argsort(front)]), shape)


def summed_at(site: Site, value: ir.Value, positions: ir.Value, size: int | ir.Value) -> ir.Value:
    """Entries [n, ...] summed up at positions [n] of a first axis of `size`, zeros elsewhere."""
    op = site.op
    first = op.constant([size]) if isinstance(size, int) else size
    whole = op.Concat(first, op.Shape(value, start=1), axis=0)

    def put(zero: ir.Value, added: ir.Value) -> ir.Value:
        places = op.unsqueeze(positions, [1])
        return op.ScatterND(op.Expand(zero, whole), places, added, reduction="add")  # type: ignore[no-any-return]

    return in_single(site, value, put)


def _with_axis(site: Site, g: Cotangent, axis: int) -> Cotangent:
    """g with an axis of size 1 put in at `axis`, counted from the end of the result."""

    def moved(old: int) -> int:
        return old if old > axis else old - 1

    place = g.rank + 1 + axis
    one_hot = g.one_hot and replace(g.one_hot, axis=moved(g.one_hot.axis))
    return Cotangent(
        site.op.unsqueeze(g.value, [place + 1]),
        (*g.shape[:place], 1, *g.shape[place:]),
        frozenset(moved(old) for old in g.constant),
        one_hot,
    )


@vjp("GatherElements")
def gather_elements(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x at an index for each entry; dx = g summed up at those, zeros elsewhere."""
    op, x = site.op, site.input(0)
    shape = site.shape(x)
    axis = site.attribute("axis", 0) % g.rank - g.rank
    indices = op.Expand(site.input(1), op.Shape(g.value))
    size = with_k(op, g.value, size_list(op, x, shape))
    return [Cotangent(summed_up(site, size, indices, g.value, g.rank + axis + 1), shape)]


@vjp("GatherND")
def gather_nd(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x at tuples of indices into its first axes; dx = g summed up there, zeros elsewhere."""
    op, x = site.op, site.input(0)
    shape = site.shape(x)
    batch_dims = site.attribute("batch_dims", 0)
    flat = flat_positions(site, x, shape, batch_dims)
    sizes = size_list(op, x, shape)
    rest = sizes[flat.indexed :]
    if flat.known is None:
        positions = op.Reshape(flat.value, op.constant([-1]))
        value = reshaped_to(op, g.value, [op.Shape(positions), *rest])
        swap = [1, 0, *range(2, len(rest) + 2)]
        value = summed_at(site, op.transpose(value, swap), positions, flat.count)
        return [Cotangent(reshaped_to(op, op.transpose(value, swap), sizes), shape)]
    positions = flat.known.reshape(-1)
    assert isinstance(flat.count, int)
    g = Cotangent(
        reshaped_to(op, g.value, [positions.size, *rest]),
        (positions.size, *shape[flat.indexed :]),
    )
    g = scattered(site, g, -g.rank, positions, flat.count)
    return [Cotangent(reshaped_to(op, g.value, sizes), shape)]


@vjp("Trilu")
def trilu(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = the upper or lower triangle of x, zeros elsewhere; dx = the same triangle of g."""
    given = site.given(1)
    diagonal = None if given is None else site.op.constant(given.reshape(()))
    return [g.with_value(site.op.Trilu(g.value, diagonal, upper=site.attribute("upper", 1)))]


@dataclass(frozen=True)
class FlatPositions:
    """Tuples of indices into the first axes of a value as positions in these, taken as one.

    Attributes:
        indexed: number of those axes.
        count: of positions, the product of their sizes; a vector where not known.
        known: the positions where they are known at build time.
        value: the positions, [...], one for each tuple.
    """

    indexed: int
    count: int | ir.Value
    known: NDArray[np.int64] | None
    value: ir.Value


def flat_positions(
    site: Site, x: ir.Value, shape: tuple[Any, ...], batch_dims: int
) -> FlatPositions:
    """The positions that input 1 of the node means in `x` of `shape`."""
    op, depth = site.op, site.shape(site.input(1))[-1]
    assert isinstance(depth, int)
    indexed = batch_dims + depth
    sizes, given = shape[:indexed], site.known(1)
    if given is not None and all(isinstance(size, int) for size in sizes):
        lead = np.indices(given.shape[:-1])[:batch_dims]
        tuples = [*lead, *np.moveaxis(given.astype(np.int64), -1, 0)]
        wrapped = tuple(t % n for t, n in zip(tuples, sizes, strict=True))
        known = np.ravel_multi_index(wrapped, sizes).astype(np.int64)
        return FlatPositions(indexed, int(np.prod(sizes)), known, op.constant(known))
    vectors = [op.constant([n]) if isinstance(n, int) else n for n in size_list(op, x, sizes)]
    strides: list[ir.Value] = [op.constant([1])]
    for vector in vectors[:0:-1]:
        strides.insert(0, op.Mul(strides[0], vector))
    indices = site.input(1)
    ends = op.Concat(*vectors[batch_dims:], axis=0) if depth > 1 else vectors[-1]
    indices = op.Where(op.Less(indices, op.constant(0)), op.Add(indices, ends), indices)
    steps = op.Concat(*strides[batch_dims:], axis=0) if depth > 1 else strides[-1]
    value = op.ReduceSum(op.Mul(indices, steps), op.constant([-1]), keepdims=0)
    lead_rank = len(site.shape(site.input(1))) - 1
    for axis in range(batch_dims):
        counted = op.Range(op.constant(0), op.Squeeze(vectors[axis]), op.constant(1))
        offset = op.Mul(counted, strides[axis])
        value = op.Add(value, op.unsqueeze(offset, list(range(1, lead_rank - axis))))
    return FlatPositions(indexed, op.Mul(strides[0], vectors[0]), None, value)
