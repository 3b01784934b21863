"""What `verify` must notice: each kind of damage, made on purpose, fails the check meant for it."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from other_nets import channels_last_net, vision_transformer
from tiny_net import saved, tiny_net

import exporters
from exporters.attributions import ATTRIBUTION_METHODS
from exporters.cams import CAM_METHODS
from exporters.cotangent import scaled
from exporters.verify import CHECKS, Check, verify
from exporters.verify.bench import HALF
from exporters.verify.checks import MAP, SALIENCY
from exporters.vjp_rules import VJP_RULES
from xai_onnx.errors import ManifestError, ModelFileError
from xai_onnx.manifest import METADATA_KEY


def failed(explained, original):
    """Names of the checks that failed."""
    return {check.name for check in verify(explained, original) if not check.passed}


def scale_after(model, name, factor=1.01):
    """Multiply the value `name` by a factor before anything else reads it."""
    nodes = list(model.graph.node)
    (place,) = [i for i, node in enumerate(nodes) if name in node.output]
    for node in nodes:
        for index, item in enumerate(node.input):
            if item == name:
                node.input[index] = "scaled"
    nodes.insert(place + 1, helper.make_node("Mul", [name, "factor"], ["scaled"]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), "factor"))


def scale_output(model, name, factor=1.01):
    """Multiply the graph output `name` by a factor."""
    for node in model.graph.node:
        for index, item in enumerate(node.output):
            if item == name:
                node.output[index] = "unscaled"
        for index, item in enumerate(node.input):
            if item == name:
                node.input[index] = "unscaled"
    model.graph.node.append(helper.make_node("Mul", ["unscaled", "factor"], [name]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), "factor"))


@pytest.fixture
def damaged(tiny_explained, tmp_path):
    """Write a damaged copy of the tiny explained file: ``damaged(change)``."""

    def write(change):
        model = onnx.load(tiny_explained)
        change(model)
        return saved(model, tmp_path / "damaged.onnx")

    return write


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"targets": "predicted", "top_k": 2},
        {"saliency_map": False},
        {"target_layer": "early"},
        {"score": "output"},
    ],
    ids=str,
)
@pytest.mark.parametrize("ending", [None, "Softmax"])
def test_good_files_pass(export, tmp_path, ending, options):
    """Small logits: where a softmax is saturated, float32 holds no digit of its gradient."""
    plain = saved(tiny_net(ending, gain=0.1), tmp_path / "plain.onnx")
    done = []
    checks = verify(export(plain, **options), plain, lambda: done.append(1))
    assert [check for check in checks if not check.passed] == []
    assert len(done) == len(checks) == len(CHECKS)
    assert checks[0].detail == "bit-identical"
    left_out = "the file was made without it"
    assert (checks[3].detail == left_out) == (options.get("saliency_map") is False)


@pytest.mark.parametrize(
    "options",
    [{"layout": "NHWC"}, {"size": "side"}, {"dtype": "uint8"}, {"dtype": "float16"}],
)
def test_other_inputs_pass(export, tmp_path, options):
    plain = saved(tiny_net(**options), tmp_path / "plain.onnx")
    assert failed(export(plain), plain) == set()


def test_a_fixed_batch_has_no_pictures_one_by_one(export, tmp_path):
    plain = saved(tiny_net(batch=2), tmp_path / "plain.onnx")
    checks = verify(export(plain), plain)
    assert all(check.passed for check in checks)
    assert checks[-1].detail == "the model's batch size is fixed"


def test_a_tail_that_reads_the_image_by_another_way(export, tmp_path):
    """The mean of the image joins behind the target layer; max pooling has kinks of its own."""
    tail = [
        helper.make_node("MaxPool", ["features"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=1),
        helper.make_node("Cast", ["m"], ["wide"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Add", ["wide", "mean"], ["tail"]),
    ]
    net = tiny_net(tail=tail, arrays={"axes": np.array([1, 2, 3])})
    plain = saved(net, tmp_path / "plain.onnx")
    explained = export(plain, target_layer="features")
    assert failed(explained, plain) == set()
    wrong = onnx.load(explained)
    scale_after(wrong, "mean", 3.0)
    assert "original outputs" in failed(saved(wrong, tmp_path / "wrong.onnx"), plain)


def test_a_score_that_is_off(damaged, tiny):
    assert "original outputs" in failed(damaged(lambda m: scale_output(m, "logits")), tiny)


def test_a_gradient_that_is_off(damaged, tiny):
    """The explanation reads other weights than the scores."""

    def change(model):
        (w3,) = [tensor for tensor in model.graph.initializer if tensor.name == "w3"]
        other = numpy_helper.from_array(numpy_helper.to_array(w3) * np.float32(1.01), "other")
        model.graph.initializer.append(other)
        for node in model.graph.node:
            if node.name.startswith("xai_onnx/"):
                node.input[:] = ["other" if name == "w3" else name for name in node.input]

    assert failed(damaged(change), tiny) == {"cam"}


def test_a_gradient_of_the_wrong_class(damaged, tiny):
    def change(model):
        (where,) = [node for node in model.graph.node if node.op_type == "Where"]
        model.graph.initializer.append(numpy_helper.from_array(np.array(0), "zero"))
        where.input[2] = "zero"

    assert "cam" in failed(damaged(change), tiny)


def test_a_map_that_is_off(damaged, tiny):
    assert failed(damaged(lambda m: scale_output(m, "cam")), tiny) == {"cam"}


def test_a_saliency_map_that_is_off(damaged, tiny):
    assert failed(damaged(lambda m: scale_output(m, "saliency_map")), tiny) == {"saliency_map"}


def test_a_map_that_depends_on_the_rest_of_the_batch(damaged, tiny):
    def change(model):
        """Add the mean over the batch of the raw scores, times nothing for a batch of one."""
        scale_output(model, "cam")
        del model.graph.node[-1]
        model.graph.node.extend(
            [
                helper.make_node("ReduceMean", ["unscaled", "batch_axis"], ["mean"], keepdims=1),
                helper.make_node("Max", ["unscaled", "mean"], ["cam"]),
            ]
        )
        model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "batch_axis"))

    assert {"one by one", "cam"} <= failed(damaged(change), tiny)


def test_an_original_of_other_bytes_is_told(tiny_explained, tmp_path):
    other = tiny_net()
    other.doc_string = "the same weights, other bytes"
    checks = verify(tiny_explained, saved(other, tmp_path / "other.onnx"))
    assert all(check.passed for check in checks)
    assert checks[0].detail == (
        "bit-identical; the file was made from other bytes than this original"
    )


def test_other_weights_fail(tiny_explained, tmp_path):
    assert "original outputs" in failed(
        tiny_explained, saved(tiny_net(seed=9), tmp_path / "other.onnx")
    )


def test_outputs_of_another_shape_are_infinitely_far(damaged, tiny):
    def change(model):
        scale_output(model, "logits")
        del model.graph.node[-1]
        model.graph.node.append(helper.make_node("Concat", ["unscaled"] * 2, ["logits"], axis=1))
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 10

    check = verify(damaged(change), tiny)[0]
    assert not check.passed
    assert check.error == float("inf")


def test_nan_never_passes():
    assert Check("c", 0.5, 0.5, "").passed
    assert not Check("c", 0.6, 0.5, "").passed
    assert not Check("c", float("nan"), 0.5, "").passed


def test_a_model_without_manifest(tiny):
    with pytest.raises(ManifestError, match="holds no manifest; it is no explained model"):
        verify(tiny, tiny)


def test_the_files_of_two_models(tiny, tmp_path):
    other = tiny_net()
    for node in other.graph.node:
        for names in (node.input, node.output):
            names[:] = ["others" if name == "features" else name for name in names]
    explained = tmp_path / "other.onnx"
    exporters.export_gradcam(other, explained)
    with pytest.raises(ModelFileError, match=r"was made from another model.* no layer 'others'"):
        verify(explained, tiny)


def test_weights_beside_the_explained_file(tmp_path, tiny_explained, tiny):
    """The weights stay where they are."""
    path = tmp_path / "split.onnx"
    model = onnx.load(tiny_explained)
    onnx.save(model, path, save_as_external_data=True, location="split.data", size_threshold=1024)
    assert failed(path, tiny) == set()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["split.data", "split.onnx"]


def test_maps_that_underflow_are_not_compared(export, tmp_path):
    plain = saved(tiny_net(gain=1e-40), tmp_path / "plain.onnx")
    assert "saliency_map" not in failed(export(plain), plain)


def test_float16_is_held_to_float16(export, tmp_path):
    plain = saved(tiny_net(dtype="float16"), tmp_path / "plain.onnx")
    explained = export(plain)
    assert {check.tolerance for check in verify(explained, plain)} == {HALF, SALIENCY}
    wrong = onnx.load(explained)
    scale_output(wrong, "cam", 1.01)
    assert failed(saved(wrong, tmp_path / "wrong.onnx"), plain) == {"cam"}


ATTRIBUTIONS = pytest.mark.parametrize("method", ATTRIBUTION_METHODS)
CAMS = pytest.mark.parametrize("method", CAM_METHODS)


@pytest.fixture
def attribute(tmp_path):
    """Export an attribution: ``attribute(plain, method="saliency")``."""

    def write(plain, **options):
        path = tmp_path / "attributed.onnx"
        exporters.export_attribution(plain, path, **options)
        return str(path)

    return write


def rewritten(path, folder, change):
    """A copy of the file after ``change(model)``."""
    model = onnx.load(path)
    change(model)
    return saved(model, folder / "rewritten.onnx")


def say_method(name):
    """The manifest says another method than the file holds."""

    def change(model):
        (entry,) = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
        entry.value = json.dumps({**json.loads(entry.value), "method": name})

    return change


def body(model):
    """The graph that computes the gradient: the body of the Loop, if there is one."""
    inner = [a.g for node in model.graph.node for a in node.attribute if a.HasField("g")]
    return inner[0] if inner else model.graph


class TestEveryMethod:
    @ATTRIBUTIONS
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"targets": "predicted", "top_k": 2},
            {"targets": "cotangent"},
            {"score": "output"},
            {"saliency_map": False},
        ],
        ids=str,
    )
    def test_good_attributions_pass(self, attribute, tmp_path, method, options):
        plain = saved(tiny_net("Softmax", gain=0.1), tmp_path / "plain.onnx")
        checks = verify(attribute(plain, method=method, **options), plain)
        assert [check for check in checks if not check.passed] == []
        assert [check.name for check in checks] == [
            *("original outputs", "gradient", "attribution", "saliency_map", "one by one")
        ]
        assert checks[0].detail == "bit-identical"

    @ATTRIBUTIONS
    @pytest.mark.parametrize(
        "form",
        [
            {"layout": "NHWC"},
            {"dtype": "float16"},
            {"batch": 2},
            pytest.param({"size": "s"}, marks=pytest.mark.slow),  # taken for 224
        ],
        ids=str,
    )
    def test_other_inputs_pass(self, attribute, tmp_path, method, form):
        plain = saved(tiny_net(**form), tmp_path / "plain.onnx")
        assert failed(attribute(plain, method=method), plain) == set()

    @CAMS
    @pytest.mark.parametrize(
        ("net", "layers"),
        [
            (tiny_net, "features"),
            (tiny_net, "early"),
            (tiny_net, ["early", "features"]),
            (channels_last_net, "last"),
            (vision_transformer, "norm1"),
            (vision_transformer, ["patches", "columns", "block1"]),
        ],
    )
    def test_good_cams_pass(self, export, tmp_path, method, net, layers):
        plain = saved(net(), tmp_path / "plain.onnx")
        assert failed(export(plain, method=method, target_layer=layers), plain) == set()

    @pytest.mark.parametrize("ending", [None, "Softmax"])
    def test_good_cotangents_pass(self, export, tmp_path, ending):
        plain = saved(tiny_net(ending, gain=0.1), tmp_path / "plain.onnx")
        assert failed(export(plain, targets="cotangent"), plain) == set()

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    @pytest.mark.parametrize("targets", ["class_index", "cotangent"])
    def test_other_scores_pass(self, export, attribute, tmp_path, dtype, targets):
        plain = saved(tiny_net(dtype=dtype), tmp_path / "plain.onnx")
        options = {"score": "embedding:flat", "targets": targets}
        assert failed(export(plain, target_layer="early", **options), plain) == set()
        assert failed(attribute(plain, method="smoothgrad", **options), plain) == set()


class TestWrongRules:
    """The gradient of verify is that of the rules: a wrong one is wrong in the file, too."""

    @pytest.fixture
    def spoil(self, monkeypatch):
        """Make the gradient of an operator a hundredth too large."""

        def change(op_type):
            rule = VJP_RULES[op_type]

            def wrong(site, cotangents):
                found = rule.function(site, cotangents)
                factor = site.op.constant(1.01, found[0].value.dtype or ir.DataType.FLOAT)
                return [scaled(site.op, found[0], factor), *found[1:]]

            monkeypatch.setitem(VJP_RULES, op_type, replace(rule, function=wrong))

        return change

    @CAMS
    def test_cams(self, export, tmp_path, spoil, method):
        spoil("Relu")
        plain = saved(tiny_net(), tmp_path / "plain.onnx")
        assert failed(export(plain, method=method, target_layer="early"), plain) == {"gradient"}

    @ATTRIBUTIONS
    def test_attributions(self, attribute, tmp_path, spoil, method):
        spoil("Conv")
        plain = saved(tiny_net(), tmp_path / "plain.onnx")
        assert failed(attribute(plain, method=method), plain) == {"gradient"}

    def test_of_one_layer_of_two(self, export, tmp_path, spoil):
        """Behind the later one all is well."""
        spoil("Conv")
        plain = saved(tiny_net(), tmp_path / "plain.onnx")
        assert failed(export(plain, target_layer="features"), plain) == set()
        layers = ["early", "features"]
        assert failed(export(plain, target_layer=layers), plain) == {"gradient"}


class TestDamagedMaps:
    @ATTRIBUTIONS
    def test_an_attribution_that_is_off(self, attribute, tiny, tmp_path, method):
        path = attribute(tiny, method=method)
        wrong = rewritten(path, tmp_path, lambda m: scale_output(m, "attribution"))
        assert failed(wrong, tiny) == {"attribution"}

    @ATTRIBUTIONS
    def test_its_saliency_map(self, attribute, tiny, tmp_path, method):
        path = attribute(tiny, method=method)
        wrong = rewritten(path, tmp_path, lambda m: scale_output(m, "saliency_map"))
        assert failed(wrong, tiny) == {"saliency_map"}

    @ATTRIBUTIONS
    def test_a_gradient_of_other_weights(self, attribute, tiny, tmp_path, method):
        def change(model):
            graph = body(model)
            (w3,) = [tensor for tensor in graph.initializer if tensor.name == "w3"]
            other = numpy_helper.from_array(numpy_helper.to_array(w3) * np.float32(1.01), "other")
            graph.initializer.append(other)
            for node in graph.node:
                if node.name.startswith("xai_onnx/"):
                    node.input[:] = ["other" if name == "w3" else name for name in node.input]

        wrong = rewritten(attribute(tiny, method=method), tmp_path, change)
        assert failed(wrong, tiny) == {"attribution"}

    def test_another_rule_for_the_integral(self, attribute, tiny, tmp_path):
        """The right ends of the steps in place of their middles."""

        def change(model):
            halves = [
                t for t in body(model).initializer if numpy_helper.to_array(t).tolist() == 0.5
            ]
            assert len(halves) == 1
            content = np.zeros((), np.float32)
            halves[0].CopyFrom(numpy_helper.from_array(content, halves[0].name))

        wrong = rewritten(attribute(tiny, method="integrated-gradients"), tmp_path, change)
        assert failed(wrong, tiny) == {"attribution"}

    @pytest.mark.parametrize(
        ("held", "said"), [*pairwise([*CAM_METHODS, "gradcam"]), ("layercam", "hirescam")]
    )
    def test_a_cam_of_another_method(self, export, tmp_path, held, said):
        """At a layer of positive and negative numbers and gradients no two methods agree."""
        net = tiny_net()
        for node in net.graph.node:
            if node.op_type == "Relu":
                node.op_type = "Softplus"
        plain = saved(net, tmp_path / "plain.onnx")
        path = export(plain, method=held, target_layer="c1")
        assert failed(path, plain) == set()
        assert failed(rewritten(path, tmp_path, say_method(said)), plain) == {"cam"}

    @pytest.mark.parametrize(
        ("held", "said"),
        [("saliency", "input-x-gradient"), ("input-x-gradient", "saliency")],
    )
    def test_an_attribution_of_another_method(self, attribute, tiny, tmp_path, held, said):
        path = attribute(tiny, method=held)
        assert failed(rewritten(path, tmp_path, say_method(said)), tiny) == {"attribution"}

    @CAMS
    @pytest.mark.parametrize("name", ["cam", "activations"])
    def test_a_cam_or_its_activations(self, export, tiny, tmp_path, method, name):
        path = export(tiny, method=method, target_layer="early")
        wrong = rewritten(path, tmp_path, lambda m: scale_output(m, name))
        scale_free = method == "xgradcam" and name == "activations"
        assert "cam" in failed(wrong, tiny) or scale_free

    def test_what_rounding_alone_makes_of_a_cam_is_tolerated(self, export, tmp_path):
        """2 + G sum A nearly vanishes for a channel: there the formula itself has a pole."""
        net = tiny_net()
        for node in net.graph.node:
            if node.op_type == "Relu":
                node.op_type = "Softplus"
        plain = saved(net, tmp_path / "plain.onnx")
        checks = verify(export(plain, method="gradcam++", target_layer="c1"), plain)
        (cam,) = [check for check in checks if check.name == "cam"]
        assert cam.passed
        assert cam.tolerance > MAP
        assert "; rounding alone makes " in cam.detail

    @pytest.mark.parametrize("name", ["cam", "activations_2"])
    def test_one_layer_of_two(self, export, tiny, tmp_path, name):
        path = export(tiny, target_layer=["early", "features"])
        wrong = rewritten(path, tmp_path, lambda m: shift_output(m, name))
        assert "cam" in failed(wrong, tiny)


def shift_output(model, name):
    """Turn the rows of the graph output `name` upside down; no scaling hides that."""
    scale_output(model, name)
    del model.graph.node[-1]
    for content, at in (([-1], "last"), ([-(2**31)], "first"), ([2], "rows"), ([-1], "back")):
        model.graph.initializer.append(numpy_helper.from_array(np.array(content), at))
    inputs = ["unscaled", "last", "first", "rows", "back"]
    model.graph.node.append(helper.make_node("Slice", inputs, [name]))
