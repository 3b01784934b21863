"""Every error that xai_onnx and its exporters raise on purpose.

Each is an ``XaiOnnxError`` and, so that callers can catch it without importing this module, a
built-in exception as well. A message is one line that says what is wrong, where, what is possible
and what to do. The command line prints the line and exits with 2.
"""

from __future__ import annotations

import re

LONGEST_REASON = 400  # characters taken from another library's message


def reason(error: BaseException) -> str:
    """What another library's error says, in one line, for use in a message of ours."""
    line = " ".join(str(error).split()) or repr(error)
    line = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", line)
    line = re.sub(r"/\S+\.(cc|h):\d+:? ([^()]*\([^)]*\) )?", "", line)  # where in its C++ sources
    return line if len(line) <= LONGEST_REASON else line[:LONGEST_REASON].rstrip() + " ..."


class XaiOnnxError(Exception):
    """Base of every deliberate error of this package."""

    def __str__(self) -> str:
        """One line, whatever is in the names that it repeats."""
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in super().__str__())


class ModelFileError(XaiOnnxError, ValueError):
    """The model file is missing, is not ONNX, is truncated, or fails the ONNX checker."""


class TorchExportError(XaiOnnxError, RuntimeError):
    """A torch module can't run, can't be exported to ONNX, or the export gives other outputs."""


class FactoryError(XaiOnnxError, ValueError):
    """The user's code that should make a torch module can't be imported, fails, or makes none."""


class ManifestError(XaiOnnxError, ValueError):
    """The manifest in the model is absent where one is needed, malformed, or of a newer schema."""


class UnsupportedOperatorError(XaiOnnxError, NotImplementedError):
    """An operator between target layer and score has no gradient rule, or not in this form."""


class ScoreError(XaiOnnxError, ValueError):
    """The score to differentiate can't be found, or isn't of shape [batch, classes]."""


class TargetLayerError(XaiOnnxError, ValueError):
    """The target layer doesn't exist, doesn't reach the score, or can't be chosen safely."""


class TargetError(XaiOnnxError, ValueError):
    """The class to explain doesn't exist."""


class MethodError(XaiOnnxError, ValueError):
    """The method of explanation doesn't exist, or isn't the one that the file was made for."""


class SamplingError(XaiOnnxError, ValueError):
    """A number or a name that says how LIME samples is out of range."""


class PrototypeError(XaiOnnxError, ValueError):
    """Prototypes, their bank or a checkpoint of them are damaged, or don't fit together."""


class PreprocessError(XaiOnnxError, ValueError):
    """The preprocessing is unknown or its description is malformed."""


class ImageError(XaiOnnxError, ValueError):
    """A picture can't be read, is truncated, or is too large."""


class InputShapeError(XaiOnnxError, ValueError):
    """A tensor doesn't have the shape or the type that the model takes."""


class NonFiniteError(XaiOnnxError, ValueError):
    """NaN or infinity in an input or in the model's scores."""


class ProviderError(XaiOnnxError, RuntimeError):
    """An execution provider is unknown, absent, or was not the one really used."""


class OutputFileError(XaiOnnxError, OSError):
    """An output file can't be written."""


class DependencyError(XaiOnnxError, ImportError):
    """A package that this call needs is not installed."""


class LimeWarning(UserWarning):
    """An explanation by LIME that can't be trusted, and why."""
