"""From torch: an nn.Module and an example input become an ONNX model, layer names kept.

The only part of the exporters that imports torch, and imported only where a torch module is given.
"""

from xai_onnx.errors import DependencyError

try:
    import onnxscript  # noqa: F401 - which torch.onnx.export needs
    import torch  # noqa: F401
except ImportError as error:
    raise DependencyError(f"{error.name} is missing: pip install 'xai-onnx[torch]'") from error

from exporters.torch_model.attempts import ATTEMPTS
from exporters.torch_model.target import layer
from exporters.torch_model.to_onnx import export, is_module, noise

__all__ = ["ATTEMPTS", "export", "is_module", "layer", "noise"]
