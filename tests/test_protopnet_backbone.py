"""Backbones rebuilt from their weights' names: against the torch modules that they come from."""

import numpy as np
import onnxruntime
import pytest
import torch
from official_protopnet import (
    BACKBONES,
    DenseNet_features,
    PPNet,
    ResNet_features,
    VGG_features,
    trained,
)

import exporters
from exporters import canonical
from exporters.protopnet.receptive_field import receptive_field
from xai_onnx.errors import PrototypeError
from xai_onnx.prototypes import ReceptiveField

WIDE = {"vgg": 32, "vgg_bn": 32}  # the others halve the picture five times


def saved(content, folder):
    torch.save(content, folder / "model.pth")
    return folder / "model.pth"


@pytest.mark.parametrize("add_on", ["regular", "bottleneck"])
@pytest.mark.parametrize("name", BACKBONES)
def test_as_torch_computes_it(tmp_path, name, add_on):
    size = WIDE.get(name, 64)
    torch.manual_seed(1)
    channels = 6 if add_on == "regular" else 3
    model = trained(BACKBONES[name](), size=size, add_on_layers_type=add_on, channels=channels)
    arrays = exporters.import_protopnet(saved(model, tmp_path))
    exporters.export_protopnet(arrays, tmp_path / "model.onnx")
    pictures = torch.rand(3, 3, size, size)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    feed = {"image": pictures.numpy(), "class_index": np.full((3, 1), -1)}
    logits, distances = session.run(["logits", "min_distances"], feed)
    with torch.no_grad():
        expected, smallest = model(pictures)
    # Some tens of layers in float32, each rounding once.
    np.testing.assert_allclose(distances, smallest.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-4, atol=1e-4)


VGG19 = (1, 1, "M", 1, 1, "M", *(1, 1, 1, 1, "M") * 3)
PUBLISHED = {
    "vgg19": (lambda: VGG_features(VGG19), (7, 32, 268, 16.0)),
    "resnet34": (lambda: ResNet_features(depths=(3, 4, 6, 3), width=1), (7, 32, 899, 0.5)),
    "densenet121": (lambda: DenseNet_features((6, 12, 24, 16), growth=2), (7, 32, 2071, 14.5)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_receptive_fields_of_the_original(tmp_path, name):
    """What the original's own arithmetic gives for the three, in pixels."""
    make, expected = PUBLISHED[name]
    model = PPNet(make(), img_size=224, num_classes=1, each=1, channels=1)
    arrays = exporters.import_protopnet(saved(model, tmp_path))
    backbone = canonical.canonicalise(arrays.backbone, name)
    (image,), (z,) = backbone.graph.inputs, backbone.graph.outputs
    assert receptive_field(image, z, 7) == ReceptiveField(*expected)


def test_another_network(tmp_path):
    class Other(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 4, 3)
            self.channels = 4

    path = saved(PPNet(Other()).state_dict(), tmp_path)
    with pytest.raises(PrototypeError, match=r"by the names of its weights \(stem.weight"):
        exporters.import_protopnet(path)
    assert exporters.import_protopnet(path, with_backbone=False).backbone is None


def test_weights_that_the_network_has_not(tmp_path):
    model = PPNet(ResNet_features())
    model.features.layer1[0].attention = torch.nn.Conv2d(4, 4, 1)
    path = saved(model.state_dict(), tmp_path)
    with pytest.raises(PrototypeError, match=r"a resnet has not \(layer1.0.attention"):
        exporters.import_protopnet(path)


def test_weights_that_are_missing(tmp_path):
    state = PPNet(ResNet_features()).state_dict()
    del state["features.layer2.0.bn2.bias"]
    with pytest.raises(PrototypeError, match=r"lacks the weights 'layer2.0.bn2.bias'"):
        exporters.import_protopnet(saved(state, tmp_path))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("features.layer2.0.conv1.weight", torch.zeros(3)),
        ("add_on_layers.first.weight", torch.zeros(4, 4, 1, 1)),
    ],
)
def test_weights_of_other_names_and_shapes(tmp_path, name, tensor):
    state = {**PPNet(ResNet_features()).state_dict(), name: tensor}
    with pytest.raises(PrototypeError, match="are named or shaped otherwise"):
        exporters.import_protopnet(saved(state, tmp_path))
