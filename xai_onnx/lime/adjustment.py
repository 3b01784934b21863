"""Fewer forwards for the same answer: what a Gaussian process foresees isn't left to chance.

The coefficients that LIME converges to are a linear function of the scores of all 2^d masks. So
they can be had exactly for any model of the scores that is known on all masks, and only what that
model misses, the residuals, has to be estimated from the masks that were drawn: regression
adjustment (Witter, Liu and Musco 2025, "Regression-adjusted Monte Carlo estimators for Shapley
values and probabilistic values"; for integrals long known as control variates). Residuals are
smaller than scores, and so are their errors. Each is taken from a model that hasn't seen its own
mask (cross-fitting), so that a poor model costs nothing but its use: the limit stays LIME's.

The model here is a sum of interactions up to the fourth order with random coefficients (an ANOVA
kernel), the larger the larger the main effects of their superpixels are, and noise for the rest. A
design whose masks come in pairs with their complements, z and 1 - z, splits it in two of half the
size: half the difference of a pair knows of odd orders only, half the sum of even ones.

With u = 2z - 1, the product of u over a set S of superpixels has a mean under the proximity kernel
that depends on the size of S alone; thus the limit takes some elementary symmetric polynomials
instead of 2^d terms.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx.lime import sampling
from xai_onnx.lime.kernels import fit, process

ORDERS = 4
PAIRS_AT_ONCE = 256  # one process knows so many at most: time and memory grow with their square
PAIRS_FOR_VARIANCES = 64  # few, and matrices so small that BLAS stays on one thread
STEPS = 4  # of the search for the variances; more change nothing that could be measured
FOLDS = 8
FLOOR, POWER = 0.1, 0.7  # an interaction's weight from main effects, relative to their mean
FOURTH = 0.2  # variance of all interactions of order 4, in terms of those of order 2
# Where the search for the variances begins: main effects, third order, noise; the mean, second
# order, noise. In terms of the scores' variance.
FIRST_GUESS = (0.6, 0.03, 0.03), (0.3, 0.1, 0.03)
LOG_VARIANCES = (-9.0, 3.0)
LONGEST = 2.0  # step of a logarithm
BELIEF = 1.5  # deviation of a logarithm from the first guess
JITTER = 1e-6  # of the scores' variance: a mask that was drawn twice leaves the matrix singular

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Adjustment:
    """What the model tells of L labels.

    Attributes:
        coefficients: in the limit of very many masks, of what it foresees, float64 [L, d].
        residuals: what it doesn't foresee of each mask's targets, float64 [n, L].
    """

    coefficients: Floats
    residuals: Floats


def adjust(
    masks: NDArray[np.uint8], targets: Floats, main_effects: Floats, width: float
) -> Adjustment:
    """Model the targets, and split them in what is foreseen and what isn't.

    Args:
        masks: 0 or 1, [n, d], n even and d > 4; every second row is the complement of the one
            before it.
        targets: [n, L].
        main_effects: a first guess of the coefficients, [L, d].
        width: of the proximity kernel.
    """
    limit = Limit(masks.shape[1], width)
    pairs = len(masks) // 2
    parts = -(-pairs // PAIRS_AT_ONCE)
    bounds = [2 * (pairs * part // parts) for part in range(parts + 1)]
    coefficients, residuals = np.zeros_like(main_effects), np.empty_like(targets)
    for label, effects in enumerate(main_effects):
        mean, spread = targets[:, label].mean(), targets[:, label].std()
        if spread == 0 or not effects.any():
            residuals[:, label] = targets[:, label]
            continue
        standard = (targets[:, label] - mean) / spread
        relevance: Floats = (np.abs(effects) / np.abs(effects).mean() + FLOOR) ** POWER
        variances: list[Floats] = []
        for start, stop in itertools.pairwise(bounds):
            found, missed = _part(
                masks[start:stop], standard[start:stop], relevance, limit, variances
            )
            coefficients[label] += spread * found * (stop - start) / bounds[-1]
            residuals[start:stop, label] = spread * missed
    return Adjustment(coefficients, residuals)


def _part(
    masks: NDArray[np.uint8],
    scores: Floats,
    relevance: Floats,
    limit: Limit,
    variances: list[Floats],
) -> tuple[Floats, Floats]:
    """Of masks that one process can know; `variances` are filled by the first of them."""
    signs = np.where(masks[::2], 1.0, -1.0)
    odd, even = (scores[::2] - scores[1::2]) / 2, (scores[::2] + scores[1::2]) / 2
    kernels, covariances = _halves(signs, relevance, limit)
    moments, missed = np.zeros(masks.shape[1]), []
    for half, (values, kernel) in enumerate(zip((odd, even), kernels, strict=True)):
        if half == len(variances):
            few = slice(PAIRS_FOR_VARIANCES)
            variances.append(_likeliest([k[few, few] for k in kernel], values[few], half))
        weights, left = _cross_fitted(kernel, values, variances[half])
        missed.append(left)
        for variance, covariance in zip(variances[half], covariances[half], strict=False):
            moments += variance * _product(weights[None], covariance)[0]
    residuals = np.stack([missed[1] + missed[0], missed[1] - missed[0]], axis=1).reshape(-1)
    return limit.coefficients(moments), residuals


def _halves(
    signs: Floats, relevance: Floats, limit: Limit
) -> tuple[list[list[Floats]], list[list[Floats]]]:
    """Kernels of the odd and the even half at variance 1, and their share of the `Limit`.

    Returns:
        Kernels: first and third order; mean, second and fourth order; each [pairs, pairs]. And for
        each of them its covariance, under the proximity kernel, with every superpixel, [pairs, d].
    """
    d = signs.shape[1]
    across = np.ascontiguousarray(signs.T)
    kernels = elementary(
        [
            _product(signs * relevance, across),
            np.square(relevance).sum(),
            _product(signs * relevance**3, across),
            (relevance**4).sum(),
        ]
    )
    norms = elementary([(relevance**order).sum() for order in range(1, ORDERS + 1)])
    weighted = signs * relevance
    orders = range(1, ORDERS + 1)
    sums = [(weighted**order).sum(1, keepdims=True) for order in orders]
    whole = elementary(sums)
    without = elementary([s - weighted**order for s, order in zip(sums, orders, strict=True)])

    def covariance(order: int) -> Floats:
        with_it = weighted * without[order - 1]
        mixed = limit.outside[order] * (whole[order] - with_it) + limit.inside[order] * with_it
        result: Floats = mixed / norms[order]
        return result

    total = signs.sum(1, keepdims=True)
    main = (limit.outside[1] * (total - signs) + limit.inside[1] * signs) / d
    fourth = FOURTH * kernels[4] / norms[4]
    return (
        [
            [_product(signs, across) / d, kernels[3] / norms[3]],
            [np.ones_like(fourth), kernels[2] / norms[2] + fourth],
        ],
        [
            [main, covariance(3)],
            [np.zeros_like(main), covariance(2) + FOURTH * covariance(4)],
        ],
    )


def _likeliest(kernel: Sequence[Floats], values: Floats, half: int) -> Floats:
    """Variances of the parts of `kernel`, and of the noise, that make the values likeliest.

    Fisher scoring on their logarithms, which keeps them positive (Longford 1987); they are believed
    to be near `FIRST_GUESS`, for few values hardly tell a part of many interactions from noise.
    """
    parts = [np.ascontiguousarray(part) for part in (*kernel, np.eye(len(values)))]
    guess = np.log(FIRST_GUESS[half])
    logs = guess.copy()
    for _ in range(STEPS):
        variances = np.exp(logs)
        factor = _factor(parts[:-1], variances)
        weights = _times_inverse(factor, values)
        inverse = _product(np.ascontiguousarray(factor.T), factor)
        shares = [v * _product(inverse, part) for v, part in zip(variances, parts, strict=True)]
        seen = [(_product(values[None], share)[0] * weights).sum() for share in shares]
        slopes = np.array([np.trace(s) - v for s, v in zip(shares, seen, strict=True)]) / 2
        information = np.array([[(s * t.T).sum() for t in shares] for s in shares]) / 2
        slopes += (logs - guess) / BELIEF**2
        step = slopes[:, None].copy()
        fit.solve(information + np.eye(len(parts)) / BELIEF**2, step)
        logs = np.clip(logs - np.clip(step[:, 0], -LONGEST, LONGEST), *LOG_VARIANCES)
    found: Floats = np.exp(logs)
    return found


def _cross_fitted(
    kernel: Sequence[Floats], values: Floats, variances: Floats
) -> tuple[Floats, Floats]:
    """The mean process of those fitted without one fold, and each fold's residuals.

    All come out of one inverse: with A the block of it that belongs to a fold and a the weights
    there, the residuals of the fold are A⁻¹ a (Rasmussen and Williams 2006, equation 5.12, where
    the fold is one value).

    Returns:
        Weights of the kernel's columns, [pairs]; residuals, [pairs].
    """
    count = len(values)
    factor = _factor(kernel, variances)
    whole = _times_inverse(factor, values)
    residuals, shares = whole.copy(), np.empty(count)
    for start, stop in itertools.pairwise(count * fold // FOLDS for fold in range(FOLDS + 1)):
        block = np.empty((stop - start, stop - start))
        process.inverse_block(factor, start, stop, block)
        fit.solve(block, residuals[start:stop, None])
        shares[start:stop] = (stop - start) / count
    return whole - _times_inverse(factor, shares * residuals), residuals


def _factor(kernel: Sequence[Floats], variances: Floats) -> Floats:
    """The inverse of the lower Cholesky factor of the values' covariance."""
    total: Floats = (variances[-1] + JITTER) * np.eye(len(kernel[0]))
    for variance, part in zip(variances[:-1], kernel, strict=True):
        total += variance * part
    factor: Floats = np.empty_like(total)
    process.factor_inverse(total, factor)
    return factor


