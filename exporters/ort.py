"""Open an ir.Model in ONNX Runtime at build time, as it is: no optimisation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx_ir as ir

from xai_onnx.errors import DependencyError, ModelFileError

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


def open_session(model: ir.Model, name: str) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU, without graph optimisation.

    Raises:
        DependencyError: ONNX Runtime isn't installed.
        ModelFileError: ONNX Runtime refuses the model, called `name` in the message.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(
            "ONNX Runtime is not installed: pip install 'xai-onnx[cpu]' or 'xai-onnx[gpu]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    providers = ["CPUExecutionProvider"]
    try:
        if fits_one_file(model):
            content = ir.serde.serialize_model(model).SerializeToString()
            return onnxruntime.InferenceSession(content, options, providers=providers)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            ir.save(model, path, external_data="model.data")
            return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common base but this
        reason = str(error).strip().splitlines()[0]
        raise ModelFileError(f"{name}: ONNX Runtime can't load it: {reason}") from error
