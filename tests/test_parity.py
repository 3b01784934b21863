"""Gradient and map against torch.autograd, on the classic families of convolutional classifiers.

Tolerance 1e-5, relative to the largest entry: both sides compute in float32, whose rounding is
6e-8, and sum up to a few thousand terms in different orders; measured errors stay below 3e-6.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import reference
import small_nets
import torch
import torch_oracle
from emitted_gradient import emitted_gradient
from gradients import cam_scale, relative_error
from numpy.typing import NDArray

import exporters
from xai_onnx import load
from xai_onnx.preprocess import prepare

TOLERANCE = 1e-5
CLASSES = np.array([[1, 4, 7], [0, 0, 9], [5, 2, 3]])
CASES = [(name, dynamo) for name in small_nets.SMALL_NETS for dynamo in (True, False)]
IDS = [f"{name}-{'dynamo' if dynamo else 'torchscript'}" for name, dynamo in CASES]

Array = NDArray[np.float32]
Exported = Callable[[str, bool], Path]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The .onnx file of a small net, exported once."""
    folder = tmp_path_factory.mktemp("nets")

    def path(name: str, dynamo: bool) -> Path:
        file = folder / f"{name}-{dynamo}.onnx"
        if not file.exists():
            small_nets.export(small_nets.build(name), file, small_nets.images(2), dynamo)
        return file

    return path


def assert_cam(cam: Array, activations: Array, gradient: Array) -> None:
    """`cam` [B, h, w] is the NumPy twin's, picture by picture."""
    for row, a, g in zip(cam, activations, gradient, strict=True):
        assert np.abs(row - reference.gradcam(a, g)).max() <= TOLERANCE * cam_scale(a, g)


@pytest.mark.parametrize("layer", ["target", "earlier_target"])
@pytest.mark.parametrize(("name", "dynamo"), CASES, ids=IDS)
def test_gradient_and_cam_are_torchs(
    name: str, dynamo: bool, layer: str, exported: Exported, tmp_path: Path
) -> None:
    path = exported(name, dynamo)
    net, images = small_nets.build(name), small_nets.images(len(CLASSES))
    module = getattr(net, layer)
    expected = [
        small_nets.activations_and_gradient(net, images, torch.from_numpy(column), module)
        for column in CLASSES.T
    ]
    value = small_nets.onnx_value(path, images, expected[0][0])
    explained = tmp_path / "explained.onnx"
    manifest = exporters.export_gradcam(path, explained, target_layer=value)

    session = onnxruntime.InferenceSession(explained, providers=["CPUExecutionProvider"])
    (cam,) = session.run(["cam"], {"image": images.numpy(), "class_index": CLASSES})
    activations, gradient = emitted_gradient(path, value, images.numpy(), CLASSES)

    assert manifest.target_layers == (value,)
    for k, (torch_activations, torch_gradient) in enumerate(expected):
        assert relative_error(activations, torch_activations) <= TOLERANCE
        assert relative_error(gradient[k], torch_gradient) <= TOLERANCE
        assert_cam(cam[:, k], torch_activations, torch_gradient)


@pytest.mark.parametrize(("name", "dynamo"), CASES, ids=IDS)
def test_the_found_layer_is_a_late_feature_map(
    name: str, dynamo: bool, exported: Exported, tmp_path: Path
) -> None:
    """At least as late as the usual layer, found without its name: every other value follows it."""
    path = exported(name, dynamo)
    net, images = small_nets.build(name), small_nets.images(2)
    usual, _ = small_nets.activations_and_gradient(net, images, torch.tensor([0, 1]))
    found = exporters.export_gradcam(path, tmp_path / "found.onnx").target_layers[0]
    named = small_nets.onnx_value(path, images, usual)
    order = small_nets.value_names(path)
    assert order.index(found) >= order.index(named)


@pytest.mark.parametrize("name", ["coffee", "astronaut"])
def test_bundled_model_against_torch(
    name: str, lite0: Path, lite0_explained: Path, photo: dict[str, Path]
) -> None:
    model = load(lite0_explained)
    manifest, recipe = model.manifest, model.preprocess
    assert manifest is not None
    assert recipe is not None
    images = prepare(photo[name], recipe).tensor[None]
    classes = np.array([[967, 560, 3]])
    activations, gradient = emitted_gradient(lite0, manifest.target_layers[0], images, classes)
    explanations = model.explain(images, classes, preprocessed=True)
    cam = np.stack([[item.cam for item in row] for row in explanations])
    for k in range(3):
        torch_activations, torch_gradient = torch_oracle.activations_and_gradient(
            lite0, manifest.target_layers[0], manifest.score, images, classes[:, k]
        )
        assert relative_error(activations, torch_activations) <= TOLERANCE
        assert relative_error(gradient[k], torch_gradient) <= TOLERANCE
        assert_cam(cam[:, k], torch_activations, torch_gradient)
