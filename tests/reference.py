"""Slow twins of what the exported graphs and the run time compute, in plain NumPy and float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


def gradcam(activations: Array, gradient: Array) -> NDArray[np.float64]:
    """Grad-CAM, Selvaraju et al. 2017, equations 1 and 2, for one picture and one class.

    Args:
        activations: A, [C, h, w].
        gradient: dy/dA, [C, h, w].

    Returns:
        [h, w].
    """
    channels, height, width = activations.shape
    cam = np.zeros((height, width))
    for c in range(channels):
        alpha = sum(float(g) for g in gradient[c].flat) / (height * width)
        cam += alpha * activations[c].astype(np.float64)
    return np.where(cam > 0, cam, 0)


def resize_bilinear(small: Array, height: int, width: int) -> NDArray[np.float64]:
    """Bilinear, half-pixel centres, edges repeated: [h, w] to [height, width]."""
    h, w = small.shape

    def at(row: int, column: int) -> float:
        return float(small[min(max(row, 0), h - 1), min(max(column, 0), w - 1)])

    large = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y, x = (i + 0.5) * h / height - 0.5, (j + 0.5) * w / width - 0.5
            top, left = math.floor(y), math.floor(x)
            down, right = y - top, x - left
            large[i, j] = (
                at(top, left) * (1 - down) * (1 - right)
                + at(top, left + 1) * (1 - down) * right
                + at(top + 1, left) * down * (1 - right)
                + at(top + 1, left + 1) * down * right
            )
    return large


def min_max(x: Array) -> NDArray[np.float64]:
    """Scaled to [0, 1]; a constant gives zeros."""
    low, high = float(x.min()), float(x.max())
    return np.zeros(x.shape) if low == high else (x.astype(np.float64) - low) / (high - low)


def saliency_map(cam: Array, height: int, width: int) -> NDArray[np.float64]:
    """Min-max scaled after the resize; a constant map is all zero."""
    if cam.min() == cam.max():
        return np.zeros((height, width))
    return min_max(resize_bilinear(cam, height, width))
