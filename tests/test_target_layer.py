"""The rule that finds the target layer, case by case, and layers given by name."""

from itertools import pairwise

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from other_nets import channels_last_net, latent_net, vision_transformer
from tiny_net import finished, tiny_net, weights

import exporters
from exporters.classifier import Classifier
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
        found = Classifier(tiny_net()).target_layers()[0]
        assert found.value.name == "features"
        assert found.shape == ("batch", 16, 8, 8)
        assert found.missing is None
        assert found.map.text == "'features' [batch, 16, 8, 8]"

    def test_maps_of_class_scores_are_passed_over(self):
        found = Classifier(squeezenet())
        assert found.target_layers()[0].value.name == "d"
        assert [c.value.name for c in found.candidates()] == ["c1", "r1", "c2", "r2", "d"]

    def test_a_branch_is_no_candidate(self):
        found = Classifier(two_ways())
        assert [c.value.name for c in found.candidates()] == ["c1", "r1", "sum", "features"]
        assert found.target_layers()[0].value.name == "features"

    def test_a_map_before_an_operator_without_rule_is_passed_over(self):
        """Where a later map can be differentiated, that is taken."""
        normed = helper.make_node("RandomUniformLike", ["early2"], ["normed"], "norm")
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
        assert missing["early"] == missing["early2"] == "RandomUniformLike"
        assert missing["normed"] is None
        assert found.target_layers()[0].value.name == "features"
        assert found.operators_without_rule() == ["RandomUniformLike"]

    def test_where_no_map_can_be_differentiated_the_last_is_named(self):
        tail = [helper.make_node("RandomUniformLike", ["features"], ["mid"], "norm")]
        tail.append(helper.make_node("GlobalAveragePool", ["mid"], ["narrow"]))
        tail.append(helper.make_node("RandomUniformLike", ["narrow"], ["tail"], "odd"))
        model = tiny_net(tail=tail)
        found = Classifier(model)
        chosen = found.target_layers()[0]
        assert chosen.value.name in {"features", "mid"}
        assert chosen.missing is not None

    def test_too_early_is_refused_with_the_candidates(self):
        with pytest.raises(
            TargetLayerError,
            match=r"'r1' \[batch, 8, 16, 16\], has less than half .* e\.g\. one of 'c1' .*'r1'",
        ):
            Classifier(many_dense()).target_layers()

    def test_named_it_is_taken_all_the_same(self):
        assert Classifier(many_dense()).target_layers("r1")[0].value.name == "r1"

    def test_no_map_at_all(self):
        rng = np.random.default_rng(0)
        nodes = [node("Flatten", ["image"], "flat"), node("Gemm", ["flat", "w"], "scores")]
        model = net(nodes, {"w": weights((768, 5), 768, rng)})
        with pytest.raises(TargetLayerError, match=r"no feature map.* with --target-layer"):
            Classifier(model).target_layers()

    def test_no_weights_at_all(self):
        """Scores that are means of maps: nothing is upstream of anything."""
        nodes = [
            node("Concat", ["image", "image"], "twice", axis=1),
            node("GlobalAveragePool", ["twice"], "pooled"),
            node("Flatten", ["pooled"], "scores"),
        ]
        with pytest.raises(TargetLayerError, match="no feature map"):
            Classifier(net(nodes, {}, classes=6)).target_layers()


def found_in(model):
    (layer,) = Classifier(model).target_layers()
    return layer.value.name, layer.map.layout


class TestOtherLayouts:
    def test_tokens_with_a_class_token_as_the_last_attention_reads_them(self):
        """Behind it only the class token counts, which is no position."""
        assert found_in(vision_transformer()) == ("norm1", "NLC")
        assert found_in(vision_transformer(blocks=3)) == ("norm2", "NLC")

    def test_tokens_without_one_as_they_are(self):
        assert found_in(vision_transformer(class_token=False)) == ("block2", "NLC")

    def test_without_a_normalisation_the_last_sum_that_counts(self):
        model = vision_transformer()
        for item in model.graph.node:
            if item.op_type == "LayerNormalization":
                item.op_type = "Identity"
                del item.input[1], item.attribute[:]
        assert found_in(model) == ("block1", "NLC")

    def test_latents_that_attend_to_the_image_are_no_places(self):
        """Sixteen of them look like a map of 4 x 4."""
        with pytest.raises(TargetLayerError, match=r"'tokens' .* less than half of the network"):
            found_in(latent_net())

    def test_places_that_attend_to_latents_are_some(self):
        assert found_in(latent_net(attend_back=True)) == ("places", "NLC")

    def test_channels_last(self):
        assert found_in(channels_last_net()) == ("maps", "NHWC")

    def test_a_fixed_batch(self):
        assert found_in(tiny_net(batch=4)) == ("features", "NCHW")

    @pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
    def test_a_free_size(self, layout):
        assert found_in(tiny_net(size="side", layout=layout)) == ("features", "NCHW")


def pooled_to(height, width):
    """An adaptive pooling of the 8 x 8 map: two matrices of weights that average."""
    means = {}
    for name, size in (("rows", height), ("columns", width)):
        means[name] = np.zeros((size, 8), np.float32)
        for i in range(size):
            start, end = i * 8 // size, -(-(i + 1) * 8 // size)
            means[name][i, start:end] = 1 / (end - start)
    means["columns"] = means["columns"].T
    nodes = [
        node("MatMul", ["rows", "features"], "high"),
        node("MatMul", ["high", "columns"], "tail"),
    ]
    return tiny_net(tail=nodes, arrays=means)


