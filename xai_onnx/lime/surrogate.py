"""The surrogate: a weighted ridge regression of scores on masks, out of one matrix of sums.

With rows x (a mask, then a 1), weights w and targets y, everything that is wanted of a linear
model follows from the sums of w x xᵀ, w x yᵀ and w y²: coefficients for any penalty, subset of the
columns and label, the fidelity, and, by taking one block's sums away, the jackknife. So masks
needn't be kept, and labels share the matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from xai_onnx.lime.kernels import fit as kernels

ALPHA = 1.0  # the penalty of lime's final fit

Floats = NDArray[np.float64]


class Gram:
    """Weighted sums over masks and targets, to which batches are added.

    Attributes:
        d: superpixels.
        labels: targets of each row, L.
        rows: rows added so far.
    """

    def __init__(self, d: int, labels: int, origin: Floats | None = None) -> None:
        """Start with nothing.

        Args:
            d: superpixels.
            labels: L.
            origin: what is subtracted from the targets before they are summed, [L]: near them, so
                that scores such as 0.9999 keep their digits; ``None``: the first row's targets.
        """
        self.d, self.labels, self.rows = d, labels, 0
        self.origin = origin
        self._pairs = np.zeros((d + 1, d + 1))
        self._products = np.zeros((d + 1, labels))
        self._squares = np.zeros((2, labels))

    def add(self, masks: NDArray[np.uint8], weights: Floats, targets: Floats) -> None:
        """Add rows, in order: sums are the same to the bit however rows are cut into batches.

        Args:
            masks: 0 or 1, [n, d].
            weights: [n].
            targets: [n, L].
        """
        if self.origin is None:
            if not len(targets):
                return
            self.origin = targets[0].copy()
        self.rows += len(masks)
        shifted = np.ascontiguousarray(targets - self.origin)
        sums = self._pairs, self._products, self._squares
        kernels.accumulate(np.ascontiguousarray(masks), weights, shifted, *sums)

    def __add__(self, other: Gram) -> Gram:
        return self._combined(other, 1)

    def __sub__(self, other: Gram) -> Gram:
        return self._combined(other, -1)

    def _combined(self, other: Gram, sign: int) -> Gram:
        result = Gram(self.d, self.labels, self.origin)
        result.rows = self.rows + sign * other.rows
        result._pairs = self._pairs + sign * other._pairs
        result._products = self._products + sign * other._products
        result._squares = self._squares + sign * other._squares
        return result

    @property
    def weight(self) -> float:
        """Sum of the weights."""
        return float(self._pairs[-1, -1])

    @property
    def effective_rows(self) -> float:
        """How many rows of equal weight would tell as much: (Σ w)² / Σ w² (Kish 1965)."""
        return self.weight**2 / float(self._squares[1, 0]) if self.weight else 0.0

    @property
    def means(self) -> tuple[Floats, Floats]:
        """Weighted means of the masks, [d], and of the targets less `origin`, [L]."""
        total = self.weight or 1.0
        return self._pairs[-1, :-1] / total, self._products[-1] / total

    def centred(self) -> tuple[Floats, Floats, Floats]:
        """Weighted sums about the means: of mask pairs [d, d], mask by target [d, L], y² [L]."""
        lower, (mask_means, target_means) = self._pairs[:-1, :-1], self.means
        pairs = np.tril(lower) + np.tril(lower, -1).T - np.outer(self._pairs[-1, :-1], mask_means)
        products = self._products[:-1] - np.outer(self._pairs[-1, :-1], target_means)
        squares = self._squares[0] - self._products[-1] * target_means
        return pairs, products, squares


@dataclass(frozen=True, eq=False)
class Fit:
    """A linear model of each label's score.

    Attributes:
        coefficients: of the columns that were fitted, float64 [L, k].
        intercept: float64 [L].
        r2: weighted R² on the rows that it was fitted to, float64 [L]; 1 for constant targets, as
            in scikit-learn.
    """

    coefficients: Floats
    intercept: Floats
    r2: Floats

    @property
    def at_image(self) -> Floats:
        """What it says of the picture itself, every fitted superpixel on, float64 [L]."""
        total: Floats = self.intercept + self.coefficients.sum(1)
        return total


def fit(gram: Gram, alpha: float = ALPHA, features: Sequence[int] | None = None) -> Fit:
    """Ridge regression with an intercept that isn't penalised, weights not normalised.

    Args:
        gram: of at least one row.
        alpha: penalty; with 0 a column that depends on others gets the coefficient 0.
        features: columns to use, in the order of the coefficients; ``None``: all.
    """
    pairs, products, squares = gram.centred()
    mask_means, target_means = gram.means
    if features is not None:
        chosen = np.asarray(features, np.intp)
        pairs, products, mask_means = (
            pairs[np.ix_(chosen, chosen)],
            products[chosen],
            mask_means[chosen],
        )
    penalised = np.ascontiguousarray(pairs) + alpha * np.eye(len(pairs))
    solution = np.ascontiguousarray(products).copy()
    kernels.solve(penalised, solution)
    sums = pairs, products, squares
    return _fit(solution, sums, (mask_means, target_means), gram.origin)


def with_coefficients(gram: Gram, coefficients: Floats) -> Fit:
    """The linear model that has these coefficients, [L, d], and fits best otherwise."""
    return _fit(coefficients.T, gram.centred(), gram.means, gram.origin)


def _fit(
    solution: Floats,
    sums: tuple[Floats, Floats, Floats],
    means: tuple[Floats, Floats],
    origin: Floats | None,
) -> Fit:
    """Of coefficients [d, L], and what `Gram` says of their columns."""
    pairs, products, squares = sums
    residual = squares - 2 * (solution * products).sum(0) + (solution * (pairs @ solution)).sum(0)
    r2 = np.ones(len(squares))
    varied = squares > 0
    r2[varied] -= residual[varied] / squares[varied]
    intercept = (0.0 if origin is None else origin) + means[1] - means[0] @ solution
    return Fit(solution.T.copy(), intercept, r2)


def forward_selection(gram: Gram, label: int, count: int) -> list[int]:
    """Choose superpixels one by one for the largest weighted R² of a regression without penalty.

    Args:
        gram: of at least one row.
        label: column of the targets.
        count: how many; at most d are chosen.

    Returns:
        Columns in order of choice; of equal ones the first.
    """
    pairs, products, _ = gram.centred()
    column = np.ascontiguousarray(products[:, label])
    return [int(j) for j in kernels.select_forward(pairs, column, min(count, gram.d))]


def jackknife(blocks: Sequence[Gram], alpha: float = ALPHA) -> Floats | None:
    """Standard errors of the coefficients, by leaving out one block of masks at a time.

    Blocks may differ in size: "delete-m_j" (Busing, Meijer and van der Leeden 1999), which is
    ``sqrt((g - 1) / g Σ (β_j - β̄)²)`` for g equal blocks. A last block that was cut to less than
    half, or is one of only two, is counted with the one before: it tells little of a whole block.

    Args:
        blocks: their sums, all with the same origin.
        alpha: penalty of the fit.

    Returns:
        float64 [L, d]; ``None`` for fewer than two whole blocks, which tell nothing of a spread.
    """
    blocks = list(blocks)
    least = blocks[0].rows / (1 if len(blocks) == 2 else 2)
    if blocks[-1].rows < least:
        blocks[-2:] = [blocks[-2] + blocks[-1]]
    if len(blocks) < 2:
        return None
    total = reduce(Gram.__add__, blocks)
    whole = fit(total, alpha).coefficients
    left = np.array([fit(total - block, alpha).coefficients for block in blocks])
    h = np.array([total.rows / block.rows for block in blocks])[:, None, None]
    estimate = (len(blocks) * whole) - ((1 - 1 / h) * left).sum(0)
    pseudo = h * whole - (h - 1) * left
    errors: Floats = np.sqrt((((pseudo - estimate) ** 2) / (h - 1)).mean(0))
    return errors
