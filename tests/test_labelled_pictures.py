"""Pictures with classes: prepared as the run time prepares them, refused where they don't fit."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from exporters.protopnet import LabelledPictures
from xai_onnx.errors import ImageError, PrototypeError
from xai_onnx.preprocess import prepare

RECIPES = {
    "gray": "unit,size=8,color=gray,mean=0.3,std=0.4",
    "rgb": "torchvision,size=8,resize=8",
    "bgr": "caffe,size=8",
    "resized": "torchvision,size=6,resize=7",
}


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def labelled(pictures, recipe=RECIPES["rgb"], classes=(0, 1, 1, 0), labels=("a", "b"), **more):
    return LabelledPictures(pictures, classes, labels=labels, preprocess=recipe, **more)


@pytest.mark.parametrize("recipe", RECIPES)
def test_tensor_is_what_the_run_time_makes(recipe):
    pictures = pixels(4, 8, 8) if recipe == "gray" else pixels(4, 8, 8, 3)
    given = labelled(pictures, RECIPES[recipe])
    expected = np.stack([prepare(pictures[n], given.recipe).tensor for n in (2, 0)])
    np.testing.assert_array_equal(given.tensor([2, 0]), expected)


@pytest.mark.parametrize("recipe", ["gray", "rgb", "bgr"])
def test_seen_are_the_pixels_again(recipe):
    pictures = pixels(4, 8, 8) if recipe == "gray" else pixels(4, 8, 8, 3)
    seen = labelled(pictures, RECIPES[recipe]).seen(1)
    expected = pictures[1] if recipe != "gray" else pictures[1][..., None].repeat(3, 2)
    np.testing.assert_array_equal(seen, expected)


def test_augmentation_comes_before_the_preparation():
    pictures = pixels(4, 8, 8)
    given = labelled(pictures, RECIPES["gray"])
    rng = np.random.default_rng(0)
    changed = given.tensor([1], lambda picture, rng: np.roll(picture, 2, 0), rng)
    shifted = labelled(np.roll(pictures, 2, 1), RECIPES["gray"])
    np.testing.assert_array_equal(changed, shifted.tensor([1]))


def test_files(tmp_path):
    pictures = pixels(4, 8, 8, 3)
    paths = [tmp_path / f"{n}.png" for n in range(4)]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    given = labelled(paths)
    np.testing.assert_array_equal(given.tensor([3, 1]), labelled(pictures).tensor([3, 1]))
    assert given.ids == tuple(map(str, paths))
    assert given.sha256(2) == hashlib.sha256(paths[2].read_bytes()).hexdigest()
    assert labelled(pictures).sha256(2) == hashlib.sha256(pictures[2].tobytes()).hexdigest()
    paths[0].unlink()
    for read in (lambda: given.tensor([0]), lambda: given.sha256(0)):
        with pytest.raises(ImageError, match=r"0\.png"):
            read()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"classes": (0, 1)}, "one class and one id for each"),
        ({"ids": ("x",)}, "one class and one id for each"),
        ({"labels": ("a",), "classes": (0,) * 4}, "two classes or more"),
        ({"classes": (0, 1, 2, 0)}, "classes 0 to 2, but 2 labels"),
    ],
)
def test_what_does_not_fit_is_refused(more, message):
    with pytest.raises(PrototypeError, match=message):
        labelled(pixels(4, 8, 8, 3), **more)
