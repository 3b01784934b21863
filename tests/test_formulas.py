"""The tables of methods agree, and so do the attributions' formulas with slow twins."""

import numpy as np
import pytest

from exporters.attributions import ATTRIBUTION_METHODS
from exporters.cams import CAM_METHODS
from exporters.formulas import ATTRIBUTION_FORMULAS, CAM_FORMULAS, DIVIDING
from xai_onnx.methods import ATTRIBUTIONS, CAMS, NAMES, PERTURBATIONS

rng = np.random.default_rng(0)


def test_every_cam_has_a_formula_and_a_name():
    assert list(CAM_FORMULAS) == list(CAM_METHODS) == list(CAMS)


def test_every_attribution_has_a_formula_and_a_name():
    assert list(ATTRIBUTION_FORMULAS) == list(ATTRIBUTION_METHODS) == list(ATTRIBUTIONS)


def test_those_that_divide_have_a_pole():
    """Where a sum of A comes near to zero, and only for those, the map grows without bounds."""
    poles = {
        "gradcam++": (np.array([[[1.0, 3.0], [-4.0, -4.0]]]), np.full((1, 2, 2), 0.5 + 1e-9)),
        "xgradcam": (
            np.array([[[1.0, 3.0], [-2.0, -2.0 + 1e-9]]]),
            np.array([[[4.0, 3.0], [2.0, 1.0]]]),
        ),
    }
    assert set(poles) == DIVIDING
    for pole, (a, g) in poles.items():
        for method, formula in CAM_FORMULAS.items():
            assert (formula(a, g).max() > 1e6) == (method == pole), (method, pole)


def test_no_method_is_of_both_kinds():
    assert len(NAMES) == len(CAMS) + len(ATTRIBUTIONS) + len(PERTURBATIONS)
    assert len(set(NAMES.values())) == len(NAMES)


@pytest.mark.parametrize("method", CAM_FORMULAS)
class TestCams:
    def test_a_map_without_negative_numbers(self, method):
        a, g = rng.standard_normal((2, 6, 5, 4))
        found = CAM_FORMULAS[method](a, g)
        assert found.shape == (5, 4)
        assert found.min() >= 0
        assert found.max() > 0

    def test_one_channel_that_is_all_evidence(self, method):
        """Every method gives a map proportional to it where A is 1 and G the same everywhere."""
        a, g = np.ones((1, 3, 3)), np.full((1, 3, 3), 0.5)
        found = CAM_FORMULAS[method](a, g)
        assert np.ptp(found) == 0
        assert found[0, 0] > 0

    def test_no_evidence(self, method):
        found = CAM_FORMULAS[method](rng.random((6, 5, 4)), -rng.random((6, 5, 4)))
        np.testing.assert_array_equal(found, 0)

    def test_activations_that_are_zero(self, method):
        """A channel that is dead divides by nothing."""
        found = CAM_FORMULAS[method](np.zeros((2, 3, 3)), rng.standard_normal((2, 3, 3)))
        np.testing.assert_array_equal(found, 0)


# A score whose gradient is known: y_k = sum of w_k x^2 / 2, so G_k = w_k x.
W = rng.standard_normal((3, 2, 3, 4, 5))


def gradient_at(x):
    return W * x


X = rng.standard_normal((2, 3, 4, 5))


def noisy(x, noise):
    total = np.zeros_like(W)
    for draw in noise:
        pictures = np.array([row + (row.max() - row.min()) * draw for row in x])
        total += gradient_at(pictures)
    return total / len(noise)


@pytest.mark.parametrize(
    ("method", "inputs", "expected"),
    [
        ("saliency", {}, W * X),
        ("input-x-gradient", {}, W * X**2),
        ("smoothgrad", {"noise": (noise := rng.standard_normal((4, 3, 4, 5)))}, noisy(X, noise)),
        # the gradient is linear on the way, so that the midpoint rule is exact
        *(
            (
                "integrated-gradients",
                {"steps": np.array([steps]), "baseline": (b := rng.standard_normal((1, 3, 4, 5)))},
                W * (X**2 - b**2) / 2,
            )
            for steps in (1, 7)
        ),
    ],
)
def test_attributions(method, inputs, expected):
    found = ATTRIBUTION_FORMULAS[method](X, inputs, gradient_at)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
