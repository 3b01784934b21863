"""One open .onnx file in ONNX Runtime: its providers checked, its manifest read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx import providers as execution
from xai_onnx.errors import DependencyError, InputShapeError, ModelFileError, reason
from xai_onnx.manifest import Manifest

if TYPE_CHECKING:
    from onnxruntime import SessionOptions

ModelSource = str | os.PathLike[str] | bytes


class Session:
    """An ONNX Runtime session that says what it takes and gives; safe to run from many threads."""

    def __init__(
        self,
        model: ModelSource,
        providers: Sequence[execution.ProviderLike] | None = None,
        session_options: SessionOptions | None = None,
    ) -> None:
        """Open `model`, a path or the bytes of an .onnx file.

        Raises:
            DependencyError: ONNX Runtime isn't installed.
            ModelFileError: missing, or not a model that ONNX Runtime can load.
            ManifestError: its manifest is malformed or of a newer schema.
            ProviderError: a provider asked for isn't there, or can't be started.
        """
        onnxruntime = runtime()
        self.name = "the model" if isinstance(model, bytes) else str(model)
        asked = execution.resolve(providers, onnxruntime.get_available_providers())
        if not isinstance(model, bytes):
            if not Path(model).is_file():
                what = "is a folder" if Path(model).is_dir() else "there is no such file"
                raise ModelFileError(f"{self.name}: {what}; give the path of an .onnx file")
            model = str(model)
        if session_options is None:
            session_options = onnxruntime.SessionOptions()
            session_options.log_severity_level = 4  # an error is raised as well
        try:
            self._session = onnxruntime.InferenceSession(model, session_options, providers=asked)
            inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
            metadata = self._session.get_modelmeta().custom_metadata_map  # perhaps not in UTF-8
        except Exception as error:  # onnxruntime's exceptions have no common base but this
            raise ModelFileError(
                f"{self.name}: is not a usable ONNX model: {reason(error)}"
            ) from error
        execution.check_in_use(asked, self._session.get_providers())
        self._bind = asked[0][0] != "CPUExecutionProvider"
        self.inputs: dict[str, Any] = {value.name: value for value in inputs}
        self.outputs: dict[str, Any] = {value.name: value for value in outputs}
        self.manifest = Manifest.from_metadata(metadata, self.name)
        if self.manifest is not None:
            self.manifest.check_names(self.inputs, self.outputs, self.name)

    @property
    def providers(self) -> list[str]:
        """The execution providers in use, in order of preference."""
        return list(self._session.get_providers())

    def run(
        self, outputs: Sequence[str], feed: Mapping[str, NDArray[Any]]
    ) -> list[NDArray[np.float32]]:
        """Run the model once and fetch `outputs`.

        On an accelerator only the outputs asked for are copied back to host memory; the rest, the
        activations above all, stays there.

        Raises:
            InputShapeError: ONNX Runtime refuses the feed.
        """
        try:
            if not self._bind:
                return list(self._session.run(list(outputs), dict(feed)))
            binding = self._session.io_binding()
            for name, array in feed.items():
                binding.bind_cpu_input(name, array)
            for name in outputs:
                binding.bind_output(name, "cpu")
            self._session.run_with_iobinding(binding)
            return list(binding.copy_outputs_to_cpu())
        except Exception as error:  # onnxruntime's exceptions have no common base but this
            raise InputShapeError(
                f"{self.name}: ONNX Runtime can't run it: {reason(error)}"
            ) from error


def runtime() -> Any:
    """The package onnxruntime.

    Raises:
        DependencyError: it isn't installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(
            "ONNX Runtime is not installed: pip install 'xai-onnx[cpu]' or 'xai-onnx[gpu]'"
        ) from error
    return onnxruntime
