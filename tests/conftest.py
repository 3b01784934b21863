"""Files that many tests read, made once."""

from importlib import resources

import pytest
from PIL import ImageDraw
from tiny_net import LABELS, PREPROCESS, saved, tiny_net

import exporters
import xai_onnx

ASSETS = resources.files("xai_onnx") / "assets"


@pytest.fixture(scope="session")
def lite0():
    """The bundled plain model."""
    return ASSETS / "efficientnet_lite0.onnx"


@pytest.fixture(scope="session")
def labels_file():
    return ASSETS / "imagenet_labels.json"


@pytest.fixture(scope="session")
def photo():
    """Paths of the bundled photos, by name."""
    return {name: ASSETS / f"{name}.jpg" for name in ("coffee", "astronaut")}


@pytest.fixture(scope="session")
def lite0_explained(tmp_path_factory, lite0, labels_file):
    """The bundled model, explained."""
    path = tmp_path_factory.mktemp("lite0") / "explained.onnx"
    exporters.export_gradcam(lite0, path, preprocess="lite", labels=labels_file)
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Path of a tiny plain classifier; read only."""
    return saved(tiny_net(), tmp_path_factory.mktemp("tiny") / "tiny.onnx")


@pytest.fixture(scope="session")
def tiny_explained(tmp_path_factory, tiny):
    """Path of the tiny classifier, explained; read only."""
    path = tmp_path_factory.mktemp("tiny_explained") / "explained.onnx"
    exporters.export_gradcam(tiny, path, preprocess=PREPROCESS, labels=LABELS)
    return str(path)


@pytest.fixture(scope="session")
def model(tiny_explained):
    """The tiny classifier, explained and loaded."""
    return xai_onnx.load(tiny_explained)


@pytest.fixture
def export(tmp_path):
    """Export a model into the test's own folder: ``export(proto, preprocess="unit")``."""

    def write(proto, name="explained.onnx", **options):
        path = tmp_path / name
        exporters.export_gradcam(proto, path, **options)
        return str(path)

    return write


@pytest.fixture
def written(monkeypatch):
    """Every text that a figure holds."""
    texts = []
    original = ImageDraw.ImageDraw.text

    def text(self, xy, text, *args, **kwargs):
        texts.append(text)
        return original(self, xy, text, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return texts
