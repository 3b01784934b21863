"""From similarity maps to rectangles: against OpenCV, a slow twin, and by hand."""

import cv2
import numpy as np
import pytest
import reference_protopnet as twin

from xai_onnx.prototype_box import enlarged, high_box, receptive_box
from xai_onnx.prototypes import ReceptiveField

GRIDS = [((7, 7), 224), ((8, 8), 32), ((14, 14), 224), ((3, 5), 40), ((1, 1), 16)]


@pytest.mark.parametrize(("shape", "side"), GRIDS)
def test_enlarged_as_the_twin_and_opencv(shape, side):
    """F5: within 1e-5 of OpenCV, and the same boxes; the twin is the formula itself."""
    rng = np.random.default_rng(1)
    for _ in range(10):
        grid = (9.21 * rng.random(shape)).astype(np.float32)
        large, formula = enlarged(grid, side, side + 8), twin.enlarged(grid, side, side + 8)
        opencv = cv2.resize(grid, (side + 8, side), interpolation=cv2.INTER_CUBIC)
        np.testing.assert_array_equal(large, opencv)
        np.testing.assert_allclose(large, formula, atol=1e-5)
        assert high_box(large) == twin.box(large) == twin.box(opencv)


def test_a_box_by_hand():
    large = np.zeros((10, 10))
    large[2, 3], large[4, 6] = 2, 1
    large[9, 9] = 0.5
    assert high_box(large, 98) == (2, 5, 3, 7)
    assert high_box(large) == (0, 10, 0, 10)  # the 95th percentile is 0, as all else


@pytest.mark.parametrize("value", [0.0, 3.25])
def test_a_constant_map_gives_the_whole_picture(value):
    assert high_box(enlarged(np.full((7, 7), value, np.float32), 56, 56)) == (0, 56, 0, 56)


def test_equal_maxima_give_one_rectangle_around_all():
    grid = np.zeros((8, 8), np.float32)
    grid[1, 1] = grid[6, 6] = 5
    y0, y1, x0, x1 = high_box(enlarged(grid, 64, 64))
    assert (y0, x0) < (16, 16)
    assert (y1, x1) > (48, 48)


class TestReceptiveBox:
    FIELD = ReceptiveField(8, 4.0, 7.0, 0.5)

    def test_inside(self):
        # Centre 0.5 + 3 * 4 = 12.5 and 0.5 + 2 * 4 = 8.5, 3.5 to each side.
        assert receptive_box(self.FIELD, 3 * 8 + 2, (8, 8), (1, 1), (32, 32)) == (9, 16, 5, 12)

    def test_clipped(self):
        assert receptive_box(self.FIELD, 0, (8, 8), (1, 1), (32, 32)) == (0, 4, 0, 4)
        assert receptive_box(self.FIELD, 63, (8, 8), (1, 1), (32, 32)) == (25, 32, 25, 32)

    def test_of_several_cells(self):
        assert receptive_box(self.FIELD, 7, (7, 6), (2, 3), (32, 32)) == (1, 12, 1, 16)

    def test_unknown_is_the_whole_picture(self):
        assert receptive_box(None, 5, (8, 8), (1, 1), (32, 40)) == (0, 32, 0, 40)

    def test_larger_than_the_picture(self):
        field = ReceptiveField(7, 32.0, 899.0, 0.5)
        assert receptive_box(field, 24, (7, 7), (1, 1), (224, 224)) == (0, 224, 0, 224)
