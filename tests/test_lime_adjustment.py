"""Regression adjustment against enumeration: all masks, all interactions, one fit for each fold."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from xai_onnx.lime import adjustment, sampling
from xai_onnx.lime.adjustment import FOLDS, FOURTH, JITTER, Limit, adjust, elementary
from xai_onnx.lime.estimate import Scored, estimate
from xai_onnx.lime.surrogate import Gram, fit

D, WIDTH = 7, 0.25
EVERY = np.array(list(itertools.product((0, 1), repeat=D)), np.uint8)


def weights(masks, width=WIDTH):
    return sampling.proximity(masks.shape[1], width)[masks.sum(1)]


def limit_of(scores, width=WIDTH):
    """Coefficients of the weighted regression on all masks, without penalty, by least squares."""
    root = np.sqrt(weights(EVERY, width))[:, None]
    rows = np.column_stack([EVERY, np.ones(len(EVERY))])
    return np.linalg.lstsq(root * rows, root[:, 0] * scores, rcond=None)[0][:-1]


def pairs(count, seed=0, d=D):
    """Random masks, each followed by its complement."""
    half = np.random.default_rng(seed).integers(0, 2, (count, d), np.uint8)
    return np.stack([half, 1 - half], axis=1).reshape(-1, d)


def interactions(masks, order, relevance):
    """For each set of so many superpixels the product of their signs, times its own deviation."""
    signs = 2.0 * masks - 1
    sets = list(itertools.combinations(range(masks.shape[1]), order))
    deviations = [math.sqrt(math.prod(relevance[list(s)])) for s in sets]
    return np.column_stack([signs[:, s].prod(1) for s in map(list, sets)]) * deviations


class TestElementary:
    def test_of_numbers(self):
        """(1 + x)(1 + 2x)(1 + 5x) = 1 + 8x + 17x² + 10x³, and nothing of order 4."""
        powers = [1**k + 2**k + 5**k for k in range(1, 5)]
        assert elementary([float(p) for p in powers]) == pytest.approx([1, 8, 17, 10, 0])


class TestLimit:
    @pytest.mark.parametrize("width", [0.08, 0.25, 1.0])
    def test_of_every_interaction_is_the_regression_on_all_masks(self, width):
        limit = Limit(D, width)
        signs = 2.0 * EVERY - 1
        for order in range(1, 5):
            for members in itertools.combinations(range(D), order):
                inside = np.isin(np.arange(D), members)
                covariances = np.where(inside, limit.inside[order], limit.outside[order])
                found = limit.coefficients(covariances)
                expected = limit_of(signs[:, list(members)].prod(1), width)
                # A narrow kernel leaves little variance to divide by.
                np.testing.assert_allclose(found, expected, atol=1e-9)

    def test_of_many_superpixels_is_finite(self):
        limit = Limit(3000, 0.25)
        assert np.isfinite([*limit.inside, *limit.outside]).all()
        slope = np.full(3000, limit.outside[1])
        slope[0] = limit.inside[1]  # the limit of u_0 = 2 z_0 - 1
        np.testing.assert_allclose(limit.coefficients(slope), np.eye(3000)[0] * 2, atol=1e-6)


class TestProcess:
    """The twin: interactions written out, one posterior mean for each fold, all masks."""

    @pytest.fixture
    def relevance(self):
        return np.random.default_rng(3).uniform(0.2, 2, D)

    def written_out(self, masks, relevance, half):
        """Features whose products are the kernel's two parts."""
        ones = np.ones(D)
        third, second, fourth = (interactions(masks, k, relevance) for k in (3, 2, 4))
        norms = [
            sum(math.prod(relevance[list(s)]) for s in itertools.combinations(range(D), k))
            for k in range(5)
        ]
        if half == 0:
            main = interactions(masks, 1, ones) / math.sqrt(D)
            return main, third / math.sqrt(norms[3])
        both = [second / math.sqrt(norms[2]), fourth * math.sqrt(FOURTH / norms[4])]
        return np.ones((len(masks), 1)), np.column_stack(both)

    def test_kernels(self, relevance):
        masks = pairs(20)
        kernels, _ = adjustment._halves(2.0 * masks[::2] - 1, relevance, Limit(D, WIDTH))
        for half in (0, 1):
            for kernel, features in zip(
                kernels[half], self.written_out(masks[::2], relevance, half), strict=True
            ):
                np.testing.assert_allclose(kernel, features @ features.T, atol=1e-12)

    def test_cross_fitting_is_one_fit_for_each_fold(self, relevance):
        rng = np.random.default_rng(1)
        masks, scores = pairs(20), rng.standard_normal(40)
        known = [np.array([0.7, 0.1, 0.05]), np.array([0.4, 0.2, 0.02])]
        found, residuals = adjustment._part(masks, scores, relevance, Limit(D, WIDTH), [*known])

        folds = np.searchsorted([20 * k // FOLDS for k in range(1, FOLDS)], np.arange(20), "right")
        foreseen, expected = np.zeros(len(EVERY)), np.zeros(40)
        halves = (scores[::2] - scores[1::2]) / 2, (scores[::2] + scores[1::2]) / 2
        for half, (values, variances) in enumerate(zip(halves, known, strict=True)):
            here, everywhere = (
                np.column_stack(
                    [
                        np.sqrt(v) * features
                        for v, features in zip(
                            variances, self.written_out(rows, relevance, half), strict=False
                        )
                    ]
                )
                for rows in (masks[::2], EVERY)
            )
            for fold in range(FOLDS):
                rest = folds != fold
                covariance = here[rest] @ here[rest].T
                covariance += (variances[-1] + JITTER) * np.eye(rest.sum())
                weight = here[rest].T @ np.linalg.solve(covariance, values[rest])
                foreseen += everywhere @ weight * (~rest).mean()
                missed = values[~rest] - here[~rest] @ weight
                expected[::2][~rest] += missed
                expected[1::2][~rest] += missed if half else -missed
        np.testing.assert_allclose(residuals, expected, atol=1e-9)
        np.testing.assert_allclose(found, limit_of(foreseen), atol=1e-9)

    def test_variances_are_the_likeliest(self, relevance):
        """scipy's density is no larger anywhere around, and much lower where the search began."""
        masks = pairs(60, seed=5)
        kernels, _ = adjustment._halves(2.0 * masks[::2] - 1, relevance, Limit(D, WIDTH))
        rng = np.random.default_rng(8)
        true = np.array([2.0, 0.4, 0.2])
        covariance = sum(v * k for v, k in zip(true, kernels[0], strict=False)) + 0.2 * np.eye(60)
        values = rng.multivariate_normal(np.zeros(60), covariance)

        def density(variances):
            total = sum(v * k for v, k in zip(variances, kernels[0], strict=False))
            total = total + (variances[-1] + JITTER) * np.eye(60)
            return multivariate_normal(np.zeros(60), total).logpdf(values)

        found = adjustment._likeliest(kernels[0], values, 0)
        assert density(found) > density(adjustment.FIRST_GUESS[0]) + 1
        for k in range(3):
            for factor in (0.7, 1.4):
                other = found.copy()
                other[k] *= factor
                assert density(other) < density(found) + 0.05


def answer(function, samples, seed, adjusted, d):
    blocks = [
        Scored(block.masks, block.weights, function(block.masks), np.zeros(2))
        for block in sampling.masks(d, samples, seed)
    ]
    return estimate(blocks, adjusted, WIDTH)


class TestEstimate:
    D = 20

    @pytest.fixture
    def functions(self):
        """One with pairs, one with ands and ors that no process of order 4 knows."""
        rng = np.random.default_rng(11)
        slopes, pair = rng.standard_normal(self.D), rng.standard_normal((self.D, self.D)) * 0.3
        groups = [rng.choice(self.D, 6, replace=False) for _ in range(8)]

        def function(masks):
            z = masks.astype(float)
            smooth = z @ slopes + np.einsum("ni,ij,nj->n", z, pair, z)
            return np.column_stack([smooth, sum(masks[:, g].any(1).astype(float) for g in groups)])

        return function

    @pytest.fixture
    def truth(self, functions):
        gram = Gram(self.D, 2, np.zeros(2))
        for block in sampling.masks(self.D, 2**17, 7):
            gram.add(block.masks, block.weights, functions(block.masks))
        return fit(gram).coefficients

    def test_it_is_nearer_and_its_errors_are_right(self, functions, truth):
        runs = {
            adjusted: [answer(functions, 512, seed, adjusted, self.D) for seed in range(20)]
            for adjusted in (False, True)
        }
        missed = {
            adjusted: np.array([run.fit.coefficients - truth for run in found])
            for adjusted, found in runs.items()
        }
        rms = {adjusted: np.sqrt(np.square(m).mean((0, 2))) for adjusted, m in missed.items()}
        assert rms[True][0] < 0.6 * rms[False][0]  # pairs are learnt
        assert rms[True][1] < 1.2 * rms[False][1]  # what can't be learnt costs little
        errors = np.array([run.errors for run in runs[True]])
        ratio = np.sqrt(np.square(errors).mean((0, 2))) / rms[True]
        assert (ratio > 0.8).all()
        assert (ratio < 1.4).all()  # each fold's process knows less than all would
        bias = missed[True].mean(0) / (missed[True].std(0) / math.sqrt(20))
        assert np.square(bias).mean() < 2  # 1 by chance

    def test_long_runs_are_taken_in_parts(self, functions, truth):
        missed = {
            adjusted: [
                answer(functions, 2048, seed, adjusted, self.D).fit.coefficients[0] - truth[0]
                for seed in range(8)
            ]
            for adjusted in (False, True)
        }
        assert np.linalg.norm(missed[True]) < 0.7 * np.linalg.norm(missed[False])

    def test_few_blocks_are_not_adjusted(self, functions):
        size = sampling.block_size(self.D)
        few, enough = (answer(functions, n * size, 0, True, self.D) for n in (3, 4))
        assert not few.adjusted
        assert enough.adjusted
        np.testing.assert_array_equal(
            few.fit.coefficients, answer(functions, 3 * size, 0, False, self.D).fit.coefficients
        )

    @pytest.mark.parametrize("d", [1, 2, 4])
    def test_few_superpixels_are_not_adjusted(self, d):
        def function(masks):
            return masks.sum(1, keepdims=True) * np.ones(2)

        blocks = [
            Scored(block.masks, block.weights, function(block.masks), np.zeros(2))
            for block in sampling.SAMPLING_DESIGNS["foldover"](d, 256, 0, WIDTH)
        ]
        found = estimate(blocks, True, WIDTH)
        assert not found.adjusted
        assert np.isfinite(found.fit.coefficients).all()

    def test_a_parted_pair_is_left_out(self, functions):
        size = sampling.block_size(self.D)
        whole, parted = (answer(functions, 5 * size - k, 0, True, self.D) for k in (2, 1))
        # But for the first guess of the coefficients, in which it has a part.
        np.testing.assert_allclose(whole.errors, parted.errors, rtol=0.05)
        assert parted.gram.rows == whole.gram.rows + 1

    def test_labels_do_not_disturb_each_other(self, functions):
        def swapped(masks):
            return functions(masks)[:, ::-1]

        one, other = (answer(f, 512, 0, True, self.D) for f in (functions, swapped))
        np.testing.assert_array_equal(one.fit.coefficients, other.fit.coefficients[::-1])

    def test_constant_scores_give_zeros(self):
        masks = pairs(100)
        found = adjust(masks, np.full((200, 1), 0.3), np.zeros((1, D)), WIDTH)
        assert not found.coefficients.any()
        np.testing.assert_array_equal(found.residuals, 0.3)

    def test_fidelity_and_intercept_are_those_of_the_coefficients(self, functions):
        found = answer(functions, 512, 3, True, self.D)
        blocks = list(sampling.masks(self.D, 512, 3))
        x = np.concatenate([b.masks for b in blocks]).astype(float)
        w = np.concatenate([b.weights for b in blocks])
        y = functions(x.astype(np.uint8))
        rest = y - x @ found.fit.coefficients.T
        expected = (w @ rest) / w.sum()
        np.testing.assert_allclose(found.fit.intercept, expected, atol=1e-10)
        spread = w @ np.square(y - (w @ y) / w.sum())
        np.testing.assert_allclose(
            found.fit.r2, 1 - w @ np.square(rest - expected) / spread, atol=1e-10
        )
