"""The transposed convolution, the gradient of Conv and of AveragePool by their input.

ONNX Runtime's ConvTranspose multiplies matrices and scatters columns, image by image; its Conv has
kernels for a blocked layout. So a transposed convolution is emitted as a Conv of the cotangent
where that is the same sum. The kernel is flipped and its channel axes exchanged by nodes on the
weights, which ONNX Runtime folds when it loads the file: the file doesn't grow.

- Stride 1: the Conv with the flipped kernel. Depthwise 3x3 on [8, 96, 112, 112], two processors
  that others were busy on: 41 ms with reordering in and out, ConvTranspose 104.
- A stride along two axes of known size, one group, a kernel larger than 1: one Conv that makes all
  phases of the stride, put in turns afterwards (`Phases`). In ResNet-50 at batch 8, the seven
  strided layers took a quarter of the time of the forward pass before.
- The same with several groups, or 1x1: zeros are put between the positions, before or after the
  Conv of stride 1. The kernels of a depthwise Conv can't share a matrix, so that phases don't pay.
- Else, that is for dilated strides, one or three axes, or free sizes: ConvTranspose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters.vjp_rules.registry import Site
from exporters.vjp_rules.windows import Window


def scatter_windows(
    site: Site, g: ir.Value, weight: ir.Value, window: Window, groups: int
) -> ir.Value:
    """The transposed convolution of g, cropped or padded to the spatial size of the node's input.

    Args:
        site: the Conv or pooling node.
        g: cotangent of its output, [N, M, ...].
        weight: [M, C / groups, *kernel], as ConvTranspose takes it.
        window: geometry of the node's window.
        groups: as in Conv.
    """
    begin = [e - 1 - b for e, b in zip(window.extent, window.begin, strict=True)]
    if all(stride == 1 for stride in window.strides):
        end = [e - 1 - b for e, b in zip(window.extent, window.end, strict=True)]
        if min(*begin, *end) >= 0:
            return site.op.Conv(  # type: ignore[no-any-return]
                g,
                _flipped(site, weight, groups),
                pads=[*begin, *end],
                dilations=list(window.dilations),
                group=groups,
            )
    elif _is_square(site, window):
        if groups == 1 and window.kernel != (1, 1):
            return _by_phases(site, g, weight, Phases.of(site, window))
        # What the spread positions, a stride each, leave of the input.
        sizes, outputs = site.shape(site.input(0))[2:], site.shape(site.output)[2:]
        axes = zip(sizes, outputs, window.strides, window.begin, strict=True)
        end = [int(size) - int(o) * s + b for size, o, s, b in axes]
        if window.kernel == (1, 1) and min(begin) == 0:
            product = site.op.Conv(g, _flipped(site, weight, groups), group=groups)
            image = _spread(site, product, int(site.shape(site.input(0))[1]), window.strides[0])
            border = site.op.constant([0] * 6 + end)  # a negative one crops
            return site.op.Pad(image, border, site.scalar(0.0)) if any(end) else image
        if min(*begin, *end) >= 0:
            image = _spread(site, g, int(site.shape(site.output)[1]), window.strides[0])
            kernel = _flipped(site, weight, groups)
            return site.op.Conv(image, kernel, pads=[*begin, *end], group=groups)  # type: ignore[no-any-return]
    return _conv_transpose(site, g, weight, window, groups)


def _flipped(site: Site, weight: ir.Value, groups: int) -> ir.Value:
    """[M, C / groups, *kernel] as [C, M / groups, *kernel], the kernel read from its end."""
    op, shape = site.op, [int(size) for size in site.shape(weight)]
    (rows, channels), kernel = shape[:2], shape[2:]
    long = [axis for axis, size in enumerate(kernel, 2) if size > 1]
    if long:
        back, end = op.constant([-1] * len(long)), op.constant([-(2**62)] * len(long))
        weight = op.Slice(weight, back, end, op.constant(long), back)
    rest = list(range(2, len(shape)))
    if groups == 1:
        return op.transpose(weight, [1, 0, *rest])
    if channels == 1 and rows == groups:
        return weight
    split = op.Reshape(weight, op.constant([groups, rows // groups, channels, *kernel]))
    swapped = op.Transpose(split, perm=[0, 2, 1, *(axis + 1 for axis in rest)])
    return op.Reshape(swapped, op.constant([groups * channels, rows // groups, *kernel]))  # type: ignore[no-any-return]


def _is_square(site: Site, window: Window) -> bool:
    """Whether the stride is the same along two axes, with sizes known and no dilation."""
    sizes = (*site.shape(site.input(0))[2:], *site.shape(site.output)[2:])
    square = len(window.strides) == 2 and window.strides[0] == window.strides[1]
    static = all(isinstance(size, int) for size in sizes)
    return square and static and all(d == 1 for d in window.dilations)


def _spread(site: Site, g: ir.Value, channels: int, stride: int) -> ir.Value:
    """g with zeros between its positions; channels go last, so that whole pixels move."""
    op = site.op
    height, width = (int(size) for size in site.shape(site.output)[2:])
    rows = op.Reshape(op.transpose(g, [0, 2, 3, 1]), op.constant([0, height, 1, width, channels]))
    border = op.constant([0] * 7 + [stride - 1, 0, (stride - 1) * channels])
    apart = op.Pad(rows, border, site.scalar(0.0))
    image = op.Reshape(apart, op.constant([0, stride * height, stride * width, channels]))
    return op.transpose(image, [0, 3, 1, 2])


@dataclass(frozen=True)
class Phases:
    """A strided window seen from the input: positions s q + p of phase p are a Conv of g each.

    Position i takes g[o] W[k] for all i + begin = s o + k: phase p takes every s-th entry of W,
    from (p + begin) mod s on, and g from q + (p + begin) div s down.

    Attributes:
        stride: s, the same along both axes.
        counts: how many q there are, by axis.
        pads: of the convolutions, begin and end.
        taps: by axis, [s, taps]: the entry of W that each tap of each phase is, -1 for none.
    """

    stride: int
    counts: tuple[int, int]
    pads: tuple[int, int, int, int]
    taps: tuple[NDArray[np.int64], NDArray[np.int64]]

    @classmethod
    def of(cls, site: Site, window: Window) -> Phases:
        """The phases of the window of `site`."""
        s, axes = window.strides[0], []
        sizes, outputs = site.shape(site.input(0))[2:], site.shape(site.output)[2:]
        for size, o, k, begin in zip(sizes, outputs, window.kernel, window.begin, strict=True):
            count = -(-int(size) // s)
            ahead, first = np.divmod(np.arange(s) + begin, s)
            reach = -(-(k - first) // s)  # entries of W in the phase
            low = min(int((ahead - reach + 1).min()), 0)
            high = max(int(ahead.max()), int(o) - count)
            entries = first[:, None] + s * (ahead[:, None] - np.arange(low, high + 1))
            inside = (entries >= first[:, None]) & (entries < k)
            axes.append((count, -low, count + high - int(o), np.where(inside, entries, -1)))
        counts, begins, ends, taps = zip(*axes, strict=True)
        return cls(s, counts, (*begins, *ends), taps)


def _by_phases(site: Site, g: ir.Value, weight: ir.Value, phases: Phases) -> ir.Value:
    """All phases as one Conv, [N, s s C, q, q], which are then put in turns."""
    op, s = site.op, phases.stride
    rows, channels, height, width = (int(size) for size in site.shape(weight))
    sizes = [int(size) for size in site.shape(site.input(0))[2:]]
    down, across = phases.taps
    entries = down[:, None, :, None] * width + across[None, :, None, :]
    missing = np.minimum(down[:, None, :, None], across[None, :, None, :]) < 0
    entries = np.where(missing, height * width, entries)  # the zero behind the kernel
    flat = op.Reshape(weight, op.constant([rows, channels, height * width]))
    padded = op.Pad(flat, op.constant([0, 0, 0, 0, 0, 1]), site.scalar(0.0))
    picked = op.Gather(padded, op.constant(entries.reshape(s * s, -1)), axis=2)
    by_phase = op.Transpose(picked, perm=[2, 1, 0, 3])
    kernel = op.Reshape(by_phase, op.constant([s * s * channels, rows, *entries.shape[2:]]))
    last = op.transpose(op.Conv(g, kernel, pads=list(phases.pads)), [0, 2, 3, 1])
    split = op.Reshape(last, op.constant([0, *phases.counts, s, s * channels]))
    turns = op.Transpose(split, perm=[0, 1, 3, 2, 4])
    whole = [s * count for count in phases.counts]
    image = op.transpose(op.Reshape(turns, op.constant([0, *whole, channels])), [0, 3, 1, 2])
    if whole == sizes:
        return image
    zero = op.constant([0, 0])
    return op.Slice(image, zero, op.constant(sizes), op.constant([2, 3]))  # type: ignore[no-any-return]


def _conv_transpose(
    site: Site, g: ir.Value, weight: ir.Value, window: Window, groups: int
) -> ir.Value:
    """The operator itself; where sizes are free it is padded, then cropped to the input's."""
    op, x = site.op, site.input(0)
    sizes, outputs = site.shape(x)[2:], site.shape(site.output)[2:]
    geometry = {
        "strides": list(window.strides),
        "dilations": list(window.dilations),
        "kernel_shape": list(window.kernel),
        "group": groups,
    }
    axes = len(sizes)
    if all(isinstance(size, int) for size in (*sizes, *outputs)):
        # Surplus of the transposed convolution over the input, at the end of each axis.
        over = [
            (int(o) - 1) * s + e - b - int(size)
            for o, s, e, b, size in zip(
                outputs, window.strides, window.extent, window.begin, sizes, strict=True
            )
        ]
        # What is missing instead is a rest that no window reached: less than a stride, as
        # output_padding must be.
        return op.ConvTranspose(  # type: ignore[no-any-return]
            g,
            weight,
            pads=[*window.begin, *(max(surplus, 0) for surplus in over)],
            output_padding=[max(-surplus, 0) for surplus in over],
            **geometry,
        )
    full = op.ConvTranspose(g, weight, **geometry)
    border = op.constant([0] * (axes + 2) + [0, 0, *(s - 1 for s in window.strides)])
    padded = op.Pad(full, border, site.scalar(0.0))
    first = op.constant(list(window.begin))
    last = op.Add(first, op.Shape(x, start=2))
    return op.Slice(padded, first, last, op.constant(list(range(2, axes + 2))))  # type: ignore[no-any-return]


def ones(site: Site, channels: int, window: Window) -> ir.Value:
    """A kernel of ones for each channel, [channels, 1, *kernel]."""
    assert site.output.dtype is not None
    return site.op.constant(np.ones((channels, 1, *window.kernel)), site.output.dtype)
