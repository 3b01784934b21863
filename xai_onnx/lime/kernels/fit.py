"""Loops of the surrogate's fit: sums over masks, a Cholesky solve, forward selection.

Inner loops run along rows and add without reducing, so that the compiler can use vector registers
although the order of additions is kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx.lime.kernels.jit import kernel

# Of a column's own square, below which it is taken for a combination of the columns before it.
DEPENDENT = 1e-11
ROWS = 8  # added in one pass over the sums, which stay in registers meanwhile

Floats = NDArray[np.float64]


@kernel(
    "void(uint8[:, ::1], float64[::1], float64[:, ::1], float64[:, ::1], float64[:, ::1], "
    "float64[:, ::1])",
    fused=True,
)
def accumulate(
    masks: NDArray[np.uint8],
    weights: Floats,
    targets: Floats,
    pairs: Floats,
    products: Floats,
    squares: Floats,
) -> None:
    """Add the rows' weighted sums, where a row is a mask with a 1 behind it.

    Args:
        masks: [n, d].
        weights: w, [n].
        targets: y, [n, L].
        pairs: sums of w x xᵀ, lower triangle, [d + 1, d + 1].
        products: sums of w x yᵀ, [d + 1, L].
        squares: sums of w y² and, in the second row, of w² (in each column), [2, L].
    """
    n, d = masks.shape
    labels = targets.shape[1]
    on, rows = np.zeros((ROWS, d + 1)), np.zeros((ROWS, d + 1))
    y = np.zeros((ROWS, labels))
    for start in range(0, n, ROWS):
        size = min(ROWS, n - start)
        on[size:] = 0.0
        for q in range(size):
            r = start + q
            w = weights[r]
            for j in range(d):
                bit = np.float64(masks[r, j])
                on[q, j] = bit
                rows[q, j] = w * bit
            on[q, d] = 1.0
            rows[q, d] = w
            for label in range(labels):
                y[q, label] = w * targets[r, label]
                squares[0, label] += y[q, label] * targets[r, label]
                squares[1, label] += w * w
        # In the order of the rows; a product with 0 or 1 is exact. Written out, for the compiler
        # makes no vector instructions of an inner loop over the rows; two lines of sums at a time,
        # so that a row is loaded once for both. The last line may be left over.
        for i in range(0, d, 2):
            first, second = pairs[i], pairs[i + 1]
            a, b, c, e = on[0, i], on[1, i], on[2, i], on[3, i]
            f, g, h, k = on[4, i], on[5, i], on[6, i], on[7, i]
            m, o, p, s = on[0, i + 1], on[1, i + 1], on[2, i + 1], on[3, i + 1]
            t, u, v, x = on[4, i + 1], on[5, i + 1], on[6, i + 1], on[7, i + 1]
            for j in range(i + 2):
                r0, r1, r2, r3 = rows[0, j], rows[1, j], rows[2, j], rows[3, j]
                r4, r5, r6, r7 = rows[4, j], rows[5, j], rows[6, j], rows[7, j]
                total = (((first[j] + a * r0) + b * r1) + c * r2) + e * r3
                first[j] = (((total + f * r4) + g * r5) + h * r6) + k * r7
                total = (((second[j] + m * r0) + o * r1) + p * r2) + s * r3
                second[j] = (((total + t * r4) + u * r5) + v * r6) + x * r7
        for i in range(d + 1):
            a, b, c, e = on[0, i], on[1, i], on[2, i], on[3, i]
            f, g, h, k = on[4, i], on[5, i], on[6, i], on[7, i]
            for j in range(labels):
                total = (((products[i, j] + a * y[0, j]) + b * y[1, j]) + c * y[2, j]) + e * y[3, j]
                products[i, j] = (((total + f * y[4, j]) + g * y[5, j]) + h * y[6, j]) + k * y[7, j]
            if i == d and d % 2 == 0:
                for j in range(d + 1):
                    total = ((pairs[i, j] + a * rows[0, j]) + b * rows[1, j]) + c * rows[2, j]
                    total = ((total + e * rows[3, j]) + f * rows[4, j]) + g * rows[5, j]
                    pairs[i, j] = (total + h * rows[6, j]) + k * rows[7, j]


@kernel("void(float64[:, ::1], float64[:, ::1])", fused=True)
def solve(matrix: Floats, right: Floats) -> None:
    """Solve a symmetric positive semidefinite system by Cholesky, in place.

    A column that depends on those before it gets the solution 0.

    Args:
        matrix: [d, d], of which the lower triangle is read; becomes the factor.
        right: [d, L]; becomes the solution.
    """
    d, labels = right.shape
    column = np.empty(d)
    smallest = np.empty(d)
    for k in range(d):
        smallest[k] = DEPENDENT * matrix[k, k]
    for k in range(d):
        if matrix[k, k] <= smallest[k]:
            for i in range(k, d):
                matrix[i, k] = 0.0
            continue
        pivot = np.sqrt(matrix[k, k])
        matrix[k, k] = pivot
        for i in range(k + 1, d):
            matrix[i, k] /= pivot
            column[i] = matrix[i, k]
        for i in range(k + 1, d):
            factor = column[i]
            for j in range(k + 1, i + 1):
                matrix[i, j] -= factor * column[j]
    for k in range(d):
        pivot = matrix[k, k]
        for label in range(labels):
            right[k, label] = right[k, label] / pivot if pivot > 0 else 0.0
        for i in range(k + 1, d):
            for label in range(labels):
                right[i, label] -= matrix[i, k] * right[k, label]
    for k in range(d - 1, -1, -1):
        pivot = matrix[k, k]
        for label in range(labels):
            right[k, label] = right[k, label] / pivot if pivot > 0 else 0.0
        for i in range(k):
            for label in range(labels):
                right[i, label] -= matrix[k, i] * right[k, label]


@kernel("int64[::1](float64[:, ::1], float64[::1], int64)")
def select_forward(covariance: Floats, products: Floats, count: int) -> Any:
    """Columns chosen one by one, each the one that leaves the smallest squared residual.

    The explained square grows by ``c² / v``, where v is what the columns chosen so far leave of a
    column's own square and c what they leave of its product with the target; both are kept up to
    date with one row of a Cholesky factor for each choice.

    Args:
        covariance: of the centred, weighted columns, [d, d].
        products: with the centred target, [d].
        count: how many to choose, at most d.

    Returns:
        int64 [count], in order of choice; the first of equals.
    """
    d = len(products)
    left, own, rest = np.empty(d), np.empty(d), products.copy()
    for j in range(d):
        own[j] = left[j] = covariance[j, j]
    factor = np.zeros((count, d))
    free = np.ones(d, np.bool_)
    chosen = np.empty(count, np.int64)
    for k in range(count):
        best, most = -1, -1.0
        for j in range(d):
            if free[j]:
                gain = rest[j] * rest[j] / left[j] if left[j] > DEPENDENT * own[j] else 0.0
                if gain > most:
                    best, most = j, gain
        chosen[k] = best
        free[best] = False
        if left[best] <= DEPENDENT * own[best]:
            continue
        pivot = np.sqrt(left[best])
        step = rest[best] / pivot
        for j in range(d):
            factor[k, j] = covariance[best, j]
        for earlier in range(k):
            scale = factor[earlier, best]
            for j in range(d):
                factor[k, j] -= scale * factor[earlier, j]
        for j in range(d):
            factor[k, j] /= pivot
            left[j] -= factor[k, j] * factor[k, j]
            rest[j] -= factor[k, j] * step
    return chosen
