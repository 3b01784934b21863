"""Shapes as measured, against what is written in the graph and against what is true."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from tiny_net import tiny_net

from exporters import image_input
from exporters.probe import BATCH, FREE, probe
from xai_onnx.errors import ModelFileError


def measured(proto, *names):
    """Shapes of the values called `names`."""
    model = ir.serde.deserialize_model(proto)
    nodes = {value.name: value for node in model.graph for value in node.outputs}
    values = {**nodes, **{value.name: value for value in model.graph.inputs}}
    values.update(model.graph.initializers)
    image = image_input.find(model.graph, "m")
    before = ir.serde.serialize_model(model).SerializeToString(deterministic=True)
    shapes = probe(model, image, [values[name] for name in names], "m")
    assert ir.serde.serialize_model(model).SerializeToString(deterministic=True) == before
    return [shapes[values[name]] for name in names]


def test_a_free_batch():
    assert measured(tiny_net(), "image", "features", "pooled", "flat", "logits") == [
        (BATCH, 3, 32, 32),
        (BATCH, 16, 8, 8),
        (BATCH, 16, 1, 1),
        (BATCH, 16),
        (BATCH, 5),
    ]


def test_a_fixed_batch():
    assert measured(tiny_net(batch=2), "features", "logits") == [(2, 16, 8, 8), (2, 5)]


def test_a_free_size():
    assert measured(tiny_net(size="side"), "features", "logits") == [
        (BATCH, 16, FREE, FREE),
        (BATCH, 5),
    ]


def test_a_free_size_and_a_fixed_batch():
    shapes = measured(tiny_net(size="side", batch=2), "features", "logits")
    assert shapes == [(2, 16, FREE, FREE), (2, 5)]


def test_a_size_that_grows_with_the_batch_is_free_not_the_batch():
    tail = [helper.make_node("Concat", ["features", "features"], ["twice"], axis=0)]
    tail.append(helper.make_node("Identity", ["features"], ["tail"]))
    assert measured(tiny_net(tail=tail), "twice") == [(FREE, 16, 8, 8)]


def test_initializers_and_constants():
    assert measured(tiny_net(), "w2", "b3") == [(16, 8, 3, 3), (5,)]


def test_what_the_graph_notes_is_not_believed():
    model = tiny_net()
    model.graph.value_info.append(
        helper.make_tensor_value_info("pooled", TensorProto.FLOAT, [1, 16, "x", "y"])
    )
    assert measured(model, "pooled") == [(BATCH, 16, 1, 1)]


def test_other_types_of_input():
    assert measured(tiny_net(dtype="uint8"), "image", "features") == [
        (BATCH, 3, 32, 32),
        (BATCH, 16, 8, 8),
    ]


def test_a_batch_that_is_fixed_inside():
    tail = [helper.make_node("Reshape", ["features", "one"], ["tail"])]
    model = tiny_net(tail=tail, arrays={"one": np.array([1, 16, 8, 8])})
    with pytest.raises(
        ModelFileError, match=r"^m: can't run on an input of shape \[2, 3, 32, 32\].*Reshape"
    ) as caught:
        measured(model, "logits")
    assert "free, or fixed, throughout" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_size_that_is_fixed_inside():
    """The input leaves the size free, the dense layer does not."""
    tail = [helper.make_node("Reshape", ["features", "whole"], ["tail"])]
    model = tiny_net(size="side", tail=tail, arrays={"whole": np.array([0, 16, 56, 56])})
    with pytest.raises(ModelFileError, match=r"can't run on an input of shape \[2, 3, 288, 256\]"):
        measured(model, "logits")


def test_a_model_that_onnxruntime_refuses():
    tail = [helper.make_node("Swirl", ["features"], ["tail"], domain="com.example")]
    model = tiny_net()
    nodes = list(model.graph.node)
    nodes[4:4] = tail
    nodes[5].input[0] = "tail"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(ModelFileError, match=r"^m: ONNX Runtime can't load it: .*Swirl"):
        measured(model, "logits")
