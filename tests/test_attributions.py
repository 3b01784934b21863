"""The methods that go to the pixels, one by one: their pictures and what they make of G."""

import numpy as np
import onnx_ir as ir
import pytest
from emitted import evaluate, placeholder

from exporters.attributions import (
    ATTRIBUTION_METHODS,
    AveragedAttribution,
    attribution_method,
)
from exporters.builder import Ops
from exporters.image_input import ImageInput

rng = np.random.default_rng(0)
X = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
AVERAGED = [
    name for name, method in ATTRIBUTION_METHODS.items() if isinstance(method, AveragedAttribution)
]


def scene(name, dtype=ir.DataType.FLOAT, sizes=(3, 4, 5)):
    """A method, a builder, the image and the method's inputs."""
    x = placeholder("image", ["n", *sizes], dtype)
    op = Ops({"image"})
    image = ImageInput(x, "NCHW", None, 3, 4, 5)
    method = ATTRIBUTION_METHODS[name]
    return method, op, x, method.inputs(op, image)


def declared(value):
    return [d if isinstance(d, int) else d.value for d in value.shape]


def test_which_average():
    assert AVERAGED == ["smoothgrad", "integrated-gradients"]
    assert all(method.averages == (n in AVERAGED) for n, method in ATTRIBUTION_METHODS.items())


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("saliency", {}),
        ("input-x-gradient", {}),
        ("smoothgrad", {"noise": ["n", 3, 4, 5]}),
        ("integrated-gradients", {"steps": [1], "baseline": [1, 3, 4, 5]}),
    ],
)
@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE])
def test_what_a_file_takes(name, inputs, dtype):
    *_, found = scene(name, dtype)
    assert {role: declared(value) for role, value in found.items()} == inputs
    for role, value in found.items():
        assert value.dtype == (ir.DataType.INT64 if role == "steps" else dtype)


def test_free_sizes_and_names_that_are_taken():
    x = placeholder("baseline", ["n", 3, "h", "w"])
    op = Ops({"baseline", "steps"})
    image = ImageInput(x, "NCHW", None, 3, None, None)
    found = ATTRIBUTION_METHODS["integrated-gradients"].inputs(op, image)
    assert {role: value.name for role, value in found.items()} == {
        "steps": "steps_2",
        "baseline": "baseline_2",
    }
    assert declared(found["baseline"]) == [1, 3, "h", "w"]


def pictures(name, arrays, count):
    """Pictures 1 to `count`, and how many the method says there are."""
    seen = []
    for number in range(count + 1):
        method, op, x, inputs = scene(name)
        turn = placeholder("turn", [], ir.DataType.INT64)
        total = method.count(op, inputs)
        picture = method.picture(op, x, turn, total, method.ready(op, inputs))
        feed = {x: X, turn: number, **{inputs[role]: array for role, array in arrays.items()}}
        counted, made = evaluate(op, [op.Identity(total), picture], feed)
        assert counted.tolist() == [count]
        seen.append(made)
    return seen[1:]  # number 0 only has to be possible


def test_pictures_of_smoothgrad():
    noise = rng.standard_normal((3, 3, 4, 5)).astype(np.float32)
    for made, draw in zip(pictures("smoothgrad", {"noise": noise}, 3), noise, strict=True):
        expected = [x + (x.max() - x.min()) * draw for x in X]
        np.testing.assert_allclose(made, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 4])
def test_pictures_of_integrated_gradients(steps):
    baseline = rng.standard_normal((1, 3, 4, 5)).astype(np.float32)
    arrays = {"steps": [steps], "baseline": baseline}
    for index, made in enumerate(pictures("integrated-gradients", arrays, steps)):
        share = (index + 0.5) / steps
        expected = share * X + (1 - share) * baseline
        np.testing.assert_allclose(made, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("name", ATTRIBUTION_METHODS)
def test_what_is_made_of_the_gradient(name, k):
    method, op, x, inputs = scene(name)
    g = placeholder("g", [None] * 5)
    baseline = rng.standard_normal((1, 3, 4, 5)).astype(np.float32)
    gradient = rng.standard_normal((k, *X.shape)).astype(np.float32)
    expected = {
        "saliency": gradient,
        "input-x-gradient": gradient * X,
        "smoothgrad": gradient,
        "integrated-gradients": gradient * (X - baseline),
    }
    result = op.Identity(method.attribution(op, x, g, inputs))
    feed = {g: gradient, x: X} | ({inputs["baseline"]: baseline} if "baseline" in inputs else {})
    got = evaluate(op, result, feed)
    np.testing.assert_allclose(got, expected[name], rtol=1e-6, atol=1e-6)


def test_a_second_method_of_a_name_is_an_error():
    with pytest.raises(ValueError, match="two attribution methods called 'saliency'"):
        attribution_method("saliency")(type(ATTRIBUTION_METHODS["saliency"]))
