import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xai_onnx import preprocess
from xai_onnx.errors import ImageError
from xai_onnx.preprocess import MAX_PIXELS, prepare, read_image
from xai_onnx.recipe import COLORS, INTERPOLATIONS, LAYOUTS, PRESETS, parse


def pixels(height, width, channels=3, seed=0):
    """A smooth picture with some noise."""
    y, x, c = np.mgrid[0:height, 0:width, 0:channels]
    wave = np.sin(y / 7 + c) * np.cos(x / 9 - c)
    noise = np.random.default_rng(seed).normal(0, 9, wave.shape)
    picture = np.clip(127 + 110 * wave + noise, 0, 255).astype(np.uint8)
    return picture if channels > 1 else picture[..., 0]


def triangle(size, new):
    """Weights [new, size] of an antialiased bilinear resize (half-pixel centres)."""
    scale = size / new
    reach = max(scale, 1.0)
    centers = (np.arange(new) + 0.5) * scale
    distance = np.abs(np.arange(size) + 0.5 - centers[:, None]) / reach
    weights = np.maximum(1 - distance, 0)
    return weights / weights.sum(axis=1, keepdims=True)


def twin(image, recipe):
    """`prepare`'s tensor in float64, with a plain matrix resize, not rounded to whole pixels."""
    height, width = image.shape[:2]
    new_height, new_width = recipe.height, recipe.width
    if recipe.shortest_side is not None:
        short, long = sorted((height, width))
        sides = {short: recipe.shortest_side, long: int(recipe.shortest_side * long / short)}
        new_height, new_width = sides[height], sides[width]
    rows, columns = triangle(height, new_height), triangle(width, new_width)
    resized = np.einsum("yh,hwc,xw->yxc", rows, image.astype(float), columns, optimize=True)
    top, left = round((new_height - recipe.height) / 2), round((new_width - recipe.width) / 2)
    seen = resized[top : top + recipe.height, left : left + recipe.width]
    if recipe.color == "BGR":
        seen = seen[..., ::-1]
    tensor = (seen * recipe.scale - recipe.mean) / recipe.std
    return tensor.transpose(2, 0, 1) if recipe.layout == "NCHW" else tensor


def png_header(width, height, depth=8, kind=2):
    """A PNG that ends after its header and an empty stretch of data."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


def refusal(path):
    with pytest.raises(ImageError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


class TestTensor:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("name", PRESETS)
    def test_values_against_float64(self, name, layout):
        """At the tensor's own size no resize interferes: every value to 1e-6."""
        image = pixels(64, 80)
        recipe = parse(f"{name},resize=squash", layout, 64, 80)
        prepared = prepare(image, recipe)
        channels = image[..., ::-1] if recipe.color == "BGR" else image
        expected = (channels.astype(np.float64) * recipe.scale - recipe.mean) / recipe.std
        if layout == "NCHW":
            expected = expected.transpose(2, 0, 1)
        assert prepared.tensor.dtype == np.float32
        assert prepared.tensor.flags.c_contiguous
        np.testing.assert_allclose(prepared.tensor, expected, rtol=1e-7, atol=1e-7)

    @pytest.mark.parametrize("shape", [(90, 130), (130, 90), (40, 30), (64, 64), (200, 31)])
    @pytest.mark.parametrize("text", ["torchvision", "caffe", "unit,resize=65", "raw"])
    def test_resize_and_crop_against_a_twin(self, shape, text):
        """Within Pillow's rounding to whole pixel values after each of the two passes."""
        image = pixels(*shape)
        recipe = parse(text, "NCHW", 48, 56)
        step = recipe.scale / min(recipe.std)
        tensor = prepare(image, recipe).tensor
        assert np.abs(tensor - twin(image, recipe)).max() <= 1.1 * step

    @pytest.mark.parametrize("interpolation", INTERPOLATIONS)
    def test_each_interpolation_is_pillows_own(self, interpolation):
        image = pixels(61, 47)
        recipe = parse(f"raw,interpolation={interpolation}", "NHWC", 24, 32)
        kind = Image.Resampling[interpolation.upper()]
        expected = np.asarray(Image.fromarray(image).resize((32, 24), kind))
        np.testing.assert_array_equal(prepare(image, recipe).tensor, expected)

    def test_grey(self):
        image = pixels(20, 30)
        recipe = parse("raw,color=gray,mean=5,std=2", "NCHW", 20, 30)
        tensor = prepare(image, recipe).tensor
        assert tensor.shape == (1, 20, 30)
        luma = image @ np.array([0.299, 0.587, 0.114])
        assert np.abs(tensor[0] * 2 + 5 - luma).max() <= 0.51
        channels_last = prepare(image, replace(recipe, layout="NHWC")).tensor
        np.testing.assert_array_equal(channels_last[..., 0], tensor[0])

    @pytest.mark.parametrize("color", COLORS)
    def test_the_picture_stays_as_it_was(self, color):
        image = pixels(30, 20)
        numbers = "mean=0,std=1" if color == "GRAY" else "mean=0/0/0,std=1/1/1"
        prepared = prepare(image, parse(f"raw,color={color},{numbers}", "NCHW", 8, 8))
        np.testing.assert_array_equal(prepared.image, image)

    def test_a_path_gives_what_its_pixels_give(self, tmp_path):
        image = pixels(50, 70)
        Image.fromarray(image).save(tmp_path / "a.png")
        recipe = parse("lite", "NCHW", 32, 32)
        from_file, from_array = prepare(tmp_path / "a.png", recipe), prepare(image, recipe)
        np.testing.assert_array_equal(from_file.tensor, from_array.tensor)
        np.testing.assert_array_equal(from_file.image, image)
        assert from_file.box == from_array.box

    def test_grey_and_strided_arrays(self):
        grey, recipe = pixels(30, 40, channels=1), parse("raw", "NHWC", 30, 40)
        prepared = prepare(grey, recipe)
        np.testing.assert_array_equal(prepared.tensor, np.stack([grey] * 3, axis=2))
        assert prepared.image.shape == (30, 40, 3)
        mirrored = pixels(30, 40)[:, ::-1]
        np.testing.assert_array_equal(prepare(mirrored, recipe).tensor, mirrored)


