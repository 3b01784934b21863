"""Operators that pick entries by position, or put them there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters.cotangent import Cotangent
from exporters.vjp_rules.along_axis import (
    moves,
    reshaped_to,
    scattered,
    size_list,
    with_k,
)
from exporters.vjp_rules.registry import Site, as_array, vjp


@vjp("Slice", sparse=True)
def slice_(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = entries of x from start to end by steps; dx = g at those places, zeros elsewhere."""
    x = site.input(0)
    shape = site.shape(x)
    axes = [axis % g.rank - g.rank for axis in as_array(site.given(3), range(g.rank))]
    steps = as_array(site.given(4), [1] * len(axes))
    starts, ends = as_array(site.given(1), ()), as_array(site.given(2), ())
    cuts = list(zip(axes, starts, ends, steps, strict=False))
    free = any(not isinstance(shape[axis], int) for axis in axes)
    if free or any(moves(g, axis) for axis in axes):
        g = site.dense(g)
    for axis, *cut in cuts:
        size = shape[axis]
        if isinstance(size, int):
            start, end, step = cut
            g = scattered(site, g, axis, np.arange(size)[start:end:step], size)
        elif cut != [0, _END, 1]:
            g = _placed_at_run_time(site, g, axis, cut)
    return [replace(g, shape=shape)]


_END = 2**63 - 1


def _placed_at_run_time(site: Site, g: Cotangent, axis: int, cut: list[int]) -> Cotangent:
    """dx of a Slice along an axis of free size: where each entry went is found by slicing, too."""
    op, x = site.op, site.input(0)
    zero, one = op.constant(0), op.constant(1)
    rest = {} if axis == -1 else {"end": axis + 1}
    size = op.Shape(x, start=axis, **rest)
    start, end, step = (op.constant([number]) for number in cut)
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
    size = shape[axis]
    if not isinstance(size, int):
        raise site.unsupported("along an axis whose size is only known at run time")
    indices = _indices(site, 1) % size
    place = rank + axis
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
    indices = op.Expand(_positive(site, 1, shape[axis]), op.Shape(g.value))
    zeros = op.Expand(site.scalar(0.0), with_k(op, g.value, size_list(op, x, shape)))
    value = op.ScatterElements(zeros, indices, g.value, axis=g.rank + axis + 1, reduction="add")
    return [Cotangent(value, shape)]


@vjp("GatherND")
def gather_nd(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x at tuples of indices into its first axes; dx = g summed up there, zeros elsewhere."""
    op, x = site.op, site.input(0)
    shape = site.shape(x)
    positions, indexed, sizes = _flat_positions(site, shape, site.attribute("batch_dims", 0))
    rest = size_list(op, x, shape)[indexed:]
    g = Cotangent(
        reshaped_to(op, g.value, [positions.size, *rest]),
        (positions.size, *shape[indexed:]),
    )
    g = scattered(site, g, -g.rank, positions.reshape(-1), int(np.prod(sizes)))
    return [Cotangent(reshaped_to(op, g.value, [*sizes, *rest]), shape)]


@vjp("ScatterND")
def scatter_nd(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = data with updates at tuples of indices; ddata = g, 0 there; dupdates = g, read there.

    Updates that are added leave ddata = g.
    """
    op, x = site.op, site.output
    added = _adds(site)
    positions, indexed, sizes = _flat_positions(site, g.shape, 0)
    data: Cotangent | None = g
    updates: Cotangent | None = None
    if site.on(0) and not added:
        kept = np.ones(int(np.prod(sizes)))
        kept[positions.reshape(-1)] = 0
        kept = kept.reshape(*sizes, *[1] * (g.rank - indexed))
        assert x.dtype is not None
        data = g.with_value(op.Mul(g.value, op.constant(kept, x.dtype)))
    if site.on(2):
        flat = [int(np.prod(sizes)), *size_list(op, x, g.shape)[indexed:]]
        value = op.Gather(reshaped_to(op, g.value, flat), op.constant(positions), axis=1)
        updates = Cotangent(value, site.shape(site.input(2)))
    return [data, None, updates]


@vjp("ScatterElements")
def scatter_elements(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = data with updates at an index each; ddata = g, 0 there; dupdates = g, read there.

    Updates that are added leave ddata = g.
    """
    op = site.op
    added = _adds(site)
    axis = site.attribute("axis", 0) % g.rank - g.rank
    index = _positive(site, 1, g.shape[axis])
    shape = list(_indices(site, 1).shape)
    indices = op.Expand(index, with_k(op, g.value, shape))
    place = g.rank + axis + 1
    data: Cotangent | None = g
    updates: Cotangent | None = None
    if site.on(0) and not added:
        zeros = op.Expand(site.scalar(0.0), with_k(op, g.value, shape))
        data = g.with_value(op.ScatterElements(g.value, indices, zeros, axis=place))
    if site.on(2):
        value = op.GatherElements(g.value, indices, axis=place)
        updates = Cotangent(value, site.shape(site.input(2)))
    return [data, None, updates]


@vjp("Trilu")
def trilu(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = the upper or lower triangle of x, zeros elsewhere; dx = the same triangle of g."""
    given = site.given(1)
    diagonal = None if given is None else site.op.constant(given.reshape(()))
    return [g.with_value(site.op.Trilu(g.value, diagonal, upper=site.attribute("upper", 1)))]


def _adds(site: Site) -> bool:
    """Whether updates are added to the data, not put in its place."""
    reduction = site.attribute("reduction", "none")
    if reduction not in ("none", "add"):
        raise site.unsupported(f"with reduction={reduction!r}")
    return bool(reduction == "add")


def _indices(site: Site, index: int) -> NDArray[np.int64]:
    given = site.given(index)
    assert given is not None
    return given.astype(np.int64)


def _positive(site: Site, index: int, size: Any) -> ir.Value:
    """Indices into an axis of `size` as a constant."""
    indices = _indices(site, index)
    return site.op.constant(indices % size if isinstance(size, int) else indices)


def _flat_positions(
    site: Site, shape: tuple[Any, ...], batch_dims: int
) -> tuple[NDArray[np.int64], int, list[int]]:
    """Tuples of indices as positions in the first axes taken as one; number and sizes of these."""
    indices = _indices(site, 1)
    indexed = batch_dims + indices.shape[-1]
    sizes = list(shape[:indexed])
    if not all(isinstance(size, int) for size in sizes):
        raise site.unsupported("along axes whose size is only known at run time")
    lead = np.indices(indices.shape[:-1])[:batch_dims]
    tuples = [*lead, *np.moveaxis(indices, -1, 0)]
    wrapped = tuple(t % n for t, n in zip(tuples, sizes, strict=True))
    return np.ravel_multi_index(wrapped, sizes).astype(np.int64), indexed, sizes
