"""The CAM methods against their slow twins."""

import numpy as np
import pytest
import reference
from emitted import evaluate, placeholder

from exporters.builder import Ops
from exporters.cams import CAM_METHODS, cam_method
from exporters.cotangent import Cotangent
from exporters.probe import BATCH, FREE

TWINS = reference.CAMS
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


def drawn(method, activations, gradient):
    """Activations and gradient of these shapes.

    Where a method divides by the sum of a channel's activations, or by 2 + G times that sum, the
    channel is of one sign and G not small: else rounding grows as the denominator vanishes.
    """
    a, g = (rng.standard_normal(shape).astype(np.float32) for shape in (activations, gradient))
    if method not in ("gradcam++", "xgradcam"):
        return a, g
    signs = np.where(rng.random((*activations[:2], 1, 1)) < 0.5, -1, 1).astype(np.float32)
    return signs * (0.3 + np.abs(a) % 0.7), np.sign(g) * (1 + np.abs(g) % 1)


def test_every_method_has_a_twin():
    assert set(TWINS) == set(CAM_METHODS)


@METHODS
@pytest.mark.parametrize("free", [False, True], ids=["known size", "free size"])
@pytest.mark.parametrize("constant", [(), (-1,), (-2,), (-2, -1), (-3,), (-3, -2, -1)], ids=str)
@pytest.mark.parametrize(("k", "batch"), [(1, 1), (3, 2), (2, 3), (0, 2)])
def test_against_the_twin(method, free, constant, k, batch):
    sizes = [1 if axis in constant else n for axis, n in zip((-3, -2, -1), (4, 5, 3), strict=True)]
    activations, gradient = drawn(method, (batch, 4, 5, 3), (k, batch, *sizes))
    got = run(method, activations, gradient, free=free, constant=constant)
    assert got.shape == (batch, k, 5, 3)
    np.testing.assert_allclose(got, expected(method, activations, gradient), atol=TOLERANCE)


@METHODS
def test_no_evidence_is_zero_and_not_nan(method):
    activations = rng.random((1, 4, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(run(method, activations, -np.ones((1, 1, 4, 5, 3))), 0)


def test_xgradcam_leaves_out_a_channel_whose_activations_sum_up_to_0():
    activations, gradient = drawn("xgradcam", (1, 4, 5, 3), (1, 1, 4, 5, 3))
    activations[0, 2] = [[1, -1, 0]] * 5
    got = run("xgradcam", activations, gradient)
    np.testing.assert_allclose(got, expected("xgradcam", activations, gradient), atol=TOLERANCE)
    others = [0, 1, 3]
    np.testing.assert_allclose(
        got, run("xgradcam", activations[:, others], gradient[:, :, others]), atol=TOLERANCE
    )


def test_gradcam_plus_plus_is_finite_where_its_denominator_is_0():
    activations = np.full((1, 1, 2, 1), -1, np.float32)
    assert np.isfinite(run("gradcam++", activations, np.ones((1, 1, 1, 2, 1), np.float32))).all()


def test_gradcam_plus_plus_of_gradients_whose_squares_underflow():
    """Behind a large pooling; 1e-30 squared is 0 in float32."""
    activations, gradient = drawn("gradcam++", (1, 4, 5, 3), (1, 1, 4, 5, 3))
    activations, tiny = np.abs(activations), np.abs(gradient) * np.float32(1e-30)
    twin = expected("gradcam++", activations, tiny.astype(np.float64))
    assert twin.min() > 0
    np.testing.assert_allclose(run("gradcam++", activations, tiny), twin, rtol=TOLERANCE)


def test_a_second_method_of_a_name_is_an_error():
    with pytest.raises(ValueError, match="two CAM methods called 'gradcam'"):
        cam_method("gradcam")(lambda op, a, shape, g: a)
