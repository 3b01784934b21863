"""The surrogate against scikit-learn as lime uses it, and against slow twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xai_onnx.lime import sampling
from xai_onnx.lime.surrogate import Gram, fit, forward_selection, jackknife

Ridge = pytest.importorskip("sklearn.linear_model").Ridge

EXACT = 1e-12  # of coefficients of order 1: float64 sums of some hundred numbers


def problem(d, n, labels, seed, offset=0.0):
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 2, (n, d)).astype(np.uint8)
    weights = rng.uniform(0.05, 1, n)
    signal = masks @ rng.standard_normal((d, labels)) / d**0.5
    return masks, weights, offset + np.tanh(signal + 0.3 * rng.standard_normal((n, labels)))


def gram_of(masks, weights, targets, batch=None):
    gram = Gram(masks.shape[1], targets.shape[1])
    for start in range(0, len(masks), batch or len(masks)):
        rows = slice(start, start + (batch or len(masks)))
        gram.add(masks[rows], weights[rows], targets[rows])
    return gram


def ridge(masks, weights, target, alpha):
    return Ridge(alpha=alpha, fit_intercept=True, random_state=0).fit(
        masks.astype(float), target, sample_weight=weights
    )


def slow_forward_selection(masks, weights, target, count):
    """lime's loop, with scikit-learn."""
    used = []
    for _ in range(min(count, masks.shape[1])):
        best, most = 0, -1e8
        for feature in range(masks.shape[1]):
            if feature in used:
                continue
            columns = masks[:, [*used, feature]].astype(float)
            model = Ridge(alpha=0, fit_intercept=True, random_state=0)
            score = model.fit(columns, target, sample_weight=weights).score(
                columns, target, sample_weight=weights
            )
            if score > most:
                best, most = feature, score
        used.append(best)
    return used


@settings(max_examples=40, deadline=None)
@given(
    d=st.integers(1, 60),
    n=st.integers(1, 300),
    labels=st.integers(1, 5),
    seed=st.integers(0, 1000),
    alpha=st.sampled_from([0.01, 1.0, 30.0]),
    offset=st.sampled_from([0.0, 1.0, -50.0]),
)
def test_the_fit_is_scikit_learns(d, n, labels, seed, alpha, offset):
    masks, weights, targets = problem(d, n, labels, seed, offset)
    got = fit(gram_of(masks, weights, targets), alpha)
    for label in range(labels):
        model = ridge(masks, weights, targets[:, label], alpha)
        scale = max(1, abs(offset))
        np.testing.assert_allclose(got.coefficients[label], model.coef_, atol=EXACT * scale)
        np.testing.assert_allclose(got.intercept[label], model.intercept_, atol=EXACT * scale)
        np.testing.assert_allclose(
            got.at_image[label], model.predict(np.ones((1, d)))[0], atol=EXACT * scale * d
        )
        if n > 1:
            score = model.score(masks.astype(float), targets[:, label], sample_weight=weights)
            # R² is a ratio to the targets' variance, of order 0.1 here
            np.testing.assert_allclose(got.r2[label], score, atol=100 * EXACT * scale)


def test_chosen_columns_in_their_order():
    masks, weights, targets = problem(30, 200, 2, 0)
    chosen = [17, 3, 29]
    got = fit(gram_of(masks, weights, targets), 1.0, chosen)
    model = ridge(masks[:, chosen], weights, targets[:, 1], 1.0)
    np.testing.assert_allclose(got.coefficients[1], model.coef_, atol=EXACT)
    assert got.coefficients.shape == (2, 3)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_sums_do_not_depend_on_the_batches(batch):
    rows = problem(23, 150, 3, 1)
    one, other = fit(gram_of(*rows)), fit(gram_of(*rows, batch))
    np.testing.assert_array_equal(one.coefficients, other.coefficients)
    np.testing.assert_array_equal(one.r2, other.r2)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("d", "n"), [(12, 100), (40, 300), (25, 20)])
def test_forward_selection_is_limes(d, n, seed):
    masks, weights, targets = problem(d, n, 2, seed)
    count = min(6, n - 2)
    expected = slow_forward_selection(masks, weights, targets[:, 1], count)
    assert forward_selection(gram_of(masks, weights, targets), 1, count) == expected


def test_forward_selection_passes_over_copies_of_a_column():
    masks, weights, targets = problem(5, 200, 1, 3)
    masks[:, 3] = masks[:, 1]
    chosen = forward_selection(gram_of(masks, weights, targets), 0, 9)
    assert sorted(chosen) == [0, 1, 2, 3, 4]
    assert chosen[-1] == 3
    free = fit(gram_of(masks, weights, targets), alpha=0.0)
    assert free.coefficients[0, 3] == 0
    expected = ridge(masks[:, [0, 1, 2, 4]], weights, targets[:, 0], 0.0)
    np.testing.assert_allclose(free.coefficients[0, [0, 1, 2, 4]], expected.coef_, atol=1e-11)


@pytest.mark.parametrize("n", [1, 2, 50])
def test_constant_targets(n):
    masks, weights, _ = problem(8, n, 1, 0)
    got = fit(gram_of(masks, weights, np.full((n, 2), 0.1)))
    assert not got.coefficients.any()
    np.testing.assert_array_equal(got.intercept, [0.1, 0.1])
    np.testing.assert_array_equal(got.r2, 1)


