"""Models quantised by onnxruntime: both static formats, dynamic ones, and what it makes of them.

The oracle of `verify` is the straight-through estimate in float64 (`exporters.float64`): central
differences around what the model itself rounds to.
"""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from emitted import append
from onnxruntime.quantization import QuantFormat, QuantType
from quantised_nets import dynamic, float_net, noise, optimised, static

import exporters
import xai_onnx
from exporters import quantized
from exporters.builder import Ops
from exporters.classifier import Classifier
from exporters.verify import verify
from xai_onnx.errors import UnsupportedOperatorError

QDQ, QOPERATOR = QuantFormat.QDQ, QuantFormat.QOperator
UINT8, INT8 = QuantType.QUInt8, QuantType.QInt8


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Models by format, type of the activations and whether scales are per channel, made once."""
    folder, known = tmp_path_factory.mktemp("int8"), {}

    def make(form, activations, per_channel=True):
        key = (form, activations, per_channel)
        if key not in known:
            path = folder / f"{form.name}_{activations.name}_{per_channel}.onnx"
            known[key] = static(path, form, activations, per_channel=per_channel)
        return known[key]

    return make


def operators(path):
    return {node.op_type for node in onnx.load(path).graph.node}


def failures(path, tmp_path, layer=None):
    explained = tmp_path / "explained.onnx"
    exporters.export_gradcam(path, explained, target_layer=layer)
    ours = [node for node in onnx.load(explained).graph.node if node.name.startswith("xai_onnx/")]
    assert {node.domain for node in ours} == {""}
    return [check for check in verify(explained, path) if not check.passed]


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("activations", [UINT8, INT8])
@pytest.mark.parametrize("form", [QDQ, QOPERATOR])
def test_a_quantised_model_is_explained_straight_through(
    made, tmp_path, form, activations, per_channel
):
    assert failures(made(form, activations, per_channel), tmp_path) == []


@pytest.mark.parametrize("layer", ["c1", "c2", "m2", "a2", "c3", "cc"])
@pytest.mark.parametrize("form", [QDQ, QOPERATOR])
def test_through_every_operator(made, tmp_path, form, layer):
    """Sigmoid, Mul, Add, Conv, LeakyRelu, Concat, MaxPool, AveragePool and the head."""
    suffix = "_quantized" if form is QOPERATOR else "_DequantizeLinear_Output"
    if (form, layer) == (QDQ, "c1"):
        layer = "r1"  # the Relu is merged into the rounding
    assert failures(made(form, UINT8), tmp_path, layer + suffix) == []


@pytest.mark.parametrize("form", [QDQ, QOPERATOR])
def test_files_that_onnx_runtime_optimised(made, tmp_path, form):
    """Operators of its own domain, convolutions with channels last among them."""
    path = optimised(made(form, UINT8), tmp_path / "optimised.onnx")
    assert {"QGemm", "QLinearGlobalAveragePool", "QLinearAdd"} <= operators(path)
    assert failures(path, tmp_path) == []


@pytest.mark.parametrize("layer", [None, "r1", "cc"])
def test_dynamic_quantisation(tmp_path, layer):
    path = dynamic(tmp_path / "dynamic.onnx")
    assert {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"} <= operators(path)
    assert failures(path, tmp_path, layer) == []


def test_dynamic_quantisation_as_onnx_runtime_fuses_it(tmp_path):
    path = dynamic(tmp_path / "dynamic.onnx")
    path = optimised(path, tmp_path / "fused.onnx", "ORT_ENABLE_EXTENDED")
    assert "DynamicQuantizeMatMul" in operators(path)
    assert failures(path, tmp_path) == []


@pytest.mark.parametrize("contrib", [True, False])
@pytest.mark.parametrize("activations", [QuantType.QInt16, QuantType.QUInt16])
@pytest.mark.parametrize("layer", [None, "cc_DequantizeLinear_Output"])
def test_16_bit_activations(tmp_path, activations, contrib, layer):
    """onnx has them from opset 21; before, they are of ONNX Runtime's own domain."""
    path = static(tmp_path / "int16.onnx", QDQ, activations, contrib=contrib)
    domains = {node.domain for node in onnx.load(path).graph.node}
    assert ("com.microsoft" in domains) == contrib
    assert failures(path, tmp_path, layer) == []


