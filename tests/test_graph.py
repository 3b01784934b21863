"""Questions about a graph."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from emitted import parsed, values

from exporters import graph

FORK = """(float[2,3] x) => (y, z) {
    a = Relu(x)
    b = Sigmoid(a)
    c = Tanh(a)
    d = Add(b, c)
    i = Cast<to=7>(a)
    j = Cast<to=1>(i)
    e = Mul(d, w)
    y = Mul(e, j)
    z = Neg(b)
}"""


@pytest.fixture(scope="module")
def fork():
    return parsed(FORK, w=np.ones(3, np.float32))


def names(found):
    return " ".join(sorted(value.name for value in found))


def test_descendants_flow_through_floats_only(fork):
    known = values(fork)
    assert names(graph.descendants(known["a"])) == "a b c d e y z"
    assert names(graph.descendants(known["i"])) == "i j y"


def test_ancestors_are_all_that_a_value_depends_on(fork):
    known = values(fork)
    assert names(graph.ancestors(known["y"])) == "a b c d e i j w x y"
    assert names(graph.ancestors(known["w"])) == "w"


def test_path(fork):
    known = values(fork)
    assert names(graph.path(known["a"], known["y"])) == "a b c d e y"
    assert names(graph.path(known["b"], known["z"])) == "b z"
    assert names(graph.path(known["y"], known["y"])) == "y"
    assert graph.path(known["c"], known["z"]) == set()
    assert graph.path(known["y"], known["x"]) == set()


def test_what_only_decides_an_index_is_no_path():
    model = parsed(
        "(float[4] x) => (y) { f = Floor(x)  i = Cast<to=7>(f)  t = Tanh(x)  y = Gather(t, i) }"
    )
    known = values(model)
    assert names(graph.path(known["x"], known["y"])) == "t x y"


def test_constants_may_be_made_of_sizes_that_are_known():
    model = parsed(
        "(float[B,6] x) => (y) { t = Tanh(x)  n = Shape<start=1>(t)  h = Div(n, two)  "
        "y = Split<axis=1>(x, h) }",
        two=np.array([2]),
    )
    known = values(model)
    assert graph.constant(known["h"]) is None
    assert graph.constant(known["h"], {known["t"]: (7, 6)}).tolist() == [3]
    assert graph.constant(known["h"], {known["x"]: (7, 6)}) is None


def test_inputs_that_are_left_out_are_no_ancestors():
    known = values(parsed("(float[2] x, float h) => (y) { y = Clip(x, , h) }"))
    assert names(graph.ancestors(known["y"])) == "h x y"


def test_the_spine_is_what_every_path_crosses_in_order(fork):
    known = values(fork)
    assert [v.name for v in graph.spine(known["x"], known["y"], fork.graph)] == [*"xadey"]
    assert [v.name for v in graph.spine(known["a"], known["z"], fork.graph)] == [*"abz"]
    assert graph.spine(known["c"], known["z"], fork.graph) == []


def test_a_shortcut_around_a_value_takes_it_off_the_spine():
    model = parsed("(float[2] x) => (y) { a = Relu(x)  b = Neg(a)  c = Add(x, b)  y = Neg(c) }")
    known = values(model)
    assert [v.name for v in graph.spine(known["x"], known["y"], model.graph)] == ["x", "c", "y"]


@pytest.mark.parametrize("opset", [18, 21])
def test_constants_are_found_and_computed(opset):
    model = parsed(
        """(float[2] x) => (y) {
            k = Constant<value_ints=[3, -1]>()
            n = Neg(k)
            m = Clip(n, , k2)
            s, t = Split<num_outputs=2>(m)
            f = Shape(x)
            y = Relu(x)
        }""",
        opset=opset,
        k2=np.array(0),
    )
    known = values(model)
    np.testing.assert_array_equal(graph.constant(known["k2"]), 0)
    np.testing.assert_array_equal(graph.constant(known["k"]), [3, -1])
    np.testing.assert_array_equal(graph.constant(known["m"]), [-3, 0])
    np.testing.assert_array_equal(graph.constant(known["s"]), [-3])
    np.testing.assert_array_equal(graph.constant(known["t"]), [0])
    for name in "fxy":
        assert graph.constant(known[name]) is None
    assert graph.constant(None) is None


def test_what_is_random_or_foreign_is_no_constant():
    text = "(float[2] x) => (s, y) { r = RandomNormal<shape=[2]>()  s = Neg(r)  y = Neg(c) }"
    model = parsed(text, c=np.ones(2, np.float32))
    known = values(model)
    assert graph.constant(known["r"]) is None
    assert graph.constant(known["s"]) is None
    model.graph[2].domain = "com.example"
    assert graph.constant(known["y"]) is None


def test_a_branch_is_no_constant():
    branch = [
        onnx.parser.parse_graph(
            f"g () => (float[1] {name}) {{ {name} = Constant<value_floats=[{n}]>() }}"
        )
        for name, n in (("p", "1.0"), ("q", "2.0"))
    ]
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch[0], else_branch=branch[1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    given = onnx.numpy_helper.from_array(np.array(True), "c")
    proto = onnx.helper.make_graph([node], "g", [], [result], [given])
    model = ir.serde.deserialize_model(onnx.helper.make_model(proto))
    assert graph.constant(values(model)["y"]) is None


def test_an_initializer_that_is_an_input_too_can_be_overridden():
    proto = onnx.parser.parse_graph("g (float[1] c) => (float[1] y) { y = Neg(c) }")
    proto.initializer.append(onnx.numpy_helper.from_array(np.ones(1, np.float32), "c"))
    model = ir.serde.deserialize_model(onnx.helper.make_model(proto))
    assert graph.constant(values(model)["c"]) is None
    assert graph.constant(values(model)["y"]) is None


def test_deep_and_branching_graphs_are_answered_at_once():
    """Each sum reads its term twice: 2^2000 ways lead from y to x."""
    sums = "  ".join(f"t{i + 1} = Add(t{i}, t{i})" for i in range(2000))
    known = values(parsed(f"(float[2] x) => (y) {{ t0 = Relu(x)  {sums}  y = Shape(t2000) }}"))
    assert graph.constant(known["y"]) is None
    assert len(graph.path(known["x"], known["t2000"])) == 2002
