"""The saliency map in the graph and on the host: the slow twin, OpenCV and torch agree with it."""

import cv2
import numpy as np
import onnx_ir as ir
import pytest
import torch
from emitted import evaluate, placeholder
from reference import min_max, resize_bilinear, saliency_map

from exporters import saliency
from exporters.builder import Ops
from exporters.probe import FREE
from xai_onnx.one_run import scaled

# (h, w), (H, W): up, down, both, one row, one column, one position, rows that don't divide
SIZES = [
    ((7, 7), (28, 28)),
    ((4, 5), (13, 11)),
    ((3, 8), (17, 4)),
    ((9, 8), (5, 3)),
    ((12, 10), (12, 10)),
    ((1, 6), (9, 13)),
    ((6, 1), (9, 13)),
    ((1, 4), (1, 9)),
    ((2, 2), (15, 1)),
]
STATIC, ROWS_FREE, ALL_FREE = "known sizes", "a free height", "free sizes"
# Roundings of float32 in a dozen operations on numbers up to 1.
TOLERANCE = 2e-6

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _the_same_numbers_in_any_order():
    global rng
    rng = np.random.default_rng(0)


def in_graph(cams, height, width, kind=STATIC, layout="NCHW"):
    """What the emitted nodes make of maps [B, K, h, w]."""
    cam = placeholder("cam", [None] * 4)
    image = placeholder("image", [None] * 4)
    op = Ops(set())
    size, target = tuple(cams.shape[2:]), (height, width)
    if kind == ROWS_FREE:
        target = (FREE, width)
    elif kind == ALL_FREE:
        size, target = (FREE, FREE), (FREE, FREE)
    spatial = (2, 3) if layout == "NCHW" else (1, 2)
    result = saliency.saliency_map(op, cam, size, target, image, spatial=spatial)
    sizes = (3, height, width) if layout == "NCHW" else (height, width, 3)
    feed = {cam: cams}
    if kind != STATIC:
        feed[image] = np.zeros((len(cams), *sizes), np.float32)
    return evaluate(op, result, feed)


def on_host(cams, height, width):
    maps = [[scaled(cam, height, width) for cam in row] for row in cams]
    return np.array(maps, np.float32).reshape(*cams.shape[:2], height, width)


WAYS = {
    **{kind: lambda *given, kind=kind: in_graph(*given, kind=kind)
       for kind in (STATIC, ROWS_FREE, ALL_FREE)},
    "NHWC": lambda *given: in_graph(*given, kind=ALL_FREE, layout="NHWC"),
    "on the host": on_host,
}  # fmt: skip
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@ways
@pytest.mark.parametrize(("size", "target"), SIZES, ids=str)
def test_against_the_twin(way, size, target):
    cams = np.maximum(rng.standard_normal((2, 3, *size)), 0).astype(np.float32) * 40
    got = way(cams, *target)
    expected = [[saliency_map(cam, *target) for cam in row] for row in cams]
    assert got.dtype == np.float32
    # Scaling to [0, 1] divides the roundings of the resized map, too, by what it spans.
    for maps, ours, theirs in zip(cams, got, expected, strict=True):
        for cam, one, other in zip(maps, ours, theirs, strict=True):
            large = resize_bilinear(cam, *target)
            of_span = max(1, large.max() / np.ptp(large)) if np.ptp(large) else 1
            np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE * of_span)
    assert got.min() >= 0
    assert got.max() <= 1


@pytest.mark.parametrize(("size", "target"), SIZES, ids=str)
def test_the_twin_against_opencv_and_torch(size, target):
    cam = rng.standard_normal(size)
    twin = resize_bilinear(cam, *target)
    opencv = cv2.resize(cam, target[::-1], interpolation=cv2.INTER_LINEAR)
    given = torch.from_numpy(cam)[None, None]
    ours = torch.nn.functional.interpolate(given, target, mode="bilinear", align_corners=False)
    # OpenCV keeps its coefficients in float32
    np.testing.assert_allclose(opencv.reshape(target), twin, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours[0, 0].numpy(), twin, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "target"), SIZES, ids=str)
def test_interpolation_is_the_resize_along_one_axis(size, target):
    for large, small in zip(target, size, strict=True):
        matrix = saliency.interpolation(large, small)
        column = rng.standard_normal((small, 1))
        np.testing.assert_allclose(matrix @ column, resize_bilinear(column, large, 1), atol=1e-12)


@ways
def test_a_constant_map_is_all_zero_whatever_its_value(way):
    cams = np.stack([np.full((2, 5, 6), value, np.float32) for value in (0, 0.1, 1e6, -3)])
    np.testing.assert_array_equal(way(cams, 31, 17), np.zeros((4, 2, 31, 17), np.float32))


@ways
def test_a_map_of_one_position_is_all_zero(way):
    np.testing.assert_array_equal(way(np.full((1, 1, 1, 1), 0.3, np.float32), 5, 4), 0)


@ways
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_a_map_does_not_matter(way, scale):
    cams = rng.random((1, 2, 5, 6)).astype(np.float32)
    expected = way(cams, 20, 24)
    got = way(cams * np.float32(scale), 20, 24)
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)


@ways
def test_no_classes_give_no_maps(way):
    assert way(np.zeros((2, 0, 5, 6), np.float32), 20, 24).shape == (2, 0, 20, 24)


@ways
def test_each_map_is_scaled_by_itself_and_reaches_both_ends(way):
    cams = rng.random((3, 2, 7, 7)).astype(np.float32) * 10.0 ** np.arange(6).reshape(3, 2, 1, 1)
    got = way(cams.astype(np.float32), 50, 40)
    assert got.min() >= 0
    assert got.max() <= 1
    np.testing.assert_allclose(got.min((2, 3)), 0, atol=TOLERANCE)
    np.testing.assert_allclose(got.max((2, 3)), 1, atol=TOLERANCE)


def test_a_peak_between_two_samples_is_still_scaled_to_one():
    """The maximum of the large map is not that of the small one."""
    cam = np.zeros((1, 1, 8, 8), np.float32)
    cam[0, 0, 3, 4] = 1
    large = resize_bilinear(cam[0, 0], 12, 12)
    assert large.max() < 0.95
    np.testing.assert_allclose(in_graph(cam, 12, 12)[0, 0], min_max(large), atol=TOLERANCE)


def test_known_sizes_need_no_resize_operator():
    op = Ops(set())
    cam, image = placeholder("cam", [1, 1, 7, 7]), placeholder("image", [1, 3, 28, 28])
    saliency.saliency_map(op, cam, (7, 7), (28, 28), image, spatial=(2, 3))
    types = [node.op_type for node in op.nodes]
    assert "Resize" not in types
    assert all(v.dtype in (ir.DataType.FLOAT, ir.DataType.INT64) for v in op.initializers)
