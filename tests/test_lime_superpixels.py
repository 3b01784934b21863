"""Superpixels: quickshift label for label as scikit-image's, the other segmenters, own labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from skimage import data, segmentation

from xai_onnx.errors import InputShapeError, NonFiniteError
from xai_onnx.lime.superpixels import SEGMENTERS, numbered, quickshift, segment

LIME = {"kernel_size": 4, "max_dist": 200, "ratio": 0.2}


def photo(name="astronaut", size=(80, 64)):
    return np.asarray(Image.fromarray(getattr(data, name)()).resize(size))


def noise(shape=(40, 50, 3)):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


PICTURES = {
    "astronaut": photo(),
    "coffee": photo("coffee", (64, 80)),
    "one colour": np.full((60, 70, 3), 90, np.uint8),
    "noise": noise(),
    "two halves": np.repeat(np.repeat([[[0] * 3, [255] * 3]], 40, 0), 25, 1).astype(np.uint8),
}
AS = {
    "uint8": lambda image: image,
    "float32": lambda image: (image / 255).astype(np.float32),
    "float64": lambda image: image / 255,
    "float16": lambda image: (image / 255).astype(np.float16),
    "0..255": lambda image: image.astype(np.float64),
    "-1..1": lambda image: (image / 127.5 - 1).astype(np.float32),
}


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("dtype", AS)
@pytest.mark.parametrize("parameters", [LIME, {}], ids=["lime", "scikit-image"])
def test_quickshift_gives_scikit_images_labels(picture, dtype, parameters):
    image = AS[dtype](PICTURES[picture])
    labels = quickshift(image, **parameters)
    assert labels.dtype == np.int32
    assert np.array_equal(labels, segmentation.quickshift(image, **parameters))


@pytest.mark.parametrize(
    "parameters",
    [
        {"sigma": 1.5},
        {"rng": 7},
        {"kernel_size": 1, "max_dist": 3},
        {"kernel_size": 2.3, "max_dist": 2.5, "ratio": 0.5},
        {"convert2lab": False},
        {"kernel_size": 30, "max_dist": 1000},
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_quickshift_takes_scikit_images_parameters(parameters, dtype):
    image = AS[dtype](photo(size=(24, 20)))
    wanted = segmentation.quickshift(image, **parameters)
    assert np.array_equal(quickshift(image, **parameters), wanted)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_quickshift_of_other_channels(channels):
    image = noise((20, 24, channels))
    wanted = segmentation.quickshift(image, convert2lab=False, **LIME)
    assert np.array_equal(quickshift(image, convert2lab=False, **LIME), wanted)
    if channels == 1:
        grey = image[..., 0]
        assert np.array_equal(quickshift(grey, convert2lab=False, **LIME), wanted)


def test_quickshift_takes_memory_in_any_order():
    image = photo()
    wanted = segmentation.quickshift(image, **LIME)
    for same in (np.asfortranarray(image), np.repeat(image, 2, axis=0)[::2]):
        assert np.array_equal(quickshift(same, **LIME), wanted)


@pytest.mark.parametrize(
    ("image", "parameters", "message"),
    [
        (np.zeros((4, 4, 4)), {}, "4 channels can't be converted to Lab"),
        (np.zeros((4, 4, 3)), {"kernel_size": 0.5}, "kernel_size must be 1 or more"),
        (np.zeros((4, 4, 3)), {"kernel_size": np.nan}, "kernel_size must be 1 or more"),
        (np.zeros((4, 4, 3)), {"sigma": -1}, "sigma 0 or more"),
        (np.zeros((0, 4, 3)), {}, "must be \\[H, W, C\\]"),
        (np.zeros((1, 4, 4, 3)), {}, "must be \\[H, W, C\\]"),
    ],
)
def test_quickshift_refuses(image, parameters, message):
    with pytest.raises(InputShapeError, match=message):
        quickshift(image, **parameters)


@pytest.mark.parametrize("name", SEGMENTERS)
@pytest.mark.parametrize("size", [(80, 64), (1, 1), (3, 2)])
def test_every_segmenter_numbers_from_0_without_gaps(name, size):
    labels = segment(photo(size=size), name)
    assert labels.shape == size[::-1]
    assert labels.dtype == np.int32
    assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))


@pytest.mark.parametrize("name", ["quickshift", "slic", "felzenszwalb"])
def test_segmenters_of_scikit_image_take_its_parameters(name):
    image = photo()
    parameters = {
        "quickshift": {"max_dist": 3},
        "slic": {"n_segments": 9},
        "felzenszwalb": {"scale": 300, "min_size": 30},
    }[name]
    usual = {"kernel_size": 4, "ratio": 0.2} if name == "quickshift" else {}
    wanted = getattr(segmentation, name)(image, **usual, **parameters)
    labels = segment(image, name, **parameters)
    assert np.array_equal(labels, numbered(wanted))
    assert labels.max() != segment(image, name).max()


def test_a_grid_is_of_equal_rectangles():
    labels = segment(photo(), "grid", rows=4, columns=2)
    assert labels.max() == 7
    assert (np.bincount(labels.reshape(-1)) == 64 * 80 / 8).all()
    assert labels[0, 0] == 0
    assert labels[-1, -1] == 7


@given(
    labels=hnp.arrays(
        st.sampled_from(["int8", "uint8", "int64", "uint64", "float32", "bool", "int32"]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.integers(0, 1),
        fill=st.nothing(),
    ),
    scale=st.sampled_from([1, 2, 50]),
)
@settings(max_examples=50, deadline=None)
def test_any_labels_are_numbered_in_their_order(labels, scale):
    scaled = labels if labels.dtype == bool else labels * labels.dtype.type(scale)
    found = numbered(scaled)
    values = np.unique(scaled)
    assert np.array_equal(values[found], scaled)
    assert found.dtype == np.int32


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.full((4, 4), np.nan), NonFiniteError, "NaN or infinity among the labels"),
        (np.full((4, 4), np.inf), NonFiniteError, "NaN or infinity"),
        (np.zeros((4, 5)), InputShapeError, "must be \\[4, 4\\]"),
        (np.zeros((4, 4, 1)), InputShapeError, "must be \\[4, 4\\]"),
        (np.full((4, 4), "a"), InputShapeError, "no type of labels"),
        (np.full((4, 4), None), InputShapeError, "no type of labels"),
        (np.zeros((4, 4), complex), InputShapeError, "no type of labels"),
        ("watershed", InputShapeError, "one of quickshift, slic, felzenszwalb, grid"),
    ],
)
def test_bad_labels_are_one_clear_error(labels, error, message):
    with pytest.raises(error, match=message):
        segment(np.zeros((4, 4, 3), np.uint8), labels)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_unknown_parameters_and_bad_pictures_are_clear_errors(name):
    image = photo()
    with pytest.raises(InputShapeError, match=f"'{name}'.*unexpected keyword argument 'colour'"):
        segment(image, name, colour=1)
    with pytest.raises(NonFiniteError, match="can't be segmented"):
        segment(np.full((4, 4, 3), np.nan), name)
    with pytest.raises(InputShapeError, match="not empty"):
        segment(np.zeros((4, 0, 3)), name)
    with pytest.raises(InputShapeError, match="1 or more"):
        segment(image, "grid", rows=0)
    with pytest.raises(InputShapeError, match="must be \\[H, W\\]"):
        numbered(np.zeros(3))
