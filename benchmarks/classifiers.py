"""Classifiers that benchmarks run on: the bundled one, and classic ones of random weights."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from importlib import resources
from pathlib import Path

BUNDLED = Path(str(resources.files("xai_onnx"))) / "assets" / "efficientnet_lite0.onnx"


def resnet50(folder: Path) -> Path:
    """A ResNet-50 of random weights, 224 x 224, as `folder`/resnet50.onnx."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(num_labels=1000)
    net = ResNetForImageClassification(config).eval().requires_grad_(False)
    path = folder / "resnet50.onnx"
    logging.disable(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _logits_of(net),
            (torch.randn(2, 3, 224, 224),),
            str(path),
            input_names=["image"],
            output_names=["logits"],
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    logging.disable(logging.NOTSET)
    return path


def _logits_of(net: object) -> object:
    """A transformers classifier that returns its logits alone."""
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x).logits

    return Logits()
