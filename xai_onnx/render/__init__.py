"""Pictures of explanations: the only package that knows colours."""

from xai_onnx.render.evidence import picture as evidence_picture
from xai_onnx.render.figure import FORMATS, save
from xai_onnx.render.saliency import overlay, picture

__all__ = ["FORMATS", "evidence_picture", "overlay", "picture", "save"]
