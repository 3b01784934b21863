"""The scale on which the surrogate explains a class: logit, log-odds or probability.

LIME adds the superpixels' parts up. Logits are nearly additive, probabilities are squeezed into
[0, 1] and saturate, so that the same number of forwards tells much less about them. What can be had
depends on what the model's output is:

| output | ``score="logit"`` | ``score="probability"`` |
|---|---|---|
| logits | ``logit``: the output | softmax of it |
| softmax, log-softmax, sigmoid | ``log-odds``: log p - log(1 - p) | the probability |
| a score that is no logit | ``score``: the output | refused |

A softmax takes a constant from all logits of a picture, so the logit can't be had back; the
log-odds are the logit against those of all other classes together. 1 - p is summed over the other
classes: it keeps its digits where p is rounded to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx.errors import ScoreError
from xai_onnx.manifest import Manifest

SCORES = ("logit", "probability")
SUM_TOLERANCE = 5e-3  # of probabilities that a float16 model has rounded

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ScoreScale:
    """What the coefficients measure.

    Attributes:
        name: ``"logit"``, ``"log-odds"``, ``"probability"`` or ``"score"``.
        of: from the model's scores [n, N] to that scale, float64 [n, N].
    """

    name: str
    of: Callable[[NDArray[Any]], Floats]


def choose(
    score: str, manifest: Manifest | None, row: NDArray[np.float32], dtype: str, model: str
) -> ScoreScale:
    """The scale for what a caller asks for.

    Args:
        score: one of `SCORES`.
        manifest: of the model; a plain classifier's output is known by its numbers: softmax where
            they are probabilities that add up to 1, logits where one isn't in [0, 1].
        row: the scores of the picture itself, [N].
        dtype: of the model's output, e.g. ``"tensor(float16)"``.
        model: its name in messages.

    Raises:
        ScoreError: no such score, or the output has no probability.
    """
    if score not in SCORES:
        raise ScoreError(f"there is no score {score!r} to explain; one of {', '.join(SCORES)}")
    kind = _suspected(row) if manifest is None else manifest.output_activation or "logits"
    smallest = 2.0**-24 if dtype == "tensor(float16)" else 2.0**-126
    if score == "logit":
        if kind in ("logits", "none"):
            return ScoreScale("logit" if kind == "logits" else "score", _float64)
        if kind == "log_softmax":
            return ScoreScale("log-odds", lambda rows: _log_odds(np.exp(_float64(rows)), smallest))
        if kind == "softmax":
            return ScoreScale("log-odds", lambda rows: _log_odds(_float64(rows), smallest))
        nearest = 2.0**-12 if dtype == "tensor(float16)" else 2.0**-25  # half a step below 1
        return ScoreScale("log-odds", lambda rows: _single_log_odds(rows, smallest, nearest))
    if kind in ("softmax", "sigmoid"):
        return ScoreScale("probability", _float64)
    if kind == "log_softmax":
        return ScoreScale("probability", lambda rows: np.exp(_float64(rows)))
    if kind == "logits" and len(row) > 1:
        return ScoreScale("probability", _softmax)
    raise ScoreError(
        f"{model}: its scores are neither probabilities nor several logits, so there is no "
        "probability to explain; say score='logit' to explain them as they come"
    )


def _suspected(row: NDArray[np.float32]) -> str:
    """What a plain classifier's scores are, by those of one picture."""
    if row.min() < 0 or row.max() > 1:
        return "logits"
    adds_up = len(row) > 1 and abs(float(row.sum(dtype=np.float64)) - 1) <= SUM_TOLERANCE
    return "softmax" if adds_up else "none"


def _float64(rows: NDArray[Any]) -> Floats:
    return rows.astype(np.float64)


def _softmax(rows: NDArray[Any]) -> Floats:
    powers = np.exp(rows.astype(np.float64) - rows.max(1, keepdims=True))
    result: Floats = powers / powers.sum(1, keepdims=True)
    return result


def _log_odds(p: Floats, smallest: float) -> Floats:
    """Of each class against all others; what is below `smallest` was rounded to 0 by the model."""
    total = p.sum(1, keepdims=True)
    others = total - p
    largest = p.argmax(1)  # of which the difference has lost its digits
    rows = np.arange(len(p))
    rest = p.copy()
    rest[rows, largest] = 0
    others[rows, largest] = rest.sum(1)
    result: Floats = np.log(np.maximum(p, smallest)) - np.log(np.maximum(others, smallest))
    return result


def _single_log_odds(rows: NDArray[Any], smallest: float, nearest: float) -> Floats:
    p = rows.astype(np.float64)
    result: Floats = np.log(np.maximum(p, smallest)) - np.log(np.maximum(1 - p, nearest))
    return result
