"""Each pass on its own model, and that no output changes by a bit."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from old_operators import OLD, Old
from onnx import TensorProto, helper, numpy_helper
from tiny_net import finished, tensors, tiny_net, weights

from exporters import canonical, source
from exporters.canonical import LOWEST_OPSET
from xai_onnx.errors import ModelFileError


def older(opset, ir_version=4):
    """A net of what changed its form between opsets: Clip, Pad, ReduceMean, Squeeze, Softmax."""
    rng = np.random.default_rng(0)
    arrays = {
        "w1": weights((8, 3, 3, 3), 27, rng),
        "w2": weights((16, 8, 3, 3), 72, rng),
        "scale": rng.random(16).astype(np.float32) + 0.5,
        "shift": rng.standard_normal(16).astype(np.float32),
        "mean": rng.standard_normal(16).astype(np.float32),
        "variance": rng.random(16).astype(np.float32) + 0.5,
        "w3": weights((16, 5), 2, rng),
    }
    sides = [0, 0, 1, 1, 0, 0, 1, 1]
    if opset < 11:
        clip = helper.make_node("Clip", ["c1"], ["r1"], min=0.0, max=6.0)
        pad = helper.make_node("Pad", ["r1"], ["padded"], pads=sides)
    else:
        arrays |= {"low": np.float32(0), "high": np.float32(6), "sides": np.array(sides)}
        clip = helper.make_node("Clip", ["c1", "low", "high"], ["r1"])
        pad = helper.make_node("Pad", ["r1", "sides"], ["padded"])
    if opset < 13:
        squeeze = helper.make_node("Squeeze", ["pooled"], ["flat"], axes=[2, 3])
    else:
        arrays["last"] = np.array([2, 3])
        squeeze = helper.make_node("Squeeze", ["pooled", "last"], ["flat"])
    batch_norm = ["c2", "scale", "shift", "mean", "variance"]
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], kernel_shape=[3, 3]),
        clip,
        pad,
        helper.make_node("Conv", ["padded", "w2"], ["c2"], kernel_shape=[3, 3]),
        helper.make_node("BatchNormalization", batch_norm, ["b2"], epsilon=1e-3),
        helper.make_node("Relu", ["b2"], ["r2"]),
        helper.make_node("ReduceMean", ["r2"], ["pooled"], axes=[2, 3], keepdims=1),
        squeeze,
        helper.make_node("MatMul", ["flat", "w3"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 32, 32])]
    if ir_version < 4:  # initializers had to be inputs
        inputs += [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
            if array.dtype == np.float32
            else helper.make_tensor_value_info(name, TensorProto.INT64, array.shape)
            for name, array in arrays.items()
        ]
    graph = helper.make_graph(
        nodes,
        "older",
        inputs,
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return finished(graph, opset, ir_version)


def outputs(content, feed):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, feed)


@pytest.mark.parametrize("optimised", [False, True])
@pytest.mark.parametrize("opset", [9, 10, 11, 12, 13, 15, 17])
def test_lifted_models_give_the_same_bits(opset, optimised):
    model = older(opset)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimised:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    found = []
    lifted = canonical.canonicalise(source.read(model).model, "m")
    assert lifted.graph.opset_imports[""] == LOWEST_OPSET
    from onnx_ir.serde import serialize_model

    for proto in (model, serialize_model(lifted)):
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found.append(session.run(None, {"image": tensors(2)})[0])
    assert np.ptp(found[0]) > 0.01
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("opset", [9, 11, 13, 17])
def test_explained_older_models_keep_their_outputs(export, opset):
    model = older(opset)
    path = export(model)
    feed = {"image": tensors(3)}
    (before,) = outputs(model.SerializeToString(), feed)
    classes = np.zeros((3, 0), np.int64)
    after = outputs(path, {**feed, "class_index": classes})[0]
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("opset", [9, 11, 13])
def test_initializers_listed_as_inputs(export, opset):
    model = older(opset, ir_version=3)
    assert len(model.graph.input) > 5
    path = export(model)
    assert [value.name for value in onnx.load(path).graph.input] == ["image", "class_index"]
    classes = np.zeros((2, 0), np.int64)
    feed = {"image": tensors(2)}
    np.testing.assert_array_equal(
        outputs(model.SerializeToString(), feed)[0],
        outputs(path, {**feed, "class_index": classes})[0],
    )


@pytest.mark.parametrize("ir_version", [3, 4])
def test_large_weights_go_around_the_converter(ir_version, monkeypatch):
    """It takes less than 2 GB; what it needs of them are types and shapes."""
    model = older(9, ir_version)
    convert, given = onnx.version_converter.convert_version, []

    def watch(proto, version):
        given.extend(proto.graph.initializer)
        return convert(proto, version)

    monkeypatch.setattr(onnx.version_converter, "convert_version", watch)
    expected = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    large = {name for name, array in expected.items() if array.nbytes > 1024}
    assert large == {"w2"}
    lifted = canonical.canonicalise(source.read(model).model, "m")
    assert {tensor.name for tensor in given} == set(expected) - large
    for name in ("w1", "w2", "w3"):
        value = lifted.graph.initializers[name]
        assert not value.is_graph_input()
        np.testing.assert_array_equal(value.const_value.numpy(), expected[name])
    assert [value.name for value in lifted.graph.inputs] == ["image"]


@pytest.mark.parametrize("opset", [18, 20, 21])
def test_newer_opsets_are_kept(opset):
    model = tiny_net(opset=opset)
    read = source.read(model).model
    assert canonical.canonicalise(read, "m").graph.opset_imports[""] == opset


def test_the_default_domain_by_its_long_name():
    model = tiny_net(opset=17)
    model.opset_import[0].domain = "ai.onnx"
    lifted = canonical.canonicalise(source.read(model).model, "m")
    assert dict(lifted.graph.opset_imports) == {"": LOWEST_OPSET}


def test_an_opset_that_the_converter_cannot_lift():
    with pytest.raises(ModelFileError, match=r"^m: .*from opset 5 to 18: .*export it at opset 18"):
        canonical.canonicalise(source.read(tiny_net(opset=5)).model, "m")


@pytest.mark.parametrize("opset", [17, 18])
def test_local_functions_are_inlined(export, opset):
    """A function that calls another, its body in the model's own opset."""
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    inner = helper.make_function(
        "own", "Half", ["x"], ["y"], [helper.make_node("Mul", ["x", "x"], ["y"])], imports
    )
    outer_nodes = [
        helper.make_node("Half", ["x"], ["h"], domain="own"),
        helper.make_node("Sigmoid", ["h"], ["s"]),
        helper.make_node("Mul", ["x", "s"], ["y"]),
    ]
    outer = helper.make_function("own", "Swirl", ["x"], ["y"], outer_nodes, imports)
    plain = tiny_net(opset=opset)
    nodes = list(plain.graph.node)
    place = [node.name for node in nodes].index("relu2") + 1
    nodes[place].input[0] = "swirled"
    nodes.insert(place, helper.make_node("Swirl", ["features"], ["swirled"], domain="own"))
    graph = helper.make_graph(
        nodes, "g", plain.graph.input, plain.graph.output, plain.graph.initializer
    )
    model = finished(graph, opset, domains=["own"], functions=[inner, outer])
    path = export(model, target_layer="features")
    written = onnx.load(path)
    assert len(written.functions) == 0
    assert {node.domain for node in written.graph.node} == {""}
    feed = {"image": tensors(2)}
    np.testing.assert_array_equal(
        outputs(model.SerializeToString(), feed)[0],
        outputs(path, {**feed, "class_index": np.zeros((2, 0), np.int64)})[0],
    )


