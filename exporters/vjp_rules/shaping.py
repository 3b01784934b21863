"""Operators that move numbers without changing them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from exporters.cotangent import Cotangent, reshaped, transposed
from exporters.vjp_rules.registry import Site, as_array, vjp


@vjp("Reshape", "Flatten", "Squeeze", "Unsqueeze", sparse=True)
def reshape(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x in another shape; dx = g in the shape of x."""
    x = site.input(0)
    return [reshaped(site.op, g, site.shape(x), x, site.output)]


@vjp("Transpose", sparse=True)
def transpose(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x with its axes permuted; dx = g with the inverse permutation."""
    perm = site.attribute("perm", tuple(reversed(range(g.rank))))
    if g.one_hot is not None and perm[0] != 0:  # its images must stay in front
        g = site.dense(g)
    return [transposed(site.op, g, perm)]


@vjp("Concat", sparse=True)
def concat(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = [x_1, x_2, ...] along an axis; dx_i = the slice of g that x_i filled."""
    op = site.op
    axis = site.attribute("axis", 0)
    axis = axis - g.rank if axis >= 0 else axis
    if g.one_hot is not None and axis in (g.one_hot.axis, -g.rank):
        g = site.dense(g)
    shapes = [site.shape(site.input(index)) for index in range(len(site.node.inputs))]
    if axis in g.constant:
        return [replace(g, shape=shape) for shape in shapes]
    extents = [shape[axis] for shape in shapes]
    if not all(isinstance(extent, int) for extent in extents):
        raise site.unsupported("along an axis whose size is only known at run time")
    ends = np.cumsum([int(extent) for extent in extents])
    return [
        replace(
            g,
            value=op.Slice(g.value, op.constant([start]), op.constant([end]), op.constant([axis])),
            shape=shape,
        )
        if site.on(index)
        else None
        for index, (start, end, shape) in enumerate(zip([0, *ends[:-1]], ends, shapes, strict=True))
    ]


@vjp("Pad")
def pad(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x with a border of constants; dx = g without the border (a negative border pads g)."""
    if site.attribute("mode", "constant") != "constant":
        raise site.unsupported(f"with mode={site.attribute('mode', '')!r}")
    pads = as_array(site.given(1), ())
    axes = as_array(site.given(3), range(g.rank))
    borders = [0] * (2 * (g.rank + 1))
    for index, axis in enumerate(axes):
        place = axis % g.rank + 1
        borders[place] = -pads[index]
        borders[place + g.rank + 1] = -pads[index + len(axes)]
    x = site.input(0)
    value = site.op.Pad(g.value, site.op.constant(borders), site.scalar(0.0))
    return [Cotangent(value, site.shape(x))]
