"""Models as other tools write them: exported, checked, outputs as before."""

import shutil

import numpy as np
import onnx
import pytest
from exotic_models import EXOTIC, plain
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from tiny_net import tiny_net

import exporters
from exporters.verify import verify
from xai_onnx.errors import ModelFileError


def explained(model, folder):
    """Save and export the model; the checks of `verify` that failed."""
    path, result = folder / "plain.onnx", folder / "explained.onnx"
    onnx.save(model, path)
    exporters.export_gradcam(path, result)
    return [check for check in verify(result, path) if not check.passed]


@pytest.mark.parametrize("name", EXOTIC)
def test_it_is_explained(name, tmp_path):
    assert explained(EXOTIC[name](), tmp_path) == []


def test_nodes_out_of_order_are_sorted(tmp_path):
    """ONNX Runtime takes them, and float16 converters write them."""
    model = EXOTIC["If before the target"]()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    assert explained(model, tmp_path) == []


def test_nodes_in_a_circle_are_refused(tmp_path):
    model = plain()
    model.graph.node[1].input[0] = "s"
    with pytest.raises(ModelFileError, match="topologically sorted"):
        explained(model, tmp_path)


def test_a_sparse_constant_is_refused(tmp_path):
    values = numpy_helper.from_array(np.array([0.5], np.float32), "v")
    places = numpy_helper.from_array(np.array([[0]]), "i")
    sparse = helper.make_sparse_tensor(values, places, [8])
    model = plain("k = Identity(r)", "k")
    model.graph.node[2].CopyFrom(helper.make_node("Constant", [], ["z"], sparse_value=sparse))
    model.graph.node.insert(3, helper.make_node("Identity", ["r"], ["k"]))
    with pytest.raises(ModelFileError, match="sparse"):
        explained(model, tmp_path)


def test_external_data_in_a_folder_that_was_moved(tmp_path):
    first = tmp_path / "first"
    first.mkdir()
    onnx.save(plain(), first / "m.onnx", save_as_external_data=True, size_threshold=0)
    moved = tmp_path / "moved"
    shutil.move(first, moved)
    result = tmp_path / "explained.onnx"
    exporters.export_gradcam(moved / "m.onnx", result)
    assert [check for check in verify(result, moved / "m.onnx") if not check.passed] == []


def test_external_data_that_is_missing(tmp_path):
    onnx.save(plain(), tmp_path / "m.onnx", save_as_external_data=True, location="w.data",
              size_threshold=0)  # fmt: skip
    (tmp_path / "w.data").unlink()
    with pytest.raises(ModelFileError, match=r"w\.data"):
        exporters.export_gradcam(tmp_path / "m.onnx", tmp_path / "explained.onnx")


def test_a_float16_model(tmp_path):
    assert explained(tiny_net("Softmax", dtype="float16"), tmp_path) == []


def test_convolutions_in_float64_are_refused_since_onnx_runtime_has_none(tmp_path):
    with pytest.raises(ModelFileError, match=r"ONNX Runtime can't load it: .* for Conv\(11\)"):
        explained(tiny_net(dtype="float64"), tmp_path)


@pytest.mark.parametrize("keep_io_types", [True, False])
def test_a_converted_float16_model(tmp_path, keep_io_types):
    model = convert_float_to_float16(tiny_net("Softmax"), keep_io_types=keep_io_types)
    assert explained(model, tmp_path) == []


def test_bfloat16_is_refused_where_onnx_runtime_has_no_kernels(tmp_path):
    model = tiny_net()
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        raw = (array.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        made = helper.make_tensor(tensor.name, TensorProto.BFLOAT16, array.shape, raw, raw=True)
        tensor.CopyFrom(made)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    with pytest.raises(ModelFileError, match="bfloat16"):
        explained(model, tmp_path)


@pytest.mark.slow
def test_more_than_2_gb(tmp_path):
    """Weights of zeros in a sparse file, beyond what one protobuf message holds."""
    if shutil.disk_usage(tmp_path).free < 8 * 2**30:
        pytest.skip("needs 8 GB of disk")
    rows, size = 2**20, 2**20 * 4 * 576  # 2.25 GiB
    model = plain(
        "i = Cast<to=7>(zero)  wide = Gather(large, i)  w = ReduceSum<keepdims=0>(wide)\n"
        "k = Add(r, w)",
        "k",
        arrays={"zero": np.array([0.0], np.float32)},
    )
    large = model.graph.initializer.add(name="large", data_type=1, dims=[rows, size // rows // 4])
    large.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "large.data"), ("offset", "0"), ("length", str(size))):
        large.external_data.add(key=key, value=value)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with open(tmp_path / "large.data", "wb") as weights:
        weights.truncate(size)
    assert size > 2**31
    result = tmp_path / "explained.onnx"
    exporters.export_gradcam(tmp_path / "m.onnx", result)
    assert (tmp_path / "explained.onnx.data").stat().st_size > 2**31
    assert [check for check in verify(result, tmp_path / "m.onnx") if not check.passed] == []
