"""Classifiers to run on: the bundled one, and transformers' architectures of random weights."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

BUNDLED = Path(str(resources.files("xai_onnx"))) / "assets" / "efficientnet_lite0.onnx"


def resnet50(folder: Path) -> Path:
    """A ResNet-50, 224 x 224, as `folder`/resnet50.onnx."""
    return architecture("ResNet", {"num_labels": 1000}, 224, folder / "resnet50.onnx")


def architecture(family: str, settings: dict[str, Any], size: int, path: Path) -> Path:
    """Save a classifier of a transformers family, input "image" with a free batch, "logits" out.

    Args:
        family: as in the names of its config and its classifier, e.g. ``"ResNet"``.
        settings: of its config.
        size: height and width of the image, in pixels.
        path: the .onnx file.
    """
    import torch
    import transformers

    class Logits(torch.nn.Module):
        """The classifier, which returns more than its logits, as one that doesn't."""

        def __init__(self, net: torch.nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.net(pixel_values=image).logits

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**settings)
    net = getattr(transformers, f"{family}ForImageClassification")(config)
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits(net).eval().requires_grad_(False),
            (torch.randn(2, 3, size, size),),
            str(path),
            input_names=["image"],
            output_names=["logits"],
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    logging.disable(before)
    return path
