"""Operators that move numbers without changing them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from exporters.cotangent import Cotangent, dense, reshaped, transposed
from exporters.probe import Dim
from exporters.vjp_rules.along_axis import moves, reshaped_to, scattered, size_list
from exporters.vjp_rules.registry import Cotangents, Site, as_array, vjp, vjp_of_outputs


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


@vjp_of_outputs("Split", sparse=True)
def split(site: Site, cotangents: Cotangents) -> list[Cotangent]:
    """[y_1, y_2, ...] = x, cut along an axis; dx = [g_1, g_2, ...], zeros where nobody reads y_i.

    The zeros are the border of the part before them.
    """
    op = site.op
    shape = site.shape(site.input(0))
    axis = site.attribute("axis", 0) % len(shape) - len(shape)
    read = {i: g for i, g in enumerate(cotangents) if g is not None}
    if len(read) > 1 and not _alike(list(read.values()), axis):
        read = {i: dense(op, g, site.node.outputs[i]) for i, g in read.items()}
    read = {i: dense(op, g, site.node.outputs[i]) if moves(g, axis) else g for i, g in read.items()}
    if len(read) == len(cotangents):
        parts = list(read.values())
    else:
        ends = [0, *np.cumsum(_extents(site, shape[axis]))]
        stops = [*[ends[i] for i in read][1:], ends[-1]]
        starts = [0, *stops[:-1]]
        parts = [
            scattered(site, g, axis, np.arange(ends[i] - start, ends[i + 1] - start), stop - start)
            for (i, g), start, stop in zip(read.items(), starts, stops, strict=True)
        ]
    value = parts[0].value
    if len(parts) > 1:
        value = op.Concat(*(part.value for part in parts), axis=len(shape) + axis + 1)
        parts = [replace(part, constant=part.constant - {axis}) for part in parts]
    return [replace(parts[0], value=value, shape=shape)]


def _alike(parts: list[Cotangent], axis: int) -> bool:
    """Whether parts can be joined along `axis` as they are stored."""
    first = parts[0]
    return all(
        (part.constant - {axis}, part.one_hot) == (first.constant - {axis}, first.one_hot)
        and (axis not in part.constant or part.shape[axis] == 1)
        for part in parts
    )


def _extents(site: Site, size: Dim) -> list[int]:
    """The sizes of the parts of a Split along its axis."""
    given = site.given(1)
    if given is not None:
        return as_array(given, ())
    if not isinstance(size, int):
        raise site.unsupported("along an axis whose size is only known at run time")
    count = len(site.node.outputs)
    each = -(-size // count)
    return [*[each] * (count - 1), size - each * (count - 1)]


@vjp("Expand", sparse=True)
def expand(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x, repeated along its axes of size 1; dx = g summed over them, which the walk does."""
    return [g]


@vjp("Tile")
def tile(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = copies of x side by side; dx = the sum of g over the copies."""
    op, x = site.op, site.input(0)
    shape = site.shape(x)
    repeats = as_array(site.given(1), ())
    target: list[int | ir.Value] = []
    copies = []
    for repeat, size in zip(repeats, size_list(op, x, shape), strict=True):
        if repeat != 1:
            copies.append(len(target) + 1)
            target.append(repeat)
        target.append(size)
    if not copies:
        return [g]
    apart = reshaped_to(op, g.value, target)
    return [Cotangent(op.ReduceSum(apart, op.constant(copies), keepdims=0), shape)]


@vjp("DepthToSpace")
def depth_to_space(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x with blocks of channels laid out as b x b pixels; dx = the pixels of g as channels."""
    op, block = site.op, site.attribute("blocksize", 1)
    x = site.input(0)
    _, channels, *image = size_list(op, x, site.shape(x))
    if not isinstance(channels, int):
        raise site.unsupported("with a number of channels that is only known at run time")
    height, width = image
    parted = [0, channels // block**2, height, block, width, block]
    perm = (
        [0, 1, 4, 6, 2, 3, 5] if site.attribute("mode", "DCR") == "DCR" else [0, 1, 2, 4, 6, 3, 5]
    )
    value = op.transpose(reshaped_to(op, g.value, parted), perm)
    value = reshaped_to(op, value, [0, channels, *image])
    return [Cotangent(value, site.shape(x))]


@vjp("SpaceToDepth")
def space_to_depth(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x with b x b pixels stacked as channels; dx = the channels of g laid out as pixels."""
    op, block = site.op, site.attribute("blocksize", 1)
    x, y = site.input(0), site.output
    _, channels, *image = size_list(op, x, site.shape(x))
    if not isinstance(channels, int):
        raise site.unsupported("with a number of channels that is only known at run time")
    small = size_list(op, y, site.shape(y))[2:]
    if site.attribute("mode", "DCR") == "DCR":
        parted, perm = [0, block, block, channels, *small], [0, 1, 4, 5, 2, 6, 3]
    else:
        parted, perm = [0, channels, block, block, *small], [0, 1, 2, 5, 3, 6, 4]
    value = op.transpose(reshaped_to(op, g.value, parted), perm)
    value = reshaped_to(op, value, [0, channels, *image])
    return [Cotangent(value, site.shape(x))]
