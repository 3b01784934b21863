"""Emitting nodes: what would do nothing is not emitted, what is known is computed at once."""

import numpy as np
import onnx_ir as ir
import pytest
from emitted import content, evaluate, placeholder

from exporters.builder import Ops, is_ones

FLOAT = ir.DataType.FLOAT


@pytest.fixture
def op():
    return Ops(set())


@pytest.fixture
def x():
    return placeholder("x", [None, None])


def test_a_node_is_emitted_with_its_attributes_and_left_out_inputs(op, x):
    high = op.constant(0.5, FLOAT)
    y = op.LeakyRelu(op.Clip(x, None, high), alpha=0.5)
    assert [node.op_type for node in op.nodes] == ["Clip", "LeakyRelu"]
    assert op.nodes[0].inputs[1] is None
    np.testing.assert_array_equal(evaluate(op, y, {x: [[-2, 0, 1]]}), [[-1, 0, 0.5]])


def test_names_are_ours_and_none_is_taken_twice(x):
    op = Ops({"xai_onnx/Relu_0", "cam", "cam_2", "xai_onnx/constant_0"})
    y = op.Relu(x)
    assert op.nodes[0].name == "xai_onnx/Relu_0_2"
    assert y.name == "xai_onnx/Relu_0_2_output_0"
    assert op.constant(1).name == "xai_onnx/constant_0_2"
    assert [op.unique("cam"), op.unique("cam"), op.unique("map")] == ["cam_3", "cam_4", "map"]


def test_equal_constants_are_one_value(op):
    assert op.constant([1, 2]) is op.constant(np.array([1, 2]))
    distinct = [
        op.constant([1, 2]), op.constant([[1, 2]]), op.constant([1, 2], FLOAT), op.constant([1]),
    ]  # fmt: skip
    assert len({id(value) for value in distinct}) == 4
    assert op.initializers == distinct
    assert [value.dtype for value in distinct] == [ir.DataType.INT64] * 2 + [
        FLOAT,
        ir.DataType.INT64,
    ]


def test_equal_nodes_are_one_value(op, x):
    assert op.Transpose(x, perm=[1, 0]) is op.Transpose(x, perm=[1, 0])
    assert op.Transpose(x, perm=[1, 0]) is not op.Transpose(x, perm=[0, 1])
    assert op.Relu(x) is not op.Sigmoid(x)
    assert op.Add(x, op.Relu(x)) is not op.Add(op.Relu(x), x)
    assert len(op.nodes) == 6


def test_several_outputs(op, x):
    pooled, positions = op.TopK(x, op.constant([1]), _outputs=2)
    got = evaluate(op, [pooled, positions], {x: [[3, 1, 2], [0, 5, 4]]})
    np.testing.assert_array_equal(got[0], [[3], [5]])
    np.testing.assert_array_equal(got[1], [[0], [1]])


def test_only_operators_are_emitted(op):
    with pytest.raises(AttributeError, match="relu"):
        op.relu  # noqa: B018


def test_scale(op, x):
    one, two = op.constant(1, FLOAT), op.constant(2, FLOAT)
    assert op.scale(x, one) is x
    assert op.scale(two, two) is op.constant(4, FLOAT)
    assert op.nodes == []
    np.testing.assert_array_equal(evaluate(op, op.scale(x, two), {x: [[1, 2]]}), [[2, 4]])


def test_times(op, x):
    one = op.constant([[1]], FLOAT)
    assert op.times(one, x) is x
    assert op.nodes == []
    np.testing.assert_array_equal(evaluate(op, op.times(x, x), {x: [[1, 2]]}), [[1, 4]])


def test_transpose(op, x):
    assert op.transpose(x, [0, 1]) is x
    assert op.transpose(x, (1, 0)) is op.Transpose(x, perm=[1, 0])


@pytest.mark.parametrize(("method", "axes", "shape"), [("unsqueeze", [0, 2], (1, 2, 1, 3)),
                                                       ("squeeze", [0, 1], (2, 3))])  # fmt: skip
def test_squeeze_and_unsqueeze(op, method, axes, shape):
    array = np.arange(6, dtype=np.float32).reshape(
        (2, 3) if method == "unsqueeze" else (1, 1, 2, 3)
    )
    run = getattr(op, method)
    x = placeholder("x", array.shape)
    assert run(x, []) is x
    known = run(op.constant(array, FLOAT), axes)
    assert op.nodes == []
    np.testing.assert_array_equal(content(known), array.reshape(shape))
    np.testing.assert_array_equal(evaluate(op, run(x, axes), {x: array}), array.reshape(shape))


def test_a_squeeze_takes_back_what_was_just_inserted(op, x):
    wide = op.unsqueeze(x, [1, 3])
    assert op.squeeze(wide, [1, 3]) is x
    assert op.squeeze(wide, [1]) is not x


