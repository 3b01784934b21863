"""Which scale a class is explained on, for every kind of output."""

from types import SimpleNamespace

import numpy as np
import pytest

from xai_onnx.errors import ScoreError
from xai_onnx.lime import doubts
from xai_onnx.lime.explanation import DraftAgreement
from xai_onnx.lime.score_scale import choose

LOGITS = np.array([[2.0, -1.0, 0.5, 4.0], [0.0, 0.0, 30.0, -8.0]])
FLOAT = "tensor(float)"


def softmax(rows):
    powers = np.exp(rows - rows.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def log_odds(rows):
    """Of each class's logit against all the others'."""
    others = [np.logaddexp.reduce(np.delete(rows, j, axis=1), axis=1) for j in range(rows.shape[1])]
    return rows - np.array(others).T


def scale(score, activation, rows, dtype=FLOAT):
    manifest = None if activation == "plain" else SimpleNamespace(output_activation=activation)
    return choose(score, manifest, rows[0].astype(np.float32), dtype, "net.onnx")


@pytest.mark.parametrize(
    ("activation", "rows", "name", "expected"),
    [
        (None, LOGITS, "logit", LOGITS),
        ("plain", LOGITS, "logit", LOGITS),
        ("none", LOGITS, "score", LOGITS),
        ("softmax", softmax(LOGITS), "log-odds", log_odds(LOGITS)),
        ("plain", softmax(LOGITS), "log-odds", log_odds(LOGITS)),
        ("log_softmax", np.log(softmax(LOGITS)), "log-odds", log_odds(LOGITS)),
        ("sigmoid", 1 / (1 + np.exp(-LOGITS[:1])), "log-odds", LOGITS[:1]),
        ("plain", np.array([[0.2, 0.9, 0.4]]), "score", np.array([[0.2, 0.9, 0.4]])),
        ("plain", np.array([[0.7]]), "score", np.array([[0.7]])),
    ],
)
def test_logit(activation, rows, name, expected):
    chosen = scale("logit", activation, rows)
    assert chosen.name == name
    np.testing.assert_allclose(chosen.of(rows), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("activation", "rows", "expected"),
    [
        (None, LOGITS, softmax(LOGITS)),
        ("plain", LOGITS, softmax(LOGITS)),
        ("softmax", softmax(LOGITS), softmax(LOGITS)),
        ("plain", softmax(LOGITS), softmax(LOGITS)),
        ("log_softmax", np.log(softmax(LOGITS)), softmax(LOGITS)),
        ("sigmoid", np.array([[0.2, 0.9]]), np.array([[0.2, 0.9]])),
    ],
)
def test_probability(activation, rows, expected):
    chosen = scale("probability", activation, rows)
    assert chosen.name == "probability"
    np.testing.assert_allclose(chosen.of(rows), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("activation", "rows"),
    [
        ("none", LOGITS),
        (None, np.array([[3.0]])),
        ("plain", np.array([[0.2, 0.9, 0.4]])),
        ("plain", np.array([[0.4]])),
    ],
)
def test_no_probability_to_be_had(activation, rows):
    with pytest.raises(ScoreError, match=r"net\.onnx: its scores are neither probabilities nor"):
        scale("probability", activation, rows)


@pytest.mark.parametrize(
    ("dtype", "lowest"), [(FLOAT, np.log(2.0**-126)), ("tensor(float16)", np.log(2.0**-24))]
)
def test_what_was_rounded_to_zero_stays_finite(dtype, lowest):
    """And isn't further off than the type reaches."""
    rows = np.array([[1.0, 0.0, 0.0]])
    found = scale("logit", "softmax", rows, dtype).of(rows)
    np.testing.assert_allclose(found, [[-lowest, lowest, lowest]])
    single = scale("logit", "sigmoid", rows, dtype).of(rows)
    assert np.isfinite(single).all()


class TestDoubts:
    def test_a_draft_that_could_not_be_compared(self):
        (doubt,) = doubts.of(np.ones(2), 0.1, DraftAgreement("int8.onnx", 0, None, None))
        assert "left no time to compare the draft model int8.onnx" in doubt

    def test_noise_is_the_errors_share(self):
        assert doubts.noise(np.array([3.0, 4.0]), None) is None
        assert doubts.noise(np.array([3.0, 4.0]), np.array([0.0, 5.0])) == pytest.approx(1)
        assert doubts.noise(np.zeros(2), np.zeros(2)) == 0

    @pytest.mark.parametrize(
        ("coefficients", "share", "correlation", "expected"),
        [
            ([1.0, 2.0], 0.1, None, []),
            ([1.0, 2.0], 0.1, 0.99, []),
            ([1.0, 2.0], None, None, ["take at least 16 samples"]),
            ([0.0, 0.0], 0.0, None, ["the same whatever is covered"]),
            ([1.0, 2.0], 0.63, None, ["mostly noise (63% of"]),
            ([1.0, 2.0], 0.63, 0.5, ["mostly noise", "int8.onnx follows the model poorly"]),
        ],
    )
    def test_words(self, coefficients, share, correlation, expected):
        draft = None
        if correlation is not None:
            draft = DraftAgreement("int8.onnx", 32, correlation, 1.0)
        found = list(doubts.of(np.array(coefficients), share, draft))
        assert len(found) == len(expected)
        for doubt, words in zip(found, expected, strict=True):
            assert words in doubt
