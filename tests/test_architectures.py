"""Well-known architectures, small, of random weights: the layer is found, the map is verified.

`verify` differentiates the original in float64 without any gradient rule (see `exporters.verify`).
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import exporters
from exporters.verify import verify

SMALL = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]}

# family: settings of its config, image size, the operators that must lie behind the target layer
ARCHITECTURES: dict[str, tuple[dict[str, Any], int, set[str]]] = {
    "ResNet": ({**SMALL, "embedding_size": 16}, 64, {"Gemm"}),
    "RegNet": ({**SMALL, "embedding_size": 16, "groups_width": 8}, 64, {"Gemm"}),
    "MobileNetV1": ({"image_size": 96, "depth_multiplier": 0.25}, 96, {"Gemm"}),
    "MobileNetV2": ({"image_size": 96, "depth_multiplier": 0.35}, 96, {"Gemm"}),
    "ConvNext": ({**SMALL, "image_size": 64}, 64, {"LayerNormalization", "Gemm"}),
    "ConvNextV2": ({**SMALL, "image_size": 64}, 64, {"LayerNormalization", "Gemm"}),
    "PoolFormer": (SMALL, 64, {"Gemm"}),
    "Segformer": ({}, 96, {"LayerNormalization", "Softmax", "MatMul", "Gelu"}),
    "Pvt": ({"image_size": 96}, 96, {"LayerNormalization", "Softmax", "MatMul", "Gelu"}),
}


class Logits(nn.Module):
    """A transformers classifier that returns its logits alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> Tensor:
        return self.net(pixel_values=pixels).logits


def saved(family: str, path: Path) -> Path:
    settings, size, _ = ARCHITECTURES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(num_labels=10, **settings)
    net = Logits(getattr(transformers, f"{family}ForImageClassification")(config)).eval()
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.requires_grad_(False),
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


@pytest.mark.slow
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_architecture(family: str, tmp_path: Path) -> None:
    plain = saved(family, tmp_path / "plain.onnx")
    explained = tmp_path / "explained.onnx"
    manifest = exporters.export_gradcam(plain, explained)
    classifier = exporters.explained.Classifier(plain)
    target = classifier.target_layer(manifest.target_layer)
    nodes = list(classifier.model.graph)
    behind = nodes[nodes.index(target.value.producer()) + 1 :]
    assert {node.op_type for node in behind} >= ARCHITECTURES[family][2]
    assert [check for check in verify(explained, plain) if not check.passed] == []