def test_a_product_goes_before_what_was_just_inserted(op, x):
    two = op.constant(2, FLOAT)
    product = op.scale(op.unsqueeze(x, [0]), two)
    assert op.squeeze(product, [0]) is op.Mul(x, two)
    np.testing.assert_array_equal(evaluate(op, product, {x: [[1, 2]]}), [[[2, 4]]])


def test_only_what_is_needed_is_kept_in_order(op, x):
    two, three = op.constant(2, FLOAT), op.constant(3, FLOAT)
    a = op.Mul(x, two)
    b = op.Clip(a, None, two)
    op.Mul(a, three)
    nodes, initializers = op.needed_for([b])
    assert [node.op_type for node in nodes] == ["Mul", "Clip"]
    assert initializers == [two]
    assert op.needed_for([three]) == ([], [three])


def test_is_ones(op, x):
    assert is_ones(op.constant([[[1.0]]], FLOAT))
    assert not is_ones(op.constant(2, FLOAT))
    assert not is_ones(op.constant([1.0, 1.0], FLOAT))
    assert not is_ones(op.constant(1))
    assert not is_ones(x)
    assert not is_ones(op.Relu(op.constant(1, FLOAT)))


def test_scaling_waits_for_what_moves_numbers(op, x):
    two = op.constant(2, FLOAT)
    y = op.squeeze(op.scale(op.unsqueeze(x, [0]), two), [0])
    assert y.producer().op_type == "Mul"
    assert y.producer().inputs[0] is x
    turned = op.transpose(op.scale(x, two), [1, 0])
    assert [node.op_type for node in op.needed_for([turned])[0]] == ["Transpose", "Mul"]
    np.testing.assert_array_equal(evaluate(op, turned, {x: [[1, 2]]}), [[2], [4]])


def test_permutations_become_one(op):
    x = placeholder("x", [None] * 3)
    assert op.transpose(op.transpose(x, [1, 2, 0]), [2, 0, 1]) is x
    once = op.transpose(op.transpose(x, [1, 2, 0]), [1, 2, 0])
    assert once.producer().inputs[0] is x
    given = np.arange(24).reshape(2, 3, 4)
    expected = given.transpose(1, 2, 0).transpose(1, 2, 0)
    np.testing.assert_array_equal(evaluate(op, once, {x: given}), expected)


def test_permuted_rows_are_gathered_in_that_order(op, x):
    indices = ir.Value(
        name="i", shape=ir.Shape([None, None]), type=ir.TensorType(ir.DataType.INT64)
    )
    rows = op.gather_rows(x, op.transpose(indices, [1, 0]))
    turned = op.transpose(rows, [1, 0, 2])
    assert [node.op_type for node in op.needed_for([turned])[0]] == ["Gather"]
    assert turned.producer().inputs[1] is indices
    kept = op.transpose(rows, [2, 0, 1])
    assert kept.producer().op_type == "Transpose"


def test_nodes_of_the_model_are_left_alone(op, x):
    node = ir.Node("", "Transpose", [x], [ir.AttrInt64s("perm", [1, 0])])
    y = op.transpose(node.outputs[0], [1, 0])
    assert y is not x
    assert y.producer().inputs[0] is node.outputs[0]


def test_the_mean_of_an_outer_product_leaves_the_product_out(op):
    rows, maps = placeholder("rows", [1, 2, 3, 1, 1]), placeholder("maps", [1, 2, 1, 4, 5])
    product = op.outer(rows, maps)
    mean = op.mean(product, [-2, -1])
    assert op.mean(product, []) is product
    assert product.producer() not in op.needed_for([mean])[0]
    rng = np.random.default_rng(0)
    feed = {rows: rng.standard_normal((1, 2, 3, 1, 1)), maps: rng.standard_normal((1, 2, 1, 4, 5))}
    expected = (feed[rows] * feed[maps]).mean((-2, -1), keepdims=True)
    np.testing.assert_allclose(evaluate(op, mean, feed), expected, rtol=1e-5)
    ones = op.constant(np.ones((1, 1, 1, 1, 1)), FLOAT)
    assert op.outer(rows, ones) is rows


def test_a_factor_for_each_channel_goes_before_the_mask_of_a_convolution(op):
    x, mask = placeholder("x", [None, 2, None, None]), placeholder("mask", [None, 2, None, None])
    weight = op.constant(np.ones((2, 2, 1, 1)), FLOAT)
    factors = op.constant(np.array([2, 3]).reshape(2, 1, 1), FLOAT)
    masked = op.Mul(op.Conv(x, weight), mask)
    scaled = op.scale_channels(masked, factors)
    before = scaled.producer().inputs[0].producer()
    assert [value.producer() and value.producer().op_type for value in before.inputs] == [
        "Conv",
        None,
    ]
    feed = {x: [[[[1]], [[2]]]], mask: [[[[1]], [[0]]]]}
    got = evaluate(op, [scaled, op.scale_channels(x, factors)], feed)
    np.testing.assert_array_equal(got[0], [[[[6]], [[0]]]])
    np.testing.assert_array_equal(got[1], [[[[2]], [[6]]]])
