"""Operators for onnx's reference evaluator that work in float64, correctly.

The evaluator's own use float32 inside (Erf, Gelu, GroupNormalization), are wrong (poolings in
ceil_mode, ConvTranspose, GatherElements along a negative axis, LpNormalization, LRN, Mean of shapes
that differ, GlobalMaxPool of a row, a Pad that crops) or missing (GlobalLpPool); its quantisation
rounds, which has no derivative.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun
from scipy import special


class AveragePool(OpRun):
    """ONNX's AveragePool: windows that start in the image or in its padding at the beginning."""

    def _run(self, x: Any, count_include_pad: int = 0, **window: Any) -> tuple[Any, ...]:
        values, inside = _windows(x, 0.0, **window)
        _, padded = _windows(x, 0.0, **{**window, "widened": True})
        counted = padded if count_include_pad else inside
        axes = tuple(range(x.ndim, values.ndim))
        return (values.sum(axes) / counted.sum(axes),)


class MaxPool(OpRun):
    """ONNX's MaxPool without its second output."""

    def _run(self, x: Any, storage_order: int = 0, **window: Any) -> tuple[Any, ...]:
        values, _ = _windows(x, -np.inf, **window)
        return (values.max(tuple(range(x.ndim, values.ndim))),)


class LpNormalization(OpRun):
    """onnx's own takes powers of x without its sign, and gives NaN for a row of zeros."""

    def _run(self, x: Any, axis: Any = -1, p: Any = 2) -> tuple[Any, ...]:
        n = (np.abs(x) ** p).sum(axis, keepdims=True) ** (1 / p)
        return (np.where(n == 0, 0, x / np.where(n == 0, 1, n)),)


class LpPool(OpRun):
    """onnx's own averages over the padding, too, and knows no dilations."""

    def _run(self, x: Any, p: int = 2, **window: Any) -> tuple[Any, ...]:
        values, _ = _windows(x, 0.0, **window)
        return ((np.abs(values) ** p).sum(tuple(range(x.ndim, values.ndim))) ** (1 / p),)


