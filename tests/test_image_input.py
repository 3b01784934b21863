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
        ([], r"^m: has 0 inputs \(\); only models whose one input"),
        ([["b", 3, 8, 8], ["b", 5]], r"^m: has 2 inputs \(x0, x1\)"),
        ([["b", 5]], r"input 'x0' has shape \[b,5\]; a batch of images has 4 axes"),
        ([None], "input 'x0' has shape None"),
        ([["b", 7, 8, 8]], "neither 1, 3 nor 4 channels at axis 1 or axis 3; fix its channel"),
        ([["b", "c", 8, 8]], "neither 1, 3 nor 4 channels"),
    ],
)
def test_refusals(shapes, message):
    with pytest.raises(InputShapeError, match=message):
        find(graph(*shapes), "m")


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
