"""ProtoPNet (Chen et al. 2019): trained, imported, and exported to one ONNX graph.

`train` and what goes with it need torch, and load it when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exporters.protopnet.labelled_pictures import LabelledPictures
from exporters.protopnet.pruning import merge_duplicates
from exporters.protopnet.schedule import Schedule
from xai_onnx.errors import DependencyError

if TYPE_CHECKING:
    from exporters.protopnet.passes import logits
    from exporters.protopnet.small_backbone import small_cnn
    from exporters.protopnet.training import Trained, train

__all__ = [
    "LabelledPictures",
    "Schedule",
    "Trained",
    "logits",
    "merge_duplicates",
    "small_cnn",
    "train",
]

_WITH_TORCH = {
    "Trained": "training",
    "logits": "passes",
    "small_cnn": "small_backbone",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        module = import_module(f"{__name__}.{_WITH_TORCH[name]}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise DependencyError("torch is missing: pip install 'xai-onnx[torch]'") from error
    return getattr(module, name)