def _windows(
    x: NDArray[Any],
    fill: float,
    *,
    kernel_shape: Any,
    strides: Any = None,
    dilations: Any = None,
    pads: Any = None,
    ceil_mode: int = 0,
    auto_pad: str = "NOTSET",
    widened: bool = False,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """All windows of x, [B, C, *outputs, *kernel], and which of their entries lie in the image.

    With `widened`, which of them lie in the image or its padding.
    """
    axes = x.ndim - 2
    strides, dilations = list(strides or [1] * axes), list(dilations or [1] * axes)
    pads = list(pads or [0] * (2 * axes))
    places, inside = [], []
    for axis, size in enumerate(x.shape[2:]):
        step, extent = strides[axis], (kernel_shape[axis] - 1) * dilations[axis] + 1
        if auto_pad.startswith("SAME"):
            total = max((-(-size // step) - 1) * step + extent - size, 0)
            first = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
            pads[axis], pads[axis + axes] = first, total - first
        begin, end = pads[axis], pads[axis + axes]
        room = size + begin + end - extent
        count = (-(-room // step) if ceil_mode else room // step) + 1
        if (count - 1) * step >= size + begin:  # would start in the padding at the end
            count -= 1
        offsets = np.arange(kernel_shape[axis]) * dilations[axis]
        place = np.arange(count)[:, None] * step - begin + offsets
        low, high = (-begin, size + end) if widened else (0, size)
        places.append(np.where((place >= 0) & (place < size), place, size))
        inside.append((place >= low) & (place < high))
    bordered = np.pad(x, [(0, 0), (0, 0), *[(0, 1)] * axes], constant_values=fill)
    index = np.ix_(*[place.reshape(-1) for place in places])
    taken = bordered[(slice(None), slice(None), *index)]
    shape = [n for place in places for n in place.shape]
    order = [0, 1, *(2 + 2 * axis for axis in range(axes)), *(3 + 2 * axis for axis in range(axes))]
    values = taken.reshape(*x.shape[:2], *shape).transpose(order)
    mask = np.ones([1] * (2 * axes), bool)
    for axis, part in enumerate(inside):
        sizes = [1] * (2 * axes)
        sizes[axis], sizes[axis + axes] = part.shape
        mask = mask & part.reshape(sizes)
    return values, np.broadcast_to(mask, values.shape)


class ConvTranspose(OpRun):
    """onnx's own knows neither several channels a group nor `output_shape` with strides."""

    def _run(
        self,
        x: Any,
        w: Any,
        b: Any = None,
        auto_pad: Any = None,
        dilations: Any = None,
        group: Any = None,
        kernel_shape: Any = None,
        output_padding: Any = None,
        output_shape: Any = None,
        pads: Any = None,
        strides: Any = None,
    ) -> tuple[Any, ...]:
        count, group = x.ndim - 2, group or 1
        strides, dilations = strides or [1] * count, dilations or [1] * count
        sizes, kernel = x.shape[2:], w.shape[2:]
        axes = list(zip(sizes, strides, kernel, dilations, strict=True))
        full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in axes]
        more = output_padding or [0] * count
        begin, end = np.split(np.array(pads or [0] * 2 * count), 2)
        if auto_pad in ("SAME_UPPER", "SAME_LOWER") or output_shape:
            wanted = output_shape or [n * s for n, s in zip(sizes, strides, strict=True)]
            total = np.array(full) + more - wanted
            begin, end = total - total // 2, total // 2
            if auto_pad == "SAME_UPPER":
                begin, end = end, begin
        room = [n + m + max(-e, 0) for n, m, e in zip(full, more, end, strict=True)]
        y = np.zeros((len(x), w.shape[1] * group, *room))
        grouped = zip(np.split(x, group, 1), np.split(w, group), strict=True)
        parts = [np.einsum("nc...,cmp->nmp...", a, v.reshape(*v.shape[:2], -1)) for a, v in grouped]
        taps = np.concatenate(parts, axis=1)
        for index, place in enumerate(np.ndindex(*kernel)):
            steps = zip(place, dilations, strides, sizes, strict=True)
            where: tuple[Any, ...] = tuple(
                slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, s, n in steps
            )
            y[(..., *where)] += taps[:, :, index]
        stops = [n + m - e for n, m, e in zip(full, more, end, strict=True)]
        kept: tuple[Any, ...] = tuple(slice(b, e) for b, e in zip(begin, stops, strict=True))
        y = y[(..., *kept)]
        return (y if b is None else y + b.reshape(-1, *[1] * count),)


class Erf(OpRun):
    """In float64 throughout; onnx's own works in float32."""

    def _run(self, x: Any) -> tuple[Any, ...]:
        return (special.erf(x),)


class GatherElements(OpRun):
    """onnx's own takes a negative axis for another one."""

    def _run(self, x: Any, indices: Any, axis: Any = 0) -> tuple[Any, ...]:
        return (np.take_along_axis(x, indices, axis),)


class Gelu(OpRun):
    """In float64 throughout; onnx's own works in float32."""

    def _run(self, x: Any, approximate: Any = "none") -> tuple[Any, ...]:
        if approximate == "tanh":
            t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
        else:
            t = special.erf(x / math.sqrt(2))
        return (x * (1 + t) / 2,)


class GlobalLpPool(OpRun):
    """onnx has none."""

    def _run(self, x: Any, p: Any = 2) -> tuple[Any, ...]:
        axes = tuple(range(2, x.ndim))
        return ((np.abs(x) ** p).sum(axes, keepdims=True) ** (1 / p),)


class GlobalMaxPool(OpRun):
    """onnx's own drops an axis of a row."""

    def _run(self, x: Any) -> tuple[Any, ...]:
        return (x.max(tuple(range(2, x.ndim)), keepdims=True),)


class GroupNormalization(OpRun):
    """In float64 throughout; onnx's own works in float32."""

    def _run(
        self,
        x: Any,
        scale: Any,
        bias: Any,
        epsilon: Any = 1e-5,
        num_groups: Any = None,
        stash_type: Any = 1,
    ) -> tuple[Any, ...]:
        groups = x.reshape(len(x), num_groups, -1)
        centred = groups - groups.mean(-1, keepdims=True)
        u = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        behind = (-1, *[1] * (x.ndim - 2))
        return (u.reshape(x.shape) * scale.reshape(behind) + bias.reshape(behind),)


class LRN(OpRun):
    """With the window that the specification has; onnx's own ends one channel early."""

    def _run(
        self, x: Any, alpha: Any = None, beta: Any = None, bias: Any = None, size: Any = None
    ) -> tuple[Any, ...]:
        before, after, channels = (size - 1) // 2, size // 2, x.shape[1]
        squares = [
            (x[:, max(c - before, 0) : c + after + 1] ** 2).sum(1, keepdims=True)
            for c in range(channels)
        ]
        return (x / (bias + alpha / size * np.concatenate(squares, axis=1)) ** beta,)


class MeanVarianceNormalization(OpRun):
    """onnx's own adds float32 numbers to what must be of one type."""

    def _run(self, x: Any, axes: Any = None) -> tuple[Any, ...]:
        over = tuple(axes or (0, 2, 3))
        centred = x - x.mean(over, keepdims=True)
        return (centred / (np.sqrt((centred**2).mean(over, keepdims=True)) + 1e-9),)


class Mean(OpRun):
    """onnx's own can't stretch the first operand."""

    def _run(self, *operands: Any) -> tuple[Any, ...]:
        return (sum(operands) / len(operands),)


class Pad(OpRun):
    """onnx's own knows no negative borders."""

    def _run(
        self, x: Any, pads: Any, value: Any = None, axes: Any = None, mode: Any = "constant"
    ) -> tuple[Any, ...]:
        borders = np.zeros((x.ndim, 2), np.int64)
        borders[list(range(x.ndim) if axes is None else axes)] = np.reshape(pads, (2, -1)).T
        ends = [size + min(after, 0) for size, (_, after) in zip(x.shape, borders, strict=True)]
        kept = x[tuple(slice(max(-b, 0), end) for (b, _), end in zip(borders, ends, strict=True))]
        more: dict[str, Any] = {} if mode != "constant" else {"constant_values": value or 0}
        return (np.pad(kept, np.maximum(borders, 0), mode=mode, **more),)


class QuantizeLinear(OpRun):
    """Saturates but doesn't round: what is differentiated is the straight-through estimate.

    A number that would be rounded to an end of the range counts as saturated, as in the rule. Where
    `settled` holds what the model itself rounds to, by name of the output, the first run gives that
    and later ones what differs from it without rounding.
    """

    settled: Mapping[str, NDArray[Any]] = {}
    unlimited: Collection[str] = ()  # outputs that don't saturate

    def _run(
        self, x: Any, scale: Any, zero: Any = None, axis: int = 1, **_: Any
    ) -> tuple[Any, ...]:
        name = self.onnx_node.output[0]
        lowest, highest = (-math.inf, math.inf) if name in self.unlimited else _range(zero)
        steps = x / _along(scale, x, axis) + _along(zero, x, axis)
        rounded = self.settled.get(name)
        if rounded is None:
            rounded = np.rint(steps)
        else:
            self._first = getattr(self, "_first", steps)
            steps = rounded - below(rounded.shape) + (steps - self._first)
        inside = np.where(rounded >= highest, highest, steps)
        return (np.where(rounded <= lowest, lowest, inside),)


def below(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """What is taken off rounded values, in steps: so little that only kinks see it.

    Rounding puts many at exactly 0 and makes many ties in windows. Differences across these are no
    derivatives. So 0 is put on the side that the rules of Relu and LeakyRelu take it for, and the
    first of several maxima is made the largest.
    """
    height, width = shape[2:] if len(shape) == 4 else (1, 1)
    later = np.arange(1, height * width + 1) / (height * width)
    return 1e-2 * (later.reshape(height, width) if len(shape) == 4 else later)


def rounding_as(
    settled: Mapping[str, NDArray[Any]], unlimited: Collection[str]
) -> type[QuantizeLinear]:
    """The operator, where what it rounds to is settled."""
    return type("QuantizeLinear", (QuantizeLinear,), {"settled": settled, "unlimited": unlimited})


class DequantizeLinear(OpRun):
    """Of numbers that are not rounded."""

    def _run(
        self, q: Any, scale: Any, zero: Any = None, axis: int = 1, **_: Any
    ) -> tuple[Any, ...]:
        return ((q - _along(zero, q, axis)) * _along(scale, q, axis),)


def _range(zero: Any) -> tuple[int, int]:
    kind = np.iinfo(np.uint8 if zero is None else zero.dtype)
    return int(kind.min), int(kind.max)


def _along(values: Any, like: Any, axis: int) -> Any:
    """One number, or one for each place along an axis, shaped to broadcast against `like`."""
    if values is None:
        return 0.0
    wide = np.asarray(values, np.float64)
    if wide.size == 1:
        return wide.reshape(())
    shape = [1] * like.ndim
    shape[axis] = -1
    return wide.reshape(shape)


OPERATORS: tuple[type[OpRun], ...] = (
    AveragePool,
    ConvTranspose,
    DequantizeLinear,
    Erf,
    GatherElements,
    Gelu,
    GlobalLpPool,
    GlobalMaxPool,
    GroupNormalization,
    LRN,
    LpNormalization,
    LpPool,
    MaxPool,
    Mean,
    MeanVarianceNormalization,
    Pad,
    QuantizeLinear,
)
