"""Nodes with subgraphs, whose bodies read the graph around them."""

import numpy as np
import onnx
import pytest
from tiny_net import tiny_net

import exporters
from exporters.classifier import Classifier
from exporters.subgraphs import reads
from xai_onnx.errors import UnsupportedOperatorError


def with_if(at: str) -> onnx.ModelProto:
    """The tiny net with `If(true) then 2 v else v` put behind the value `at`."""
    model = tiny_net()
    helper = onnx.helper
    bodies = []
    for factor in (2.0, 1.0):
        constant = onnx.numpy_helper.from_array(np.array(factor, np.float32), "factor")
        product = helper.make_node("Mul", [at, "factor"], ["product"])
        result = helper.make_tensor_value_info("product", onnx.TensorProto.FLOAT, None)
        bodies.append(helper.make_graph([product], "body", [], [result], [constant]))
    node = helper.make_node(
        "If", ["always"], ["chosen"], name="choice", then_branch=bodies[0], else_branch=bodies[1]
    )
    nodes = list(model.graph.node)
    index = next(i for i, item in enumerate(nodes) if at in item.output)
    for item in nodes[index + 1 :]:
        for position, name in enumerate(item.input):
            if name == at:
                item.input[position] = "chosen"
    del model.graph.node[:]
    model.graph.node.extend([*nodes[: index + 1], node, *nodes[index + 1 :]])
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "always"))
    return model


def test_an_if_between_target_layer_and_score_is_refused(tmp_path):
    with pytest.raises(UnsupportedOperatorError, match=r"'If' \(node 'choice'\)"):
        exporters.export_gradcam(with_if("pooled"), tmp_path / "x.onnx", target_layer="features")
    assert not list(tmp_path.iterdir())


def test_an_if_before_the_target_layer_is_no_obstacle(tmp_path):
    first = tiny_net().graph.node[1].output[0]
    path = tmp_path / "x.onnx"
    assert exporters.export_gradcam(with_if(first), path).target_layers == ("features",)
    assert path.exists()


def test_a_node_reads_what_its_bodies_read():
    classifier = Classifier(with_if("pooled"))
    (choice,) = [node for node in classifier.model.graph if node.op_type == "If"]
    assert [value.name for value in reads(choice)] == ["always", "pooled", "pooled"]
