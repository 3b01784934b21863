"""The rule that finds the target layer, case by case, and layers given by name."""

from itertools import pairwise

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_net import finished, tiny_net, weights

from exporters.classifier import Classifier
from exporters.target_layer import is_feature_map
from xai_onnx.errors import TargetLayerError


def node(op_type, inputs, result, name="", **attributes):
    return helper.make_node(op_type, inputs, [result], name, **attributes)


def net(nodes, arrays, classes=5, shape=("batch", 3, 16, 16)):
    """A model from "image" to "scores"."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()],
    )
    return finished(graph)


def filters(outputs, inputs, size=3):
    rng = np.random.default_rng(outputs)
    return weights((outputs, inputs, size, size), inputs * size**2, rng)


def conv(source, weight, result, size=3):
    side = size // 2
    return node("Conv", [source, weight], result, kernel_shape=[size] * 2, pads=[side] * 4)


def squeezenet():
    """Classifies by a 1x1 convolution and averages its maps."""
    nodes = [
        conv("image", "w1", "c1"),
        node("Relu", ["c1"], "r1"),
        conv("r1", "w2", "c2"),
        node("Relu", ["c2"], "r2"),
        node("Dropout", ["r2"], "d"),
        conv("d", "w3", "maps", size=1),
        node("Relu", ["maps"], "positive"),
        node("GlobalAveragePool", ["positive"], "pooled"),
        node("Flatten", ["pooled"], "scores"),
    ]
    return net(nodes, {"w1": filters(8, 3), "w2": filters(8, 8), "w3": filters(5, 8, 1)})


def two_ways():
    """Two branches from "r1" that meet in "sum"."""
    nodes = [
        conv("image", "w1", "c1"),
        node("Relu", ["c1"], "r1"),
        conv("r1", "w2", "left"),
        conv("r1", "w3", "right"),
        node("Add", ["left", "right"], "sum"),
        node("Relu", ["sum"], "features"),
        node("GlobalAveragePool", ["features"], "pooled"),
        node("Flatten", ["pooled"], "flat"),
        node("Gemm", ["flat", "w4"], "scores"),
    ]
    rng = np.random.default_rng(0)
    arrays = {"w1": filters(8, 3), "w2": filters(8, 8), "w3": filters(8, 8)}
    return net(nodes, {**arrays, "w4": weights((8, 5), 8, rng)})


def many_dense():
    """One convolution, then five dense layers: nearly all of the network lies behind it."""
    rng = np.random.default_rng(0)
    nodes = [
        conv("image", "w1", "c1"),
        node("Relu", ["c1"], "r1"),
        node("Flatten", ["r1"], "h0"),
    ]
    arrays = {"w1": filters(8, 3)}
    sizes = [8 * 16 * 16, 8, 8, 8, 8, 5]
    for index, (before, after) in enumerate(pairwise(sizes)):
        arrays[f"d{index}"] = weights((before, after), before, rng)
        result = "scores" if index == 4 else f"h{index + 1}"
        nodes.append(node("Gemm", [f"h{index}", f"d{index}"], result))
    return net(nodes, arrays)


class TestFinding:
    def test_the_last_feature_map(self):
        found = Classifier(tiny_net()).target_layer()
        assert found.value.name == "features"
        assert found.shape == ("batch", 16, 8, 8)
        assert found.missing is None
        assert found.text == "'features' [batch, 16, 8, 8]"

    def test_maps_of_class_scores_are_passed_over(self):
        found = Classifier(squeezenet())
        assert found.target_layer().value.name == "d"
        assert [c.value.name for c in found.candidates()] == ["c1", "r1", "c2", "r2", "d"]

    def test_a_branch_is_no_candidate(self):
        found = Classifier(two_ways())
        assert [c.value.name for c in found.candidates()] == ["c1", "r1", "sum", "features"]
        assert found.target_layer().value.name == "features"

    def test_a_map_before_an_operator_without_rule_is_passed_over(self):
        """Where a later map can be differentiated, that is taken."""
        normed = helper.make_node("Hardmax", ["early2"], ["normed"], "norm", axis=1)
        model = tiny_net()
        (conv2,) = [n for n in model.graph.node if n.name == "conv2"]
        place = list(model.graph.node).index(conv2)
        conv2.input[0] = "normed"
        nodes = list(model.graph.node)
        nodes[place:place] = [helper.make_node("Identity", ["early"], ["early2"]), normed]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        found = Classifier(model)
        missing = {c.value.name: c.missing and c.missing.op_type for c in found.candidates()}
        assert missing["early"] == missing["early2"] == "Hardmax"
        assert missing["normed"] is None
        assert found.target_layer().value.name == "features"
        assert found.operators_without_rule() == ["Hardmax"]

    def test_where_no_map_can_be_differentiated_the_last_is_named(self):
        tail = [helper.make_node("Hardmax", ["features"], ["mid"], "norm", axis=1)]
        tail.append(helper.make_node("GlobalAveragePool", ["mid"], ["narrow"]))
        tail.append(helper.make_node("Hardmax", ["narrow"], ["tail"], "odd", axis=1))
        model = tiny_net(tail=tail)
        found = Classifier(model)
        chosen = found.target_layer()
        assert chosen.value.name in {"features", "mid"}
        assert chosen.missing is not None

    def test_too_early_is_refused_with_the_candidates(self):
        with pytest.raises(
            TargetLayerError,
            match=r"'r1' \[batch, 8, 16, 16\], has less than half .* e\.g\. one of 'c1' .*'r1'",
        ):
            Classifier(many_dense()).target_layer()

    def test_named_it_is_taken_all_the_same(self):
        assert Classifier(many_dense()).target_layer("r1").value.name == "r1"

    def test_no_map_at_all(self):
        rng = np.random.default_rng(0)
        nodes = [node("Flatten", ["image"], "flat"), node("Gemm", ["flat", "w"], "scores")]
        model = net(nodes, {"w": weights((768, 5), 768, rng)})
        with pytest.raises(TargetLayerError, match=r"no feature map .* with --target-layer"):
            Classifier(model).target_layer()

    def test_no_weights_at_all(self):
        """Scores that are means of maps: nothing is upstream of anything."""
        nodes = [
            node("Concat", ["image", "image"], "twice", axis=1),
            node("GlobalAveragePool", ["twice"], "pooled"),
            node("Flatten", ["pooled"], "scores"),
        ]
        with pytest.raises(TargetLayerError, match="no feature map"):
            Classifier(net(nodes, {}, classes=6)).target_layer()


class TestNames:
    @pytest.mark.parametrize(
        ("name", "value"),
        [("early", "early"), ("c1", "c1"), ("relu1", "early"), ("conv2", "c2")],
    )
    def test_values_and_nodes(self, name, value):
        assert Classifier(tiny_net()).target_layer(name).value.name == value

    def test_a_branch_may_be_named(self):
        assert Classifier(two_ways()).target_layer("left").value.name == "left"

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("featurse", "no layer 'featurse'; did you mean 'features'.*see xai-onnx inspect"),
            ("zzz", "no layer 'zzz'; see xai-onnx inspect"),
            ("logits", "'logits' does not lie between image and score 'logits'"),
            ("scores", "'scores' does not lie between image and score 'logits'"),
            ("flat", r"'flat' has shape \[batch, 16\]; it must be a feature map"),
            ("pooled", r"has shape \[batch, 16, 1, 1\]; .* more than one position"),
            ("side", "'side' does not lie between image and score"),
        ],
    )
    def test_refusals(self, name, message):
        model = tiny_net("Softmax")
        model.graph.node.append(helper.make_node("Neg", ["features"], ["side"]))
        with pytest.raises(TargetLayerError, match=message):
            Classifier(model).target_layer(name)

    def test_an_operator_without_rule_behind_it_is_noted(self):
        tail = [helper.make_node("Hardmax", ["features"], ["tail"], "norm", axis=1)]
        model = tiny_net(tail=tail)
        found = Classifier(model)
        assert found.target_layer("features").missing.name == "norm"
        assert found.target_layer("tail").missing is None


@pytest.mark.parametrize(
    ("shape", "is_one"),
    [
        (("batch", 16, 8, 8), True),
        (("batch", 16, "free", "free"), True),
        (("batch", 16, 1, 8), True),
        (("batch", 16, 7, 8), True),
        (("batch", 200, 3, 24), True),
        (("batch", 7, 7, 768), False),
        (("batch", 8, 8, 16), False),
        (("batch", 16, 8, "free"), False),
        (("batch", 16, 1, 1), False),
        (("batch", 1, 8, 8), False),
        (("batch", "free", 8, 8), False),
        (("batch", 16), False),
        (("batch", 49, 192), False),
    ],
)
def test_what_a_feature_map_is(shape, is_one):
    image = Classifier(tiny_net()).image
    assert (image.height, image.width) == (32, 32)
    assert is_feature_map(shape, image) is is_one


def test_maps_with_channels_last_are_refused(tmp_path):
    """[B, 8, 8, 16] is no [B, C, h, w], whatever the number of its axes."""
    axes = {"axes": np.array([1, 2])}
    model = tiny_net(arrays=axes)
    nodes = {item.output[0]: item for item in model.graph.node}
    turned = node("Transpose", ["features"], "last", "turn", perm=[0, 2, 3, 1])
    mean = node("ReduceMean", ["last", "axes"], "flat", "mean", keepdims=0)
    before = list(model.graph.node)[: list(model.graph.node).index(nodes["features"]) + 1]
    head = nodes["logits"]
    del model.graph.node[:]
    model.graph.node.extend([*before, turned, mean, head])
    found = Classifier(model)
    assert found.target_layer().value.name == "features"
    with pytest.raises(TargetLayerError, match=r"has shape \[batch, 8, 8, 16\]; it must be"):
        found.target_layer("last")
