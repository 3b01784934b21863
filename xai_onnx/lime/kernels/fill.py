"""Mean of each superpixel in each plane, to the last bit as ``np.mean`` of its values in order.

NumPy adds floats pairwise: the order of the additions is a part of the result. Here it is the same:
blocks of up to 128 values go into eight sums, and longer runs are halved at a multiple of eight.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xai_onnx.lime.kernels.jit import kernel

BLOCK = 128


@kernel("void(int32[::1], int64[::1], int64[::1])")
def group(segments: Any, order: Any, starts: Any) -> None:
    """Sort the pixels by superpixel, in order within each.

    Args:
        segments: [P], 0..d-1.
        order: [P]; the pixels of superpixel `j` come to ``order[starts[j]:starts[j + 1]]``.
        starts: [d + 1]; overwritten.
    """
    starts[:] = 0
    for label in segments:
        starts[label + 1] += 1
    for j in range(1, starts.size):
        starts[j] += starts[j - 1]
    place = starts[:-1].copy()
    for pixel in range(segments.size):
        label = segments[pixel]
        order[place[label]] = pixel
        place[label] += 1


@kernel()
def _block_sum(values: Any, start: int, stop: int) -> Any:
    """Sum of at most `BLOCK` values, in NumPy's order."""
    whole = start
    total = values.dtype.type(0.0)
    if stop - start >= 8:
        whole = stop - (stop - start) % 8
        sums = values[start : start + 8].copy()
        for i in range(start + 8, whole, 8):
            for j in range(8):
                sums[j] += values[i + j]
        total = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + (
            (sums[4] + sums[5]) + (sums[6] + sums[7])
        )
    for i in range(whole, stop):
        total += values[i]
    return total


@kernel()
def _pairwise_sum(values: Any, start: int, stop: int) -> Any:
    """Sum of ``values[start:stop]``, in NumPy's order."""
    if stop - start <= BLOCK:
        return _block_sum(values, start, stop)
    half = (stop - start) // 2
    half -= half % 8
    return _pairwise_sum(values, start, start + half) + _pairwise_sum(values, start + half, stop)


@kernel(
    *(
        f"void(float{bits}[:, ::1], int64[::1], int64[::1], int64, float{bits}[:, ::1])"
        for bits in (32, 64)
    )
)
def means(planes: Any, order: Any, starts: Any, chunk: int, out: Any) -> None:
    """Mean of each plane over each superpixel.

    Args:
        planes: [C, P].
        order, starts: from `group`.
        chunk: so many values are added pairwise, then the chunks one after the other: NumPy's
            buffer, where it converts the values first.
        out: [C, d]; overwritten. A superpixel without pixels has the mean NaN.
    """
    values = np.empty(order.size, planes.dtype)
    for plane in range(planes.shape[0]):
        for i in range(order.size):
            values[i] = planes[plane, order[i]]
        for j in range(starts.size - 1):
            total = planes.dtype.type(0.0)
            for start in range(starts[j], starts[j + 1], chunk):
                total += _pairwise_sum(values, start, min(start + chunk, starts[j + 1]))
            out[plane, j] = total / planes.dtype.type(starts[j + 1] - starts[j])
