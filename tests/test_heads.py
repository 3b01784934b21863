"""Scores of models that are no classifiers, against NumPy; and which value they read."""

import numpy as np
import onnxruntime
import pytest
from emitted import evaluate, placeholder
from onnx import TensorProto, helper
from other_nets import detection_net, embedding_net, segmentation_net, two_heads
from tiny_net import tensors, tiny_net

import exporters
from exporters.builder import Ops
from exporters.classifier import Classifier
from exporters.heads import SCORE_HEADS, head
from exporters.image_input import ImageInput
from exporters.probe import BATCH, FREE
from xai_onnx.errors import ScoreError

rng = np.random.default_rng(0)
IMAGE = ImageInput(placeholder("image", ["n", 3, 8, 8]), "NCHW", None, 3, 8, 8)


def segmentation(z):
    """For every picture and class the sum of its logits where it is the largest one."""
    scores = np.zeros(z.shape[:2])
    for b, y, x in np.ndindex(len(z), *z.shape[2:]):
        best = int(z[b, :, y, x].argmax())
        scores[b, best] += z[b, best, y, x]
    return scores


def region(z, mask):
    return np.array(
        [[(z[b, n] * mask[b, 0]).sum() for n in range(z.shape[1])] for b in range(len(z))]
    )


def detection(z):
    boxes, classes = z.shape[1:]
    return np.array([[row[n // classes, n % classes] for n in range(boxes * classes)] for row in z])


def embedding(e, reference):
    lengths = np.linalg.norm(e, axis=1) * np.linalg.norm(reference)
    return (e @ reference[0] / lengths)[:, None]


# Each head: the shape that it reads, its twin, and what it takes besides.
HEADS = {
    "segmentation": ((6, 5, 4), segmentation, {}),
    "region": ((6, 5, 4), region, {"mask": (2, 1, 5, 4)}),
    "detection": ((4, 3), detection, {}),
    "embedding": ((7,), embedding, {"reference": (1, 7)}),
}
EVERY_HEAD = pytest.mark.parametrize("name", HEADS)


def test_every_head_has_a_twin():
    assert set(HEADS) == set(SCORE_HEADS)


@EVERY_HEAD
@pytest.mark.parametrize("free", [False, True])
def test_against_the_twin(name, free):
    sizes, twin, beside = HEADS[name]
    z = placeholder("z", ["n", *sizes])
    measured = (BATCH, sizes[0], FREE, FREE) if free and len(sizes) == 3 else (BATCH, *sizes)
    op = Ops({"image", "z"})
    scores, inputs = SCORE_HEADS[name].function(op, z, measured, IMAGE)
    arrays = {role: rng.standard_normal(shape).astype(np.float32) for role, shape in beside.items()}
    assert set(inputs) == set(arrays)
    array = rng.standard_normal((2, *sizes)).astype(np.float32)
    feed = {z: array, **{inputs[role]: content for role, content in arrays.items()}}
    got = evaluate(op, scores, feed)
    expected = twin(array.astype(np.float64), *(a.astype(np.float64) for a in arrays.values()))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "shape", "fits"),
    [
        ("segmentation", (BATCH, 6, 5, 4), True),
        ("segmentation", (BATCH, 6, FREE, FREE), True),
        ("segmentation", (BATCH, FREE, 5, 4), False),
        ("segmentation", (BATCH, 6), False),
        ("region", (BATCH, 6, 5, 4), True),
        ("detection", (BATCH, 4, 3), True),
        ("detection", (BATCH, FREE, 3), False),
        ("detection", (BATCH, 4, 3, 2), False),
        ("embedding", (BATCH, 7), True),
        ("embedding", (BATCH, FREE), False),
        ("embedding", (BATCH, 7, 1, 1), False),
    ],
)
def test_what_a_head_reads(name, shape, fits):
    assert SCORE_HEADS[name].fits(shape) is fits


def test_a_second_head_of_a_name_is_an_error():
    with pytest.raises(ValueError, match="two score heads called 'region'"):
        head("region", "", bool)(lambda op, z, shape, image: (z, {}))


NETS = {
    "segmentation": segmentation_net,
    "region": segmentation_net,
    "detection": detection_net,
    "embedding": embedding_net,
}


@EVERY_HEAD
def test_in_a_model(name, tmp_path):
    """The scores become one more output, what the head takes one more input."""
    path, net = tmp_path / "x.onnx", NETS[name]()
    manifest = exporters.export_gradcam(net, path, score=name, target_layer="features")
    session = onnxruntime.InferenceSession(path)
    (output,) = net.graph.output
    assert [value.name for value in session.get_outputs()][:2] == [output.name, "scores"]
    _, twin, beside = HEADS[name]
    assert manifest.extra_inputs == {role: role for role in beside}
    assert manifest.score_output == "scores"
    assert (manifest.score_at, manifest.output_activation) == (name, "none")
    shapes = {"mask": (2, 1, 32, 32), "reference": (1, 7)}
    arrays = {role: rng.random(shapes[role]).astype(np.float32) for role in beside}
    feed = {"image": tensors(2), "class_index": np.zeros((2, 1), np.int64), **arrays}
    z, scores = session.run([output.name, "scores"], feed)
    assert scores.shape == (2, manifest.num_classes)
    np.testing.assert_allclose(scores, twin(z, *arrays.values()), rtol=1e-4, atol=1e-4)


class TestWhichValue:
    @pytest.mark.parametrize(
        ("at", "value", "classes"),
        [
            ("main", "main", 7),
            ("logits:aux", "aux", 5),
            ("output:main", "main", 7),
            ("aux", "aux", 5),
        ],
    )
    def test_an_output_by_name(self, at, value, classes):
        score = Classifier(two_heads(), score_at=at).score
        assert (score.value.name, score.num_classes, score.at) == (value, classes, at)

    @pytest.mark.parametrize("at", ["region:low", "segmentation:low"])
    def test_a_value_inside(self, at):
        classifier = Classifier(segmentation_net(), score_at=at)
        assert classifier.score.num_classes == 6
        for role in classifier.score.inputs:
            shape = classifier.score.inputs[role].shape
            assert list(shape)[1:] == [1, 16, 16]

    def test_features_of_a_classifier_may_be_compared(self):
        score = Classifier(tiny_net(), score_at="embedding:flat").score
        assert (score.num_classes, list(score.inputs)) == (1, ["reference"])

    @pytest.mark.parametrize("name", ["head/scores:0", "main:0", "a:b:c"])
    def test_names_with_a_colon(self, name):
        """As TensorFlow's are: what stands before the first colon need not be a kind."""
        model = two_heads((name, "aux"))
        for at in (name, f"logits:{name}", f"output:{name}"):
            assert Classifier(model, score_at=at).score.value.name == name

    def test_a_name_that_is_a_kind_is_given_behind_it(self):
        model = two_heads(("output", "region"))
        assert Classifier(model, score_at="logits:output").score.num_classes == 7
        assert Classifier(model, score_at="logits:region").score.num_classes == 5
        with pytest.raises(ScoreError, match="more than one output holds class scores"):
            Classifier(model, score_at="output")

    @pytest.mark.parametrize(
        ("model", "at", "message"),
        [
            (
                two_heads,
                "logits",
                r"more than one output .*'main' \[batch, 7\], 'aux'.* NAME",
            ),
            (
                two_heads,
                "mian",
                r"score 'mian' is neither a kind of score \(logits, output, seg",
            ),
            (two_heads, "region:mian", "score 'mian' is neither a kind"),
            (two_heads, "regoin:main", "score 'regoin:main' is neither a kind"),
            (two_heads, "meta", "score 'meta' is neither a kind"),
            (two_heads, "region", "no output holds logits .B, N, h, w.; its outputs are 'main'"),
            (two_heads, "region:aux", r"score 'aux' has shape \[batch, 5\] and is no logits"),
            (two_heads, "logits:features", r"shape \[batch, 8, 16, 16\] and is no class scores"),
            (
                segmentation_net,
                "logits",
                "no output holds class scores .*segmentation, region, ",
            ),
            (segmentation_net, "detection", r"no output holds class scores \[B, boxes, C\]"),
            (segmentation_net, "embedding", "no output holds features"),
            (detection_net, "segmentation", "no output holds logits"),
            (tiny_net, "embedding:features", "is no features"),
            (tiny_net, "", "score '' is neither a kind"),
            (tiny_net, "logits:", "score '' is neither a kind"),
        ],
    )
    def test_refusals(self, model, at, message):
        with pytest.raises(ScoreError, match=message):
            Classifier(model(), score_at=at)

    def test_a_value_of_whole_numbers_is_refused(self):
        model = tiny_net()
        model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["best"], axis=1))
        model.graph.output.append(
            helper.make_tensor_value_info("best", TensorProto.INT64, ["batch", 1])
        )
        with pytest.raises(ScoreError, match="score 'best' is neither"):
            Classifier(model, score_at="best")


def test_an_input_of_a_name_that_is_taken(tmp_path):
    net = segmentation_net()
    for item in net.graph.node:
        for names in (item.input, item.output):
            names[:] = ["mask" if name == "low" else name for name in names]
    path = tmp_path / "x.onnx"
    manifest = exporters.export_gradcam(net, path, score="region", target_layer="features")
    assert manifest.extra_inputs == {"mask": "mask_2"}
