"""What is added to a copy of the model, and the manifest that says so."""

import onnx
import onnx_ir as ir
import pytest
from onnx import helper
from other_nets import segmentation_net, two_heads
from tiny_net import tiny_net

from exporters.classifier import Classifier
from exporters.draft import Draft, Output, named
from exporters.probe import FREE
from xai_onnx.errors import TargetLayerError
from xai_onnx.manifest import METADATA_KEY, Manifest


def draft(net=None, kind="class_index", **options):
    return Draft(Classifier(net or tiny_net(), **options), kind, 1)


def declared(values):
    return {
        str(value.name): [d if isinstance(d, int) else d.value for d in value.shape]
        for value in values
    }


class TestFinish:
    def test_the_originals_come_first(self):
        subject = draft()
        extra = ir.Value(name="mine", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64))
        map_ = subject.op.Relu(features(subject))
        written = subject.finish({"cam": Output(map_, (16, 8, 8))}, [extra])
        main = subject.classifier.model.graph
        assert written == {"cam": "cam"}
        assert list(declared(main.inputs)) == ["image", "class_index", "mine"]
        assert declared(main.outputs) == {"logits": ["batch", 5], "cam": ["batch", 16, 8, 8]}
        assert main.outputs[1].dtype == ir.DataType.FLOAT

    def test_only_what_is_needed_is_put_in(self):
        subject = draft()
        before = len(list(subject.classifier.model.graph))
        subject.op.Neg(features(subject))  # nobody asks for it
        used = subject.op.Relu(features(subject))
        subject.finish({"cam": Output(used, (16, 8, 8))})
        assert len(list(subject.classifier.model.graph)) == before + 1

    def test_a_name_that_is_taken_gets_a_suffix(self):
        subject = draft()
        value = subject.op.Relu(features(subject))
        assert subject.finish({"features": Output(value, (16, 8, 8))}) == {"features": "features_2"}

    def test_an_output_of_the_model_keeps_its_name(self):
        more = helper.make_tensor_value_info("features", 1, ["batch", 16, 8, 8])
        subject = draft(tiny_net(extra_outputs=[more]))
        outputs = {"activations": Output(features(subject), (16, 8, 8))}
        assert subject.finish(outputs) == {"activations": "features"}
        assert list(declared(subject.classifier.model.graph.outputs)) == ["logits", "features"]

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_scores_that_the_model_has_not_become_an_output(self, dtype):
        """Before all that is made of them, in the model's own type."""
        subject = draft(tiny_net(dtype=dtype), score_at="embedding:flat")
        written = subject.finish({"cam": Output(features(subject), (16, 8, 8))})
        assert list(written) == ["scores", "cam"]
        scores = subject.classifier.model.graph.outputs[1]
        assert declared([scores]) == {"scores": ["batch", 1]}
        assert scores.dtype.numpy() == dtype

    @pytest.mark.parametrize(
        ("kind", "inputs"),
        [
            ("class_index", {"class_index": ["batch", "K"]}),
            ("predicted", {}),
            ("cotangent", {"cotangent": ["batch", "K", 5]}),
        ],
    )
    def test_the_input_that_says_what_is_explained(self, kind, inputs):
        subject = draft(kind=kind)
        subject.finish({})
        found = declared(subject.classifier.model.graph.inputs)
        assert found == {"image": ["batch", 3, 32, 32], **inputs}


def features(subject):
    (layer,) = subject.classifier.target_layers("features")
    return layer.value


class TestGradients:
    def test_one_for_each_value(self):
        subject = draft()
        values = [layer.value for layer in subject.classifier.target_layers(["features", "early"])]
        found = subject.gradients(values)
        assert [g.shape for g in found] == [("batch", 16, 8, 8), ("batch", 8, 16, 16)]
        assert found[0].constant == {-1, -2}, "behind a pooling"

    def test_a_score_that_does_not_change_is_refused(self):
        subject = draft(tiny_net(tail=[helper.make_node("Sign", ["features"], ["tail"])]))
        with pytest.raises(TargetLayerError, match="'logits' doesn't change with 'features'"):
            subject.gradients([features(subject)])


class TestManifest:
    def fields(self):
        return {
            "method": "gradcam",
            "target_layers": ("features",),
            "target_modules": ("",),
            "activations": ("features",),
            "cam": "cam",
            "saliency_map": None,
            "labels": (),
            "preprocess": None,
        }

    def test_it_is_in_the_model(self):
        subject = draft(tiny_net("Softmax"))
        made = subject.manifest(**self.fields())
        metadata = subject.classifier.model.metadata_props
        assert Manifest.from_metadata(metadata, "m") == made
        assert METADATA_KEY in metadata
        assert (made.score, made.score_output, made.output_activation) == (
            "logits",
            "scores",
            "softmax",
        )
        assert (made.class_index, made.cotangent, made.top_k) == ("class_index", None, None)
        assert made.source_sha256 == subject.classifier.source.sha256

    @pytest.mark.parametrize(
        ("kind", "asked"),
        [
            ("class_index", ("class_index", None, None)),
            ("predicted", (None, None, 1)),
            ("cotangent", (None, "cotangent", None)),
        ],
    )
    def test_what_is_explained(self, kind, asked):
        made = draft(kind=kind).manifest(**self.fields())
        assert (made.class_index, made.cotangent, made.top_k) == asked
        assert made.targets == kind

    def test_inputs_by_role(self):
        """The model's own by their name, the head's and the method's by their role."""
        steps = ir.Value(name="steps_2")
        own = draft(two_heads(), score_at="main").manifest({"steps": steps}, **self.fields())
        assert own.extra_inputs == {"meta": "meta", "steps": "steps_2"}
        head = draft(segmentation_net(), score_at="region").manifest(**self.fields())
        assert head.extra_inputs == {"mask": "mask"}


def test_free_sizes_are_named():
    assert named((16, FREE, 8), "Chw") == (16, "h", 8)


def test_the_size_of_a_picture():
    assert draft().image_size == (32, 32)
    assert draft(tiny_net(size="s")).image_size == (FREE, FREE)
    assert draft(tiny_net(layout="NHWC")).image_size == (32, 32)


def test_the_model_of_the_caller_stays_as_it_is():
    net = tiny_net()
    before = net.SerializeToString()
    subject = draft(net)
    subject.finish({"cam": Output(features(subject), (16, 8, 8))})
    assert net.SerializeToString() == before
    assert onnx.load_from_string(before) == net


def test_emitted_values_do_not_clash_with_those_of_the_model():
    """`xai_onnx/...` is a name like any other, and a file may have it."""
    net = tiny_net()
    free = draft(net)
    taken = free.op.Relu(free.classifier.image.value).name
    for node in net.graph.node:
        for names in (node.input, node.output):
            names[:] = [taken if name == "c1" else name for name in names]
    subject = draft(net)
    assert subject.op.Relu(subject.classifier.image.value).name != taken
