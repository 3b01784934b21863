import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from tiny_net import tiny_net

from exporters.image_input import find
from xai_onnx.errors import InputShapeError, PreprocessError
from xai_onnx.recipe import parse


def graph(*shapes, kind=TensorProto.FLOAT):
    """A graph whose inputs have the shapes."""
    inputs = [helper.make_tensor_value_info(f"x{i}", kind, s) for i, s in enumerate(shapes)]
    model = helper.make_model(helper.make_graph([], "g", inputs, []))
    return ir.serde.deserialize_model(model).graph


@pytest.mark.parametrize(
    ("shape", "layout", "sizes"),
    [
        (["b", 3, 8, 9], "NCHW", (None, 3, 8, 9)),
        ([4, 1, "h", "w"], "NCHW", (4, 1, None, None)),
        (["b", 8, 9, 3], "NHWC", (None, 3, 8, 9)),
        ([None, None, None, 4], "NHWC", (None, 4, None, None)),
        ([0, 3, 8, 8], "NCHW", (None, 3, 8, 8)),
        ([-1, 3, 8, 8], "NCHW", (None, 3, 8, 8)),
        (["b", 3, 8, 3], "NCHW", (None, 3, 8, 3)),
    ],
)
def test_layout_and_sizes(shape, layout, sizes):
    found = find(graph(shape), "m")
    assert found.layout == layout
    assert (found.batch, found.channels, found.height, found.width) == sizes


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([], r"^m: none of its inputs \(\) can take the picture"),
        ([["b", 7], ["b", 5]], r"^m: none of its inputs \('x0' .*, 'x1' .*--input"),
        ([["b", 3, 8, 8], ["b", 1, 8, 8]], r"^m: 2 of its inputs \('x0' .*, 'x1' .*--input"),
        ([["b", 5]], r"input 'x0' has shape \[b,5\]; a batch of images has 4 axes"),
        ([None], "input 'x0' has shape None"),
        ([["b", 7, 8, 8]], "neither 1, 3 nor 4 channels at axis 1 or axis 3; fix its channel"),
        ([["b", "c", 8, 8]], "neither 1, 3 nor 4 channels"),
    ],
)
def test_refusals(shapes, message):
    with pytest.raises(InputShapeError, match=message):
        find(graph(*shapes), "m")


class TestSeveralInputs:
    def test_the_only_batch_of_images(self):
        found = find(graph(["b", 4], ["b", 3, 8, 9], [1]), "m")
        assert found.value.name == "x1"
        assert [value.name for value in found.beside] == ["x0", "x2"]

    def test_by_name(self):
        found = find(graph(["b", 3, 8, 9], ["b", 8, 9, 1]), "m", "x1")
        assert (found.value.name, found.layout, found.channels) == ("x1", "NHWC", 1)
        assert [value.name for value in found.beside] == ["x0"]

    @pytest.mark.parametrize(
        ("wanted", "message"),
        [
            ("x2", r"^m: has no input 'x2'; its inputs are 'x0' \[b,3,8,8\], 'x1' \[b,5\]$"),
            ("x1", r"input 'x1' has shape \[b,5\]; a batch of images has 4 axes"),
        ],
    )
    def test_refusals(self, wanted, message):
        with pytest.raises(InputShapeError, match=message):
            find(graph(["b", 3, 8, 8], ["b", 5]), "m", wanted)

    def test_what_all_of_them_are_fed(self):
        """Sizes of one name are the same; a free one of a name that the image hasn't is 1."""
        image = find(graph(["b", 3, "h", 9], ["b", "h", "x"], [2]), "m")
        feed = image.feed(2, (30, 40))
        assert {name: array.shape for name, array in feed.items()} == {
            "x0": (2, 3, 30, 9),
            "x1": (2, 30, 1),
            "x2": (2,),
        }
        assert {array.dtype for array in feed.values()} == {np.dtype(np.float32)}
        again = image.feed(2, (30, 40))
        other = image.feed(2, (30, 40), seed=1)
        for name, array in feed.items():
            np.testing.assert_array_equal(array, again[name])
            assert not np.array_equal(array, other[name])

    def test_other_types(self):
        model = graph(["b", 3, 8, 8])
        kinds = {"flag": ir.DataType.BOOL, "ids": ir.DataType.INT64, "half": ir.DataType.FLOAT16}
        for name, kind in kinds.items():
            value = ir.Value(name=name, shape=ir.Shape(["b", 4]), type=ir.TensorType(kind))
            model.inputs.append(value)
        feed = find(model, "m").feed(2, (8, 8))
        assert {name: feed[name].dtype for name in kinds} == {
            "flag": np.dtype(bool),
            "ids": np.dtype(np.int64),
            "half": np.dtype(np.float16),
        }


class TestNoise:
    @pytest.mark.parametrize(
        ("shape", "expected"),
        [
            (["b", 3, 8, 9], (2, 3, 8, 9)),
            ([5, 3, 8, 9], (5, 3, 8, 9)),
            (["b", 3, "h", "w"], (2, 3, 30, 40)),
            (["b", 3, 8, "w"], (2, 3, 8, 40)),
            (["b", "h", "w", 3], (2, 30, 40, 3)),
        ],
    )
    def test_shapes(self, shape, expected):
        assert find(graph(shape), "m").noise(2, (30, 40)).shape == expected

    @pytest.mark.parametrize(
        ("kind", "dtype"),
        [
            (TensorProto.FLOAT, np.float32),
            (TensorProto.FLOAT16, np.float16),
            (TensorProto.UINT8, np.uint8),
        ],
    )
    def test_types(self, kind, dtype):
        noise = find(graph(["b", 3, 8, 9], kind=kind), "m").noise(2, (8, 8))
        assert noise.dtype == dtype
        assert noise.std() > 0.5

    def test_seeds(self):
        image = find(graph(["b", 3, 8, 9]), "m")
        np.testing.assert_array_equal(image.noise(2, (8, 8)), image.noise(2, (8, 8)))
        assert not np.array_equal(image.noise(2, (8, 8)), image.noise(2, (8, 8), seed=1))


class TestRecipes:
    def test_text_and_recipes_are_checked_against_the_input(self):
        image = find(graph(["b", 3, 8, 9]), "m")
        recipe = parse("unit", "NCHW", 8, 9)
        assert image.fitting("unit") == image.fitting(recipe) == recipe
        with pytest.raises(
            PreprocessError, match="NCHW 9x9 contradicts the model's input, NCHW 8x9"
        ):
            image.fitting(parse("unit", "NCHW", 9, 9))

    def test_integers_take_pixel_values_only(self):
        image = find(graph(["b", 3, 8, 9], kind=TensorProto.UINT8), "m")
        assert image.fitting("raw").scale == 1
        with pytest.raises(PreprocessError, match="takes integers"):
            image.fitting("unit")


def test_the_input_of_a_whole_model():
    model = ir.serde.deserialize_model(tiny_net(layout="NHWC", batch=3))
    found = find(model.graph, "m")
    assert (found.value.name, found.layout, found.batch) == ("image", "NHWC", 3)
