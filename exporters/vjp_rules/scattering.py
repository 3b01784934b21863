"""Operators that put updates at positions of data: ScatterND, ScatterElements, TensorScatter.

y = data with updates u_i put at places: in place of what is there, or added, multiplied, or the
larger or smaller of them kept. So ddata = g w and du_i = g_i w_i, g_i being g read at the place of
u_i, with weights that depend on the reduction only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from exporters.cotangent import Cotangent
from exporters.vjp_rules.along_axis import reshaped_to, size_list, with_k
from exporters.vjp_rules.indexing import flat_positions
from exporters.vjp_rules.registry import Site, vjp


@dataclass(frozen=True)
class _Places:
    """The places of a scatter's updates.

    Attributes:
        read: a value of the shape of data at them, in the shape of updates.
        read_g: the same for a cotangent.
        put: data, updates, reduction: the operator itself.
    """

    read: Callable[[ir.Value], ir.Value]
    read_g: Callable[[ir.Value], ir.Value]
    put: Callable[[ir.Value, ir.Value, str], ir.Value]


@vjp("ScatterND")
def scatter_nd(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = data with updates at tuples of indices; ddata = g w, du_i = g_i w_i (see above)."""
    op, y, indices = site.op, site.output, site.input(1)
    flat = flat_positions(site, y, g.shape, 0)
    apart = [flat.count, *size_list(op, y, g.shape)[flat.indexed :]]

    def read(value: ir.Value) -> ir.Value:
        return op.GatherND(value, indices)  # type: ignore[no-any-return]

    def read_g(value: ir.Value) -> ir.Value:
        return op.Gather(reshaped_to(op, value, apart), flat.value, axis=1)  # type: ignore[no-any-return]

    def put(data: ir.Value, updates: ir.Value, reduction: str) -> ir.Value:
        return op.ScatterND(data, indices, updates, reduction=reduction)  # type: ignore[no-any-return]

    return _through(site, g, _Places(read, read_g, put))


@vjp("ScatterElements")
def scatter_elements(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = data with updates at an index each; ddata = g w, du_i = g_i w_i (see above)."""
    op, indices = site.op, site.input(1)
    axis = site.attribute("axis", 0) % g.rank

    def read(value: ir.Value) -> ir.Value:
        return op.GatherElements(value, indices, axis=axis)  # type: ignore[no-any-return]

    def read_g(value: ir.Value) -> ir.Value:
        shape = size_list(op, indices, site.shape(indices))
        return op.GatherElements(  # type: ignore[no-any-return]
            value, op.Expand(indices, with_k(op, value, shape)), axis=axis + 1
        )

    def put(data: ir.Value, updates: ir.Value, reduction: str) -> ir.Value:
        return op.ScatterElements(data, indices, updates, axis=axis, reduction=reduction)  # type: ignore[no-any-return]

    return _through(site, g, _Places(read, read_g, put))


def _through(site: Site, g: Cotangent, places: _Places) -> list[Cotangent | None]:
    """The cotangents of data and updates."""
    op = site.op
    reduction = site.attribute("reduction", "none")
    weights = _WEIGHTS[reduction](site, places)
    data: Cotangent | None = None
    updates: Cotangent | None = None
    if site.on(0):
        w = weights[0]
        data = g if w is None else g.with_value(op.Mul(g.value, w))
    if site.on(2):
        w = weights[1]
        value = places.read_g(g.value)
        updates = Cotangent(value if w is None else op.Mul(value, w), site.shape(site.input(2)))
    return [data, None, updates]


_Weights = tuple[ir.Value | None, ir.Value | None]


def _replaced(site: Site, places: _Places) -> _Weights:
    """w = 0 where an update is, w_i = 1. Of two updates at one place ONNX leaves the order open."""
    return places.put(_full(site, 1.0, 0), _full(site, 0.0, 2), "none"), None


def _added(site: Site, places: _Places) -> _Weights:
    """w = w_i = 1."""
    return None, None


def _multiplied(site: Site, places: _Places) -> _Weights:
    """w = the product of the updates there; w_i = the product of all but u_i there.

    That is y / u_i; with a single 0 among data and updates the product of the rest at the 0.
    """
    op, data, updates = site.op, site.input(0), site.input(2)
    dtype = site.output.dtype
    assert dtype is not None
    zero, one = site.scalar(0.0), site.scalar(1.0)
    product = places.put(_full(site, 1.0, 0), updates, "mul")
    is_zero = op.Equal(updates, zero)
    factors = op.Where(is_zero, one, updates)
    others = places.read(places.put(data, factors, "mul"))
    zeros = places.put(_full(site, 0.0, 0), op.Cast(is_zero, to=int(dtype)), "add")
    beside = op.Sub(places.read(zeros), op.Cast(is_zero, to=int(dtype)))
    rest = op.Where(op.Equal(beside, zero), op.Div(others, factors), zero)
    return product, rest


def _kept(site: Site, places: _Places) -> _Weights:
    """w, w_i = 1 / n where data, u_i are of the n that equal y, else 0: ties share (as torch)."""
    op, y = site.op, site.output
    dtype = y.dtype
    assert dtype is not None
    in_data = op.Cast(op.Equal(site.input(0), y), to=int(dtype))
    in_updates = op.Cast(op.Equal(site.input(2), places.read(y)), to=int(dtype))
    count = places.put(in_data, in_updates, "add")
    return op.Div(in_data, count), op.Div(in_updates, places.read(count))


_WEIGHTS: dict[str, Callable[[Site, _Places], _Weights]] = {
    "none": _replaced,
    "add": _added,
    "mul": _multiplied,
    "max": _kept,
    "min": _kept,
}


def _full(site: Site, number: float, index: int) -> ir.Value:
    """A tensor of `number` in the shape of input `index`."""
    op, like = site.op, site.input(index)
    shape = site.shape(like)
    known = all(isinstance(size, int) for size in shape)
    target: Any = op.constant(list(shape)) if known else op.Shape(like)
    return op.Expand(site.scalar(number), target)  # type: ignore[no-any-return]
