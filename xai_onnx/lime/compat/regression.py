"""lime's surrogate: which superpixels it takes, and the ridge regression on these.

All of it comes from one matrix of sums; only the lasso path, and a regressor of the caller's, get
the masks themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx.errors import DependencyError, NonFiniteError
from xai_onnx.lime.surrogate import Fit, Gram, fit, forward_selection

MOST_FORWARD = 6  # up to so many superpixels 'auto' selects forward
SELECTION_ALPHA = 0.01
ALPHA = 1.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Regression:
    """The surrogate of one label.

    Attributes:
        intercept: of the line.
        coefficients: pairs of superpixel and coefficient, the largest magnitude first.
        score: weighted R²; NaN, as scikit-learn's, if there is but one mask.
        local_pred: of the picture itself, [1].
    """

    intercept: float
    coefficients: list[tuple[int, float]]
    score: float
    local_pred: Floats


class Surrogate:
    """Regressions of several labels on the same masks."""

    def __init__(self, masks: NDArray[np.uint8], weights: Floats, targets: Floats) -> None:
        """Sum the masks up.

        Args:
            masks: [N, d], the first all ones.
            weights: [N].
            targets: [N, L].

        Raises:
            NonFiniteError: NaN or infinity among the targets or the weights.
        """
        for values, what in ((targets, "classifier_fn's answers"), (weights, "kernel's weights")):
            if not np.isfinite(values).all():
                raise NonFiniteError(f"NaN or infinity among the {what}; LIME needs numbers")
        self._masks, self._weights, self._targets = masks, weights, targets
        self._gram = Gram(masks.shape[1], targets.shape[1])
        self._gram.add(masks, np.ascontiguousarray(weights), targets)

    def regress(self, label: int, num_features: int, selection: str, regressor: Any) -> Regression:
        """Fit one label.

        Args:
            label: column of the targets.
            num_features: superpixels to take, at most.
            selection: one of `SELECTIONS`.
            regressor: as scikit-learn's, in place of the ridge regression; ``None``: that.
        """
        features = SELECTIONS[selection](self, label, num_features)
        if regressor is not None:
            return self._by_regressor(regressor, features, label)
        if len(features) == self._gram.d:  # which serves all labels
            line = self._whole
            coefficients = line.coefficients[label, features]
        else:
            line = fit(self._gram, ALPHA, features)
            coefficients = line.coefficients[label]
        return Regression(
            intercept=line.intercept[label],
            coefficients=_ordered(features, coefficients),
            score=float(line.r2[label]) if self._gram.rows > 1 else math.nan,
            local_pred=line.at_image[label : label + 1],
        )

    @cached_property
    def _whole(self) -> Fit:
        """Of all superpixels and labels."""
        return fit(self._gram, ALPHA)

    @cached_property
    def _for_selection(self) -> Fit:
        """The same, with the penalty that selects."""
        return fit(self._gram, SELECTION_ALPHA)

    def _by_regressor(self, regressor: Any, features: Sequence[int], label: int) -> Regression:
        columns = self._masks[:, features].astype(np.int64)
        target = self._targets[:, label]
        regressor.fit(columns, target, sample_weight=self._weights)
        return Regression(
            intercept=regressor.intercept_,
            coefficients=_ordered(features, regressor.coef_),
            score=regressor.score(columns, target, sample_weight=self._weights),
            local_pred=regressor.predict(columns[:1]),
        )

    def all_features(self, label: int, count: int) -> Sequence[int]:
        """Every superpixel."""
        return range(self._gram.d)

    def forward(self, label: int, count: int) -> Sequence[int]:
        """One by one, for the largest R²."""
        return forward_selection(self._gram, label, count)

    def highest_weights(self, label: int, count: int) -> Sequence[int]:
        """Those of the largest coefficients of a regression on all."""
        if count >= self._gram.d:  # all; their order would only order equal coefficients
            return range(self._gram.d)
        coefficients = self._for_selection.coefficients[label]
        return [feature for feature, _ in _ordered(range(self._gram.d), coefficients)[:count]]

    def automatic(self, label: int, count: int) -> Sequence[int]:
        """Forward for few, by the largest coefficients for more."""
        return (self.forward if count <= MOST_FORWARD else self.highest_weights)(label, count)

    def lasso_path(self, label: int, count: int) -> Sequence[int]:
        """The last step of the lasso's path (from the end) with at most so many superpixels."""
        try:
            from sklearn.linear_model import lars_path
        except ImportError as error:
            raise DependencyError(
                "feature_selection='lasso_path' needs scikit-learn: pip install xai-onnx[lime]"
            ) from error
        weights, target = self._weights, self._targets[:, label]
        root = np.sqrt(weights)
        rows = (self._masks - np.average(self._masks, axis=0, weights=weights)) * root[:, None]
        wanted = (target - np.average(target, weights=weights)) * root
        _, _, path = lars_path(rows, wanted, method="lasso", verbose=False)
        for step in range(path.shape[1] - 1, 0, -1):
            features = np.flatnonzero(path[:, step])
            if len(features) <= count:
                return [int(feature) for feature in features]
        return range(self._gram.d)


SELECTIONS: dict[str, Callable[[Surrogate, int, int], Sequence[int]]] = {
    "auto": Surrogate.automatic,
    "none": Surrogate.all_features,
    "forward_selection": Surrogate.forward,
    "highest_weights": Surrogate.highest_weights,
    "lasso_path": Surrogate.lasso_path,
}


def _ordered(features: Sequence[int], coefficients: Any) -> list[tuple[int, float]]:
    """Pairs, the largest magnitude first; of equal ones in the order of `features`."""
    values = np.asarray(coefficients, np.float64).reshape(-1)
    order = np.argsort(-np.abs(values), kind="stable")
    chosen = np.asarray(features, np.intp)[order]
    return list(zip(chosen.tolist(), values[order].tolist(), strict=True))
