"""Projection against its NumPy twin: own class only, the first on ties, twice is once."""

import numpy as np
import pytest
import reference_protopnet_training as reference
import torch
from torch import nn

from exporters.protopnet.model import ProtoPNet
from exporters.protopnet.projection import project


def case(patch=(1, 1), seed=0, count=300, levels=None):
    """A model and latent grids, more than a batch of each class; few levels make ties."""
    rng = np.random.default_rng(seed)
    grids = rng.random((count, 5, 4, 3)).astype(np.float32)
    if levels:
        grids = np.round(grids * levels) / np.float32(levels)
    torch.manual_seed(seed)
    model = ProtoPNet(nn.Identity(), 5, 3, per_class=4, channels=5, patch=patch)
    model.add_on_layers = nn.Sequential()
    if levels:
        with torch.no_grad():
            model.prototype_vectors.copy_((model.prototype_vectors * levels).round() / levels)
    kept = torch.from_numpy(grids)
    return model, grids, rng.integers(0, 3, count), lambda indices: kept[torch.from_numpy(indices)]


@pytest.mark.parametrize("patch", [(1, 1), (2, 2)])
@pytest.mark.parametrize("levels", [None, 2])
def test_projection_is_that_of_the_twin(patch, levels):
    model, z, classes, grids = case(patch, levels=levels)
    before = model.prototype_vectors.detach().numpy().copy()
    places = project(model, grids, classes)
    moved, pictures, locations = reference.projection(
        z, classes, before, model.prototype_class.numpy()
    )
    np.testing.assert_array_equal(places.pictures, pictures)
    np.testing.assert_array_equal(places.locations, locations)
    np.testing.assert_array_equal(model.prototype_vectors.detach(), moved)
    np.testing.assert_array_equal(classes[places.pictures], model.prototype_class)


def test_projecting_again_moves_nothing():
    model, _, classes, grids = case()
    first = project(model, grids, classes)
    vectors = model.prototype_vectors.detach().clone()
    second = project(model, grids, classes)
    np.testing.assert_array_equal(second.pictures, first.pictures)
    np.testing.assert_array_equal(second.locations, first.locations)
    assert torch.equal(model.prototype_vectors, vectors)
