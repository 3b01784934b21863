"""A drop-in for lime's explainer of images, with its numbers, seeds included, in less time.

    from xai_onnx.lime.compat import LimeImageExplainer     # was: from lime.lime_image import ...

Any callable can be the classifier. What is reproduced is lime 0.2.0.1, the release on PyPI; where
the later, unreleased code of lime's repository differs, `LimeImageExplainer` has a flag. For a
model in ONNX Runtime, ``xai_onnx.load(path).lime(image)`` is faster still and says how sure it is.
"""

from xai_onnx.lime.compat.explainer import LimeImageExplainer
from xai_onnx.lime.compat.explanation import ImageExplanation
from xai_onnx.lime.compat.segmentation import SegmentationAlgorithm

__all__ = ["ImageExplanation", "LimeImageExplainer", "SegmentationAlgorithm"]
