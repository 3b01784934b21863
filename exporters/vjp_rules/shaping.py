"""Operators that move numbers without changing them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from exporters.cotangent import Cotangent, dense, reshaped, transposed
from exporters.probe import Dim
from exporters.vjp_rules.along_axis import moves, reshaped_to, scattered, size_list, with_k
from exporters.vjp_rules.registry import Cotangents, Gradients, Site, as_array, vjp, vjp_of_outputs


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
    gradients: list[Cotangent | None] = []
    end: ir.Value = op.constant([0])
    known = 0  # of the parts up to here, as long as all sizes are known
    for index, shape in enumerate(shapes):
        start, extent = end, shape[axis]
        if isinstance(extent, int) and known >= 0:
            known += extent
            end = op.constant([known])
        else:
            known = -1
            size = size_list(op, site.input(index), shape)[axis]
            end = op.Add(start, op.constant([size]) if isinstance(size, int) else size)
        part = op.Slice(g.value, start, end, op.constant([axis])) if site.on(index) else None
        gradients.append(None if part is None else replace(g, value=part, shape=shape))
    return gradients


@vjp_of_outputs("Split", sparse=True)
def split(site: Site, cotangents: Cotangents) -> Gradients:
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
        extents = _extents(site, shape[axis])
        if extents is None:
            return split(site, _with_zeros(site, read))
        ends = [0, *np.cumsum(extents)]
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


def _with_zeros(site: Site, read: dict[int, Cotangent]) -> list[Cotangent]:
    """The cotangents of all outputs, zeros spelled out for those that nobody reads."""
    op, outputs = site.op, site.node.outputs
    every = {index: dense(op, g, outputs[index]) for index, g in read.items()}
    like = next(iter(every.values())).value
    for index, output in enumerate(outputs):
        if index not in every:
            sizes = size_list(op, output, site.shape(output))
            zeros = op.Expand(site.scalar(0.0), with_k(op, like, sizes))
            every[index] = Cotangent(zeros, site.shape(output))
    return [every[index] for index in range(len(outputs))]


def _extents(site: Site, size: Dim) -> list[int] | None:
    """The sizes of the parts of a Split along its axis; ``None`` if known at run time only."""
    if len(site.node.inputs) > 1 and site.node.inputs[1] is not None:
        given = site.known(1)
        return None if given is None else as_array(given, ())
    if not isinstance(size, int):
        return None
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
    known = site.known(1)
    repeats: list[int | ir.Value] = (
        [op.Gather(site.input(1), op.constant([axis])) for axis in range(g.rank)]
        if known is None
        else [*as_array(known, ())]
    )
    target: list[int | ir.Value] = []
    copies = []
    for repeat, size in zip(repeats, size_list(op, x, shape), strict=True):
        if not isinstance(repeat, int) or repeat != 1:
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
