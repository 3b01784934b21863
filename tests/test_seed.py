"""From the targets of a file to the cotangent that the walk starts from."""

import numpy as np
import pytest
from emitted import evaluate, placeholder

from exporters.builder import Ops
from exporters.cotangent import dense
from exporters.image_input import ImageInput
from exporters.probe import BATCH
from exporters.score import Score
from exporters.seed import TARGETS, seed, targets
from xai_onnx.errors import TargetError

SCORES = np.array([[0.0, 3.0, 1.0, 3.0], [5.0, 4.0, 1.0, 2.0]])


def scene(shape, batch=None):
    """Builder, image, score of `shape`, and its value."""
    value = placeholder("scores", ["batch", *shape[1:]])
    (axis,) = [axis for axis in range(-len(shape) + 1, 0) if shape[axis] == 4]
    score = Score(value, axis, 4, value, axis, None, "logits", {})
    image = ImageInput(placeholder("image", [batch or "n", 3, 8, 8]), "NCHW", batch, 3, 8, 8)
    return Ops({"scores", "image"}), image, score, {value: shape}


SHAPES = pytest.mark.parametrize(
    "shape", [(BATCH, 4), (BATCH, 4, 1, 1), (BATCH, 1, 1, 4), (BATCH, 1, 4)], ids=str
)


def cotangent(kind, shape, given, top_k=1):
    """The cotangent, spelled out, [K, B, N], for the content of the file's input."""
    op, image, score, shapes = scene(shape)
    wanted = targets(op, image, score, shapes, kind, top_k)
    start = dense(op, seed(op, score, wanted, shapes), score.value)
    feed = {score.value: SCORES.reshape(2, *shape[1:])}
    if wanted.input is not None:
        feed[wanted.input] = given
    result = evaluate(op, [start.value, op.Identity(score.value)], feed)[0]
    assert result.shape[2:] == shape[1:]
    return result.reshape(*result.shape[:2], 4)


@SHAPES
@pytest.mark.parametrize(
    ("given", "classes"),
    [
        ([[0, 3], [2, 2]], [[0, 3], [2, 2]]),
        ([[-1], [-1]], [[1], [0]]),  # of equal scores the first one
        ([[-1, 2], [3, -1]], [[1, 2], [3, 0]]),
        (np.zeros((2, 0)), np.zeros((2, 0), int)),
    ],
)
def test_classes_asked_for(shape, given, classes):
    expected = np.eye(4)[np.array(classes)].swapaxes(0, 1)
    np.testing.assert_array_equal(cotangent("class_index", shape, given), expected)


@SHAPES
@pytest.mark.parametrize("k", [1, 3])
def test_classes_of_highest_score(shape, k):
    best = np.argsort(-SCORES, axis=1, kind="stable")[:, :k]
    expected = np.eye(4)[best].swapaxes(0, 1)
    np.testing.assert_array_equal(cotangent("predicted", shape, None, k), expected)


@SHAPES
@pytest.mark.parametrize("k", [0, 1, 3])
def test_weights_asked_for(shape, k):
    given = np.random.default_rng(0).standard_normal((2, k, 4)).astype(np.float32)
    np.testing.assert_array_equal(cotangent("cotangent", shape, given), given.swapaxes(0, 1))


@pytest.mark.parametrize(
    ("kind", "name", "shape"),
    [
        ("class_index", "class_index", ["n", "K"]),
        ("predicted", None, None),
        ("cotangent", "cotangent", ["n", "K", 4]),
    ],
)
def test_what_the_file_takes(kind, name, shape):
    found = targets(*scene((BATCH, 4)), kind, 2)
    assert found.kind == kind
    assert found.k == (2 if kind == "predicted" else "K")
    assert (found.chosen is None) == (kind == "cotangent")
    assert (found.input is None) == (name is None)
    if found.input is not None:
        assert found.input.name == name
        assert [d if isinstance(d, int) else d.value for d in found.input.shape] == shape


def test_a_fixed_batch_and_a_name_that_is_taken():
    op, image, score, shapes = scene((3, 4), batch=3)
    op.unique("class_index")
    found = targets(op, image, score, shapes, "class_index", 1)
    assert found.input.name == "class_index_2"
    assert found.input.shape[0] == 3


def test_a_class_is_stored_as_one_number():
    op, image, score, shapes = scene((BATCH, 4))
    start = seed(op, score, targets(op, image, score, shapes, "class_index", 1), shapes)
    assert start.one_hot.axis == -1
    assert list(start.value.shape) == [1, 1, 1]


@pytest.mark.parametrize("kind", ["all", "", "Predicted"])
def test_unknown_targets(kind):
    with pytest.raises(TargetError, match=f"targets '{kind}' is none of {', '.join(TARGETS)}"):
        targets(*scene((BATCH, 4)), kind, 1)


@pytest.mark.parametrize("top_k", [-1, 0, 5])
def test_too_few_or_many_classes(top_k):
    with pytest.raises(TargetError, match=f"top_k={top_k}: the model has 4 classes"):
        targets(*scene((BATCH, 4)), "predicted", top_k)
