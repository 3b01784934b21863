"""Sliding windows: their geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
