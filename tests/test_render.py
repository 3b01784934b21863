from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from xai_onnx import render
from xai_onnx.errors import ImageError, OutputFileError
from xai_onnx.explanation import Explanation
from xai_onnx.render import figure as parts


def bump(height=24, width=24, y=0.5, x=0.5):
    """A saliency map that falls from 1 at (y, x), in parts of its sides, to 0 in the corners."""
    rows = (np.arange(height) + 0.5) / height - y
    columns = (np.arange(width) + 0.5) / width - x
    heights = np.exp(-(rows[:, None] ** 2 + columns**2) / 0.02)
    return ((heights - heights.min()) / np.ptp(heights)).astype(np.float32)


def explanation(image, box=None, saliency_map=None, **changes):
    saliency_map = bump() if saliency_map is None else saliency_map
    height, width = image.shape[:2]
    fields = {
        "target": 7,
        "label": "seven",
        "score": 12.345,
        "probability": 0.5,
        "method": "gradcam",
        "target_layers": ("relu",),
        "attribution": None,
        "cam": saliency_map[::4, ::4],
        "saliency_map": saliency_map,
        "image": image,
        "box": box or (0.0, 0.0, float(width), float(height)),
    }
    return Explanation(**(fields | changes))


def grey(height, width, value=128):
    return np.full((height, width, 3), value, np.uint8)


def colourfulness(image):
    return np.ptp(image.astype(int), axis=-1)


class TestOverlay:
    def test_colour_follows_the_saliency(self):
        result = render.overlay(grey(96, 96), bump(y=0.25, x=0.75), (0, 0, 96, 96), 0.5)
        assert result.dtype == np.uint8
        assert result.shape == (96, 96, 3)
        y, x = np.unravel_index(colourfulness(result)[:48, 48:].argmax(), (48, 48))
        red, green, blue = result[24, 72].astype(int)
        assert red > max(green, blue) + 40
        assert abs(y - 24) < 24
        assert abs(x - 24) < 24
        np.testing.assert_array_equal(result[95, 0], (128, 128, 128))

    def test_where_the_map_is_cold_the_grey_photo_stays_visible(self):
        photo = np.random.default_rng(0).integers(0, 256, (30, 40, 1), np.uint8).repeat(3, axis=2)
        result = render.overlay(photo, np.zeros((8, 8), np.float32), (0, 0, 40, 30), 0.7)
        np.testing.assert_array_equal(result, photo)

    @pytest.mark.parametrize("saliency", [0.04, 0.25, 0.81, 1.0])
    def test_the_colours_opacity_is_the_saliencys_square_root(self, saliency):
        constant = np.full((8, 8), saliency, np.float32)
        result = render.overlay(grey(8, 8), constant, (0, 0, 8, 8), 0.5)
        level = np.full((1, 1), round(20 + 208 * saliency), np.uint8)
        color = cv2.applyColorMap(level, cv2.COLORMAP_TURBO)[0, 0, ::-1].astype(float)
        expected = 128 + 0.5 * saliency**0.5 * (color - 128)
        assert np.abs(result - expected).max() <= 0.51

    def test_the_photo_is_muted_by_the_opacitys_square_root(self):
        photo = np.full((8, 8, 3), (200, 80, 20), np.uint8)
        result = render.overlay(photo, np.zeros((8, 8), np.float32), (0, 0, 8, 8), 0.25)
        luma = 0.299 * 200 + 0.587 * 80 + 0.114 * 20
        assert np.abs(result - (photo + luma) / 2).max() <= 1

    def test_opacity_zero_is_the_photo(self):
        photo = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
        np.testing.assert_array_equal(render.overlay(photo, bump(), (0, 0, 40, 30), 0.0), photo)

    def test_more_opacity_is_further_from_the_photo(self):
        photo = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
        distances = [
            np.abs(render.overlay(photo, bump(), (0, 0, 40, 30), o) - photo.astype(int)).mean()
            for o in (0.1, 0.3, 0.6, 1.0)
        ]
        assert distances == sorted(distances)
        assert distances[0] > 0

    def test_outside_the_box_the_photo_is_dimmed(self):
        result = render.overlay(grey(40, 60, 200), bump(), (10.2, 0, 49.8, 40), 0.5)
        dimmed = round(200 * parts.UNSEEN_BRIGHTNESS)
        assert (result[:, :10] == dimmed).all()
        assert (result[:, 50:] == dimmed).all()
        assert (result[:, 10:50].max(axis=2) > 2 * dimmed).all()

    def test_the_map_is_resized_to_the_box(self):
        result = render.overlay(grey(100, 200), bump(), (100, 0, 200, 100), 0.5)
        y, x = np.unravel_index(colourfulness(result)[:, :].argmax(), (100, 200))
        assert abs(y - 50) < 25
        assert abs(x - 150) < 25
        red, green, blue = result[50, 150].astype(int)
        assert red > max(green, blue) + 40

    def test_the_photo_is_not_changed(self):
        photo = grey(20, 20)
        render.overlay(photo, bump(), (0, 0, 20, 20), 0.5)
        assert (photo == 128).all()

    @pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
    def test_opacity_out_of_range(self, opacity):
        with pytest.raises(ValueError, match="opacity must be between 0 and 1, not"):
            render.overlay(grey(4, 4), bump(), (0, 0, 4, 4), opacity)

    @pytest.mark.parametrize("box", [(3.9, 3.9, 4.0, 4.0), (0.0, 0.0, 0.1, 0.1)])
    def test_a_box_below_one_pixel_is_one_pixel(self, box):
        result = render.overlay(grey(4, 4), np.zeros((8, 8), np.float32), box, 0.5)
        assert (result == 128).all(axis=2).sum() == 1