class TestBox:
    @pytest.mark.parametrize(
        ("shape", "resized", "corner"),  # height x width; torchvision's int() and round-to-even
        [
            ((400, 600), (256, 384), (16, 80)),
            ((500, 333), (384, 256), (80, 16)),
            ((256, 257), (256, 257), (16, 16)),
            ((256, 259), (256, 259), (16, 18)),
            ((256, 256), (256, 256), (16, 16)),
        ],
    )
    def test_centre_crop(self, shape, resized, corner):
        image = np.zeros((*shape, 3), np.uint8)
        left, top, right, bottom = prepare(image, parse("torchvision", "NCHW", 224, 224)).box
        y, x = shape[0] / resized[0], shape[1] / resized[1]
        expected = (corner[1] * x, corner[0] * y, (corner[1] + 224) * x, (corner[0] + 224) * y)
        assert (left, top, right, bottom) == pytest.approx(expected)

    def test_squashed_the_model_sees_everything(self):
        assert prepare(pixels(30, 50), parse("unit", "NCHW", 8, 8)).box == (0, 0, 50, 30)

    def test_a_mark_at_the_boxs_centre_lands_in_the_tensors_centre(self):
        image = np.zeros((200, 300, 3), np.uint8)
        image[95:105, 145:155] = 255
        tensor = prepare(image, parse("unit,resize=72", "NCHW", 64, 64)).tensor[0]
        y, x = (float((tensor * grid).sum() / tensor.sum()) for grid in np.mgrid[0:64, 0:64] + 0.5)
        assert (x, y) == pytest.approx((32, 32), abs=0.2)

    def test_a_thread_like_picture_is_refused_before_it_fills_the_memory(self):
        recipe = parse("torchvision", "NCHW", 224, 224)
        with pytest.raises(ImageError, match="2x4000 pixels would become 256x512000"):
            prepare(np.zeros((4000, 2, 3), np.uint8), recipe)


class TestArrays:
    @pytest.mark.parametrize(
        "array",
        [
            np.zeros((4, 4, 3), np.float32),
            np.zeros((4, 4, 3), np.int64),
            np.zeros((3, 4, 4), np.uint8),
            np.zeros((4, 4, 4), np.uint8),
            np.zeros((1, 4, 4, 3), np.uint8),
            np.zeros((0, 4, 3), np.uint8),
            np.zeros(4, np.uint8),
        ],
    )
    def test_what_is_no_picture_is_refused(self, array):
        with pytest.raises(ImageError, match=r"must be uint8 RGB .*preprocessed=True") as caught:
            prepare(array, parse("unit", "NCHW", 8, 8))
        assert f"not {array.dtype} {list(array.shape)}" in str(caught.value)