def test_digits_survive_a_large_offset():
    masks, weights, targets = problem(20, 400, 1, 5)
    plain, far = (fit(gram_of(masks, weights, y)) for y in (targets, 1e6 + targets))
    # adding the offset itself costs 1e6 * 2^-53
    np.testing.assert_allclose(far.coefficients, plain.coefficients, atol=1e-9)
    np.testing.assert_allclose(far.r2, plain.r2, atol=1e-8)


def test_sums_add_and_subtract():
    masks, weights, targets = problem(9, 100, 2, 2)
    whole = gram_of(masks, weights, targets)
    parts = [Gram(9, 2, whole.origin) for _ in range(2)]
    parts[0].add(masks[:30], weights[:30], targets[:30])
    parts[1].add(masks[30:], weights[30:], targets[30:])
    both = parts[0] + parts[1]
    assert (both.rows, (both - parts[0]).rows) == (100, 70)
    np.testing.assert_allclose(fit(both).coefficients, fit(whole).coefficients, atol=EXACT)
    np.testing.assert_allclose(
        fit(whole - parts[0]).coefficients, fit(parts[1]).coefficients, atol=EXACT
    )
    expected = weights.sum() ** 2 / (weights**2).sum()
    assert whole.effective_rows == pytest.approx(expected, rel=1e-14)


def test_nothing_added():
    gram = Gram(3, 1)
    gram.add(np.empty((0, 3), np.uint8), np.empty(0), np.empty((0, 1)))
    assert (gram.rows, gram.weight, gram.effective_rows) == (0, 0, 0)
    assert jackknife([gram]) is None


def test_jackknife_of_equal_blocks_is_the_textbooks():
    masks, weights, targets = problem(6, 120, 1, 7)
    origin = np.zeros(1)
    blocks = []
    for start in range(0, 120, 20):
        blocks.append(Gram(6, 1, origin))
        rows = slice(start, start + 20)
        blocks[-1].add(masks[rows], weights[rows], targets[rows])
    left = []
    for start in range(0, 120, 20):
        kept = np.r_[0:start, start + 20 : 120]
        left.append(ridge(masks[kept], weights[kept], targets[kept, 0], 1.0).coef_)
    left = np.array(left)
    expected = np.sqrt(5 / 6 * ((left - left.mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(jackknife(blocks)[0], expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["foldover", "iid"])
def test_the_jackknife_is_calibrated(name):
    """Estimated over true error, of a toy model that isn't additive."""
    d, num_samples = 20, 640
    rng = np.random.default_rng(0)
    slopes, product = rng.standard_normal(d), rng.choice(d, 3, replace=False)

    def answer(seed, count):
        blocks = []
        for block in sampling.masks(d, count, seed, sampling=name):
            y = np.tanh((block.masks - 0.5) @ slopes / 2) + block.masks[:, product].all(1)
            blocks.append(Gram(d, 1, np.zeros(1)))
            blocks[-1].add(block.masks, block.weights, y[:, None])
        total = sum(blocks[1:], blocks[0])
        return fit(total, 0.0).coefficients[0], jackknife(blocks, 0.0)[0]

    truth, _ = answer(999, 200_000)
    found = [answer(seed, num_samples) for seed in range(30)]
    true = np.sqrt(np.mean([(beta - truth) ** 2 for beta, _ in found]))
    estimated = np.sqrt(np.mean([errors**2 for _, errors in found]))
    assert 0.8 <= estimated / true <= 1.25  # the bound that is asked for; seen: 0.95 to 1.05


def test_uneven_blocks():
    """A last block of one row neither breaks the errors nor rules them."""
    d = 12
    rng = np.random.default_rng(1)
    slopes = rng.standard_normal(d)
    found = {}
    for count in (640, 641):
        blocks = []
        for block in sampling.masks(d, count, 0):
            blocks.append(Gram(d, 1, np.zeros(1)))
            y = np.tanh(block.masks @ slopes)[:, None]
            blocks[-1].add(block.masks, block.weights, y)
        found[count] = jackknife(blocks)[0]
    assert len(blocks) == 21
    assert blocks[-1].rows == 1
    assert jackknife(blocks[-2:]) is None  # one and a bit
    assert jackknife(blocks[-1:]) is None
    ratio = np.linalg.norm(found[641]) / np.linalg.norm(found[640])
    assert 0.9 < ratio < 1.1


@pytest.mark.parametrize("num_samples", [256, 320, 449, 640])
def test_the_errors_stay_calibrated_where_the_last_block_is_cut(num_samples):
    """Of a function of 40 superpixels; 128 masks are a block."""
    d = 40
    slopes = np.random.default_rng(3).standard_normal(d)

    def answer(seed, count):
        blocks = []
        for block in sampling.masks(d, count, seed):
            y = (np.maximum((block.masks - 0.3) @ slopes, 0))[:, None]
            blocks.append(Gram(d, 1, np.zeros(1)))
            blocks[-1].add(block.masks, block.weights, y)
        return fit(sum(blocks[1:], blocks[0]), 0.0).coefficients[0], jackknife(blocks, 0.0)[0]

    truth, _ = answer(999, 100_000)
    found = [answer(seed, num_samples) for seed in range(30)]
    true = np.mean([np.square(beta - truth).sum() for beta, _ in found])
    estimated = np.mean([np.square(errors).sum() for _, errors in found])
    assert 0.8 <= np.sqrt(estimated / true) <= 1.25