class TestPicture:
    @pytest.mark.parametrize(
        ("shape", "panel"),
        [
            ((28, 28), (336, 336)),
            ((1, 1), (336, 336)),
            ((400, 500), (400, 500)),
            ((3000, 4000), (384, 512)),
            ((1500, 300), (512, 102)),
            ((3, 2000), (1, 512)),
        ],
    )
    @pytest.mark.parametrize("count", [1, 3, 5])
    def test_panels_stand_in_rows_of_four(self, shape, panel, count):
        photo = grey(*shape)
        figure = render.picture([explanation(photo)] * count)
        columns, rows = min(count + 1, 4), 1 + (count + 1 > 4)
        column = max(panel[1], parts.NARROWEST) + parts.MARGIN
        row = panel[0] + parts.CAPTION_HEIGHT + parts.MARGIN
        expected = (
            rows * row + parts.MARGIN + parts.FOOTER_HEIGHT,
            columns * column + parts.MARGIN,
            3,
        )
        assert figure.shape == expected
        assert figure.dtype == np.uint8
        hot = parts.MARGIN + panel[0] // 2, parts.MARGIN + column + panel[1] // 2
        assert colourfulness(figure[hot]) > 30
        assert colourfulness(figure[hot[0], hot[1] - column]) == 0

    def test_tiny_pictures_keep_their_pixels_visible(self):
        photo = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
        figure = render.picture([explanation(photo)])
        panel = figure[parts.MARGIN :][:336, parts.MARGIN :][:, :336]
        np.testing.assert_array_equal(panel, photo.repeat(12, axis=0).repeat(12, axis=1))

    def test_captions(self, written):
        photo = grey(200, 300)
        none = np.zeros((24, 24), np.float32)
        render.picture(
            [
                explanation(photo),
                explanation(photo, label=None, probability=None, score=-1.5),
                explanation(photo, saliency_map=none, probability=0.0004),
                explanation(photo, saliency_map=none, cam=np.ones((2, 2), np.float32)),
            ]
        )
        assert {
            "photo, 300 x 200",
            "the model sees all of it",
            "seven (7)",
            "50.0 %, score 12.35",
            "class 7",
            "score -1.5",
            "0.0 %, score 12.35, no positive evidence",
            "50.0 %, score 12.35, the same everywhere",
            "0",
            "0.5",
            "1",
            "saliency (scaled per map)",
            "Grad-CAM at relu",
        } == set(written)

    def test_a_method_without_a_written_name_keeps_its_own(self, written):
        render.picture([explanation(grey(200, 300), method="othercam")])
        assert "othercam at relu" in written

    def test_a_crop_is_framed(self, written):
        figure = render.picture([explanation(grey(400, 400), box=(100, 50, 300, 250))])
        assert "framed: what the model sees" in written
        photo = figure[parts.MARGIN :][:400, parts.MARGIN :][:, :400]
        bright = (photo == 255).all(axis=2)
        rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
        assert (rows[0], rows[-1], columns[0], columns[-1]) == (50, 249, 100, 299)
        assert not bright[60:240, 110:290].any()

    def test_long_names_are_shortened_to_their_column(self, written):
        name = "a very long\nname of a class " * 400
        layer = "/backbone/" * 100
        figure = render.picture([explanation(grey(336, 336), label=name, target_layers=(layer,))])
        shortened = [text for text in written if text.endswith("…")]
        assert [text[:20] for text in shortened] == ["a very long name of ", "Grad-CAM at /backbon"]
        font = parts.font(parts.TITLE_SIZE)
        assert 300 < font.getlength(shortened[0]) <= 336
        margin = figure[parts.MARGIN + 336 :, -parts.MARGIN + 1 :]
        assert (margin == 255).all()

    def test_attributions(self, written):
        photo, values = grey(48, 48), np.ones((3, 24, 24), np.float32)
        fields = {"cam": None, "attribution": values, "target_layers": ()}
        figure = render.picture([explanation(photo, method="smoothgrad", **fields)])
        assert "SmoothGrad, the brightest 1 % alike" in written
        alone = replace(explanation(photo, **fields), saliency_map=np.zeros((24, 24), np.float32))
        render.picture([alone])
        assert any("the same everywhere" in text for text in written)
        assert figure.ndim == 3

    def test_several_layers(self, written):
        render.picture([explanation(grey(48, 48), target_layers=("a", "b"))])
        assert "Grad-CAM at a, b" in written

    def test_refusals(self):
        photo = grey(20, 20)
        one = explanation(photo)
        for several in (
            [],
            [one, explanation(photo.copy())],
            [one, explanation(photo, method="other")],
            [one, explanation(photo, target_layers=("other",))],
            [one, explanation(photo, box=(0, 0, 10, 10))],
        ):
            with pytest.raises(ValueError, match="explanations of one picture, by one method"):
                render.picture(several)
        with pytest.raises(ImageError, match="no picture to draw on"):
            render.picture([replace(one, image=None)])


