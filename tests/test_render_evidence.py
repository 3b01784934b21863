"""LIME's picture: colours by sign, outlines, numbers, bars with error bars."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from xai_onnx import render
from xai_onnx.errors import ImageError
from xai_onnx.lime.explanation import DraftAgreement, LimeExplanation
from xai_onnx.render import evidence, figure

QUARTERS = np.kron(np.array([[0, 1], [2, 3]]), np.ones((12, 12), int)).astype(np.int32)


def grey(height, width, value=128):
    return np.full((height, width, 3), value, np.uint8)


def explanation(image, **changes):
    height, width = image.shape[:2]
    fields = {
        "target": 7,
        "label": "seven",
        "score": 12.345,
        "probability": 0.5,
        "scale": "logit",
        "value": 12.345,
        "segments": QUARTERS,
        "coefficients": np.array([2.0, -1.0, 0.25, 0.0]),
        "standard_errors": np.array([0.1, 0.2, 0.05, 0.1]),
        "intercept": 1.0,
        "fidelity": 0.876,
        "noise": 0.01,
        "forwards": 1024,
        "effective_sample_size": 900.0,
        "sampling": "foldover",
        "adjusted": True,
        "seed": 0,
        "batch_size": 8,
        "seconds": 1.5,
        "draft": None,
        "warnings": (),
        "image": image,
        "box": (0.0, 0.0, float(width), float(height)),
    }
    return LimeExplanation(**(fields | changes))


class TestOverlay:
    def test_two_colours_by_sign_and_strength(self):
        drawn = explanation(grey(96, 96)).overlay().astype(int)
        speaks_for, against, little, nothing = (
            drawn[y, x] for y, x in ((20, 20), (20, 70), (70, 20), (70, 70))
        )
        assert speaks_for[0] > speaks_for[2] + 80
        assert against[2] > against[0] + 40
        assert 10 < little[0] - little[2] < speaks_for[0] - speaks_for[2]
        assert np.ptp(nothing) == 0

    def test_opacity_is_the_share_to_the_power(self):
        coefficients = np.array([1.0, 0.5, 0.0, 0.0])
        drawn = evidence.overlay(grey(24, 24, 255), QUARTERS, coefficients, (0, 0, 24, 24))
        for (y, x), share in (((5, 5), 1.0), ((5, 20), 0.5)):
            alpha = evidence.OPACITY * share**evidence.POWER
            expected = 255 + alpha * (np.array(evidence.FOR) - 255)  # white: full light
            assert np.abs(drawn[y, x] - expected).max() <= 1

    def test_superpixels_are_outlined(self):
        drawn = explanation(grey(24, 24, 0), coefficients=np.zeros(4)).overlay()
        bright = drawn[..., 0] > 100
        assert bright[12].all()
        assert bright[:, 12].all()
        assert bright.sum() == 24 + 24 - 1

    def test_what_the_model_did_not_see_is_dimmed(self):
        photo = grey(40, 60, 200)
        drawn = explanation(photo, box=(10.2, 0, 49.8, 40)).overlay()
        assert (drawn[:, :10] == round(200 * figure.UNSEEN_BRIGHTNESS)).all()
        assert (drawn[:, 50:] == round(200 * figure.UNSEEN_BRIGHTNESS)).all()
        assert drawn[:, 10:50].max() > 150
        assert (photo == 200).all()

    def test_numbers_stand_inside_their_superpixels(self):
        coefficients = np.array([0.5, 2.0, -1.0, 0.1])
        box = (0, 0, 200, 200)
        plain = evidence.overlay(grey(200, 200), QUARTERS, coefficients, box)
        numbered = evidence.overlay(grey(200, 200), QUARTERS, coefficients, box, numbered=2)
        changed = (plain != numbered).any(axis=2)
        rows, columns = np.nonzero(changed)
        assert changed[:100, 100:].any()
        assert changed[100:, :100].any()
        assert not changed[:100, :90].any()
        assert not changed[110:, 110:].any()
        assert len(rows) == len(columns) < 2 * 30 * 25

    def test_a_superpixel_that_vanishes_has_no_number(self):
        segments = QUARTERS.copy()
        segments[0, 0] = 4
        coefficients = np.array([0.1, 0.1, 0.1, 0.1, 5.0])
        drawn = evidence.overlay(grey(4, 4), segments, coefficients, (0, 0, 4, 4), numbered=5)
        assert drawn.shape == (4, 4, 3)


class TestPicture:
    @pytest.mark.parametrize(
        "shape", [(28, 28), (1, 1), (400, 500), (3000, 4000), (1500, 300), (300, 1500), (3, 2000)]
    )
    @pytest.mark.parametrize("count", [1, 2])
    def test_a_row_of_three_panels_for_each_class(self, shape, count):
        photo = grey(*shape)
        picture = render.evidence_picture([explanation(photo)] * count)
        panel, _ = figure.panel_size(photo, (0, 0, shape[1], shape[0]))
        height, width = panel.shape[:2]
        column = max(width, figure.NARROWEST) + figure.MARGIN
        row = height + figure.CAPTION_HEIGHT + figure.MARGIN
        expected = (count * row + figure.MARGIN + figure.FOOTER_HEIGHT, 3 * column + figure.MARGIN)
        assert picture.shape == (*expected, 3)
        assert picture.dtype == np.uint8

    def test_captions(self, written):
        draft = DraftAgreement("int8.onnx", 32, 0.99, 0.1)
        render.evidence_picture([explanation(grey(400, 400), draft=draft)])
        assert {
            "photo, 400 x 400",
            "the model sees all of it",
            "seven (7)",
            "50.0 %, score 12.35, fidelity 0.88",
            "what they add to the logit",
            "all 4 superpixels, ± 1 standard error",
            "+2",
            "-1",
            "+0.25",
            "+0",
            "1",
            "2",
            "evidence against and for the class (scaled per class)",
            "LIME, 1,024 forwards, foldover sampling, run by int8.onnx",
        } <= set(written)

    def test_doubts_are_said(self, written):
        photo = grey(400, 400)
        same = explanation(photo)
        segments = np.arange(24 * 24, dtype=np.int32).reshape(24, 24)
        many = {"segments": segments, "coefficients": np.linspace(1, 2, 576)}
        changes = (
            {"standard_errors": None},
            {"standard_errors": np.zeros(4)},
            {"noise": 0.8},
            {"coefficients": np.zeros(4), "probability": None},
            {**many, "standard_errors": np.ones(576)},
        )
        for change in changes:
            render.evidence_picture([replace(same, **change)])
        for text in (
            "all 4 superpixels, errors unknown",
            "all 4 superpixels, exact",
            "all 4 superpixels, ± 1 standard error, mostly noise",
            "score 12.35, the same whatever is covered",
            "the largest 13 of 576, ± 1 standard error",
        ):
            assert text in written, text

    def test_bars_are_as_long_as_their_coefficients(self):
        chart = evidence._chart(explanation(grey(400, 400)), 4, (300, 400))
        middle = [round((i + 0.5) * evidence.BAR_ROW) - 6 for i in range(4)]  # beside error bars
        lengths = []
        for y, color in zip(middle, (evidence.FOR, evidence.AGAINST, evidence.FOR), strict=False):
            row = chart[y, evidence.CHIP[0] + 6 :]
            lengths.append(np.abs(row.astype(int) - color).max(axis=1).__lt__(3).sum())
        assert lengths[0] == pytest.approx(2 * lengths[1], abs=3)
        assert lengths[0] == pytest.approx(8 * lengths[2], abs=9)
        zero = evidence._chart(
            explanation(grey(400, 400), coefficients=np.zeros(4), standard_errors=None),
            4,
            (300, 400),
        )
        assert zero.shape == (300, 400, 3)

    @pytest.mark.parametrize(
        ("low", "high", "expected"),
        [
            (0.0, 1.0, [0, 0.25, 0.5, 0.75, 1]),
            (-0.9, 1.3, [-0.5, 0, 0.5, 1]),
            (0.0, 0.0, [0]),
            (-2.4e-5, 0.0, [-2e-5, -1.5e-5, -1e-5, -5e-6, 0]),
        ],
    )
    def test_ticks_are_round(self, low, high, expected):
        np.testing.assert_allclose(evidence._ticks(low, high), expected, atol=1e-12)
        assert not np.signbit(evidence._ticks(low, high)[-1])

    def test_saved(self, tmp_path):
        path = tmp_path / "why.png"
        explanation(grey(60, 80)).save(path)
        with Image.open(path) as picture:
            picture.load()
            assert picture.width > 3 * figure.NARROWEST

    def test_refusals(self):
        photo = grey(20, 20)
        one = explanation(photo)
        for several in (
            [],
            [one, explanation(photo.copy())],
            [one, replace(one, scale="probability")],
            [one, replace(one, segments=QUARTERS.copy())],
        ):
            with pytest.raises(ValueError, match="explanations of one picture, over the same"):
                render.evidence_picture(several)
        with pytest.raises(ImageError, match="no picture to draw on"):
            render.evidence_picture([replace(one, image=None)])
        with pytest.raises(ImageError, match="no picture to draw on"):
            replace(one, image=None).overlay()


def test_the_saliency_map_is_the_evidence_for_the_class():
    found = explanation(grey(24, 24))
    np.testing.assert_array_equal(found.ranked, [0, 1, 2, 3])
    np.testing.assert_array_equal(np.unique(found.saliency_map), [0, 0.125, 1])
    assert (found.saliency_map[QUARTERS == 1] == 0).all()
    against = replace(found, coefficients=-np.ones(4))
    assert not against.saliency_map.any()
