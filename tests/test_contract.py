"""The contract of the exported file, seen by a program that has bare ONNX Runtime and no more.

Maps of a batch and of pictures one by one may differ by 1e-5 of the largest entry: ONNX Runtime
chooses other kernels for other batch sizes, which sum in another order.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import reference
import small_nets

import exporters

TOLERANCE = 1e-5
NETS = ("resnet_basic", "vgg", "squeezenet", "mobilenet_v3", "softmax", "conv_tail")


class File:
    """A small net, its explained file, and sessions of both."""

    def __init__(self, name: str, folder: Path) -> None:
        self.plain_path, self.path = folder / f"{name}.onnx", folder / f"{name}.explained.onnx"
        self.folder = folder
        small_nets.export(
            small_nets.build(name), self.plain_path, small_nets.images(2), dynamo=False
        )
        self.manifest = exporters.export_gradcam(self.plain_path, self.path)
        self.plain, self.session = session(self.plain_path), session(self.path)

    def run(self, images: Any, classes: Any) -> dict[str, np.ndarray[Any, Any]]:
        feed = {"image": images, "class_index": np.asarray(classes, np.int64)}
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(None, feed), strict=True))


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module", params=NETS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> File:
    return File(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def images() -> Any:
    return small_nets.images(8).numpy()


def test_names_types_and_shapes(file: File) -> None:
    inputs = {value.name: value for value in file.session.get_inputs()}
    outputs = {value.name: value for value in file.session.get_outputs()}
    assert list(inputs) == ["image", "class_index"]
    assert list(outputs) == ["scores", "activations", "cam", "saliency_map"]
    assert inputs["class_index"].type == "tensor(int64)"
    assert inputs["class_index"].shape[1] == "K"
    batch = inputs["image"].shape[0]
    assert inputs["class_index"].shape[0] == batch
    assert outputs["cam"].shape[:2] == [batch, "K"]
    assert outputs["saliency_map"].shape == [batch, "K", 64, 64]


def test_original_outputs_are_bit_identical(file: File, images: Any) -> None:
    for batch in (1, 3, 8):
        for k in (0, 1, 3):
            got = file.run(images[:batch], np.zeros((batch, k)))
            (expected,) = file.plain.run(None, {"image": images[:batch]})
            assert np.array_equal(got["scores"], expected)


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("k", [1, 3])
def test_a_batch_equals_its_pictures_one_by_one(
    file: File, images: Any, batch: int, k: int
) -> None:
    classes = np.random.default_rng(batch).integers(-1, 10, (batch, k))
    together = file.run(images[:batch], classes)
    for index in range(batch):
        for column in range(k):
            alone = file.run(
                images[index : index + 1], classes[index : index + 1, column : column + 1]
            )
            for name in ("cam", "saliency_map"):
                error = np.abs(together[name][index, column] - alone[name][0, 0]).max()
                assert error <= TOLERANCE * max(1.0, np.abs(together[name]).max())


def test_no_classes_give_no_maps_and_the_same_scores(file: File, images: Any) -> None:
    got = file.run(images[:3], np.zeros((3, 0)))
    assert got["cam"].shape[:2] == got["saliency_map"].shape[:2] == (3, 0)
    assert got["cam"].size == 0
    assert got["activations"].shape[0] == 3


def test_minus_one_is_the_predicted_class(file: File, images: Any) -> None:
    got = file.run(images, np.full((8, 1), -1))
    predicted = got["scores"].argmax(1)[:, None]
    named = file.run(images, predicted)
    assert np.array_equal(got["cam"], named["cam"])
    other = file.run(images, (predicted + 1) % 10)
    assert not np.array_equal(got["cam"], other["cam"])


def test_the_saliency_map_is_the_scaled_cam(file: File, images: Any) -> None:
    got = file.run(images[:2], [[1, 2, 3], [4, 5, 6]])
    for cam, saliency in zip(
        got["cam"].reshape(-1, *got["cam"].shape[2:]),
        got["saliency_map"].reshape(-1, 64, 64),
        strict=True,
    ):
        twin = reference.saliency_map(cam, 64, 64)
        assert np.abs(saliency - twin).max() <= TOLERANCE
        assert saliency.min() >= 0
        assert saliency.max() <= 1


@pytest.mark.parametrize("k", [1, 3])
def test_predicted_targets_need_no_input(file: File, images: Any, k: int) -> None:
    path = file.folder / f"predicted{k}.onnx"
    manifest = exporters.export_gradcam(file.plain_path, path, targets="predicted", top_k=k)
    predicted = session(path)
    assert [value.name for value in predicted.get_inputs()] == ["image"]
    assert (manifest.class_index, manifest.top_k) == (None, k)
    scores, cam = predicted.run(["scores", "cam"], {"image": images[:3]})
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert cam.shape[:2] == (3, k)
    assert np.abs(cam - file.run(images[:3], best)["cam"]).max() <= TOLERANCE * np.abs(cam).max()


def test_a_class_beyond_the_last_is_an_error(file: File, images: Any) -> None:
    with pytest.raises(Exception, match=r"(?i)invalid index|out of (data )?bounds|out of range"):
        file.run(images[:1], [[10]])


def test_only_operators_of_the_default_domain(file: File) -> None:
    model = onnx.load(file.path)
    assert {node.domain for node in model.graph.node} == {""}
    assert {entry.domain for entry in model.opset_import} == {""}
    assert not model.functions
    assert "If" not in {node.op_type for node in model.graph.node}


def test_the_checker_passes_with_full_shape_inference(file: File) -> None:
    onnx.checker.check_model(str(file.path), full_check=True)


def test_no_trace_of_the_exporting_machine(file: File) -> None:
    model = onnx.load(file.path)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert str(Path.cwd()) not in model.SerializeToString().decode("latin-1")


def test_the_manifest_is_in_the_metadata(file: File) -> None:
    metadata = file.session.get_modelmeta().custom_metadata_map
    data = json.loads(metadata["xai_onnx"])
    assert data["schema_version"] == 1
    assert data["method"] == "gradcam"
    assert data["class_index"] == "class_index"
    assert data["num_classes"] == 10


def test_exporting_twice_gives_the_same_bytes(file: File) -> None:
    again = file.folder / "again.onnx"
    exporters.export_gradcam(file.plain_path, again)
    assert again.read_bytes() == file.path.read_bytes()


def test_runs_where_no_package_of_ours_can_be_imported(file: File, images: Any) -> None:
    np.save(file.folder / "images.npy", images[:2])
    program = """
import sys
sys.modules["xai_onnx"] = sys.modules["exporters"] = sys.modules["torch"] = None
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
feed = {"image": np.load(sys.argv[2]), "class_index": np.array([[3, -1], [0, 7]])}
np.save(sys.argv[3], session.run(["cam"], feed)[0])
"""
    out = file.folder / "cam.npy"
    arguments = [str(file.path), str(file.folder / "images.npy"), str(out)]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True)
    expected = file.run(images[:2], [[3, -1], [0, 7]])["cam"]
    assert np.abs(np.load(out) - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_names_that_the_model_uses_get_a_suffix(tmp_path: Path) -> None:
    plain = tmp_path / "plain.onnx"
    small_nets.export(small_nets.build("sigmoid"), plain, small_nets.images(2), dynamo=False)
    model = onnx.load(plain)
    middle = model.graph.node[0].output[0]
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == middle:
                    names[index] = "cam"
    onnx.save(model, plain)
    manifest = exporters.export_gradcam(plain, tmp_path / "explained.onnx")
    assert manifest.cam == "cam_2"
    assert "cam_2" in [value.name for value in session(tmp_path / "explained.onnx").get_outputs()]
