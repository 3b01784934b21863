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
        "target_layers": ("relu",),
        "attribution": None,
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
        "target_layers": ["relu"],
        "empty": False,
        "peak": [31.0, 11.0],
        "cam": [[0.0, 0.333333], [1e-7, 123.457]],
    }


def attribution(**changes):
    """An attribution: noise, and one pixel that stands far out."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3, 20, 20)).astype(np.float32)
    values[:, 5, 10] = 50
    total = np.abs(values).sum(0)
    fields = {
        "method": "smoothgrad",
        "target_layers": (),
        "cam": None,
        "attribution": values,
        "saliency_map": (total - total.min()) / np.ptp(total),
    }
    return explanation(**(fields | changes))


class TestAttributions:
    def test_to_dict_holds_no_array(self):
        assert json.loads(json.dumps(attribution().to_dict())) == {
            "target": 967,
            "label": "espresso",
            "score": 12.25,
            "probability": 0.75,
            "method": "smoothgrad",
            "target_layers": [],
            "empty": False,
            "peak": [31.0, 11.0],
            "cam": None,
        }

    def test_what_is_the_same_everywhere_is_empty_whatever_the_channels(self):
        values = np.arange(3, dtype=np.float32)[:, None, None] * np.ones((20, 20), np.float32)
        item = attribution(attribution=values, saliency_map=np.zeros((20, 20), np.float32))
        assert item.empty
        assert item.peak is None
        np.testing.assert_array_equal(item.drawn()[1], 0)

    def test_the_brightest_hundredth_is_drawn_alike(self):
        item = attribution()
        image, shown, box = item.drawn()
        assert image is item.image
        assert box == item.box
        bright = np.percentile(item.saliency_map, 99)
        assert bright < 0.2, "but for one pixel nothing would be seen"
        np.testing.assert_allclose(shown, np.minimum(item.saliency_map / bright, 1), rtol=1e-6)
        assert shown.dtype == np.float32
        assert (shown == 1).sum() == 4, "of 400"

    def test_one_pixel_alone(self):
        """The 99th percentile is 0: nothing to divide by."""
        lonely = np.zeros((20, 20), np.float32)
        lonely[3, 3] = 1
        np.testing.assert_array_equal(attribution(saliency_map=lonely).drawn()[1], lonely)

    def test_a_cam_is_drawn_as_it_is(self):
        item = explanation()
        np.testing.assert_array_equal(item.drawn()[1], item.saliency_map)

    def test_overlay_and_picture_draw_it_so(self, tmp_path):
        item = attribution()
        expected = render.overlay(*item.drawn(), 0.25)
        np.testing.assert_array_equal(item.overlay(0.25), expected)
        item.save(tmp_path / "out.png")
        assert np.asarray(Image.open(tmp_path / "out.png")).shape == render.picture([item]).shape


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
