"""The ProtoPNet that ships: which pictures it knows, and which it says it doesn't."""

import gzip
from pathlib import Path

import numpy as np
import pytest

import xai_onnx

ASSETS = Path(xai_onnx.__file__).parent / "assets"
TEST_SPLIT = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")


@pytest.fixture(scope="module")
def model():
    return xai_onnx.load(ASSETS / "fashion_protopnet.onnx")


def familiar(model, pictures):
    """For each picture, uint8 grey [N, 28, 28], whether a part of it is familiar."""
    found = model.explain([*np.repeat(pictures[..., None], 3, axis=3)])
    return np.array([explanation.familiar for explanation in found])


@pytest.mark.parametrize("name", ["ankle_boot", "bag", "dress"])
def test_clothes_are_familiar(model, name):
    assert model.explain(ASSETS / f"fashion_{name}.png").familiar


@pytest.mark.parametrize("name", ["coffee", "astronaut"])
def test_other_things_are_not(model, name):
    found = model.explain(ASSETS / f"{name}.jpg")
    assert not found.familiar
    assert found.summary.endswith("no familiar part")


def test_the_background_alone_is_not(model):
    assert not familiar(model, np.zeros((1, 28, 28), np.uint8)).any()


def test_most_noise_is_not(model):
    noise = np.random.default_rng(0).integers(0, 256, (200, 28, 28), np.uint8)
    assert familiar(model, noise).mean() < 0.25  # the training script found 18 % of 1,000


@pytest.mark.skipif(not TEST_SPLIT.exists(), reason="needs Debian's dataset-fashion-mnist")
def test_what_it_was_made_for_is(model):
    with gzip.open(TEST_SPLIT) as file:
        pictures = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    assert familiar(model, pictures[:400]).mean() >= 0.95
