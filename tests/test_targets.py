from types import SimpleNamespace

import numpy as np
import pytest

from xai_onnx.errors import TargetError
from xai_onnx.targets import class_rows, none, rows, several

LABELS = ("crane", "owl", "crane", "kite")


def taking(class_index="class_index", cotangent=None, top_k=None, labels=LABELS):
    return SimpleNamespace(
        class_index=class_index,
        cotangent=cotangent,
        top_k=top_k,
        num_classes=4,
        labels=labels,
        targets="class_index",
    )


NAMED, UNNAMED = taking(), taking(labels=())
WEIGHED = taking(class_index=None, cotangent="cotangent")


def chosen_by_the_file(top_k):
    return taking(class_index=None, top_k=top_k)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (None, [[-1], [-1]]),
        (-1, [[-1], [-1]]),
        (2, [[2], [2]]),
        (np.int32(3), [[3], [3]]),
        ("owl", [[1], [1]]),
        ([1, "kite", -1, None], [[1, 3, -1, -1], [1, 3, -1, -1]]),
        ((0,), [[0], [0]]),
        (np.array([2, 0]), [[2, 0], [2, 0]]),
        (np.array([[2], [0]], np.uint8), [[2], [0]]),
        (np.array([[2, -1, 1], [0, 3, 3]]), [[2, -1, 1], [0, 3, 3]]),
        ([], [[], []]),
        (range(2), [[0, 1], [0, 1]]),
    ],
)
def test_rows(target, expected):
    found = rows(NAMED, target, 2)
    np.testing.assert_array_equal(found, class_rows(NAMED, target, 2))
    assert found.dtype == np.int64
    assert found.shape == np.shape(expected)
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("target", "listed"),
    [
        (None, False),
        (1, False),
        (np.int64(1), False),
        ("owl", False),
        ([1], True),
        ((1, 2), True),
        (np.array([1]), True),
        (np.array([[1]]), True),
    ],
)
def test_whether_a_list_comes_back(target, listed):
    assert several(NAMED, target) is listed


@pytest.mark.parametrize(("top_k", "listed"), [(1, False), (3, True)])
def test_a_file_that_chooses_lists_what_it_chooses(top_k, listed):
    assert several(chosen_by_the_file(top_k), None) is listed
    assert class_rows(chosen_by_the_file(top_k), None, 2).shape == (2, 0)
    with pytest.raises(TargetError, match=r"targets='predicted' .* targets='class_index'"):
        class_rows(chosen_by_the_file(top_k), 1, 2)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (4, "there is no class 4; the model has classes 0 to 3, and -1 stands"),
        (-2, "there is no class -2"),
        (10**30, "there is no class 1000000000000000000000000000000; the model has"),
        ([0, 9], "there is no class 9"),
        (np.array([[0], [4]]), "there is no class 4; the model has classes 0 to 3"),
        (np.array([[0], [-2]]), "there is no class -2"),
        (np.array([[0], [2**63]], np.uint64), "there is no class 9223372036854775808"),
        (np.array([[0.0], [1.0]]), "whole number or a label, not float64"),
        (np.array([[True], [False]]), "whole number or a label, not bool"),
        (np.array([[1, 2]]), r"shape \[1, 2\] don't fit 2 pictures; .* \[pictures, classes\]"),
        (1.0, "an index or a label, not 1.0"),
        (np.array(3), r"an index or a label, not array\(3\)"),
        (True, "an index or a label, not True"),
        ([[1], [2]], "an index or a label, not"),
        ({1, 2}, "an index or a label, not"),
        ("crane", r"classes \[0, 2\] are all called 'crane'; give the index"),
        ("owls", "there is no class 'owls'; did you mean 'owl'?"),
        ("hovercraft", "there is no class 'hovercraft'; give an index"),
    ],
)
def test_refusals(target, message):
    with pytest.raises(TargetError, match=message):
        class_rows(NAMED, target, 2)


def test_a_label_in_a_file_without_labels():
    with pytest.raises(
        TargetError, match=r"holds no labels.*give an index, or export it with labels"
    ):
        class_rows(UNNAMED, "owl", 1)


def test_weights_of_the_scores():
    weights = np.arange(8, dtype=np.float64).reshape(2, 4)
    for_all = rows(WEIGHED, weights, 3)
    assert for_all.dtype == np.float32
    np.testing.assert_array_equal(for_all, np.stack([weights] * 3))
    each = np.random.default_rng(0).random((3, 2, 4))
    np.testing.assert_array_equal(rows(WEIGHED, each, 3), each.astype(np.float32))
    assert several(WEIGHED, weights)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, r"takes cotangents.*\[K, 4\] or \[3, K, 4\], not \[0\]"),
        (2, r"not \[\]"),
        ([[1.0, 2.0]], r"not \[3, 1, 2\]"),
        (np.zeros((2, 1, 4)), r"not \[2, 1, 4\]"),
        ([[1.0, 2.0, np.nan, 4.0]], "NaN or infinity"),
    ],
)
def test_weights_that_do_not_fit(target, message):
    with pytest.raises(TargetError, match=message):
        rows(WEIGHED, target, 3)


@pytest.mark.parametrize(
    ("manifest", "shapes"),
    [
        (None, {}),
        (NAMED, {"class_index": (3, 0)}),
        (WEIGHED, {"cotangent": (3, 0, 4)}),
        (chosen_by_the_file(2), {}),
    ],
)
def test_explaining_nothing(manifest, shapes):
    assert {name: array.shape for name, array in none(manifest, 3).items()} == shapes
