"""Prototypes that start on what speaks for their class."""

import numpy as np
import pytest
import reference_protopnet_training as reference
import torch
from sklearn.linear_model import Ridge
from torch import nn

from exporters import protopnet
from exporters.protopnet import LabelledPictures, Schedule, training
from exporters.protopnet.evidence import RIDGE, class_evidence, start_on_evidence
from exporters.protopnet.model import ProtoPNet
from xai_onnx.errors import PrototypeError

CLASSES, CHANNELS, SIDE = 3, 5, 6


def scenes(count=30, seed=0):
    """Grids whose channel 4 is strong everywhere, and channel c at one place of a class-c picture.

    Returns the grids, the classes and those places, y * w + x.
    """
    rng = np.random.default_rng(seed)
    grids = rng.random((count, CHANNELS, SIDE, SIDE)) * 0.2
    grids[:, 4] += 5
    classes, places = np.arange(count) % CLASSES, rng.integers(0, SIDE**2, count)
    for grid, owner, place in zip(grids, classes, places, strict=True):
        grid[owner].flat[place] += 2
    return grids.astype(np.float32), classes, places


def prototypes(each=2, patch=(1, 1)):
    torch.manual_seed(0)
    return ProtoPNet(nn.Identity(), CHANNELS, CLASSES, per_class=each, channels=4, patch=patch)


def started(model, grids, classes, seed=0):
    given = torch.from_numpy(grids)
    places = start_on_evidence(model, lambda b: given[b], classes, np.random.default_rng(seed))
    with torch.no_grad():
        return places, model.add_on_layers(given).numpy()


@pytest.mark.parametrize("seed", range(3))
def test_classifier_is_that_of_scikit_learn_and_of_the_twin(seed):
    grids, classes, _ = scenes(seed=seed)
    grids[:, 3] = 1  # a channel that never changes
    weights, scale = class_evidence(lambda b: torch.from_numpy(grids[b]), classes, CLASSES)
    means = grids.mean((2, 3), dtype=np.float64)
    deviation = np.where(means.std(0) > 0, means.std(0), 1)
    np.testing.assert_allclose(scale, deviation, rtol=1e-12)
    fitted = Ridge(alpha=RIDGE * len(grids)).fit(means / deviation, np.eye(CLASSES)[classes])
    np.testing.assert_allclose(weights.T, fitted.coef_, atol=1e-12)
    twin = reference.class_evidence(grids, classes, CLASSES, RIDGE)
    np.testing.assert_allclose(weights / scale[:, None], twin, atol=1e-12)


@pytest.mark.parametrize("patch", [(1, 1), (2, 3)])
def test_places_are_the_best_of_their_pictures(patch):
    grids, classes, _ = scenes(seed=1)
    places, _ = started(prototypes(patch=patch), grids, classes)
    weights = reference.class_evidence(grids, classes, CLASSES, RIDGE)
    for owner, picture, place in zip(
        np.arange(6) // 2, places.pictures, places.locations, strict=True
    ):
        assert classes[picture] == owner
        found = reference.patches(grids[picture], patch)
        evidence = np.einsum("nchw,c->n", found, weights[:, owner])
        assert place == evidence.argmax()


def test_they_start_on_the_parts_that_only_their_class_has():
    grids, classes, parts = scenes()
    model = prototypes()
    places, latent = started(model, grids, classes)
    np.testing.assert_array_equal(places.locations, parts[places.pictures])
    for vector, picture, place in zip(
        model.prototype_vectors.detach()[:, :, 0, 0], *vars(places).values(), strict=True
    ):
        # Alone, not in a batch: float32 convolutions may add in another order.
        np.testing.assert_allclose(vector, latent[picture].reshape(4, -1)[:, place], atol=1e-6)


def test_each_group_of_parts_gets_a_prototype():
    grids, classes, parts = scenes()
    for grid, part in zip(grids, parts, strict=True):
        if grid.sum() % 1 < 0.5:  # half of the parts look another way
            grid[3].flat[part] += 2
    places, _ = started(prototypes(), grids, classes)
    kind = [
        grids[picture, 3].flat[place] > 1
        for picture, place in zip(places.pictures, places.locations, strict=True)
    ]
    assert [*map(sorted, np.reshape(kind, (3, 2)).tolist())] == [[False, True]] * 3


def test_more_prototypes_than_pictures():
    grids, classes, _ = scenes(6)  # two of each class
    places, _ = started(prototypes(each=5), grids, classes)
    assert np.array_equal(classes[places.pictures], np.arange(15) // 5)
    assert len({*zip(places.pictures, places.locations, strict=True)}) == 15
    with pytest.raises(
        PrototypeError, match="73 prototypes of class 0 can't start on the 36 places"
    ):
        started(prototypes(each=73), grids, classes)


def test_equal_pictures_are_no_trouble():
    grids, classes, _ = scenes(3)
    places, _ = started(prototypes(each=4), grids[[0, 1, 2] * 9], np.tile(classes, 9))
    assert len(places.pictures) == 12


def pictures():
    """The scenes' class channels as colours, a cell for a pixel."""
    grids, classes, parts = scenes()
    colours = (grids[:, :3] * 100).astype(np.uint8).transpose(0, 2, 3, 1)
    recipe = f"unit,size={SIDE},mean=0/0/0,std=1/1/1"
    given = LabelledPictures(colours, classes, labels=("r", "g", "b"), preprocess=recipe)
    return given, parts


def test_training_starts_there(tmp_path):
    given, parts = pictures()
    options = {
        "per_class": 2,
        "channels": 4,
        "start": "evidence",
        "schedule": Schedule(warm_epochs=0, joint_epochs=0, last_passes=1),
        "frozen": True,
        "prune": False,
    }
    found = protopnet.train(nn.Identity(), given, folder=tmp_path, **options)
    sources = found.arrays.sources
    where = [parts[int(name)] for name in sources.image_ids]
    np.testing.assert_array_equal(sources.locations, where)
    with pytest.raises(PrototypeError, match="another training, with other settings"):
        protopnet.train(nn.Identity(), given, folder=tmp_path, **options | {"start": "random"})
    with pytest.raises(PrototypeError, match="start 'best' is none of random, evidence"):
        protopnet.train(nn.Identity(), given, **options | {"start": "best"})


def test_a_resumed_training_does_not_start_anew(tmp_path, monkeypatch):
    given, _ = pictures()
    options = {
        "per_class": 2,
        "channels": 4,
        "start": "evidence",
        "schedule": Schedule(warm_epochs=2, joint_epochs=0, last_passes=1),
    }

    def train(**more):
        torch.manual_seed(0)
        return protopnet.train(nn.Conv2d(3, 3, 1), given, **options, **more)

    def stop(stage, model):
        raise InterruptedError

    whole = train()
    with pytest.raises(InterruptedError):
        train(folder=tmp_path, after_step=stop)
    monkeypatch.setattr(training, "start_on_evidence", None)
    resumed = train(folder=tmp_path)
    np.testing.assert_array_equal(resumed.arrays.prototypes, whole.arrays.prototypes)
