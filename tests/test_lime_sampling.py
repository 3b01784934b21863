"""Sampling designs against their definitions, lime's own stream, and exact counts."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xai_onnx.errors import SamplingError
from xai_onnx.lime import sampling


def drawn(d, num_samples, seed=0, **options):
    blocks = list(sampling.masks(d, num_samples, seed, **options))
    return np.concatenate([b.masks for b in blocks]), np.concatenate([b.weights for b in blocks])


@pytest.mark.parametrize("name", sampling.SAMPLING_DESIGNS)
@settings(max_examples=25, deadline=None)
@given(d=st.integers(1, 40), num_samples=st.integers(1, 300), seed=st.integers(0, 2**32 - 1))
def test_blocks_are_masks_with_weights(name, d, num_samples, seed):
    if name == "full" and 2**d > num_samples:
        num_samples = 2 ** (d := min(d, 8))
    blocks = list(sampling.masks(d, num_samples, seed, sampling=name))
    used = sampling.fitting(name, d, num_samples)
    sizes = [len(block.masks) for block in blocks]
    assert sum(sizes) == (2**d if used == "full" else num_samples)
    assert set(sizes[:-1]) <= {sampling.block_size(d)}
    for block in blocks:
        assert block.masks.dtype == np.uint8
        assert block.masks.shape == (len(block.weights), d)
        assert block.weights.dtype == np.float64
        assert set(np.unique(block.masks)) <= {0, 1}
        assert np.isfinite(block.weights).all()
        assert (block.weights > 0).all()


@pytest.mark.parametrize("name", ["foldover", "iid", "glime"])
def test_more_samples_begin_with_the_same_masks(name):
    few, weights = drawn(11, 150, 3, sampling=name)
    many, more_weights = drawn(11, 500, 3, sampling=name)
    np.testing.assert_array_equal(many[:150], few)
    np.testing.assert_array_equal(more_weights[:150], weights)
    again, _ = drawn(11, 500, 3, sampling=name)
    other, _ = drawn(11, 500, 4, sampling=name)
    np.testing.assert_array_equal(again, many)
    assert (other != many).any()


@pytest.mark.parametrize("d", [1, 2, 3, 7, 8, 20, 63, 64])
def test_a_foldover_block_is_an_orthogonal_array_of_strength_three(d):
    size = sampling.block_size(d)
    assert size == 2 * 2 ** math.ceil(math.log2(d + 1))
    (block,) = sampling.foldover(d, size, 5)
    rows = block.masks
    np.testing.assert_array_equal(rows[0::2], 1 - rows[1::2])
    triples = list(itertools.combinations(range(d), 3))[:: max(1, math.comb(d, 3) // 60)]
    for chosen in triples or [tuple(range(d))]:
        codes = rows[:, chosen] @ (1 << np.arange(len(chosen)))
        counts = np.bincount(codes, minlength=2 ** len(chosen))
        assert set(counts) == {size // 2 ** len(chosen)}, chosen


def test_iid_is_limes_stream():
    d, num_samples, seed = 37, 1000, 11
    rows, weights = drawn(d, num_samples, seed, sampling="iid")
    expected = np.random.RandomState(seed).randint(0, 2, num_samples * d).reshape(num_samples, d)
    expected[0] = 1
    np.testing.assert_array_equal(rows, expected)
    ones = expected.sum(1)
    distance = 1 - np.sqrt(ones / d)  # cosine distance to the row of ones
    np.testing.assert_allclose(weights, np.exp(-(distance**2) / 0.25**2 / 2), rtol=1e-14)


def test_proximity_is_limes_kernel():
    pairwise = pytest.importorskip("sklearn.metrics").pairwise_distances
    rows = np.tril(np.ones((13, 12)), -1)
    distance = pairwise(rows, np.ones((1, 12)), metric="cosine").ravel()
    expected = np.sqrt(np.exp(-(distance**2) / 0.4**2))
    np.testing.assert_allclose(sampling.proximity(12, 0.4), expected, rtol=1e-12)


@pytest.mark.parametrize("width", [0.05, 0.25, 1.0])
def test_glime_draws_the_number_of_ones_by_the_kernel(width):
    d, num_samples = 6, 60_000
    rows = np.concatenate([b.masks for b in sampling.glime(d, num_samples, 1, width)])
    chances = np.array([math.comb(d, k) for k in range(d + 1)]) * sampling.proximity(d, width)
    counts = np.bincount(rows.sum(1), minlength=d + 1) / num_samples
    # five standard deviations of a binomial share
    np.testing.assert_allclose(counts, chances / chances.sum(), atol=5 * 0.5 / num_samples**0.5)
    share = rows[rows.sum(1) == 5].mean(0)
    np.testing.assert_allclose(share, 5 / 6, atol=5 * 0.5 / (counts[5] * num_samples) ** 0.5)


def test_full_takes_every_mask_once_and_weighs_as_many_draws():
    for name in ("foldover", "glime", "full"):
        rows, weights = drawn(5, 100, sampling=name)
        assert len({tuple(row) for row in rows}) == len(rows) == 32
        table = sampling.proximity(5)
        np.testing.assert_allclose(weights, table[rows.sum(1)] * 100 / 32, rtol=1e-15)
    assert len(drawn(5, 100, sampling="iid")[0]) == 100
    assert len(drawn(5, 31)[0]) == 31


@pytest.mark.parametrize(
    ("d", "expected"), [(1, 2), (9, 512), (10, 1024), (11, 1024), (60, 1024), (128, 2048)]
)
def test_usual_number_of_samples(d, expected):
    assert sampling.usual_samples(d) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": "sobol"}, "no sampling design 'sobol'; one of foldover, iid, glime, full"),
        ({"num_samples": 0}, "0 samples can't be drawn"),
        ({"sampling": "full"}, r"all 2\^20 masks of 20 superpixels, not 64"),
        ({"seed": -1}, "a seed is a whole number from 0 to 4294967295, not -1"),
        ({"seed": 2**32}, "a seed is a whole number"),
        ({"width": 0.0}, "width must be a positive number, not 0.0"),
        ({"width": math.nan}, "width must be a positive number, not nan"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(SamplingError, match=message):
        drawn(**{"d": 20, "num_samples": 64} | changes)


def test_no_design_is_entered_twice():
    with pytest.raises(KeyError, match="two sampling designs called 'iid'"):
        sampling.design(sampling.iid)
