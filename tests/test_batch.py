from types import SimpleNamespace

import numpy as np
import pytest
from tiny_net import photos

from xai_onnx.batch import BATCH_SIZE, Batch, ImageInput
from xai_onnx.errors import InputShapeError, NonFiniteError, PreprocessError
from xai_onnx.recipe import parse

FLOAT = np.dtype(np.float32)


def value(shape, kind="tensor(float)"):
    return SimpleNamespace(name="image", type=kind, shape=shape)


def image(layout="NCHW", batch=None, dtype=FLOAT, size=8):
    return ImageInput("image", dtype, layout, batch, 3, size, size)


class TestImageInput:
    @pytest.mark.parametrize(
        ("shape", "layout", "sizes"),
        [
            (["b", 3, 8, 9], "NCHW", (None, 3, 8, 9)),
            ([2, 1, "h", "w"], "NCHW", (2, 1, None, None)),
            (["b", 8, 9, 3], "NHWC", (None, 3, 8, 9)),
            ([None, None, None, 3], "NHWC", (None, 3, None, None)),
            (["b", 4, 4, 3], "NCHW", (None, 4, 4, 3)),
        ],
    )
    def test_layout_and_sizes(self, shape, layout, sizes):
        found = ImageInput.of(value(shape), "m")
        assert found.layout == layout
        assert (found.batch, found.channels, found.height, found.width) == sizes
        assert found.shape == tuple(size if isinstance(size, int) else None for size in shape)

    @pytest.mark.parametrize(
        ("kind", "dtype"),
        [("float", "float32"), ("float16", "float16"), ("double", "float64"), ("uint8", "uint8")],
    )
    def test_types(self, kind, dtype):
        assert ImageInput.of(value(["b", 3, 8, 8], f"tensor({kind})"), "m").dtype == dtype

    @pytest.mark.parametrize(
        ("shape", "kind"),
        [(["b", 5], "tensor(float)"), ([], "tensor(float)"), (["b", 3, 8, 8], "tensor(int64)")],
    )
    def test_other_inputs(self, shape, kind):
        with pytest.raises(InputShapeError, match=r"^m: its input 'image' is a .*\[B, 3, H, W\]"):
            ImageInput.of(value(shape, kind), "m")

    def test_a_recipe_that_does_not_fit(self):
        assert image().fitting("unit") == parse("unit", "NCHW", 8, 8)
        with pytest.raises(PreprocessError, match="integers"):
            image(dtype=np.dtype(np.uint8)).fitting("unit")


class TestPictures:
    @pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
    def test_tensors_have_the_models_layout_and_type(self, layout):
        wanted = image(layout, dtype=np.dtype(np.float16))
        batch = Batch.of_pictures(photos(2), parse("unit", layout, 8, 8), wanted)
        assert len(batch) == 2
        assert not batch.single
        assert [t.shape for t in batch.tensors] == [wanted.shape[1:]] * 2
        assert {t.dtype for t in batch.tensors} == {np.dtype(np.float16)}
        assert batch.prepared[1].image.shape == (48, 56, 3)

    @pytest.mark.parametrize("grey", [False, True])
    def test_a_single_picture(self, grey):
        picture = photos(1)[0][..., 0] if grey else photos(1)[0]
        batch = Batch.of_pictures(picture, parse("unit", "NCHW", 8, 8), image())
        assert batch.single
        assert len(batch) == 1


class TestTensors:
    def test_rows_of_the_models_type(self):
        batch = Batch.of_tensor(np.zeros((2, 3, 8, 8)), image(), "m")
        assert {row.dtype for row in batch.tensors} == {FLOAT}
        assert batch.prepared == [None, None]
        assert not batch.single

    def test_free_sizes_take_any(self):
        batch = Batch.of_tensor(np.zeros((1, 3, 5, 6)), image(size=None), "m")
        assert len(batch) == 1

    @pytest.mark.parametrize("shape", [(3, 8, 8), (1, 3, 8, 9), (1, 2, 8, 8), (1, 1, 3, 8, 8)])
    def test_other_shapes(self, shape):
        with pytest.raises(InputShapeError, match=r"^m: takes .*\[any, 3, 8, 8\], not \["):
            Batch.of_tensor(np.zeros(shape), image(), "m")

    @pytest.mark.parametrize("dtype", ["float32", "int64", "U1"])
    def test_types_that_would_lose_something(self, dtype):
        tensor, wanted = np.zeros((1, 3, 8, 8), dtype), image(dtype=np.dtype(np.uint8))
        with pytest.raises(InputShapeError, match=r"takes a tensor of uint8, not of .*; convert"):
            Batch.of_tensor(tensor, wanted, "m")

    def test_not_finite(self):
        tensor = np.zeros((1, 3, 8, 8))
        tensor[0, 0, 0, 0] = np.nan
        with pytest.raises(NonFiniteError, match=r"^m: the input tensor holds NaN"):
            Batch.of_tensor(tensor, image(), "m")


class TestRuns:
    @staticmethod
    def runs(count, fixed):
        tensor = np.arange(count, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 8, 8))
        batch = Batch.of_tensor(tensor, image(), "m")
        return [(which, run[:, 0, 0, 0].tolist()) for which, run in batch.runs(fixed)]

    def test_free_batches(self):
        found = self.runs(BATCH_SIZE + 2, None)
        assert [which for which, _ in found] == [
            slice(0, BATCH_SIZE),
            slice(BATCH_SIZE, BATCH_SIZE + 2),
        ]
        assert found[1][1] == [BATCH_SIZE, BATCH_SIZE + 1]

    def test_fixed_batches_repeat_the_last_picture(self):
        assert self.runs(5, 3) == [(slice(0, 3), [0, 1, 2]), (slice(3, 5), [3, 4, 4])]
        assert self.runs(1, 3) == [(slice(0, 1), [0, 0, 0])]

    @pytest.mark.parametrize("fixed", [None, 3])
    def test_nothing_to_run(self, fixed):
        assert self.runs(0, fixed) == []