@pytest.mark.parametrize("form", [QDQ, QOPERATOR])
def test_maps_are_near_those_of_float32(made, tmp_path, form):
    """Correlated, map by map: 8 bits leave two digits, which tiny maps show."""
    layer = "a2_quantized" if form is QOPERATOR else "a2_DequantizeLinear_Output"
    paths = [tmp_path / "float.onnx", tmp_path / "int8.onnx"]
    exporters.export_gradcam(float_net(), paths[0], target_layer="a2")
    exporters.export_gradcam(made(form, UINT8), paths[1], target_layer=layer)
    classes = np.tile(np.arange(5), (8, 1))
    maps = [
        np.array(
            [
                [item.cam.ravel() for item in row]
                for row in xai_onnx.load(path).explain(noise(8, 2), classes, preprocessed=True)
            ]
        ).reshape(40, -1)
        for path in paths
    ]
    filled = [index for index in range(40) if maps[0][index].std() > 0.05 * maps[0].std()]
    assert len(filled) > 10
    correlations = [
        np.corrcoef(maps[0][index], maps[1][index])[0, 1] if maps[1][index].std() else 0.0
        for index in filled
    ]
    assert np.median(correlations) > 0.97


def test_the_score_lies_before_its_own_rounding_and_softmax(made):
    score = Classifier(made(QOPERATOR, UINT8)).score
    assert (score.value.name, score.activation) == ("logits_quantized", "softmax")
    score = Classifier(made(QDQ, UINT8)).score
    assert (score.value.name, score.activation) == ("logits", "softmax")


@pytest.mark.parametrize("form", ["plain", "optimised"])
def test_the_float_form_of_each_operator_computes_what_the_operator_does(made, tmp_path, form):
    """Within half a step and float32's error: `expand` against ONNX Runtime's own kernels."""
    path = made(QOPERATOR, UINT8)
    if form == "optimised":
        path = optimised(path, tmp_path / "optimised.onnx")
    classifier = Classifier(path)
    op = Ops({str(v.name) for node in classifier.model.graph for v in node.outputs})
    pairs, seen = {}, set()
    for node in list(classifier.model.graph):
        if quantized.form_of(node) is not None:
            rank = len(classifier.shapes[node.outputs[0]])
            expansion = quantized.expand(op, node, rank)
            by = quantized.quantisation(node.outputs[0])
            name = f"pair{len(pairs)}"
            pairs[name] = expansion.outputs[0]
            pairs[f"{name}_q"] = quantized.as_float(op, node.outputs[0])
            pairs[f"{name}_step"] = by.scale
            seen.add(node.op_type)
    wanted = {"QLinearConv", "QLinearMatMul", "QGemm", "QLinearAdd", "QLinearMul", "QLinearConcat"}
    wanted |= {"QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QLinearAveragePool"}
    assert seen == wanted | {"QLinearGlobalAveragePool"}
    append(op, classifier.model, pairs)
    proto = ir.serde.serialize_model(classifier.model).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    found = dict(zip(pairs, session.run(None, {"image": noise(3, 2)}), strict=True))
    for name in [name for name in pairs if name.endswith("_q")]:
        q, y = found[name], found[name.removesuffix("_q")]
        step = float(found[name.removesuffix("_q") + "_step"])
        inside = (q > q.min()) & (q < q.max())  # elsewhere it may be saturated
        assert inside.any()
        error = np.abs(q - y)[inside] / step
        # Sigmoid and its like are looked up, averages of integers rounded twice: one step.
        assert np.median(error) < 0.5
        assert error.max() < 1.01


def test_an_operator_on_integers_without_a_float_rule_is_named(made, tmp_path):
    model = onnx.load(made(QOPERATOR, UINT8))
    (pool,) = [node for node in model.graph.node if node.op_type == "QLinearGlobalAveragePool"]
    pool.op_type, pool.domain = "Hardmax", ""
    with pytest.raises(Exception, match="Hardmax"):
        exporters.export_gradcam(model, tmp_path / "x.onnx")


def test_scales_along_an_axis_that_differ_are_refused(export):
    scales = [np.array([1, 2], np.float32), np.array([2, 1], np.float32)]
    graph = onnx.parser.parse_graph("""g (float[B,3,8,8] image) => (float[B,2] y) {
        c = Conv(image, w)  q = QuantizeLinear<axis=1>(c, s, z)
        d = DequantizeLinear<axis=1>(q, t, z)
        p = GlobalAveragePool(d)  f = Flatten(p)  y = MatMul(f, v) }""")
    arrays = {
        "w": np.ones((2, 3, 3, 3), np.float32), "z": np.zeros(2, np.int8),
        "s": scales[0], "t": scales[1], "v": np.eye(2, dtype=np.float32),
    }  # fmt: skip
    graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items())
    opsets = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    with pytest.raises(UnsupportedOperatorError, match="other scales along an axis"):
        export(model, target_layer="c")