class TestReading:
    def test_rgb(self, tmp_path):
        image = pixels(20, 30)
        Image.fromarray(image).save(tmp_path / "a.png")
        read = read_image(str(tmp_path / "a.png"))
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, image)

    @pytest.mark.parametrize(
        ("orientation", "upright"),
        [
            (1, lambda a: a),
            (2, lambda a: a[:, ::-1]),
            (3, lambda a: a[::-1, ::-1]),
            (4, lambda a: a[::-1]),
            (5, lambda a: a.transpose(1, 0, 2)),
            (6, lambda a: np.rot90(a, -1)),
            (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
            (8, lambda a: np.rot90(a)),
        ],
    )
    def test_exif_orientation(self, tmp_path, orientation, upright):
        image = pixels(20, 30)
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), upright(image))

    def test_transparency_is_laid_on_white(self, tmp_path):
        image = np.zeros((1, 3, 4), np.uint8)
        image[0] = [(200, 10, 0, 255), (200, 10, 0, 0), (0, 0, 0, 51)]
        Image.fromarray(image).save(tmp_path / "a.png")
        expected = [[(200, 10, 0), (255, 255, 255), (204, 204, 204)]]
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)

    def test_a_palette_with_a_transparent_colour(self, tmp_path):
        image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.save(tmp_path / "a.png", transparency=1)
        np.testing.assert_array_equal(
            read_image(tmp_path / "a.png"), [[(10, 20, 30), (255, 255, 255)]]
        )

    @pytest.mark.parametrize("mode", ["L", "LA", "1"])
    def test_grey(self, tmp_path, mode):
        grey = np.array([[0, 255], [255, 0]], np.uint8)
        Image.fromarray(grey).convert(mode).save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.stack([grey] * 3, axis=2))

    @pytest.mark.parametrize("suffix", ["png", "pgm", "tif"])
    def test_16_bit_grey_is_rounded(self, tmp_path, suffix):
        grey = np.array([[0, 128, 129], [257 * 100, 257 * 100 + 129, 65535]], np.uint16)
        Image.fromarray(grey).save(tmp_path / f"a.{suffix}")
        expected = [[0, 0, 1], [100, 101, 255]]
        np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}")[..., 0], expected)

    def test_16_bit_grey_as_older_pillow_opens_it(self, tmp_path):
        """A PPM of more than 8 bits opens as 32-bit integers in every version."""
        (tmp_path / "a.pgm").write_bytes(b"P5 2 1 65535 " + struct.pack(">2H", 257, 65535))
        with Image.open(tmp_path / "a.pgm") as picture:
            assert picture.mode == "I"
        np.testing.assert_array_equal(read_image(tmp_path / "a.pgm")[0, :, 0], [1, 255])

    @pytest.mark.parametrize(("kind", "word"), [(np.int32, "integers"), (np.float32, "floats")])
    def test_pixels_without_a_known_range_are_refused(self, tmp_path, kind, word):
        Image.fromarray(np.ones((2, 2), kind)).save(tmp_path / "a.tif")
        assert f"32-bit {word}" in refusal(tmp_path / "a.tif")

    def test_cmyk(self, tmp_path):
        Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
        red, green, blue = read_image(tmp_path / "a.jpg")[4, 4]
        assert red > 240
        assert max(green, blue) < 15

    def test_an_animation_gives_its_first_frame(self, tmp_path):
        frames = [Image.new("RGB", (4, 4), color) for color in ("red", "lime", "blue")]
        frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
        assert (read_image(tmp_path / "a.gif") == (255, 0, 0)).all()

    @pytest.mark.parametrize("file_format", preprocess.FORMATS)
    def test_every_format(self, tmp_path, file_format):
        image = np.full((16, 16, 3), (90, 120, 150), np.uint8)
        Image.fromarray(image).save(tmp_path / "a", file_format)
        assert np.abs(read_image(tmp_path / "a").astype(int) - image).max() <= 4


class TestRefusals:
    @pytest.mark.parametrize("suffix", ["jpg", "png"])
    @pytest.mark.parametrize("keep", [0.3, 0.9])
    def test_truncated(self, tmp_path, suffix, keep):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(pixels(120, 120)).save(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * keep)])
        assert "truncated" in refusal(path)

    def test_damaged(self, tmp_path):
        path = tmp_path / "a.png"
        Image.fromarray(pixels(60, 60)).save(path)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
        assert "can't be read" in refusal(path)

    @pytest.mark.parametrize("data", [b"", b"not a picture\n", b"\x89PNG\r\n\x1a\n"])
    def test_not_a_picture(self, tmp_path, data):
        (tmp_path / "a.png").write_bytes(data)
        assert "not a picture; give a file in one of JPEG, PNG" in refusal(tmp_path / "a.png")

    def test_formats_that_start_other_programs_are_not_opened(self, tmp_path):
        path = tmp_path / "a.eps"
        Image.new("RGB", (4, 4)).save(path)
        assert "not a picture" in refusal(path)

    def test_missing(self, tmp_path):
        assert "can't be opened: No such file" in refusal(tmp_path / "absent.png")

    def test_a_folder(self, tmp_path):
        assert "can't be opened: Is a directory; give" in refusal(tmp_path)

    @pytest.mark.parametrize("size", [(10_001, 10_000), (13_000, 12_000), (60_000, 60_000)])
    def test_too_large_by_its_header_alone(self, tmp_path, size):
        path = tmp_path / "huge.png"
        path.write_bytes(png_header(*size))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            message = refusal(path)
        assert "too large" in message
        assert "smaller picture" in message

    def test_below_our_limit_pillows_lower_one_says_nothing(self, tmp_path, monkeypatch):
        image = pixels(20, 20)
        Image.fromarray(image).save(tmp_path / "a.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image)

    def test_the_limit_itself_is_allowed(self, tmp_path, monkeypatch):
        Image.fromarray(pixels(20, 20)).save(tmp_path / "a.png")
        monkeypatch.setattr(preprocess, "MAX_PIXELS", 400)
        assert read_image(Path(tmp_path / "a.png")).shape == (20, 20, 3)
        monkeypatch.setattr(preprocess, "MAX_PIXELS", 399)
        assert "20x20 pixels, more than 399" in refusal(tmp_path / "a.png")
        assert MAX_PIXELS == 100_000_000
