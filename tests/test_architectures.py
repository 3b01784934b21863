"""Well-known architectures, small, of random weights: the layer is found, the map is verified.

`verify` differentiates the original in float64 without any gradient rule (see `exporters.verify`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from classifiers import architecture

import exporters
from exporters.classifier import Classifier
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
    "Segformer": ({}, 96, {"ReduceMean", "Gemm"}),
    "Pvt": ({"image_size": 96}, 96, {"LayerNormalization", "Softmax", "MatMul", "Gelu"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_architecture(family: str, tmp_path: Path) -> None:
    settings, size, operators = ARCHITECTURES[family]
    plain = architecture(family, {"num_labels": 10, **settings}, size, tmp_path / "plain.onnx")
    explained = tmp_path / "explained.onnx"
    manifest = exporters.export_gradcam(plain, explained)
    classifier = Classifier(plain)
    (target,) = classifier.target_layers(manifest.target_layers)
    nodes = list(classifier.model.graph)
    behind = nodes[nodes.index(target.value.producer()) + 1 :]
    assert {node.op_type for node in behind} >= operators
    assert [check for check in verify(explained, plain) if not check.passed] == []
