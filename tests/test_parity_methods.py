"""Every method on networks of real depth: its slow twin, fed with torch.autograd's gradients.

The bundled trained network on a photo, and two random ones. CAMs: tolerance 1e-5 of the largest sum
of absolute terms behind an entry, as in `test_parity`. Attributions: 1e-5 of the largest entry;
float32's rounding, 6e-8, grows on its way through the network, and there are 50 layers of it. No
unit may lie on the other side of its kink, which would change the gradient by far more: so torch
is kept on ONNX Runtime's side (`torch_oracle.OnTheSameSide`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import reference
import small_nets
import torch
import torch_oracle
from gradients import relative_error
from numpy.typing import NDArray

import exporters
from exporters.attributions import ATTRIBUTION_METHODS
from exporters.cams import CAM_METHODS
from exporters.classifier import Classifier
from xai_onnx.manifest import Manifest
from xai_onnx.preprocess import prepare
from xai_onnx.recipe import parse

TOLERANCE = 1e-5
NETS = [
    pytest.param("efficientnet_lite0", marks=pytest.mark.slow),
    "resnet_bottleneck",
    "squeezenet",
]

Array = NDArray[Any]


@dataclass(frozen=True)
class Scene:
    """A network in ONNX and in torch, and what it is asked.

    Attributes:
        image: [C, H, W].
        classes: int64 [K].
        layers: ONNX value -> activations [C, h, w] and gradients [K, C, h, w], by torch.
    """

    path: Path
    net: torch_oracle.TorchClassifier
    image: NDArray[np.float32]
    classes: NDArray[np.int64]
    layers: dict[str, tuple[Array, Array]]

    def gradient_at(self, k: int) -> reference.GradientAt:
        """torch.autograd's gradient of the score of class k at any picture [C, H, W]."""

        def at(image: Array) -> Array:
            x = torch.from_numpy(image)[None].requires_grad_()
            (gradient,) = torch.autograd.grad(self.net(x)[0, self.classes[k]], x)
            return gradient[0].numpy()

        return at


@pytest.fixture(scope="module")
def scene(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    lite0: Path,
    photo: dict[str, Path],
) -> Scene:
    """The network of this name, with its usual layer and one of a larger map."""
    if request.param == "efficientnet_lite0":
        return trained(Path(lite0), photo["coffee"])
    return random(request.param, tmp_path_factory.mktemp("nets") / "net.onnx")


def trained(path: Path, photo: Path) -> Scene:
    image = prepare(photo, parse("lite", "NCHW", 224, 224)).tensor
    classifier = Classifier(path)
    (found,) = classifier.target_layers()
    larger = [layer for layer in classifier.candidates() if layer.shape[2] > found.shape[2]]
    layers = [str(layer.value.name) for layer in (larger[-1], found)]
    return asked(path, image, np.array([967, 3]), layers)


def random(name: str, path: Path) -> Scene:
    net, images = small_nets.build(name), small_nets.images(2)
    small_nets.export(net, path, images, dynamo=True)
    layers = []
    for module in (net.earlier_target, net.target):
        activations, _ = small_nets.activations_and_gradient(
            net, images, torch.tensor([0, 0]), module
        )
        layers.append(small_nets.onnx_value(path, images, activations))
    return asked(path, images[0].numpy(), np.array([1, 7]), layers)


def asked(path: Path, image: Array, classes: Array, layers: list[str]) -> Scene:
    """The scene, with what torch says at the layers."""
    net, found = torch_oracle.OnTheSameSide(path), {}
    for layer in layers:
        parts = [net.activations_and_gradient(layer, image[None], classes[[k]]) for k in (0, 1)]
        found[layer] = parts[0][0][0], np.stack([gradient[0] for _, gradient in parts])
    return Scene(path, net, image, classes, found)


def extras(method: str, image: Array, count: int) -> dict[str, Array]:
    """What a method takes besides."""
    rng = np.random.default_rng(3)
    if method == "smoothgrad":
        return {"noise": (0.1 * rng.standard_normal((count, *image.shape))).astype(np.float32)}
    if method == "integrated-gradients":
        baseline = np.broadcast_to(image.mean((1, 2), keepdims=True), image.shape)[None]
        return {"steps": np.array([count]), "baseline": np.ascontiguousarray(baseline)}
    return {}