def test_wrong_shapes_noted_in_the_graph_are_dropped():
    """Some exporters note a batch of 1 inside a graph whose input leaves it free."""
    model = tiny_net()
    model.graph.value_info.append(
        helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 99, "x", 8])
    )
    lifted = canonical.canonicalise(source.read(model).model, "m")
    (features,) = [v for node in lifted.graph for v in node.outputs if v.name == "features"]
    assert list(features.shape.dims)[1:] == [16, 8, 8]


def test_the_ir_version_is_raised_not_lowered():
    assert canonical.canonicalise(source.read(older(9, 3)).model, "m").ir_version == 8
    newer = tiny_net()
    newer.ir_version = 9
    assert canonical.canonicalise(source.read(newer).model, "m").ir_version == 9


def old_model(case, opset):
    """The case at `opset`, and a batch for it."""
    rng = np.random.default_rng(0)
    sizes = ", ".join(map(str, case.x[1:]))
    text = f"g (float[B, {sizes}] x) => (float[o] y) {{ {case.body} }}"
    graph = onnx.parser.parse_graph(text)
    for name, given in case.constants.items():
        array = given if isinstance(given, np.ndarray) else rng.random(given) + 0.5
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        graph.initializer.append(numpy_helper.from_array(array, name))
    graph.output[0].type.tensor_type.ClearField("shape")
    opsets = [helper.make_opsetid("", opset)]
    x = rng.standard_normal(case.x).astype(np.float32)
    (y,) = outputs(
        helper.make_model(graph, opset_imports=opsets, ir_version=4).SerializeToString(), {"x": x}
    )[:1]
    graph.output[0].type.tensor_type.shape.SetInParent()
    for axis in range(y.ndim):
        graph.output[0].type.tensor_type.shape.dim.add(dim_param=f"o{axis}")
    return helper.make_model(graph, opset_imports=opsets, ir_version=4), x, y


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("case", OLD, ids=lambda case: case.name)
def test_every_older_form_of_an_operator_gives_the_same_bits(case, place):
    model, x, y = old_model(case, getattr(case, place))
    lifted = ir.serde.serialize_model(canonical.canonicalise(source.read(model).model, "m"))
    onnx.checker.check_model(lifted, full_check=True)
    np.testing.assert_array_equal(outputs(lifted.SerializeToString(), {"x": x})[0], y)


@pytest.mark.parametrize(
    ("body", "opset", "match"),
    [
        ("y = Hardmax(x)", 12, "Hardmax .* opset 12 can't be converted to opset 18"),
        ('y = Resize<mode="nearest">(x, s)', 10, "Resize .*not known to enlarge or to shrink"),
        ("y = BatchNormalization<spatial=0>(x, a, a, a, a)", 8, "from opset 8 .*spatial"),
    ],
)
def test_older_forms_that_cannot_be_lifted_are_refused(body, opset, match):
    constants = {"s": np.array([1, 1, 0.5, 1.5], np.float32), "a": (3, 6, 6)}
    used = {name: given for name, given in constants.items() if f" {name}" in body}
    with pytest.raises(ModelFileError, match=match):
        canonical.canonicalise(
            source.read(old_model(Old("", body, opset, opset, used), opset)[0]).model, "m"
        )