class TestAveragedMaps:
    @pytest.mark.parametrize("size", [(4, 4), (7, 7), (12, 12), (5, 6)])
    def test_an_adaptive_pooling_is_passed_over(self, size):
        """Whether it makes the map smaller or larger: nothing is learnt there."""
        names = [layer.value.name for layer in Classifier(pooled_to(*size)).candidates()]
        assert names == ["c1", "early", "c2", "features"]

    def test_a_resize_is_passed_over(self):
        large = node("Resize", ["features", "", "scales"], "tail", mode="linear")
        scales = {"scales": np.array([1, 1, 2, 2], np.float32)}
        assert found_in(tiny_net(tail=[large], arrays=scales))[0] == "features"

    def test_a_pooling_with_a_filter_behind_it_is_not(self):
        nodes = [
            node("AveragePool", ["features"], "small", kernel_shape=[2, 2], strides=[2, 2]),
            conv("small", "w4", "c4"),
            node("Relu", ["c4"], "tail"),
        ]
        assert found_in(tiny_net(tail=nodes, arrays={"w4": filters(16, 16)}))[0] == "tail"

    def test_a_filter_of_weights_that_are_not_all_positive_is_not(self):
        model = pooled_to(4, 4)
        for tensor in model.graph.initializer:
            if tensor.name == "rows":
                array = numpy_helper.to_array(tensor) - np.float32(0.1)
                tensor.CopyFrom(numpy_helper.from_array(array, "rows"))
        assert Classifier(model).candidates()[-1].value.name == "tail"

    def test_it_may_be_named(self):
        (layer,) = Classifier(pooled_to(4, 4)).target_layers("tail")
        assert layer.shape == ("batch", 16, 4, 4)


def test_a_score_behind_a_step_has_no_gradient_anywhere(tmp_path):
    model = tiny_net()
    (pooling,) = [n for n in model.graph.node if n.op_type == "GlobalAveragePool"]
    rounded = node("Round", ["pooled"], "whole")
    (flatten,) = [n for n in model.graph.node if n.op_type == "Flatten"]
    flatten.input[0] = "whole"
    model.graph.node.insert(list(model.graph.node).index(pooling) + 1, rounded)
    with pytest.raises(TargetLayerError, match=r"doesn't change with 'features'.*Round"):
        exporters.export_gradcam(model, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


class TestSeveral:
    def test_in_the_order_of_the_caller(self):
        layers = Classifier(tiny_net()).target_layers(["features", "early"])
        assert [layer.value.name for layer in layers] == ["features", "early"]

    @pytest.mark.parametrize("names", [[], ["early", "early"]])
    def test_each_once_and_one_at_least(self, names):
        with pytest.raises(TargetLayerError, match="name each layer once, and one at least"):
            Classifier(tiny_net()).target_layers(names)


class TestNames:
    def test_a_map_of_other_proportions_may_be_named(self):
        """[B, 16, 1, 64] is no map of a square image, unless one says so."""
        model = tiny_net(arrays={"row": np.array([0, 16, 1, 64])})
        nodes = list(model.graph.node)
        place = [n.name for n in nodes].index("relu2") + 1
        nodes[place].input[0] = "line"
        del model.graph.node[:]
        reshaped = node("Reshape", ["features", "row"], "line")
        model.graph.node.extend([*nodes[:place], reshaped, *nodes[place:]])
        found = Classifier(model)
        assert "line" not in {c.value.name for c in found.candidates()}
        assert found.target_layers("line")[0].shape == ("batch", 16, 1, 64)

    def test_suggestions_are_given_once(self):
        model = tiny_net()
        for item in model.graph.node:
            item.name = item.output[0]
        with pytest.raises(TargetLayerError, match=r"did you mean 'features'\? see"):
            Classifier(model).target_layers("featuers")

    @pytest.mark.parametrize(
        ("name", "value"),
        [("early", "early"), ("c1", "c1"), ("relu1", "early"), ("conv2", "c2")],
    )
    def test_values_and_nodes(self, name, value):
        assert Classifier(tiny_net()).target_layers(name)[0].value.name == value

    def test_a_branch_may_be_named(self):
        assert Classifier(two_ways()).target_layers("left")[0].value.name == "left"

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
            Classifier(model).target_layers(name)[0]

    def test_an_operator_without_rule_behind_it_is_noted(self):
        tail = [helper.make_node("RandomUniformLike", ["features"], ["tail"], "norm")]
        model = tiny_net(tail=tail)
        found = Classifier(model)
        assert found.target_layers("features")[0].missing.name == "norm"
        assert found.target_layers("tail")[0].missing is None


@pytest.mark.parametrize(
    ("blocks", "class_blocks", "layer"), [(4, 0, "norm3"), (5, 1, "norm4"), (5, 2, "block3")]
)
def test_class_attention_is_explained_from_its_first_block(blocks, class_blocks, layer):
    """One block of it is like the last block of any ViT; of two the first would be left out."""
    model = vision_transformer(blocks=blocks, class_blocks=class_blocks)
    assert str(Classifier(model).target_layers()[0].value.name) == layer
