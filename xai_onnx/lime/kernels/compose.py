"""Perturbed pictures: each superpixel of each row of a mask comes from the picture or the fill.

A mask's bits are packed first, those of 8, 16, 32 or 64 rows (as wide as a pixel's value is) in one
word for each superpixel. A pixel then looks its word up once for all of these rows, and each row
costs one test and one select, which the compiler does for many pixels at a time. The work goes in
tiles, so that picture, fill and words stay in the nearest cache while the rows are written.

Values are only moved, never calculated with: they come as unsigned integers of their width.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xai_onnx.lime.kernels.jit import kernel

TILE = 1024  # pixels; with 32-bit values 4 KiB each of picture, fill and words
WIDTHS = (8, 16, 32, 64)  # bits of a value


@kernel(*(f"void(uint8[:, ::1], uint{bits}[:, ::1])" for bits in WIDTHS))
def pack(masks: Any, words: Any) -> None:
    """Bit `b` of ``words[g, j]`` becomes whether ``masks[g * width + b, j]`` is not 0.

    Args:
        masks: [n, d].
        words: [ceil(n / width), d], where width is the number of its type's bits; overwritten.
    """
    width = 8 * words.itemsize
    words[:] = 0
    for sample in range(masks.shape[0]):
        group, bit = sample // width, sample % width
        for j in range(masks.shape[1]):
            on = np.uint64(masks[sample, j] != 0)
            words[group, j] |= on << np.uint64(bit)


@kernel(
    *(
        f"void(uint{bits}[:, ::1], uint{bits}[:, ::1], int32[::1], uint{bits}[:, ::1], "
        f"uint{bits}[:, :, ::1])"
        for bits in WIDTHS
    )
)
def compose(image: Any, fill: Any, segments: Any, words: Any, out: Any) -> None:
    """Write the perturbed picture of each row of the packed masks.

    Args:
        image, fill: [C, P]; P values of each of C planes.
        segments: [P], the superpixel of each value, 0..d-1.
        words: [groups, d], from `pack`.
        out: [n, C, P]; overwritten.
    """
    samples, planes, values = out.shape
    width = 8 * words.itemsize
    powers = np.empty(width, words.dtype)
    for bit in range(width):
        powers[bit] = np.uint64(1) << np.uint64(bit)
    tile = np.empty(TILE, words.dtype)
    for start in range(0, values, TILE):
        size = min(TILE, values - start)
        for first in range(0, samples, width):
            group = words[first // width]
            for p in range(size):
                tile[p] = group[np.uint32(segments[start + p])]  # unsigned: no test for negative
            for plane in range(planes):
                on = image[plane, start : start + size]
                off = fill[plane, start : start + size]
                for bit in range(min(width, samples - first)):
                    power = powers[bit]
                    row = out[first + bit, plane, start : start + size]
                    for p in range(size):
                        a, b = on[p], off[p]
                        row[p] = a if (tile[p] & power) != 0 else b
