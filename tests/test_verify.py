"""What `verify` must notice: each kind of damage, made on purpose, fails the check meant for it."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tiny_net import saved, tiny_net

import exporters
from exporters.verify import CHECKS, Check, verify
from xai_onnx.errors import ManifestError, ModelFileError


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
    assert (checks[2].detail == left_out) == (options.get("saliency_map") is False)


@pytest.mark.parametrize("options", [{"layout": "NHWC"}, {"size": "side"}, {"dtype": "uint8"}])
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
    with pytest.raises(ModelFileError, match=r"was made from another model.* others"):
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
