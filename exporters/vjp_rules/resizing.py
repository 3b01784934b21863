"""Operators that mix the entries along an axis linearly: Pad, Resize, CumSum."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters.builder import Ops
from exporters.cotangent import Cotangent
from exporters.ort import open_model
from exporters.probe import BATCH, FREE, Dim
from exporters.vjp_rules.along_axis import (
    moves,
    reshaped_to,
    size_list,
    through_matrix,
    times_matrix,
    vector,
)
from exporters.vjp_rules.registry import Site, as_array, vjp


@vjp("Pad", sparse=True)
def pad(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = x with a border; dx = g without a border of constants (a negative border pads g).

    The gradient of what the border holds is the sum of g there.

    Where the border repeats entries of x, y = P x along each axis, and dx = P^T g.
    """
    x = site.input(0)
    shape = site.shape(x)
    mode = site.attribute("mode", "constant")
    axes = [axis % g.rank - g.rank for axis in as_array(site.given(3), range(g.rank))]
    if mode == "constant" and (site.known(1) is None or site.on(2)):
        return _bordered_at_run_time(site, site.dense(g), axes)
    pads = as_array(site.given(1), ())
    border = {
        axis: (before, after)
        for axis, before, after in zip(axes, pads, pads[len(axes) :], strict=False)
        if before or after
    }
    if mode == "constant":
        g = site.dense(g)
        borders = [0] * (2 * (g.rank + 1))
        for axis, (before, after) in border.items():
            borders[g.rank + 1 + axis] = -before
            borders[2 * (g.rank + 1) + axis] = -after
        value = site.op.Pad(g.value, site.op.constant(borders), site.scalar(0.0))
        return [Cotangent(value, shape)]
    if any(moves(g, axis) for axis in border):
        g = site.dense(g)
    for axis, (before, after) in border.items():
        size = shape[axis]
        if not isinstance(size, int):
            raise site.unsupported(f"with mode={mode!r} and a size that is only known at run time")
        op = Ops(set())
        entries = op.constant(np.eye(size), ir.DataType.FLOAT)
        padded = op.Pad(entries, op.constant([0, before, 0, after]), None, mode=mode)
        g = through_matrix(site, g, axis, _computed(op, padded).T)
    return [replace(g, shape=shape)]


def _bordered_at_run_time(site: Site, g: Cotangent, axes: list[int]) -> list[Cotangent | None]:
    """The same for a border of constants that is known at run time only, or lies on the path."""
    op, x = site.op, site.input(0)
    given = [op.constant([axis + g.rank + 1 for axis in axes])]
    value = op.Pad(g.value, op.Neg(site.input(1)), site.scalar(0.0), *given)
    inner = Cotangent(value, site.shape(x))
    if not site.on(2):
        return [inner]
    every = op.constant(list(range(1, g.rank + 1)))
    border = op.Sub(*(op.ReduceSum(item, every, keepdims=0) for item in (g.value, value)))
    held = site.shape(site.input(2))  # no axis, or one of size 1
    return [inner, None, Cotangent(op.unsqueeze(border, list(range(1, len(held) + 1))), held)]


