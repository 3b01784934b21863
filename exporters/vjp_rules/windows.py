"""Sliding windows: their geometry, and the transposed convolution that undoes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporters.vjp_rules.registry import Site


@dataclass(frozen=True)
class Window:
    """Size, stride, dilation and padding (begin, end) of a window, per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @classmethod
    def unit(cls, axes: int) -> Window:
        """The window of one position."""
        return cls((1,) * axes, (1,) * axes, (1,) * axes, (0,) * axes, (0,) * axes)

    @property
    def extent(self) -> tuple[int, ...]:
        """Positions from the first to the last that a window touches."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))


def window_of(site: Site, kernel: Sequence[int]) -> Window:
    """The window of a Conv or pooling node, with auto_pad made explicit."""
    axes = len(kernel)
    strides = tuple(site.attribute("strides", (1,) * axes))
    dilations = tuple(site.attribute("dilations", (1,) * axes))
    pads = tuple(site.attribute("pads", (0,) * (2 * axes)))
    begin, end = pads[:axes], pads[axes:]
    mode = site.attribute("auto_pad", "NOTSET")
    window = Window(tuple(kernel), strides, dilations, begin, end)
    if mode == "VALID":
        begin = end = (0,) * axes
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        sizes = site.shape(site.input(0))[2:]
        if not all(isinstance(size, int) for size in sizes):
            raise site.unsupported(f"with auto_pad={mode!r} and an image size that is free")
        total = [
            max((-(-int(size) // s) - 1) * s + e - int(size), 0)
            for size, s, e in zip(sizes, strides, window.extent, strict=True)
        ]
        small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        begin, end = (small, large) if mode == "SAME_UPPER" else (large, small)
    return Window(tuple(kernel), strides, dilations, begin, end)


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


def ones(site: Site, kernel: Sequence[int]) -> ir.Value:
    """A kernel of ones for one channel, [1, 1, *kernel]."""
    assert site.output.dtype is not None
    return site.op.constant(np.ones((1, 1, *kernel)), site.output.dtype)
