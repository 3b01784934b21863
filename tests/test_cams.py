"""The CAM methods against their slow twins."""

import numpy as np
import pytest
import reference
from emitted import evaluate, placeholder

from exporters.builder import Ops
from exporters.cams import CAM_METHODS, cam_method
from exporters.cotangent import Cotangent
from exporters.probe import BATCH, FREE

TWINS = {"gradcam": reference.gradcam}
METHODS = pytest.mark.parametrize("method", CAM_METHODS)
# A sum of a dozen float32 products of numbers around 1.
TOLERANCE = 3e-6

rng = np.random.default_rng(0)


def run(method, activations, gradient, *, free=False, constant=()):
    """[B, K, h, w] of activations [B, C, h, w] and a gradient [K, B, C, h, w] as it is stored."""
    op = Ops(set())
    a, g = placeholder("a", [None] * 4), placeholder("g", [None] * 5)
    shape = (BATCH, activations.shape[1], *((FREE, FREE) if free else activations.shape[2:]))
    cam = CAM_METHODS[method](op, a, shape, Cotangent(g, shape, frozenset(constant)))
    return evaluate(op, cam, {a: activations, g: gradient})


def expected(method, activations, gradient):
    k, batch = gradient.shape[0], len(activations)
    full = np.broadcast_to(gradient, (k, *activations.shape))
    maps = [[TWINS[method](activations[b], full[i, b]) for i in range(k)] for b in range(batch)]
    return np.reshape(maps, (batch, k, *activations.shape[2:]))


def test_every_method_has_a_twin():
    assert set(TWINS) == set(CAM_METHODS)


@METHODS
@pytest.mark.parametrize("free", [False, True], ids=["known size", "free size"])
@pytest.mark.parametrize("constant", [(), (-1,), (-2,), (-2, -1), (-3,), (-3, -2, -1)], ids=str)
@pytest.mark.parametrize(("k", "batch"), [(1, 1), (3, 2), (2, 3), (0, 2)])
def test_against_the_twin(method, free, constant, k, batch):
    activations = rng.standard_normal((batch, 4, 5, 3)).astype(np.float32)
    sizes = [1 if axis in constant else n for axis, n in zip((-3, -2, -1), (4, 5, 3), strict=True)]
    gradient = rng.standard_normal((k, batch, *sizes)).astype(np.float32)
    got = run(method, activations, gradient, free=free, constant=constant)
    assert got.shape == (batch, k, 5, 3)
    np.testing.assert_allclose(got, expected(method, activations, gradient), atol=TOLERANCE)


@METHODS
def test_no_evidence_is_zero_and_not_nan(method):
    activations = rng.random((1, 4, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(run(method, activations, -np.ones((1, 1, 4, 5, 3))), 0)


def test_a_second_method_of_a_name_is_an_error():
    with pytest.raises(ValueError, match="two CAM methods called 'gradcam'"):
        cam_method("gradcam")(lambda op, a, shape, g: a)