@vjp("Resize", sparse=True)
def resize(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = R x along each resized axis; dx = R^T g. R is measured: the operator of an identity.

    Where R repeats each entry r times, dx = the sum over the r copies, for any size.
    """
    op, x, y = site.op, site.input(0), site.output
    before, after = site.shape(x), site.shape(y)
    maps = {axis: made for axis, made in _resized_axes(site).items() if made is not None}
    copies = {
        axis: r
        for axis, made in maps.items()
        if (r := made.repeats(site)) and not (axis in g.constant and isinstance(after[axis], int))
    }
    at_run_time = any(made.at_run_time for axis, made in maps.items() if axis not in copies)
    if copies or at_run_time or any(moves(g, axis) for axis in maps):
        g = site.dense(g)
    if copies:
        target: list[int | ir.Value] = []
        summed = []
        sizes = zip(
            range(-g.rank, 0), size_list(op, x, before), size_list(op, y, after), strict=True
        )
        for axis, old, new in sizes:
            target.append(old if axis in copies else new)
            if axis in copies:
                summed.append(len(target) + 1)
                target.append(copies[axis])
        apart = reshaped_to(op, g.value, target)
        g = g.with_value(op.ReduceSum(apart, op.constant(summed), keepdims=0))
    for axis, made in maps.items():
        if axis in copies:
            continue
        if made.at_run_time:
            value = times_matrix(op, g, axis, _matrix_at_run_time(site, axis, made))
            g = replace(g, value=value, constant=g.constant - {axis})
        else:
            g = through_matrix(site, g, axis, made.matrix(site))
    return [replace(g, shape=before)]


@dataclass(frozen=True)
class _Resizing:
    """How one axis is resized.

    Attributes:
        before: its size.
        after: what becomes of it.
        scale: the factor, where that is given.
        region: the part that is read, for tf_crop_and_resize.
        leader: the axis that decides where the aspect ratio is kept: its size, before and wanted.
        scale_input: where in the node's scales the factor is, if it is only known at run time.
    """

    before: Dim
    after: Dim
    scale: float | None = None
    region: tuple[float, float] = (0.0, 1.0)
    leader: tuple[int, int] | None = None
    scale_input: int | None = None

    @property
    def at_run_time(self) -> bool:
        """Whether the matrix is known at run time only."""
        sizes = (self.before, self.after)
        return self.scale_input is not None or not all(isinstance(size, int) for size in sizes)

    def repeats(self, site: Site) -> int:
        """r where every entry is repeated r times, else 0."""
        if self.scale_input is not None:
            return 0
        factor = round(self.scale or 0)
        if isinstance(self.before, int) and isinstance(self.after, int):
            factor = self.after // self.before if self.after % self.before == 0 else 0
        if site.attribute("mode", "nearest") != "nearest" or self.scale not in (None, factor):
            return 0
        mode = site.attribute("coordinate_transformation_mode", "half_pixel")
        if factor < 2 or self.leader or mode in ("align_corners", "tf_crop_and_resize"):
            return 0
        sample = _Resizing(4, 4 * factor, self.scale)
        return factor * np.array_equal(sample.matrix(site), np.repeat(np.eye(4), factor, axis=0))

    def matrix(self, site: Site) -> NDArray[np.floating]:
        """What the entries after resizing are made of, [after, before]."""
        before, after, scale = self.before, self.after, self.scale
        assert isinstance(before, int)
        assert isinstance(after, int)
        op = Ops(set())
        beside, wanted = self.leader or (1, 1)
        identity = np.eye(before).reshape(before, 1, before, 1).repeat(beside, axis=3)
        entries = op.constant(identity, ir.DataType.FLOAT)
        region = op.constant([0, 0, self.region[0], 0, 1, 1, self.region[1], 1], ir.DataType.FLOAT)
        settings = {name: site.attribute(name, None) for name in _SETTINGS}
        given = {name: value for name, value in settings.items() if value is not None}
        scales = sizes = None
        if self.leader:
            # The other axis's size must not lead: as small or as large as it may be.
            policy = site.attribute("keep_aspect_ratio_policy", "")
            far = 1 if policy == "not_smaller" else 2 * after
            sizes = op.constant([far, wanted])
            region = op.constant([self.region[0], 0, self.region[1], 1], ir.DataType.FLOAT)
            given |= {"axes": [2, 3], "keep_aspect_ratio_policy": policy}
        elif scale is None:
            sizes = op.constant([before, 1, after, 1])
        else:
            scales = op.constant([1, 1, scale, 1], ir.DataType.FLOAT)
        matrix = _computed(op, op.Resize(entries, region, scales, sizes, **given))
        assert matrix.shape[2] == after
        return matrix[:, 0, :, 0].T


_SETTINGS = (
    *("mode", "nearest_mode", "coordinate_transformation_mode"),
    *("cubic_coeff_a", "exclude_outside", "antialias"),
)


def _resized_axes(site: Site) -> dict[int, _Resizing | None]:
    """The axes (negative) that a Resize may change; ``None`` for one that stays as it is."""
    before, after = site.shape(site.input(0)), site.shape(site.output)
    rank = len(before)
    axes = [axis % rank - rank for axis in site.attribute("axes", range(rank))]
    given = site.known(2) if len(site.node.inputs) > 2 else None
    unknown = given is None and len(site.node.inputs) > 2 and site.node.inputs[2] is not None
    scales = [None] * len(axes) if given is None or not given.size else given.tolist()
    regions = np.array([[0.0] * len(axes), [1.0] * len(axes)])
    if site.attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        roi = site.given(1)
        assert roi is not None
        regions = roi.astype(np.float64).reshape(2, -1)
    leading, leader = _leader(site, axes) or (None, None)
    found: dict[int, _Resizing | None] = {}
    for place, (axis, scale, start, end) in enumerate(zip(axes, scales, *regions, strict=True)):
        old, new, region = before[axis], after[axis], (float(start), float(end))
        # Free sizes that are given as sizes may differ; the batch is only ever the batch.
        same = scale == 1 or (
            scale is None and old == new != FREE and not (unknown and old != BATCH)
        )
        led = None if axis == leading else leader
        made = _Resizing(old, new, scale, region, led, place if unknown else None)
        found[axis] = None if same and region == (0, 1) else made
    return found


def _matrix_at_run_time(site: Site, axis: int, made: _Resizing) -> ir.Value:
    """The same matrix, [after, before], made when it runs: the operator of an identity."""
    op, x, y = site.op, site.input(0), site.output
    rank = len(site.shape(x))
    before, after = (op.Shape(v, start=rank + axis, end=rank + axis + 1) for v in (x, y))
    square = op.Expand(site.scalar(0.0), op.Concat(before, before, axis=0))
    entries = op.unsqueeze(op.EyeLike(square), [1, 3])  # [before, 1, before, 1]
    settings = {name: site.attribute(name, None) for name in _SETTINGS}
    given = {name: value for name, value in settings.items() if value is not None}
    region = [0, 0, made.region[0], 0, 1, 1, made.region[1], 1]
    roi = op.constant(region, ir.DataType.FLOAT)
    one = op.constant([1.0], ir.DataType.FLOAT)
    if made.scale_input is not None:
        scale = op.Gather(site.input(2), op.constant([made.scale_input]))
    else:
        scale = None if made.scale is None else op.constant([made.scale], ir.DataType.FLOAT)
    if scale is not None:
        read = op.Resize(entries, roi, op.Concat(one, one, scale, one, axis=0), None, **given)
    else:
        read = op.Resize(entries, roi, None, vector(op, [before, 1, after, 1]), **given)
    return op.transpose(op.squeeze(read, [1, 3]), [1, 0])


def _leader(site: Site, axes: list[int]) -> tuple[int, tuple[int, int]] | None:
    """The axis whose wanted size sets the scale of all, if the aspect ratio is kept; its sizes."""
    policy = site.attribute("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return None
    given = site.given(2)
    if given is not None and given.size:
        return None
    shape = site.shape(site.input(0))
    ratios = []
    for axis, wanted in zip(axes, as_array(site.given(3), ()), strict=True):
        size = shape[axis]
        if not isinstance(size, int):
            raise site.unsupported("with keep_aspect_ratio_policy and a size that is free")
        ratios.append((wanted / size, axis, (size, wanted)))
    _, axis, sizes = max(ratios) if policy == "not_smaller" else min(ratios)
    return axis, sizes


@vjp("CenterCropPad")
def center_crop_pad(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = the middle of x, or x amid zeros, along axes; dx = g, cropped or padded back likewise."""
    op, x = site.op, site.input(0)
    axes = [axis % g.rank for axis in site.attribute("axes", range(g.rank))]
    sizes = op.Gather(op.Shape(x), op.constant(axes))
    value = op.CenterCropPad(g.value, sizes, axes=[axis + 1 for axis in axes])
    return [Cotangent(value, site.shape(x))]


@vjp("CumSum")
def cum_sum(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = running sums of x along an axis; dx = those of g from the other end."""
    (axis,) = as_array(site.given(1), ())
    last = site.op.constant(axis % g.rank + 1)
    exclusive, reverse = site.attribute("exclusive", 0), site.attribute("reverse", 0)
    return [g.with_value(site.op.CumSum(g.value, last, exclusive=exclusive, reverse=1 - reverse))]


def _computed(op: Ops, value: ir.Value) -> NDArray[np.floating]:
    """What an emitted value comes to in ONNX Runtime."""
    graph = ir.Graph(
        [],
        [value],
        nodes=op.nodes,
        initializers=op.initializers,
        opset_imports={"": _OPSET},
        name="measured",
    )
    session = open_model(ir.Model(graph, ir_version=_IR_VERSION), "a resizing operator")
    return session.run(None, {})[0]  # type: ignore[no-any-return]


_OPSET, _IR_VERSION = 19, 9  # the first that knows all modes of Pad and Resize