class TestSave:
    @pytest.mark.parametrize("suffix", [*render.FORMATS, ".PNG", ".Jpg"])
    def test_the_suffix_says_the_format(self, tmp_path, suffix):
        path = tmp_path / f"out{suffix}"
        render.save(grey(20, 30, 90), path)
        with Image.open(path) as read:
            assert read.format == render.FORMATS[suffix.lower()]
            assert np.abs(np.asarray(read.convert("RGB")).astype(int) - 90).max() <= 2
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    @pytest.mark.parametrize(
        ("name", "word"), [("out.gif", "'.gif'"), ("out", "'a file without suffix'")]
    )
    def test_other_suffixes_are_refused(self, tmp_path, name, word):
        with pytest.raises(OutputFileError, match=r"use one of \.png, \.jpg") as caught:
            render.save(grey(4, 4), tmp_path / name)
        assert word in str(caught.value)
        assert not list(tmp_path.iterdir())

    def test_a_missing_folder(self, tmp_path):
        with pytest.raises(OutputFileError, match="give another place"):
            render.save(grey(4, 4), tmp_path / "absent" / "out.png")

    def test_what_the_format_can_not_hold_leaves_no_file(self, tmp_path):
        with pytest.raises(OutputFileError, match="can't be written"):
            render.save(grey(1, 70_000), tmp_path / "out.jpg")
        assert not list(tmp_path.iterdir())
