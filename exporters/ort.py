"""Open models in ONNX Runtime at build time."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from xai_onnx.errors import DependencyError, ModelFileError, reason

PROTOBUF_LIMIT = 2**31 - 1  # bytes; larger models keep their weights outside the .onnx
_ROOM = 2**24  # bytes left to the graph itself


def weight_bytes(model: ir.Model) -> int:
    """Size of all initializers."""
    return sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )


def fits_one_file(model: ir.Model) -> bool:
    """Whether the model can be one protobuf message."""
    return weight_bytes(model) < PROTOBUF_LIMIT - _ROOM


def open_model(model: ir.Model, name: str, *, optimise: bool = False) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU, without graph optimisation unless asked for.

    Raises:
        DependencyError: ONNX Runtime isn't installed.
        ModelFileError: ONNX Runtime refuses the model, called `name` in the message.
    """
    if fits_one_file(model):
        return _open(ir.serde.serialize_model(model).SerializeToString(), name, optimise=optimise)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        ir.save(model, path, external_data="model.data")
        return _open(str(path), name, optimise=optimise)


def open_file(path: Path, *, optimise: bool, proto: onnx.ModelProto | None = None) -> Any:
    """A session of the file at `path`, or of `proto`, its content changed, in its place.

    Raises:
        DependencyError: ONNX Runtime isn't installed.
        ModelFileError: ONNX Runtime refuses the model.
    """
    if proto is None:
        return _open(str(path), str(path), optimise=optimise)
    if not any(tensor.external_data for tensor in proto.graph.initializer):
        return _open(proto.SerializeToString(), str(path), optimise=optimise)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".onnx") as beside:  # its weights
        beside.write(proto.SerializeToString())
        beside.flush()
        return _open(beside.name, str(path), optimise=optimise)


def run(
    session: Any, outputs: Sequence[str], feed: Mapping[str, NDArray[Any]], name: str
) -> list[NDArray[Any]]:
    """Run a session of the model called `name` in messages.

    Raises:
        ModelFileError: it hasn't these inputs and outputs, or doesn't take the feed.
    """
    try:
        return list(session.run(list(outputs), dict(feed)))
    except Exception as error:  # onnxruntime's exceptions have no common base but this
        raise ModelFileError(f"{name}: ONNX Runtime can't run it: {reason(error)}") from error


def _open(model: bytes | str, name: str, *, optimise: bool) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(
            "ONNX Runtime is not installed: pip install 'xai-onnx[cpu]' or 'xai-onnx[gpu]'"
        ) from error
    options = onnxruntime.SessionOptions()
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base but this
        raise ModelFileError(f"{name}: ONNX Runtime can't load it: {reason(error)}") from error