def explain(
    scene: Scene, path: Path, manifest: Manifest, *outputs: str | None, **given: Array
) -> list[Array]:
    """Outputs of an explained file, without the batch's axis."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {manifest.input: scene.image[None], manifest.class_index: scene.classes[None]}
    feed |= {manifest.extra_inputs[role]: array for role, array in given.items()}
    return [array[0] for array in session.run(outputs, feed)]


def test_every_attribution_has_a_twin() -> None:
    assert set(reference.ATTRIBUTIONS) == set(ATTRIBUTION_METHODS)


@pytest.mark.parametrize("method", CAM_METHODS)
@pytest.mark.parametrize("scene", NETS, indirect=True)
def test_a_cam_is_its_twin(scene: Scene, method: str, tmp_path: Path) -> None:
    twin = reference.CAMS[method]
    for layer, (activations, gradients) in scene.layers.items():
        path = tmp_path / "explained.onnx"
        manifest = exporters.export_gradcam(scene.path, path, target_layer=layer, method=method)
        cams, maps = explain(scene, path, manifest, manifest.cam, manifest.saliency_map)
        for cam, gradient in zip(cams, gradients, strict=True):
            scale = twin(np.abs(activations), np.abs(gradient)).max()
            expected = twin(activations, gradient)
            assert np.abs(cam - expected).max() <= TOLERANCE * scale
        large = reference.saliency_map(cams[0], *scene.image.shape[1:])
        assert np.abs(maps[0] - large).max() <= TOLERANCE


@pytest.mark.parametrize("scene", NETS, indirect=True)
def test_the_cams_of_an_earlier_layer_differ_from_each_other(scene: Scene) -> None:
    """So that none can stand in for another where they are compared.

    Only the element-wise one is LayerCAM wherever activations aren't negative; `test_cams` tells
    them apart.
    """
    activations, gradients = next(iter(scene.layers.values()))
    twins = [twin for name, twin in reference.CAMS.items() if name != "elementwise"]
    maps = [twin(activations, gradients[0]) for twin in twins]
    scaled = [m / m.max() for m in maps]
    for i, first in enumerate(scaled):
        for second in scaled[:i]:
            assert np.abs(first - second).max() > 1000 * TOLERANCE


@pytest.mark.parametrize("method", ATTRIBUTION_METHODS)
@pytest.mark.parametrize("scene", NETS, indirect=True)
def test_an_attribution_is_its_twin(scene: Scene, method: str, tmp_path: Path) -> None:
    path, given = tmp_path / "explained.onnx", extras(method, scene.image, 3)
    manifest = exporters.export_attribution(scene.path, path, method=method, saliency_map=False)
    (found,) = explain(scene, path, manifest, manifest.attribution, **given)
    for k in range(len(scene.classes)):
        twin = reference.ATTRIBUTIONS[method](scene.gradient_at(k), scene.image, **given)
        assert relative_error(found[k], twin) <= TOLERANCE


@pytest.mark.parametrize(
    ("scene", "order"),
    [("efficientnet", 2), ("squeezenet", 1), ("resnet_bottleneck", 1)],
    indirect=["scene"],
)
def test_integrated_gradients_add_up_to_the_difference_of_the_scores(
    scene: Scene, order: int, tmp_path: Path
) -> None:
    """With more steps, by the order of the midpoint rule and within a factor of 4 for its constant.

    The order is 2 for the smooth Swish, 1 where gradients jump at kinks.
    """
    path = tmp_path / "explained.onnx"
    manifest = exporters.export_attribution(scene.path, path, method="integrated-gradients")
    plain = onnxruntime.InferenceSession(scene.path, providers=["CPUExecutionProvider"])
    missing = []
    for steps in (8, 128):
        given = extras("integrated-gradients", scene.image, steps)
        (found,) = explain(scene, path, manifest, manifest.attribution, **given)
        pictures = np.stack([scene.image, given["baseline"][0]])
        here, there = plain.run(None, {manifest.input: pictures})[0][:, scene.classes]
        error = found.sum((1, 2, 3), dtype=np.float64) - (here - there)
        missing.append(float(np.abs(error / np.abs(found).sum((1, 2, 3))).max()))
    few, many = missing
    assert many <= 4 * few / (128 / 8) ** order
