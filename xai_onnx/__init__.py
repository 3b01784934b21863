"""Explains image classifiers where they run: saliency maps out of the ONNX file itself."""

from xai_onnx.explanation import Explanation, Prediction
from xai_onnx.lime.explanation import LimeExplanation
from xai_onnx.model import Model, load
from xai_onnx.version import __version__

__all__ = ["Explanation", "LimeExplanation", "Model", "Prediction", "__version__", "load"]
