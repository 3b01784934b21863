"""Read the model that is to be explained, whatever form it comes in."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from exporters.ort import fits_one_file
from exporters.torch_export import TorchExport
from xai_onnx.errors import ModelFileError, reason
from xai_onnx.manifest import METADATA_KEY

ModelLike = str | os.PathLike[str] | onnx.ModelProto | ir.Model | TorchExport


@dataclass(frozen=True)
class Source:
    """A model as it came: the graph, what messages call it, and the SHA-256 of its bytes."""

    model: ir.Model
    name: str
    sha256: str


def read(model: ModelLike) -> Source:
    """Read and check a plain model.

    Args:
        model: path of an .onnx file (external data beside it), or a model in memory, which is
            copied.

    Raises:
        ModelFileError: missing, not ONNX, truncated, refused by the ONNX checker, or already an
            explained model.
    """
    name, folder = "the model", None
    if isinstance(model, TorchExport):
        name, model = model.name, model.model
    if isinstance(model, ir.Model):
        model = ir.serde.serialize_model(model)
    if isinstance(model, onnx.ModelProto):
        content = model.SerializeToString(deterministic=True)
    else:
        path = Path(model)
        name, folder, content = str(path), path.parent, _read(path)
    proto = _parse(content, name)
    if any(entry.key == METADATA_KEY for entry in proto.metadata_props):
        raise ModelFileError(f"{name}: is explained already; export from the plain model")
    moved = _sort(proto.graph)
    if moved and not _has_external_data(proto):  # those can be checked in memory
        checked: onnx.ModelProto | str = proto
    else:
        checked = proto if folder is None else name
    try:
        # A path lets the checker find external data, and models beyond 2 GB.
        onnx.checker.check_model(checked)
        graph = ir.serde.deserialize_model(proto)
        if folder is not None:
            ir.external_data.set_base_dir(graph.graph, folder)
            if fits_one_file(graph):
                graph = ir.external_data.load_to_model(graph)
    except (onnx.checker.ValidationError, ValueError, RuntimeError, KeyError) as error:
        raise ModelFileError(f"{name}: is not a valid ONNX model: {reason(error)}") from error
    return Source(graph, name, hashlib.sha256(content).hexdigest())


def _sort(graph: onnx.GraphProto) -> bool:
    """Put nodes behind those whose results they read; whether any had to move.

    ONNX asks for that order, ONNX Runtime doesn't: float16 converters write a cast of the input
    last. Nodes in a circle stay where they are, for the checker to name.
    """
    made_here = {name for node in graph.node for name in node.output if name}
    waiting, known = list(graph.node), set[str]()
    in_order: list[onnx.NodeProto] = []
    while waiting:
        later = []
        for node in waiting:
            if known.issuperset(_reads(node) & made_here):
                in_order.append(node)
                known.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            return False
        waiting = later
    moved = any(a is not b for a, b in zip(in_order, graph.node, strict=True))
    if moved:
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in in_order]
        del graph.node[:]
        graph.node.extend(copies)
    return moved


def _reads(node: onnx.NodeProto) -> set[str]:
    """Names that the node reads, in the bodies of an If or a Loop as well."""
    names = set(node.input)
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            names.update(name for inner in body.node for name in _reads(inner))
    return names


def _has_external_data(proto: onnx.ModelProto) -> bool:
    return any(tensor.external_data for tensor in proto.graph.initializer)


def parse(path: Path) -> onnx.ModelProto:
    """The file as it stands, explained or plain; its external data stays where it is.

    Raises:
        ModelFileError: missing, not ONNX, or cut short.
    """
    return _parse(_read(path), str(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: can't be read: {error.strerror or error}") from error


def _parse(content: bytes, name: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except Exception as error:
        if type(error).__name__ != "DecodeError":  # protobuf's, which has no typed import
            raise
        raise ModelFileError(f"{name}: is not an ONNX file, or is cut short") from error
    if not proto.ir_version or not proto.graph.node:
        raise ModelFileError(f"{name}: is not an ONNX file: there is no graph in it")
    return proto
