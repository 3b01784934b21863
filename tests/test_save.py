"""One file, or one file and its weights; whole or absent."""

import sys

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from tiny_net import tensors, tiny_net

import exporters
from exporters import ort
from exporters.explained import build
from exporters.save import save
from exporters.verify import verify
from xai_onnx.errors import ModelFileError, OutputFileError


@pytest.fixture
def small_limit(monkeypatch):
    """As if one file could not hold the tiny net: the limit of 2 GB, at its scale."""
    monkeypatch.setattr(ort, "PROTOBUF_LIMIT", ort._ROOM + 2000)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def run(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": tensors(2), "class_index": np.array([[1], [-1]])})


def test_what_fits_one_file():
    model = ir.serde.deserialize_model(tiny_net())
    arrays = [ir.to_proto(v.const_value) for v in model.graph.initializers.values()]
    total = sum(onnx.numpy_helper.to_array(array).nbytes for array in arrays)
    assert ort.weight_bytes(model) == total
    assert ort.fits_one_file(model)


def test_the_limit_is_that_of_protobuf(monkeypatch):
    model = ir.serde.deserialize_model(tiny_net())
    assert ort.PROTOBUF_LIMIT == 2**31 - 1
    monkeypatch.setattr(ort, "PROTOBUF_LIMIT", ort.weight_bytes(model) + ort._ROOM)
    assert not ort.fits_one_file(model)
    monkeypatch.setattr(ort, "PROTOBUF_LIMIT", ort.weight_bytes(model) + ort._ROOM + 1)
    assert ort.fits_one_file(model)


class TestOneFile:
    def test_nothing_else_is_written(self, tmp_path):
        exporters.export_gradcam(tiny_net(), tmp_path / "out.onnx")
        assert names(tmp_path) == ["out.onnx"]
        assert len(run(tmp_path / "out.onnx")) == 4

    def test_its_bytes_are_those_in_memory(self, tmp_path, tiny):
        exporters.export_gradcam(tiny, tmp_path / "out.onnx")
        in_memory = onnx.load_from_string(exporters.explained_bytes(tiny))
        written = onnx.load(tmp_path / "out.onnx")
        assert written.graph.node == in_memory.graph.node
        assert written.metadata_props == in_memory.metadata_props

    def test_a_file_that_the_checker_refuses_is_not_written(self, tmp_path):
        path = tmp_path / "out.onnx"
        path.write_bytes(b"old")
        model, _ = build(tiny_net())
        model.graph.outputs[0].dtype = ir.DataType.INT64
        with pytest.raises(ModelFileError, match="explained model fails the ONNX checker"):
            save(model, path)
        assert path.read_bytes() == b"old"
        assert names(tmp_path) == ["out.onnx"]

    def test_doc_strings_are_left_out(self, tmp_path):
        """Exporters of torch write a stack trace into every node."""
        model = tiny_net()
        for node in model.graph.node:
            node.doc_string = "File /home/someone/train.py, line 1"
        exporters.export_gradcam(model, tmp_path / "out.onnx")
        assert b"someone" not in (tmp_path / "out.onnx").read_bytes()

    @pytest.mark.parametrize("name", ["out", "out.pb", "out.onnx.data", "onnx"])
    def test_another_suffix(self, tmp_path, name):
        with pytest.raises(OutputFileError, match=r"is an \.onnx file; name it so"):
            exporters.export_gradcam(tiny_net(), tmp_path / name)
        assert names(tmp_path) == []


class TestTwoFiles:
    def test_both_are_written_and_give_the_same(self, tmp_path, small_limit, monkeypatch):
        path = tmp_path / "out.onnx"
        exporters.export_gradcam(tiny_net(), path)
        assert names(tmp_path) == ["out.onnx", "out.onnx.data"]
        monkeypatch.undo()
        exporters.export_gradcam(tiny_net(), tmp_path / "one.onnx")
        for a, b in zip(run(path), run(tmp_path / "one.onnx"), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_they_can_be_moved_together(self, tmp_path, small_limit):
        exporters.export_gradcam(tiny_net(), tmp_path / "out.onnx")
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        for name in ("out.onnx", "out.onnx.data"):
            (tmp_path / name).rename(folder / name)
        assert len(run(folder / "out.onnx")) == 4

    def test_they_replace_older_ones(self, tmp_path, small_limit):
        for seed in (1, 2):
            exporters.export_gradcam(tiny_net(seed=seed), tmp_path / "out.onnx")
        scores = run(tmp_path / "out.onnx")[0]
        proto = tiny_net(seed=2).SerializeToString()
        plain = onnxruntime.InferenceSession(proto, providers=["CPUExecutionProvider"])
        np.testing.assert_array_equal(scores, plain.run(None, {"image": tensors(2)})[0])

    def test_a_source_of_two_files(self, tmp_path, small_limit):
        plain = tmp_path / "plain.onnx"
        onnx.save(tiny_net(), plain, save_as_external_data=True, location="plain.data")
        out = tmp_path / "out.onnx"
        exporters.export_gradcam(plain, out)
        assert len(run(out)) == 4
        assert all(check.passed for check in verify(out, plain))

    @pytest.mark.parametrize("step", ["check", "_rename_weights"])
    def test_nothing_remains_of_a_failure(self, tmp_path, small_limit, monkeypatch, step):
        def fail(*_):
            raise OSError(28, "No space left on device")

        for name in ("out.onnx", "out.onnx.data"):
            (tmp_path / name).write_bytes(b"old")
        monkeypatch.setattr(sys.modules["exporters.save"], step, fail)
        with pytest.raises(OutputFileError, match="No space left on device"):
            exporters.export_gradcam(tiny_net(), tmp_path / "out.onnx")
        assert names(tmp_path) == ["out.onnx", "out.onnx.data"]
        assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"old"}
