"""From the model's raw output to scores and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx.errors import ManifestError, NonFiniteError
from xai_onnx.manifest import Manifest


def checked(raw: NDArray[Any], name: str) -> NDArray[np.float32]:
    """The scores of the model called `name` as float32 [B, N].

    Raises:
        NonFiniteError: there is NaN or infinity among them.
    """
    scores = raw.reshape(len(raw), -1).astype(np.float32, copy=False)
    if not np.isfinite(scores).all():
        raise NonFiniteError(
            f"{name}: its scores hold NaN or infinity; check the input's range against the model's "
            "preprocessing, and the model's weights"
        )
    return scores


def class_score(
    manifest: Manifest | None,
    scores: NDArray[np.float32],
    target: int,
    labels: Sequence[str] = (),
) -> dict[str, Any]:
    """The fields of a `ClassScore` for class `target`, from one picture's scores, [N].

    `labels` are those of a plain classifier, which has no manifest.

    Raises:
        ManifestError: not one label for each class.
    """
    labels = labels if manifest is None else manifest.labels
    if len(labels) not in (0, len(scores)):
        raise ManifestError(f"labels: {len(labels)} names, but the model has {len(scores)} classes")
    return {
        "target": target,
        "label": labels[target] if labels else None,
        "score": float(scores[target]),
        "probability": None if manifest is None else _probability(manifest, scores, target),
    }


def _probability(manifest: Manifest, scores: NDArray[np.float32], target: int) -> float | None:
    """What the model's last activation says, or the softmax of logits; one logit has none."""
    if manifest.output_activation in ("softmax", "sigmoid"):
        return float(scores[target])
    if manifest.output_activation == "log_softmax":
        return float(np.exp(scores[target]))
    if len(scores) == 1 or manifest.output_activation == "none":
        return None
    powers = np.exp(scores.astype(np.float64) - scores.max())
    return float(powers[target] / powers.sum())
