"""ProtoPNet at run time (Chen et al. 2019): evidence by prototypes, out of a file and its bank."""

from xai_onnx.protopnet.explanation import PrototypeExplanation, PrototypeMatch, Source

__all__ = ["PrototypeExplanation", "PrototypeMatch", "Source"]
