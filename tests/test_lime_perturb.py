"""Fills and the composer of perturbed pictures."""

import numpy as np
import pytest
import reference_lime
from hypothesis import given, settings
from hypothesis import strategies as st

from xai_onnx.errors import InputShapeError, NonFiniteError, PreprocessError
from xai_onnx.lime.perturb import FILLS, Composer, baseline
from xai_onnx.preprocess import prepare
from xai_onnx.recipe import parse

DTYPES = (np.uint8, np.float16, np.float32, np.float64)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def picture(rng, shape, dtype):
    return (rng.random(shape) * 255).astype(dtype)


@given(
    dtype=st.sampled_from(DTYPES),
    channels=st.integers(1, 5),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    d=st.integers(1, 30),
    n=st.integers(0, 70),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_composed_as_the_slow_twin(dtype, channels, size, d, n, channels_last, seed):
    rng = np.random.default_rng(seed)
    shape = (*size, channels) if channels_last else (channels, *size)
    image, off = picture(rng, shape, dtype), picture(rng, shape, dtype)
    segments = rng.integers(0, d, size)
    composer = Composer(image, off, segments, channels_last=channels_last)
    assert composer.d == segments.max() + 1
    masks = rng.integers(0, 2, (n, composer.d)).astype(np.uint8)
    out = composer.buffer(n + 2)
    before = out.copy()
    batch = composer.compose(masks, out)
    wanted = reference_lime.composed(image, off, segments, masks, channels_last)
    assert batch.tobytes() == wanted.tobytes()
    assert np.shares_memory(batch, out) or n == 0
    assert out[n:].tobytes() == before[n:].tobytes()  # the rest of the buffer is left alone
    assert composer.compose(masks).tobytes() == wanted.tobytes()


def test_nan_payloads_and_signed_zeros_are_moved_not_calculated():
    image = np.array([0x7FC00001, 0x80000000], np.uint32).view(np.float32).reshape(1, 1, 2)
    composer = Composer(image, np.ones_like(image), np.zeros((1, 2), int))
    batch = composer.compose(np.array([[1], [0]], np.uint8))
    assert batch[0].tobytes() == image.tobytes()
    assert (batch[1] == 1).all()


def test_the_composer_keeps_its_own_copies(rng):
    image, off = picture(rng, (3, 4, 4), np.float32), picture(rng, (3, 4, 4), np.float32)
    segments = np.zeros((4, 4), int)
    wanted = image.copy()
    composer = Composer(image, off, segments)
    image[:] = 0
    segments[:] = 5
    assert np.array_equal(composer.compose(np.ones((1, 1), np.uint8))[0], wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.zeros((3, 4, 4, 1), np.float32)}, "image: .*3 axes"),
        ({"image": np.zeros((3, 4, 4), np.complex128)}, "image: .*1, 2, 4, 8 bytes"),
        ({"fill": np.zeros((3, 4, 4))}, "fill: float64.*as the image, float32"),
        ({"fill": np.zeros((1, 4, 4), np.float32)}, "fill: .*as the image"),
        ({"segments": np.zeros((4, 5), int)}, "segments: .*\\[4, 4\\]"),
        ({"segments": np.zeros((4, 4))}, "segments: float64"),
        ({"segments": np.full((4, 4), -1)}, "0..d-1"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    usual = {
        "image": np.zeros((3, 4, 4), np.float32),
        "fill": np.zeros((3, 4, 4), np.float32),
        "segments": np.zeros((4, 4), int),
    }
    with pytest.raises(InputShapeError, match=message):
        Composer(**{**usual, **changes})


@pytest.mark.parametrize(
    ("masks", "out", "message"),
    [
        (np.ones((2, 3), np.uint8), None, "masks: .*uint8 \\[n, 2\\]"),
        (np.ones((2, 2)), None, "masks: float64"),
        (np.ones(2, np.uint8), None, "masks: "),
        (np.ones((2, 2), np.uint8), np.zeros((1, 3, 4, 4), np.float32), "out: .*\\[2 or more"),
        (np.ones((2, 2), np.uint8), np.zeros((2, 3, 4, 4)), "out: float64"),
        (np.ones((1, 2), np.uint8), np.zeros((2, 3, 4, 8), np.float32)[..., ::2], "out: "),
    ],
)
def test_masks_and_buffers_that_do_not_fit_are_refused(masks, out, message):
    image = np.zeros((3, 4, 4), np.float32)
    composer = Composer(image, image, np.repeat([[0, 0, 1, 1]], 4, 0))
    with pytest.raises(InputShapeError, match=message):
        composer.compose(masks, out)


@pytest.mark.parametrize("dtype", [*DTYPES, np.int16, np.int64])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("d", [1, 5, 300])
def test_the_mean_is_numpys_to_the_bit(rng, dtype, channels_last, d):
    size = (130, 140)  # some superpixels beyond NumPy's buffer of 8192 values
    segments = rng.integers(0, d, size).astype(np.int32)
    segments[:, :70] = 0
    planes = picture(rng, (3, *size), dtype)
    wanted = planes.copy()
    for j in range(segments.max() + 1):
        for plane, values in zip(wanted, planes, strict=True):
            plane[segments == j] = np.mean(values[segments == j])
    tensor = np.moveaxis(planes, 0, -1) if channels_last else planes
    found = baseline(tensor, segments, channels_last=channels_last)
    assert found.dtype == dtype
    assert np.array_equal(found, np.moveaxis(wanted, 0, -1) if channels_last else wanted)


@pytest.mark.parametrize("name", FILLS)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_fill_is_of_the_pictures_shape_and_type(rng, name, layout, dtype):
    recipe = parse("torchvision", layout, 32, 24)
    image = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    tensor = prepare(image, recipe).tensor.astype(dtype)
    last = layout == "NHWC"
    segments = np.zeros((32, 24), np.int32)
    found = baseline(tensor, segments, name, channels_last=last, recipe=recipe)
    assert found.shape == tensor.shape
    assert found.dtype == dtype
    assert found.flags.c_contiguous
    assert np.isfinite(found).all()
    assert not np.array_equal(found, tensor)


@pytest.mark.parametrize(("name", "pixel"), [("black", 0), ("white", 255)])
@pytest.mark.parametrize("preset", ["torchvision", "caffe", "lite", "unit"])
def test_a_colours_fill_is_what_a_picture_of_it_becomes(name, pixel, preset):
    recipe = parse(preset, "NCHW", 8, 8)
    wanted = prepare(np.full((9, 9, 3), pixel, np.uint8), recipe).tensor
    segments = np.zeros((8, 8), np.int32)
    assert np.array_equal(baseline(wanted * 0, segments, name, recipe=recipe), wanted)


def test_gray_is_half_way_between_black_and_white():
    recipe = parse("inception", "NCHW", 8, 8)
    tensor = np.ones((3, 8, 8), np.float32)
    gray = baseline(tensor, np.zeros((8, 8), np.int32), "gray", recipe=recipe)
    assert (gray == 0).all()


def test_a_blur_keeps_one_colour_and_smooths_an_edge():
    segments = np.zeros((32, 32), np.int32)
    flat = np.full((2, 32, 32), 3, np.float32)
    assert np.allclose(baseline(flat, segments, "blur"), flat, rtol=1e-6)
    edge = np.zeros((1, 32, 32), np.float32)
    edge[..., 16:] = 1
    blurred = baseline(edge, segments, "blur")
    assert (np.diff(blurred[0], axis=1) >= -1e-6).all()
    assert 0.4 < blurred[0, 16, 16] < 0.7


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("fill", [2, [1, 2, 3], np.array([2.0])])
def test_numbers_fill_channels(channels_last, fill):
    shape = (4, 5, 3) if channels_last else (3, 4, 5)
    found = baseline(
        np.zeros(shape, np.float32), np.zeros((4, 5), np.int32), fill, channels_last=channels_last
    )
    planes = np.moveaxis(found, -1, 0) if channels_last else found
    assert (planes == np.broadcast_to(fill, 3)[:, None, None]).all()


def test_a_whole_tensor_is_a_fill():
    off = np.arange(60.0).reshape(3, 4, 5)
    found = baseline(np.zeros((3, 4, 5), np.float32), np.zeros((4, 5), np.int32), off)
    assert np.array_equal(found, off)
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("fill", "error", "message"),
    [
        ("noise", InputShapeError, "one of mean, blur, black, gray, white"),
        ("black", PreprocessError, "no recipe for it; give the fill as a number"),
        ([1, 2], InputShapeError, "3 numbers"),
        (np.zeros((1, 4, 5)), InputShapeError, "shape \\[3, 4, 5\\]"),
        (np.nan, NonFiniteError, "finite"),
        ([1, 2, np.inf], NonFiniteError, "finite"),
        ([None, 1, 2], InputShapeError, "no type of numbers"),
    ],
)
def test_bad_fills_are_one_clear_error(fill, error, message):
    with pytest.raises(error, match=message):
        baseline(np.zeros((3, 4, 5), np.float32), np.zeros((4, 5), np.int32), fill)
