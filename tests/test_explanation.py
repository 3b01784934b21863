import json
import subprocess
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from PIL import Image

from xai_onnx import render
from xai_onnx.errors import ImageError
from xai_onnx.explanation import Explanation, Prediction


def explanation(**changes):
    """An explanation of a 40x60 picture, cropped to a square, with its peak in a known pixel."""
    saliency_map = np.zeros((20, 20), np.float32)
    saliency_map[5, 10] = 1
    fields = {
        "target": 967,
        "label": "espresso",
        "score": 12.25,
        "probability": 0.75,
        "method": "gradcam",
        "target_layer": "relu",
        "cam": np.array([[0, 1 / 3], [1e-7, 123.456789]], np.float32),
        "saliency_map": saliency_map,
        "image": np.full((40, 60, 3), 100, np.uint8),
        "box": (10.0, 0.0, 50.0, 40.0),
    }
    return Explanation(**(fields | changes))


def test_title():
    assert explanation().title == "espresso (967)"
    assert explanation(label=None).title == "class 967"
    prediction = Prediction(
        target=1, label="b", score=2.0, probability=None, scores=np.array([1, 2], np.float32)
    )
    assert prediction.title == "b (1)"


def test_frozen():
    with pytest.raises(FrozenInstanceError):
        explanation().score = 1.0


def test_peak_is_a_pixels_centre_in_the_original_picture():
    assert explanation().peak == pytest.approx((10 + 10.5 * 2, 5.5 * 2))


def test_no_peak_without_a_picture_or_without_evidence():
    assert explanation(image=None, box=None).peak is None
    assert explanation(cam=np.zeros((2, 2), np.float32)).peak is None


@pytest.mark.parametrize(
    ("cam", "empty"), [([[0, 0]], True), ([[3, 3]], True), ([[2]], True), ([[0, 1e-9]], False)]
)
def test_empty_is_a_constant_map(cam, empty):
    assert explanation(cam=np.array(cam, np.float32)).empty is empty


def test_to_dict_is_ready_for_json():
    assert json.loads(json.dumps(explanation().to_dict())) == {
        "target": 967,
        "label": "espresso",
        "score": 12.25,
        "probability": 0.75,
        "method": "gradcam",
        "target_layer": "relu",
        "empty": False,
        "peak": [31.0, 11.0],
        "cam": [[0.0, 0.333333], [1e-7, 123.457]],
    }


def test_to_dict_without_a_peak():
    data = explanation(label=None, probability=None, image=None, box=None).to_dict()
    assert (data["label"], data["probability"], data["peak"]) == (None, None, None)
    json.dumps(data)


def test_overlay_is_renders():
    subject = explanation()
    expected = render.overlay(subject.image, subject.saliency_map, subject.box, 0.25)
    np.testing.assert_array_equal(subject.overlay(0.25), expected)
    assert not np.array_equal(subject.overlay(), expected)


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_save_writes_renders_picture(tmp_path, suffix):
    subject = explanation()
    subject.save(tmp_path / f"out.{suffix}")
    written = np.asarray(Image.open(tmp_path / f"out.{suffix}").convert("RGB"))
    expected = render.picture([subject])
    assert written.shape == expected.shape
    assert np.abs(written.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("lack", [{"image": None}, {"box": None}])
def test_without_a_picture_there_is_nothing_to_draw_on(tmp_path, lack):
    subject = explanation(**lack)
    for draw in (subject.overlay, lambda: subject.save(tmp_path / "out.png")):
        with pytest.raises(ImageError, match=r"espresso \(967\) has no picture .* saliency_map"):
            draw()
    assert not list(tmp_path.iterdir())


def test_importing_it_loads_no_drawing():
    code = "import sys, xai_onnx.explanation; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "numpy" in loaded
    assert not loaded & {"cv2", "PIL", "torch", "onnx", "numba", "skimage", "scipy", "matplotlib"}
