import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_net import saved, tensors, tiny_net

import xai_onnx
from xai_onnx.errors import DependencyError, InputShapeError, ModelFileError, ProviderError
from xai_onnx.session import Session

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def test_it_says_what_the_model_takes_and_gives(tiny):
    session = Session(tiny)
    assert session.name == tiny
    assert list(session.inputs) == ["image"]
    assert session.outputs["logits"].shape == ["batch", 5]
    assert session.providers == ["CPUExecutionProvider"]
    assert session.manifest is None


def test_outputs_come_in_the_order_asked_for(tiny_explained):
    session = Session(Path(tiny_explained))
    feed = {"image": tensors(2), "class_index": np.zeros((2, 3), np.int64)}
    cam, scores = session.run(["cam", "logits"], feed)
    assert cam.shape == (2, 3, 8, 8)
    assert scores.shape == (2, 5)
    assert session.manifest.cam == "cam"


def test_session_options_are_passed_on(tiny, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    Session(tiny, session_options=options)
    assert (tmp_path / "optimised.onnx").is_file()


class Bound(Session):
    """A session that binds its inputs and outputs, as on an accelerator."""

    def __init__(self, model):
        super().__init__(model)
        self._bind = True


def test_binding_gives_what_a_plain_run_gives(tiny_explained):
    feed = {"image": tensors(3), "class_index": np.full((3, 1), -1, np.int64)}
    names = ["logits", "cam", "saliency_map"]
    bound, plain = Bound(tiny_explained).run(names, feed), Session(tiny_explained).run(names, feed)
    for a, b in zip(bound, plain, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_binding_takes_an_array_that_is_not_contiguous(tiny):
    image = tensors(3)[..., ::-1]
    (bound,) = Bound(tiny).run(["logits"], {"image": image})
    (plain,) = Session(tiny).run(["logits"], {"image": image})
    np.testing.assert_array_equal(bound, plain)


@pytest.mark.parametrize("kind", [Session, Bound])
def test_a_wrong_feed_is_told_with_its_sizes(tiny, kind):
    with pytest.raises(InputShapeError, match=r"tiny\.onnx: .*Got: 31 Expected: 32") as caught:
        kind(tiny).run(["logits"], {"image": tensors(1, size=31)})
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not HAS_CUDA, reason="this ONNX Runtime has no CUDA")
def test_cuda(tiny_explained):
    feed = {"image": tensors(3), "class_index": np.full((3, 1), -1, np.int64)}
    names = ["logits", "cam", "saliency_map"]
    session = Session(tiny_explained, ["cuda", "cpu"])
    assert session.providers[0] == "CUDAExecutionProvider"
    for a, b in zip(
        session.run(names, feed), Session(tiny_explained).run(names, feed), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.skipif(HAS_CUDA, reason="this ONNX Runtime has CUDA")
def test_cuda_that_is_not_there(tiny):
    with pytest.raises(ProviderError, match=r"'cuda' is not in .*pip install 'xai-onnx\[gpu\]'"):
        Session(tiny, ["cuda"])


class PretendsToHaveCuda(onnxruntime.InferenceSession):
    """A session on the CPU that says it were on CUDA, and notes what is bound."""

    bound: ClassVar[list[str]] = []

    def __init__(self, model, options, providers):
        super().__init__(model, options, providers=["CPUExecutionProvider"])

    def get_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def run_with_iobinding(self, binding, run_options=None):
        self.bound.append("called")
        super().run_with_iobinding(binding, run_options)


def test_an_accelerator_is_bound_and_the_cpu_is_not(tiny, monkeypatch):
    """So that outputs which nobody asks for stay on the device."""
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(onnxruntime, "InferenceSession", PretendsToHaveCuda)
    PretendsToHaveCuda.bound.clear()
    feed = {"image": tensors(2)}
    (on_cpu,) = Session(tiny, ["cpu"]).run(["logits"], feed)
    assert PretendsToHaveCuda.bound == []
    (on_device,) = Session(tiny, ["cuda"]).run(["logits"], feed)
    assert PretendsToHaveCuda.bound == ["called"]
    np.testing.assert_array_equal(on_cpu, on_device)


class WithoutCuda(onnxruntime.InferenceSession):
    """What ONNX Runtime does where a CUDA library is missing: it falls back and goes on."""

    def __init__(self, model, options, providers):
        super().__init__(model, options, providers=["CPUExecutionProvider"])


def test_a_provider_that_falls_back_is_an_error(tiny, monkeypatch):
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(onnxruntime, "InferenceSession", WithoutCuda)
    assert Session(tiny).providers == ["CPUExecutionProvider"]
    with pytest.raises(ProviderError, match="CUDAExecutionProvider could not be started"):
        Session(tiny, ["cuda"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file; give the path"),
        (b"", "is not a usable ONNX model"),
        (b"no model at all", "is not a usable ONNX model: .*Protobuf parsing failed"),
    ],
)
def test_files_that_are_no_models(tmp_path, content, message):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message) as caught:
        Session(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_model(tmp_path):
    with pytest.raises(ModelFileError, match=r"is a folder; give the path of an \.onnx file"):
        Session(tmp_path)


def test_bytes_that_are_no_model():
    with pytest.raises(ModelFileError, match="the model: is not a usable ONNX model"):
        Session(b"nonsense")


def test_weights_beside_the_file(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(tiny_net(), path, save_as_external_data=True, location="w.data", size_threshold=0)
    (inside,) = Session(saved(tiny_net(), tmp_path / "one.onnx")).run(
        ["logits"], {"image": tensors(1)}
    )
    (beside,) = Session(path).run(["logits"], {"image": tensors(1)})
    np.testing.assert_array_equal(inside, beside)


def test_without_onnxruntime(monkeypatch, tiny):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        DependencyError, match=r"pip install 'xai-onnx\[cpu\]' or 'xai-onnx\[gpu\]'"
    ):
        xai_onnx.load(tiny)


@pytest.mark.parametrize(
    "command", [["inspect", "tiny.onnx"], ["bench", "tiny.onnx"], ["demo", "-o", "out"]]
)
def test_commands_without_onnxruntime(tmp_path, tiny, command):
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        f"from xai_onnx.cli import main; raise SystemExit(main({command!r}))"
    )
    (tmp_path / "tiny.onnx").write_bytes(Path(tiny).read_bytes())
    root = Path(xai_onnx.__file__).parents[1]
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 2
    assert ended.stderr == (
        f"xai-onnx {command[0]}: error: ONNX Runtime is not installed: "
        "pip install 'xai-onnx[cpu]' or 'xai-onnx[gpu]'\n"
    )
