from types import SimpleNamespace

import numpy as np
import pytest

from xai_onnx.errors import NonFiniteError
from xai_onnx.scores import checked, class_score


def manifest(activation=None, labels=()):
    return SimpleNamespace(output_activation=activation, labels=labels)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1, 1), (2, 1, 3)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_of_float32(shape, dtype):
    raw = np.arange(6, dtype=dtype).reshape(shape)
    found = checked(raw, "m")
    assert found.dtype == np.float32
    assert found.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value):
    raw = np.zeros((2, 3), np.float32)
    raw[1, 2] = value
    with pytest.raises(NonFiniteError, match=r"m\.onnx: its scores hold NaN or infinity; check"):
        checked(raw, "m.onnx")


def test_the_fields_of_a_class():
    scores = np.array([1, 3, 2], np.float32)
    found = class_score(manifest(labels=("a", "b", "c")), scores, 2)
    assert (found["target"], found["label"], found["score"]) == (2, "c", 2.0)
    assert class_score(manifest(), scores, 2)["label"] is None
    plain = class_score(None, scores, 2)
    assert (plain["label"], plain["probability"], plain["score"]) == (None, None, 2.0)


@pytest.mark.parametrize(
    ("activation", "scores", "target", "probability"),
    [
        ("softmax", [0.2, 0.8], 1, 0.8),
        ("sigmoid", [0.9, 0.7], 0, 0.9),
        ("sigmoid", [0.3], 0, 0.3),
        ("log_softmax", [np.log(0.25), np.log(0.75)], 0, 0.25),
        (None, [0.0, np.log(3)], 1, 0.75),
        (None, [1000.0, 1000.0], 0, 0.5),
        (None, [-1e30, 1e30], 0, 0.0),
    ],
)
def test_probabilities(activation, scores, target, probability):
    row = np.array(scores, np.float32)
    found = class_score(manifest(activation), row, target)["probability"]
    assert found == pytest.approx(probability, rel=1e-6)


def test_a_single_logit_has_none():
    assert class_score(manifest(), np.array([4], np.float32), 0)["probability"] is None
