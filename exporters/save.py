"""Check an explained model and write it: one file, or one file and its weights beyond 2 GB."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from exporters.ort import fits_one_file
from xai_onnx.errors import ModelFileError, OutputFileError, reason
from xai_onnx.output_file import replacing


def save(model: ir.Model, output: str | os.PathLike[str]) -> None:
    """Check and write `model`; whatever stood at `output` stays until the new file is whole.

    Raises:
        OutputFileError: `output` can't be written.
        ModelFileError: the ONNX checker refuses the model.
    """
    output = Path(output)
    if output.suffix != ".onnx":
        raise OutputFileError(f"{output}: an explained model is an .onnx file; name it so")
    common.ClearMetadataAndDocStringPass()(model)
    with replacing(output) as temporary:
        if fits_one_file(model):
            temporary.write_bytes(to_bytes(model))
        else:
            weights = output.with_suffix(".onnx.data")
            with replacing(weights) as temporary_weights:
                ir.save(model, temporary, external_data=temporary_weights.name)
                check(temporary)
                _rename_weights(temporary, temporary_weights.name, weights.name)


def to_bytes(model: ir.Model) -> bytes:
    """The checked model as the bytes of an .onnx file."""
    proto = ir.serde.serialize_model(model)
    check(proto)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def check(model: onnx.ModelProto | Path) -> None:
    """Run the ONNX checker with full shape inference."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelFileError(
            f"the explained model fails the ONNX checker: {reason(error)}"
        ) from error


def _rename_weights(path: Path, old: str, new: str) -> None:
    """Point the external tensors at the name that the weights will be renamed to."""
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value == old:
                entry.value = new
    path.write_bytes(proto.SerializeToString(deterministic=True))
