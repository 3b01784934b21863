"""Quickshift (Vedaldi and Soatto 2008): a pixel hangs on its nearest neighbour of higher density.

The labels are those of scikit-image's ``quickshift``, and so is all arithmetic that a comparison
hangs on: distances and densities are summed in the same order and type. What is faster:

1. Each pair of pixels is weighed once, not from both ends, and a row of pixels at a time, with an
   exponential that the compiler turns into vector instructions. It is within an ulp of the C
   library's; for a label to differ by that, two densities, each with its random tie-breaker, would
   have to agree in all other digits.
2. The search for the parent goes outwards and ends where the distance on the grid alone exceeds the
   best one found. Where that isn't near, the whole square is searched, for a row at a time.
3. Roots are found with path compression, and numbered in the order of their pixels.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from typing import Any

import numpy as np

from xai_onnx.lime.kernels.jit import kernel

# exp(x) = 2**(n / 128) * exp(r), n the nearest whole number to 128 x / ln 2, so |r| < 0.0028.
STEPS = 128
STEPS_BITS = 7
PER_UNIT = STEPS / math.log(2)
ROUND = 1.5 * 2.0**52  # added to a float64, leaves its nearest whole number in the lowest bits
LOWEST = -700.0  # exp of less is below the last digit of any density, for a pixel itself counts 1
with localcontext() as context:
    context.prec = 50
    _STEP = Decimal(2).ln() / STEPS
    STEP_HIGH = math.floor(_STEP * 2**40) / 2**40  # few enough bits that n times it is exact
    STEP_LOW = float(_STEP - Decimal(STEP_HIGH))
    _POWERS = np.array([float(2 ** (Decimal(i) / STEPS)) for i in range(STEPS)])
# Bits of 2**(i / 128), less what the lowest bits of n add to the exponent when n is shifted there.
POWERS = _POWERS.view(np.int64) - (np.arange(STEPS) << (52 - STEPS_BITS))


@kernel()
def _squared_distances(image: Any, r: int, other: int, shift: int, out: Any) -> None:
    """Between the pixels (r, first + i) and (other, first + i + shift), in channels and place.

    Args:
        image: [C, H, W].
        r, other: two rows.
        shift: columns from a pixel to its neighbour; ``first`` is the first that has one.
        out: [W - abs(shift)]; overwritten.
    """
    here, there = max(0, -shift), max(0, shift)
    rows, columns = image.dtype.type((r - other) ** 2), image.dtype.type(shift**2)
    if image.shape[0] == 3:  # the usual case, in one go
        for i in range(out.size):
            a = image[0, r, here + i] - image[0, other, there + i]
            b = image[1, r, here + i] - image[1, other, there + i]
            c = image[2, r, here + i] - image[2, other, there + i]
            out[i] = (((a * a + b * b) + c * c) + rows) + columns
        return
    out[:] = 0
    for channel in range(image.shape[0]):
        for i in range(out.size):
            a = image[channel, r, here + i] - image[channel, other, there + i]
            out[i] += a * a
    for i in range(out.size):
        out[i] = (out[i] + rows) + columns


@kernel()
def _exponentials(values: Any, factor: Any, rounded: Any, power: Any, out: Any) -> None:
    """exp(value * factor) of each value, in three loops that each become vector instructions.

    Args:
        values: float32 or float64 [n], 0 or more.
        factor: of the same type, below 0.
        rounded, power: float64 [n], scratch.
        out: float64 [n]; overwritten.
    """
    rounded_bits = rounded.view(np.int64)
    power_bits = power.view(np.int64)
    for i in range(out.size):
        x = max(np.float64(values[i] * factor), LOWEST)
        rounded[i] = x * PER_UNIT + ROUND
        n = rounded[i] - ROUND
        z = (x - n * STEP_HIGH) - n * STEP_LOW
        square = z * z
        out[i] = z + square * (1 / 2 + z * (1 / 6)) + square * square * (1 / 24 + z * (1 / 120))
    for i in range(out.size):
        bits = rounded_bits[i]
        step = POWERS[np.uint64(bits) & np.uint64(STEPS - 1)]
        power_bits[i] = (bits << (52 - STEPS_BITS)) + step
    for i in range(out.size):
        out[i] = power[i] + power[i] * out[i]


@kernel()
def _add(values: Any, densities: Any) -> None:
    for i in range(values.size):
        densities[i] += values[i]


@kernel(
    *(f"void(float{bits}[:, :, ::1], int64, float{bits}, float{bits}[:, ::1])" for bits in (32, 64))
)
def add_densities(image: Any, radius: int, factor: Any, densities: Any) -> None:
    """Add to each pixel ``exp(factor * distance²)`` for every pixel of the square around it.

    A pixel's neighbours are added in row-major order. The pairs of two rows serve the upper row
    from the left to the right while they are calculated, and then the lower row from what was kept.

    Args:
        image: [C, H, W].
        radius: the square has sides of ``2 * radius + 1``.
        factor: below 0.
        densities: [H, W]; added to.
    """
    _, height, width = image.shape
    reach = min(radius, width - 1)
    squares = np.empty(width, image.dtype)
    rounded, power = np.empty(width), np.empty(width)
    kept = np.empty((2 * reach + 1, width))
    for r in range(height):
        for other in range(r, min(r + radius + 1, height)):
            for shift in range(1 if other == r else -reach, reach + 1):
                count = width - abs(shift)
                row = kept[reach + shift, :count]
                _squared_distances(image, r, other, shift, squares[:count])
                _exponentials(squares[:count], factor, rounded[:count], power[:count], row)
                if other > r:
                    _add(row, densities[r, max(0, -shift) :])
            for shift in range(reach, 0 if other == r else -reach - 1, -1):
                count = width - abs(shift)
                _add(kept[reach + shift, :count], densities[other, max(0, shift) :])
            if other == r:
                _add(np.ones(width), densities[r])  # the pixel itself
                for shift in range(1, reach + 1):
                    _add(kept[reach + shift, : width - shift], densities[r])


@kernel(
    *(
        f"void(float{bits}[:, :, ::1], float{bits}[:, ::1], int32[:, ::1], int64, float{bits}, "
        "int32[::1])"
        for bits in (32, 64)
    )
)
def find_parents(
    image: Any, densities: Any, nearest: Any, radius: int, max_dist: Any, parents: Any
) -> None:
    """Find each pixel's nearest neighbour of higher density, no farther than `max_dist`.

    Of neighbours at the same distance the first in row-major order is taken.

    Args:
        image: [C, H, W].
        densities: [H, W].
        nearest: [n, 2], row and column relative to a pixel of the n nearest places of the square
            around it, nearest first: all places no farther than the last, without the pixel itself.
        radius: the square has sides of ``2 * radius + 1``.
        max_dist: the largest distance to a parent.
        parents: [H * W]; overwritten. A pixel without a parent gets itself.
    """
    channels, height, width = image.shape
    row = np.empty(width, np.int64)
    closest = np.empty(width, image.dtype)
    squares = np.empty(width, image.dtype)
    complete = nearest.shape[0] == (2 * radius + 1) ** 2 - 1
    for r in range(height):
        found = True
        for c in range(width):
            row[c], closest[c] = r * width + c, np.inf
            ended = complete
            for i in range(nearest.shape[0]):
                rows, columns = nearest[i, 0], nearest[i, 1]
                if rows * rows + columns * columns > closest[c]:
                    ended = True
                    break
                other_r, other_c = r + rows, c + columns
                if not (0 <= other_r < height and 0 <= other_c < width):
                    continue
                if densities[other_r, other_c] > densities[r, c]:
                    distance = image.dtype.type(0)
                    for channel in range(channels):
                        a = image[channel, r, c] - image[channel, other_r, other_c]
                        distance += a * a
                    distance += image.dtype.type(rows * rows)
                    distance += image.dtype.type(columns * columns)
                    other = other_r * width + other_c
                    if distance < closest[c] or (distance == closest[c] and other < row[c]):
                        row[c], closest[c] = other, distance
            if not ended:
                found = False
                break
        if not found:
            _search_all(image, densities, r, radius, squares, closest, row)
        for c in range(width):
            pixel = r * width + c
            parents[pixel] = pixel if np.sqrt(closest[c]) > max_dist else row[c]


@kernel()
def _search_all(
    image: Any, densities: Any, r: int, radius: int, squares: Any, closest: Any, parents: Any
) -> None:
    """The same for the pixels of a row at a time, whatever the distances.

    Args:
        image, densities, radius: as above.
        r: the row.
        squares: [W], scratch.
        closest, parents: [W]; overwritten.
    """
    _, height, width = image.shape
    reach = min(radius, width - 1)
    closest[:] = np.inf
    for c in range(width):
        parents[c] = r * width + c
    for other in range(max(r - radius, 0), min(r + radius + 1, height)):
        for shift in range(-reach, reach + 1):
            here, there = max(0, -shift), max(0, shift)
            count = width - abs(shift)
            _squared_distances(image, r, other, shift, squares[:count])
            own, higher = densities[r, here:], densities[other, there:]
            best, parent = closest[here:], parents[here:]
            first = other * width + there
            for i in range(count):
                better = (higher[i] > own[i]) & (squares[i] < best[i])
                best[i] = squares[i] if better else best[i]
                parent[i] = first + i if better else parent[i]


@kernel("int64(int32[::1], int32[::1])")
def label_roots(parents: Any, labels: Any) -> int:
    """Number the trees, in the order of their roots.

    Args:
        parents: [P]; a root is its own parent. Shortened on the way.
        labels: [P]; overwritten with the number of each pixel's tree, 0..d-1.

    Returns:
        d.
    """
    count = 0
    for pixel in range(parents.size):
        if parents[pixel] == pixel:
            labels[pixel] = count
            count += 1
    for pixel in range(parents.size):
        root = pixel
        while parents[root] != root:
            parents[root] = parents[parents[root]]
            root = parents[root]
        labels[pixel] = labels[root]
    return count
