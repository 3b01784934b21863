import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from tiny_net import finished, tiny_net

from exporters.classifier import Classifier
from exporters.score import class_axis
from xai_onnx.errors import ScoreError


def ended(*nodes, last, shape=("batch", 5), kind=TensorProto.FLOAT, arrays=()):
    """The tiny net with `nodes` behind its logits and `last` as its only output."""
    model = tiny_net(arrays=arrays)
    model.graph.node.extend(nodes)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(last, kind, shape))
    return finished(model.graph)


def node(op_type, source, result, **attributes):
    sources = source if isinstance(source, list) else [source]
    return helper.make_node(op_type, sources, [result], **attributes)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        (("batch", 5), -1),
        (("batch", 5, 1, 1), -3),
        (("batch", 1, 1, 5), -1),
        (("batch", 1), -1),
        (("batch", 1, 1, 1), -3),
        ((1, 5), -1),
        (("batch", 5, 7, 7), None),
        (("batch", "free"), None),
        (("batch",), None),
        ((), None),
    ],
)
def test_class_axis(shape, axis):
    assert class_axis(shape) == axis


class TestEndings:
    @pytest.mark.parametrize(
        ("ending", "activation"),
        [("Softmax", "softmax"), ("LogSoftmax", "log_softmax"), ("Sigmoid", "sigmoid")],
    )
    def test_the_score_is_before_the_last_activation(self, ending, activation):
        score = Classifier(tiny_net(ending)).score
        assert (score.value.name, score.output.name) == ("logits", "scores")
        assert (score.activation, score.num_classes, score.axis) == (activation, 5, -1)

    def test_no_activation(self):
        score = Classifier(tiny_net()).score
        assert score.value is score.output
        assert score.activation is None

    def test_another_last_operator_is_no_activation(self):
        score = Classifier(tiny_net("Relu")).score
        assert (score.value.name, score.activation) == ("scores", None)

    def test_the_output_itself_where_asked_for(self):
        """What ends in the output is still said: probabilities are read by it."""
        score = Classifier(tiny_net("Softmax"), score_at="output").score
        assert (score.value.name, score.activation) == ("scores", "softmax")

    def test_an_unknown_wish(self):
        with pytest.raises(
            ScoreError, match=r"score 'best' is neither a kind of score .logits, output, seg.* nor"
        ):
            Classifier(tiny_net(), score_at="best")

    def test_reshaping_behind_the_activation_is_stepped_over(self):
        model = ended(
            node("Unsqueeze", ["logits", "axes"], "maps"),
            node("Softmax", "maps", "soft", axis=1),
            node("Flatten", "soft", "flatter"),
            node("Identity", "flatter", "same"),
            last="same",
            arrays={"axes": np.array([2, 3])},
        )
        score = Classifier(model).score
        assert (score.value.name, score.output.name) == ("maps", "same")
        assert (score.axis, score.output_axis) == (-3, -1)
        assert score.activation == "softmax"

    def test_reshaping_alone_is_no_activation(self):
        model = ended(node("Identity", "logits", "same"), last="same")
        score = Classifier(model).score
        assert (score.value.name, score.activation) == ("same", None)

    def test_a_cast_from_integers_is_not_stepped_over(self):
        soft = node("Softmax", "logits", "soft")
        whole = node("Cast", "soft", "whole", to=TensorProto.INT32)
        back = node("Cast", "whole", "back", to=TensorProto.FLOAT)
        score = Classifier(ended(soft, whole, back, last="back")).score
        assert (score.value.name, score.activation) == ("back", None)

    def test_the_softmax_of_several_heads_is_not_stepped_over(self):
        """Two heads of three classes each, side by side: not one softmax over six."""
        model = tiny_net(classes=6, arrays={"heads": np.array([-1, 2, 3])})
        split = node("Reshape", ["logits", "heads"], "split")
        model.graph.node.extend([split, node("Softmax", "split", "soft", axis=2)])
        model.graph.node.append(node("Flatten", "soft", "joined"))
        del model.graph.output[:]
        model.graph.output.append(
            helper.make_tensor_value_info("joined", TensorProto.FLOAT, ["batch", 6])
        )
        score = Classifier(model).score
        assert (score.value.name, score.activation) == ("joined", None)

    def test_scores_that_hang_on_nothing(self):
        """An output that no node makes has nothing before it."""
        model = tiny_net()
        classifier = Classifier(model)
        value = ir.Value(name="lonely", shape=ir.Shape(["batch", 5]))
        from exporters.score import _before_activation

        assert _before_activation(value, classifier.shapes) == (value, None)


class TestWhichOutput:
    def test_scores_beside_features_and_labels(self):
        features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 16, 8, 8])
        best = helper.make_tensor_value_info("best", TensorProto.INT64, ["batch", 1])
        model = tiny_net(extra_outputs=[features])
        model.graph.node.append(node("ArgMax", "logits", "best", axis=1))
        model.graph.output.append(best)
        assert Classifier(model).score.output.name == "logits"

    def test_none(self):
        model = ended(last="features", shape=["batch", 16, 8, 8])
        with pytest.raises(
            ScoreError,
            match=r"^the model: no output .* 'features' \[batch, 16, 8, 8\]; name one with --score",
        ):
            Classifier(model)

    def test_two(self):
        flat = helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["batch", 16])
        with pytest.raises(ScoreError, match=r"more than one output .*'logits' \[batch, 5\], 'fl"):
            Classifier(tiny_net(extra_outputs=[flat]))

    def test_an_initializer_as_an_output(self):
        bias = helper.make_tensor_value_info("b3", TensorProto.FLOAT, [5])
        assert Classifier(tiny_net(extra_outputs=[bias])).score.output.name == "logits"


def test_a_softmax_over_another_axis_is_no_final_activation():
    model = tiny_net("Softmax")
    (ending,) = [node for node in model.graph.node if node.op_type == "Softmax"]
    ending.attribute.append(helper.make_attribute("axis", 0))
    assert Classifier(model).score.activation is None
    ending.attribute[0].i = 1
    assert Classifier(model).score.activation == "softmax"
