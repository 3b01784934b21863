"""A torch module that became an ONNX model: what the rest of the exporters hold; no torch here."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import onnx_ir as ir

from xai_onnx.errors import InputShapeError, OutputFileError, TargetLayerError
from xai_onnx.output_file import replacing


@runtime_checkable
class TorchModule(Protocol):
    """A torch.nn.Module, as far as modules need to know it that must not import torch."""

    def named_modules(self) -> Any:
        """Its parts and their paths."""

    def state_dict(self) -> Any:
        """Its weights."""


@dataclass(frozen=True)
class TorchExport:
    """The plain ONNX model of a torch module, and how it was made.

    Attributes:
        model: with what torch's exporter notes of the module's parts.
        name: the module's class.
        exporter: the way to export that was taken, one of `exporters.torch_model.ATTEMPTS`.
        failures: the ways that were tried before it, each with the reason why it failed.
        difference: between the outputs of model and module, relative to the largest.
        module: the module itself.
        inputs: the example that it was exported for and compared on.
        inferred: whether the example is noise of the size that the module's config names.
    """

    model: ir.Model
    name: str
    exporter: str
    failures: tuple[tuple[str, str], ...]
    difference: float
    module: Any
    inputs: tuple[Any, ...]
    inferred: bool

    @property
    def summary(self) -> str:
        """How it was made, in a line."""
        if not self.inferred:
            return self.exporter
        shape = list(self.inputs[0].shape)
        return f"{self.exporter}; example input: noise {shape}, the size in the module's config"

    def report(self) -> dict[str, Any]:
        """How it was made, as data."""
        return {
            "exporter": self.exporter,
            "failures": [{"exporter": name, "reason": reason} for name, reason in self.failures],
            "difference": self.difference,
            "example_shapes": [list(tensor.shape) for tensor in self.inputs],
            "example_inferred": self.inferred,
        }

    def to_bytes(self) -> bytes:
        """The plain model as an .onnx file; the manifest's ``source_sha256`` is that of these."""
        proto = ir.serde.serialize_model(self.model)
        content: bytes = proto.SerializeToString(deterministic=True)
        return content

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plain model: what `verify` compares with, and `inspect` looks at."""
        if Path(path).suffix != ".onnx":
            raise OutputFileError(f"{path}: a plain model is an .onnx file; name it so")
        with replacing(path) as temporary:
            temporary.write_bytes(self.to_bytes())


Layer = str | TorchModule


def from_torch(module: TorchModule, example_input: Any = None) -> TorchExport:
    """Export a torch classifier to a plain ONNX model in memory.

    `exporters.export_gradcam` does this by itself and takes the result in the module's place; call
    it to keep the plain model, or to see how it was made.

    Args:
        module: a ``torch.nn.Module``, left as it was; see `exporters.torch_model.export`.
        example_input: a tensor [B, C, H, W], or a tuple of tensors; ``None``: noise of the size
            that the config of a transformers model names.

    Raises:
        DependencyError: torch or onnxscript isn't installed.
        InputShapeError: an example is needed.
        TorchExportError: the module can't run, or torch can't export it.
    """
    from exporters import torch_model

    return torch_model.export(module, example_input)  # type: ignore[arg-type]


def as_onnx(
    model: Any, example_input: Any, target_layer: Layer | Sequence[Layer] | None
) -> tuple[Any, Any]:
    """`model` and `target_layer`, without torch modules among them.

    A warning says so where the first way to export a module failed.
    """
    if isinstance(model, TorchModule):
        model = from_torch(model, example_input)
        if model.failures:
            tried = "; ".join(f"{name}: {reason}" for name, reason in model.failures)
            warnings.warn(
                f"{model.name}: exported by {model.exporter}, after {tried}", stacklevel=3
            )
    elif example_input is not None:
        raise InputShapeError("example_input is given, but the model is no torch module")
    if isinstance(target_layer, str | TorchModule):
        return model, _name(model, target_layer)
    return model, target_layer and [_name(model, layer) for layer in target_layer]


def _name(model: Any, layer: Layer) -> str:
    if isinstance(model, TorchExport):
        from exporters import torch_model

        return torch_model.layer(model, layer)  # type: ignore[arg-type]
    if not isinstance(layer, str):
        raise TargetLayerError(
            f"target layer {type(layer).__name__} is a torch module, but the model is none; give "
            "the layer's path, as in named_modules()"
        )
    return layer
