"""How far gradients and maps may be apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def relative_error(got: Array, expected: Array) -> float:
    """The largest difference, relative to the largest entry."""
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def cam_scale(activations: Array, gradient: Array) -> float:
    """The largest sum of absolute terms behind an entry of a CAM: what its rounding scales with."""
    weights = np.abs(gradient.mean((-2, -1), dtype=np.float64))
    return float(np.einsum("c,chw->hw", weights, np.abs(activations)).max())
