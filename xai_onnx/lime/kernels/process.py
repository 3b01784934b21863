"""Loops of a Gaussian process that knows some hundred values: products, Cholesky factor, inverse.

On one thread, unlike the BLAS behind NumPy, whose threads would get in the way of ONNX Runtime's:
of matrices so small, waiting for a busy core takes longer than the work. Inner loops run along rows
and add without reducing; the rows that are added stay in the nearest cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx.lime.kernels.jit import kernel

Floats = NDArray[np.float64]


@kernel()
def _subtract(row: Floats, factors: Floats, rows: Floats, count: int, start: int, stop: int) -> Any:
    """``row[start:stop] -= factors[:count] @ rows[:count, start:stop]``."""
    first = 0
    while first + 4 <= count:
        a, b, c, d = factors[first], factors[first + 1], factors[first + 2], factors[first + 3]
        r, s, t, u = rows[first], rows[first + 1], rows[first + 2], rows[first + 3]
        for j in range(start, stop):
            row[j] = (((row[j] - a * r[j]) - b * s[j]) - c * t[j]) - d * u[j]
        first += 4
    for left in range(first, count):
        a, r = factors[left], rows[left]
        for j in range(start, stop):
            row[j] -= a * r[j]


@kernel("void(float64[:, ::1], float64[:, ::1], float64[:, ::1])", fused=True)
def products(left: Floats, right: Floats, out: Floats) -> None:
    """``out[:] = left @ right``, of [n, d] and [d, m]."""
    out[:] = 0.0
    for i in range(len(left)):
        _subtract(out[i], -left[i], right, len(right), 0, right.shape[1])


@kernel("void(float64[:, ::1], float64[:, ::1])", fused=True)
def factor_inverse(matrix: Floats, out: Floats) -> None:
    """Invert the lower Cholesky factor L of a symmetric positive definite matrix.

    Args:
        matrix: [n, n], of which the upper triangle is read; becomes the transpose of L there.
        out: [n, n]; its lower triangle becomes L⁻¹, the upper one 0.
    """
    n = len(matrix)
    column = np.empty(n)
    for k in range(n):
        for m in range(k):
            column[m] = matrix[m, k]
        _subtract(matrix[k], column, matrix, k, k, n)
        pivot = np.sqrt(matrix[k, k])
        for j in range(k, n):
            matrix[k, j] /= pivot
    out[:] = 0.0
    for i in range(n):
        for m in range(i):
            column[m] = matrix[m, i]
        _subtract(out[i], column, out, i, 0, i)
        for j in range(i):
            out[i, j] /= matrix[i, i]
        out[i, i] = 1 / matrix[i, i]


@kernel("void(float64[:, ::1], int64, int64, float64[:, ::1])", fused=True)
def inverse_block(factor: Floats, start: int, stop: int, out: Floats) -> None:
    """Of the inverse ``factor.T @ factor``, the rows and columns from `start` to `stop`.

    Args:
        factor: lower triangular, [n, n], from `factor_inverse`.
        start, stop: which.
        out: [stop - start, stop - start]; overwritten.
    """
    out[:] = 0.0
    for k in range(start, len(factor)):
        row = factor[k, start:stop]
        for i in range(stop - start):
            a = row[i]
            for j in range(stop - start):
                out[i, j] += a * row[j]


@kernel("void(float64[:, ::1], float64[::1], float64[::1])", fused=True)
def times_inverse(factor: Floats, vector: Floats, out: Floats) -> None:
    """``out[:] = factor.T @ factor @ vector``, of a lower triangular factor [n, n]."""
    out[:] = 0.0
    for k in range(len(factor)):
        total = 0.0
        for j in range(k + 1):
            total += factor[k, j] * vector[j]
        for j in range(k + 1):
            out[j] += total * factor[k, j]
