"""Models quantised by onnxruntime, QuantizeLinear and DequantizeLinear around each operator."""

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from tiny_net import SIZE, saved, tiny_net

import exporters
import xai_onnx
from exporters.verify import verify


class Noise(CalibrationDataReader):
    """Calibrates on the noise that the tests explain."""

    def __init__(self):
        self.images = iter(noise(8)[:, None])

    def get_next(self):
        image = next(self.images, None)
        return None if image is None else {"image": image}


def noise(count):
    return np.random.default_rng(0).standard_normal((count, 3, SIZE, SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    plain = saved(tiny_net(), folder / "plain.onnx")
    path = folder / "int8.onnx"
    quantize_static(
        plain, path, Noise(), per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return path


@pytest.mark.parametrize("layer", [None, "early_DequantizeLinear_Output"])
def test_a_quantised_model_is_explained_straight_through(quantised, tmp_path, layer):
    assert "DequantizeLinear" in {node.op_type for node in onnx.load(quantised).graph.node}
    explained = tmp_path / "explained.onnx"
    exporters.export_gradcam(quantised, explained, target_layer=layer)
    assert [check for check in verify(explained, quantised) if not check.passed] == []


def test_its_maps_are_near_those_of_float32(quantised, tmp_path):
    """Correlated, map by map: 8 bits leave two digits, which tiny maps show."""
    paths = [tmp_path / "float.onnx", tmp_path / "int8.onnx"]
    exporters.export_gradcam(tiny_net(), paths[0])
    exporters.export_gradcam(quantised, paths[1])
    classes = np.tile(np.arange(5), (8, 1))
    maps = [
        np.array(
            [
                [item.cam.ravel() for item in row]
                for row in xai_onnx.load(path).explain(noise(8), classes, preprocessed=True)
            ]
        ).reshape(40, -1)
        for path in paths
    ]
    filled = [index for index in range(40) if maps[0][index].std() > 0.05 * maps[0].std()]
    assert len(filled) > 10
    correlations = [
        np.corrcoef(maps[0][index], maps[1][index])[0, 1] if maps[1][index].std() else 0.0
        for index in filled
    ]
    assert np.median(correlations) > 0.9
