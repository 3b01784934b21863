"""The methods in NumPy, float64: what `verify` holds the maps of a file against.

The papers stand in `exporters.cams` and `exporters.attributions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


def _weighted(weights: Array, a: Array) -> Array:
    return np.maximum(np.tensordot(weights, a, 1), 0)


def _gradcam(a: Array, g: Array) -> Array:
    return _weighted(g.mean((1, 2)), a)


def _gradcam_plus_plus(a: Array, g: Array) -> Array:
    with np.errstate(divide="ignore"):
        alpha = 1 / (2 + g * a.sum((1, 2), keepdims=True))
    return _weighted(np.where(g > 0, alpha * g, 0).sum((1, 2)), a)


def _xgradcam(a: Array, g: Array) -> Array:
    total = a.sum((1, 2))
    products = (g * a).sum((1, 2))
    return _weighted(np.divide(products, total, out=np.zeros_like(total), where=total != 0), a)


# Activations A and gradient G, [C, h, w], of one picture and one class: the map [h, w].
CAM_FORMULAS: dict[str, Callable[[Array, Array], Array]] = {
    "gradcam": _gradcam,
    "gradcam++": _gradcam_plus_plus,
    "xgradcam": _xgradcam,
    "hirescam": lambda a, g: np.maximum((g * a).sum(0), 0),
    "layercam": lambda a, g: np.maximum((np.maximum(g, 0) * a).sum(0), 0),
    "elementwise": lambda a, g: np.maximum(g * a, 0).sum(0),
}

# Those that divide by a sum which may nearly vanish: there rounding alone changes the map.
DIVIDING = frozenset({"gradcam++", "xgradcam"})

Inputs = Mapping[str, NDArray[Any]]
GradientAt = Callable[[Array], Array]


def _mean(pictures: Iterable[Array], gradient_at: GradientAt) -> Array:
    mean: Array = np.mean([gradient_at(picture) for picture in pictures], axis=0)
    return mean


def _noisy(x: Array, inputs: Inputs) -> Iterable[Array]:
    span = x.max((1, 2, 3), keepdims=True) - x.min((1, 2, 3), keepdims=True)
    return (x + span * noise for noise in inputs["noise"])


def _on_the_way(x: Array, inputs: Inputs) -> Iterable[Array]:
    (steps,), baseline = inputs["steps"], inputs["baseline"]
    return (baseline + x.dtype.type((i + 0.5) / steps) * (x - baseline) for i in range(steps))


# Image x, the file's inputs by role, and the gradient [K, *x] at any picture: the attribution. The
# pictures are made in the precision of x: at another one a unit may be on the other side of a kink.
ATTRIBUTION_FORMULAS: dict[str, Callable[[Array, Inputs, GradientAt], Array]] = {
    "saliency": lambda x, inputs, at: at(x),
    "input-x-gradient": lambda x, inputs, at: x * at(x),
    "smoothgrad": lambda x, inputs, at: _mean(_noisy(x, inputs), at),
    "integrated-gradients": lambda x, inputs, at: (
        (x - inputs["baseline"]) * _mean(_on_the_way(x, inputs), at)
    ),
}
