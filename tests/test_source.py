import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tiny_net import saved, tensors, tiny_net

import exporters
import xai_onnx
from exporters import source
from xai_onnx.errors import ModelFileError


def test_a_path_is_its_bytes(tiny):
    read = source.read(tiny)
    assert read.name == tiny
    assert read.sha256 == hashlib.sha256(Path(tiny).read_bytes()).hexdigest()
    assert source.read(Path(tiny)).sha256 == read.sha256


def test_models_in_memory_are_copied_not_changed():
    proto = tiny_net(opset=13)
    before = proto.SerializeToString(deterministic=True)
    as_ir = ir.serde.deserialize_model(proto)
    exporters.explained_bytes(proto)
    exporters.explained_bytes(as_ir)
    assert proto.SerializeToString(deterministic=True) == before
    assert as_ir.graph.opset_imports[""] == 13
    assert [value.name for value in as_ir.graph.inputs] == ["image"]
    assert source.read(proto).name == "the model"
    assert source.read(proto).sha256 == hashlib.sha256(before).hexdigest()


def test_every_form_gives_the_same_file(tiny):
    proto = onnx.load(tiny)
    forms = [tiny, Path(tiny), proto, ir.serde.deserialize_model(proto)]
    found = [
        [node.SerializeToString() for node in onnx.load_from_string(content).graph.node]
        for content in map(exporters.explained_bytes, forms)
    ]
    assert all(nodes == found[0] for nodes in found)


class TestWeightsBeside:
    @pytest.fixture
    def split(self, tmp_path):
        folder = tmp_path / "in"
        folder.mkdir()
        path = folder / "split.onnx"
        onnx.save(tiny_net(), path, save_as_external_data=True, location="w.data", size_threshold=0)
        return path

    def test_they_come_into_the_one_file(self, split, tmp_path):
        """Wherever the command runs, and wherever the output lies."""
        out = tmp_path / "explained.onnx"
        exporters.export_gradcam(split, out)
        (split.parent / "w.data").unlink()
        assert not any(t.external_data for t in onnx.load(out).graph.initializer)
        found = xai_onnx.load(out).predict(tensors(2), preprocessed=True)
        whole = xai_onnx.load(tiny_net().SerializeToString()).predict(tensors(2), preprocessed=True)
        for a, b in zip(found, whole, strict=True):
            np.testing.assert_array_equal(a.scores, b.scores)

    def test_they_come_into_memory(self, split):
        content = exporters.explained_bytes(split)
        assert xai_onnx.load(content).predict(tensors(1), preprocessed=True)

    def test_beyond_the_limit_they_stay_where_they_are(self, split, monkeypatch):
        monkeypatch.setattr("exporters.source.fits_one_file", lambda model: False)
        weight = source.read(split).model.graph.initializers["w2"].const_value
        assert isinstance(weight, ir.ExternalTensor)
        assert weight.numpy().shape == (16, 8, 3, 3)

    def test_missing(self, split):
        (split.parent / "w.data").unlink()
        with pytest.raises(
            ModelFileError, match=r"split\.onnx: is not a valid ONNX model: .*w\.data"
        ):
            source.read(split)

    def test_cut_short(self, split):
        data = split.parent / "w.data"
        data.write_bytes(data.read_bytes()[:100])
        with pytest.raises(ModelFileError, match=r"split\.onnx: "):
            exporters.explained_bytes(split)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\x01\x02", "is not an ONNX file, or is cut short"),
        (b"", "is not an ONNX file: there is no graph in it"),
    ],
)
def test_other_bytes(tmp_path, content, message):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    for read in (source.read, source.parse):
        with pytest.raises(ModelFileError, match=message):
            read(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(ModelFileError, match=r"m\.onnx: can't be read: No such file"):
        source.read(tmp_path / "m.onnx")


def test_the_checker_refuses(tmp_path):
    net = tiny_net()
    net.graph.node[0].input[0] = "nothing"
    with pytest.raises(ModelFileError, match=r"^the model: is not a valid ONNX model: .*nothing"):
        source.read(net)
    with pytest.raises(ModelFileError, match=r"bad\.onnx: is not a valid ONNX model"):
        source.read(saved(net, tmp_path / "bad.onnx"))


def test_explained_models_are_not_explained_twice(tiny_explained):
    with pytest.raises(ModelFileError, match="explained already; export from the plain model"):
        source.read(tiny_explained)
    assert source.parse(Path(tiny_explained)).graph.node


def test_an_error_that_is_not_protobufs_is_not_hidden(monkeypatch):
    def refuse(*_):
        raise RuntimeError("something else")

    monkeypatch.setattr(onnx, "ModelProto", lambda: type("P", (), {"ParseFromString": refuse})())
    with pytest.raises(RuntimeError, match="something else"):
        source._parse(b"", "m")
