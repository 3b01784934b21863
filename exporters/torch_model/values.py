"""What modules return, and whether an ONNX model gives the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# Of the largest absolute output: two orders of summing, over a hundred layers.
TOLERANCE, TOLERANCE_HALF = 1e-4, 1e-2


def scores(output: Any) -> Tensor | None:
    """The class scores in what a classifier returns: it, its ``logits``, or a tuple's first tensor.

    None where a dictionary or an object has no ``logits``.
    """
    if isinstance(output, Tensor):
        return output
    named = logits(output)
    if named is None and isinstance(output, tuple | list):
        return next(iter(tensors(output)), None)
    return named


def logits(output: Any) -> Tensor | None:
    """What is called so in a dictionary, or in an object as transformers' classifiers give it."""
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return named if isinstance(named, Tensor) else None


def tensors(output: Any) -> list[Tensor]:
    """The tensors in what a module returns, in order."""
    if isinstance(output, Tensor):
        return [output]
    if not isinstance(output, Mapping | tuple | list):
        return []
    parts = output.values() if isinstance(output, Mapping) else output
    return [tensor for part in parts for tensor in tensors(part)]


def array(tensor: Tensor) -> NDArray[Any]:
    """The tensor for NumPy."""
    content: NDArray[Any] = tensor.detach().cpu().numpy()
    return content


def is_close(given: NDArray[Any], wanted: NDArray[Any]) -> bool:
    """Whether the two have one shape, and a distance within the tolerance of their type."""
    tolerance = TOLERANCE_HALF if wanted.dtype == np.float16 else TOLERANCE
    return given.shape == wanted.shape and distance(given, wanted) <= tolerance


def distance(given: NDArray[Any], wanted: NDArray[Any]) -> float:
    """The largest difference, relative to the largest absolute value wanted."""
    scale = max(float(np.abs(wanted, dtype=np.float64).max(initial=0)), 1e-30)
    return float(np.abs(given.astype(np.float64) - wanted).max(initial=0)) / scale
