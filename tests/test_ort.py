import sys

import numpy as np
import onnx_ir as ir
import pytest
from tiny_net import tensors, tiny_net

from exporters import ort
from xai_onnx.errors import DependencyError, ModelFileError


@pytest.mark.parametrize("limit", [ort.PROTOBUF_LIMIT, ort._ROOM])
def test_a_model_is_opened_from_memory_or_beyond_the_limit_from_files(monkeypatch, limit):
    monkeypatch.setattr(ort, "PROTOBUF_LIMIT", limit)
    session = ort.open_model(ir.serde.deserialize_model(tiny_net()), "m")
    (scores,) = ort.run(session, ["logits"], {"image": tensors(2)}, "m")
    assert scores.shape == (2, 5)


def test_a_model_that_onnxruntime_refuses():
    model = tiny_net()
    model.graph.node[0].domain = "com.example"
    with pytest.raises(ModelFileError, match=r"^m: ONNX Runtime can't load it: .*com\.example"):
        ort.open_model(ir.serde.deserialize_model(model), "m")


@pytest.mark.parametrize(
    ("names", "feed"),
    [
        (["nothing"], {"image": tensors(1)}),
        (["logits"], {}),
        (["logits"], {"image": tensors(1, size=31)}),
        (["logits"], {"image": tensors(1).astype(np.float64)}),
    ],
)
def test_runs_that_cannot_be(names, feed):
    session = ort.open_model(ir.serde.deserialize_model(tiny_net()), "m")
    with pytest.raises(ModelFileError, match=r"^m: ONNX Runtime can't run it: ") as caught:
        ort.run(session, names, feed, "m")
    assert "\n" not in str(caught.value)


def test_without_onnxruntime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match=r"'xai-onnx\[cpu\]' or 'xai-onnx\[gpu\]'"):
        ort.open_model(ir.serde.deserialize_model(tiny_net()), "m")
