"""Pruning against its NumPy twin; merging keeps the logits."""

import numpy as np
import pytest
import reference_protopnet_training as reference
from small_protopnet import small_arrays

from exporters.protopnet.arrays import PrototypeSources
from exporters.protopnet.pruning import (
    duplicate_groups,
    kept_prototypes,
    merge_duplicates,
    merged_weights,
)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pictures", [40, 5])
def test_kept_are_those_of_the_twin(seed, pictures):
    rng = np.random.default_rng(seed)
    distances = rng.integers(0, 6, (pictures, 12)).astype(np.float32)  # with ties
    classes, owners = rng.integers(0, 3, pictures), np.arange(12) // 4
    kept = kept_prototypes(distances, classes, owners)
    assert kept.tolist() == reference.kept(distances, classes, owners)


def test_three_of_six_are_enough():
    classes = np.array([0, 0, 0, 1, 1, 1, 0, 0])
    distances = np.arange(8.0)[:, None].repeat(2, 1)
    assert kept_prototypes(distances, classes, np.array([0, 1])).tolist() == [0, 1]
    distances[2] = 7.5  # leaves two of class 0 and a fourth place to picture 6
    assert kept_prototypes(distances, classes, np.array([0, 1])).tolist() == [0, 1]
    classes[6] = 1
    assert kept_prototypes(distances, classes, np.array([0, 1])).tolist() == [1]


def with_duplicates():
    arrays = small_arrays()
    arrays.prototypes[2] = arrays.prototypes[0]  # of class 0, as it
    arrays.prototypes[4] = arrays.prototypes[3]  # of class 1, as it
    arrays.prototypes[9] = arrays.prototypes[0]  # of class 3
    return arrays


def test_merging_keeps_the_logits():
    arrays = with_duplicates()
    groups = duplicate_groups(arrays.prototypes, arrays.prototype_class)
    assert groups.tolist() == [0, 1, 0, 3, 3, 5, 6, 7, 8, 9, 10, 11]
    rng = np.random.default_rng(3)
    similarities = rng.random((50, 12)) * 9.21
    similarities[:, [2, 4, 9]] = similarities[:, [0, 3, 0]]
    weights = arrays.weights.astype(np.float64)
    merged = merged_weights(weights, groups)
    # Only the order of twelve additions of numbers below 10 differs.
    np.testing.assert_allclose(
        similarities[:, np.unique(groups)] @ merged.T, similarities @ weights.T, rtol=0, atol=2e-14
    )


def test_merged_arrays():
    arrays = with_duplicates()
    sources = PrototypeSources.unknown(12)
    arrays = small_arrays(
        sources=PrototypeSources(**{**vars(sources), "image_ids": tuple(str(j) for j in range(12))})
    )
    arrays.prototypes[2], arrays.prototypes[4] = arrays.prototypes[0], arrays.prototypes[3]
    merged = merge_duplicates(arrays)
    kept = [0, 1, 3, 5, 6, 7, 8, 9, 10, 11]
    np.testing.assert_array_equal(merged.prototypes, arrays.prototypes[kept])
    assert merged.sources.image_ids == tuple(map(str, kept))
    assert merged.prototype_class.tolist() == [j // 3 for j in kept]
    np.testing.assert_allclose(
        merged.weights[:, 0], arrays.weights[:, 0].astype(float) + arrays.weights[:, 2], 1e-7
    )
    assert merged.notes == ("2 equal prototypes were merged",)


def test_nothing_to_merge():
    arrays = small_arrays()
    assert merge_duplicates(arrays) is arrays
