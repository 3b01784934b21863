"""The model against its NumPy twin and against the paper's formulas in plain torch."""

import numpy as np
import pytest
import reference_protopnet_training as reference
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from exporters.protopnet.model import LatentGrid, ProtoPNet, add_on_layers, grid_of
from exporters.protopnet.small_backbone import small_cnn
from xai_onnx.errors import PrototypeError

PATCHES = [(1, 1), (2, 2), (1, 3)]


def model(patch=(1, 1), seed=0, **more):
    torch.manual_seed(seed)
    more = {"per_class": 3, "channels": 6, **more}
    return ProtoPNet(small_cnn(1, 4), 8, 4, patch=patch, **more).eval()


def images(count=3, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 1, 20, 24))).float()


def plain_distances(z, prototypes):
    """The paper's: sum of z squared, minus twice the product, plus the prototype squared."""
    squares = F.conv2d(z**2, torch.ones_like(prototypes))
    crossed = F.conv2d(z, prototypes)
    return F.relu(squares - 2 * crossed + (prototypes**2).sum((1, 2, 3))[:, None, None])


@pytest.mark.parametrize("patch", PATCHES)
def test_forward_gives_what_the_twin_gives(patch):
    net, x = model(patch), images()
    with torch.no_grad():
        given, z = net(x), LatentGrid(net)(x)
    logits, least, places = reference.forward(
        z.numpy(), net.prototype_vectors.detach().numpy(), net.last_layer.weight.detach().numpy()
    )
    np.testing.assert_array_equal(given.locations, places)
    # A sum of D * h1 * w1 squares below 1 in float32.
    np.testing.assert_allclose(given.min_distances, least, rtol=2e-6)
    np.testing.assert_allclose(given.logits, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("patch", PATCHES)
def test_distances_are_those_of_the_paper(patch):
    net = model(patch)
    z = LatentGrid(net)(images()).detach()
    p = net.prototype_vectors.detach()
    wide = plain_distances(z.double(), p.double())
    given = net.distances(z).detach()
    assert given.shape == wide.shape
    limit = (
        16 * 2**-23 * (F.conv2d(z**2, torch.ones_like(p[:1])) + (p**2).sum((1, 2, 3), True)[:, 0])
    )
    assert ((given - wide).abs() <= limit).all()


def test_a_prototype_on_a_patch_is_as_similar_as_can_be():
    net, x = model(), images()
    with torch.no_grad():
        z = LatentGrid(net)(x)
        net.prototype_vectors[5] = z[1, :, 2, 3, None, None]
        given = net(x)
    assert given.min_distances[1, 5] == 0
    assert given.locations[1, 5] == 2 * z.shape[3] + 3
    assert net.similarities(given.min_distances)[1, 5].item() == pytest.approx(np.log(1e4), 1e-6)


def test_gradient_is_that_of_the_smallest_distance():
    net, x = model((2, 2)), images()
    z = LatentGrid(net)(x).detach()
    wide, p = z.double(), net.prototype_vectors.detach().double().requires_grad_()
    least = plain_distances(wide, p).flatten(2).amin(2)
    scores = torch.log((least + 1) / (least + 1e-4)) @ net.last_layer.weight.double().T
    scores.square().sum().backward()
    net.add_on_layers = nn.Sequential()
    net.head(z).logits.square().sum().backward()
    given = net.prototype_vectors.grad
    torch.testing.assert_close(given.double(), p.grad, rtol=1e-4, atol=1e-4 * p.grad.abs().max())


def test_linear_similarity():
    net, x = model(similarity="linear"), images()
    given = net(x)
    torch.testing.assert_close(given.logits, net.last_layer(-given.min_distances))


def test_starts_as_the_original():
    net = model()
    assert net.prototype_class.tolist() == [j // 3 for j in range(12)]
    assert net.prototype_vectors.min() >= 0
    assert net.prototype_vectors.max() < 1
    own = net.prototype_class == torch.arange(4)[:, None]
    assert (net.last_layer.weight[own] == 1).all()
    assert (net.last_layer.weight[~own] == -0.5).all()
    names = {name.split(".")[0] for name in net.state_dict()}
    assert names - {"prototype_class"} == {
        *("features", "add_on_layers", "prototype_vectors", "last_layer")
    }


@pytest.mark.parametrize(
    ("kind", "widths"),
    [("regular", [512, 128, 128]), ("bottleneck", [512, 256, 256, 128, 128])],
)
def test_add_on_layers(kind, widths):
    layers = add_on_layers(512, 128, kind)
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [c.in_channels for c in convolutions] + [convolutions[-1].out_channels] == widths
    assert all(isinstance(layer, nn.ReLU) for layer in layers[1:-1:2])
    assert isinstance(layers[-1], nn.Sigmoid)


def test_keep_drops_prototypes_and_nothing_else():
    net, x = model(), images()
    before = net(x)
    kept = [0, 4, 5, 11]
    net.keep(kept)
    after = net(x)
    # A product of fewer columns may be summed in another order.
    torch.testing.assert_close(after.min_distances, before.min_distances[:, kept])
    assert net.prototype_class.tolist() == [0, 1, 1, 3]
    assert net.last_layer.weight.shape == (4, 4)


def test_backbones_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    for made in (transformers.ResNetModel(config), transformers.ResNetBackbone(config)):
        net = ProtoPNet(made, 16, 2, per_class=1, channels=4).eval()
        assert net(torch.rand(2, 3, 32, 32)).logits.shape == (2, 2)


def test_a_backbone_without_a_grid_is_refused():
    with pytest.raises(PrototypeError, match=r"gives \[2, 5\], no grid"):
        grid_of(torch.zeros(2, 5))
    with pytest.raises(PrototypeError, match="gives dict, no grid"):
        grid_of({})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"add_on": "none"}, "the choices are regular, bottleneck"),
        ({"similarity": "cosine"}, "the choices are .* log, linear"),
        ({"per_class": 0}, "at least 1 of each"),
    ],
)
def test_bad_settings(more, message):
    with pytest.raises(PrototypeError, match=message):
        model(**more)