def _times_inverse(factor: Floats, vector: Floats) -> Floats:
    out = np.empty_like(vector)
    process.times_inverse(factor, vector, out)
    return out


def _product(left: Floats, right: Floats) -> Floats:
    out = np.empty((len(left), right.shape[1]))
    process.products(left, right, out)
    return out


class Limit:
    """What very many masks under the proximity kernel would give, in closed form.

    Attributes:
        outside, inside: covariance of z_j with the product of u over a set without j, or with j,
            by the size of the set.
    """

    def __init__(self, d: int, width: float) -> None:
        """For d superpixels and a kernel of this width."""
        on = np.arange(d + 1)
        with np.errstate(divide="ignore"):  # of a narrow kernel the smallest weights are 0
            logs = np.log(sampling.proximity(d, width))
        logs -= [math.lgamma(k + 1) + math.lgamma(d - k + 1) for k in range(d + 1)]
        chances = np.exp(logs - logs.max())
        chances /= chances.sum()  # of k superpixels on
        self._mean = float(chances @ on) / d
        self._apart = float(chances @ (on * (d - on))) / (d * (d - 1))  # E z_j (1 - z_k)
        total = 2.0 * on - d
        powers = [total if order % 2 else np.full(d + 1, float(d)) for order in range(1, 6)]
        counts = [math.comb(d, size) for size in range(len(powers) + 1)]
        means = [
            float(chances @ sums) / count
            for sums, count in zip(elementary(powers), counts, strict=True)
        ]
        sizes = range(ORDERS + 1)
        self.outside = [(means[m] + means[m + 1]) / 2 - self._mean * means[m] for m in sizes]
        self.inside = [0.0]
        self.inside += [(means[m] + means[m - 1]) / 2 - self._mean * means[m] for m in sizes[1:]]

    def coefficients(self, covariances: Floats) -> Floats:
        """Of the linear model whose covariances with each superpixel are given, [d]."""
        # The masks' covariance: `apart` on the diagonal, `shared` everywhere.
        shared = self._mean * (1 - self._mean) - self._apart
        rest = shared * covariances.sum() / (self._apart + len(covariances) * shared)
        found: Floats = (covariances - rest) / self._apart
        return found


def elementary(powers: Sequence[Any]) -> list[Any]:
    """Elementary symmetric polynomials e_0, e_1, ... from power sums p_1, p_2, ... (Newton)."""
    found = [powers[0] * 0 + 1]
    for order in range(1, len(powers) + 1):
        terms = [(-1) ** (i - 1) * found[order - i] * powers[i - 1] for i in range(1, order + 1)]
        found.append(sum(terms[1:], terms[0]) / order)
    return found
