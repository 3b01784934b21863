"""Well-known architectures, small, of random weights: the layer is found, the map is verified.

The layer is told by the module of torch that gives the same numbers, and `verify` differentiates
the ONNX model in float64 without any gradient rule (see `exporters.verify`).
`benchmarks/conformance.py` holds many more against torch.autograd.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conformance import value_in_onnx
from torch_layer import Forward
from zoo import TRANSFORMERS, UNFIT, ZOO

import exporters
from exporters import torch_model
from exporters.classifier import Classifier
from exporters.verify import verify

# architecture: the module whose output is the target layer (None: a cut of one's), its layout, and
# the tokens in front that stand for no position
LAYERS: dict[str, tuple[str | None, str, int]] = {
    "Beit": (None, "NLC", 0),
    "Bit": ("bit", "NCHW", 0),
    "CLIP": (None, "NLC", 0),
    "ConvNext": ("convnext", "NCHW", 0),
    "ConvNextV2": ("convnextv2", "NCHW", 0),
    "Cvt": ("cvt.encoder.stages.2.layers.2.layernorm_before", "NLC", 1),
    "Data2VecVision": (None, "NLC", 0),
    "DeiT": ("deit.layers.2.layernorm_before", "NLC", 2),
    "DeiT/WithTeacher": ("deit.layers.2.layernorm_before", "NLC", 2),
    "Dinov2": ("dinov2", "NLC", 1),
    "Dinov2WithRegisters": ("dinov2_with_registers", "NLC", 5),
    "IJepa": ("ijepa", "NLC", 0),
    "ResNet": ("resnet", "NCHW", 0),
    "Swin": ("swin", "NCL", 0),
    "ViT": ("vit.layers.2.layernorm_before", "NLC", 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_architecture(name: str, tmp_path: Path) -> None:
    architecture = ZOO[f"transformers/{name}"]
    net = architecture.build()
    images = np.random.default_rng(0).standard_normal((2, 3, *[architecture.size] * 2), np.float32)
    plain, explained = tmp_path / "plain.onnx", tmp_path / "explained.onnx"
    plain.write_bytes(torch_model.export(net, torch.from_numpy(images)).to_bytes())
    manifest = exporters.export_gradcam(plain, explained)
    (layer,) = manifest.target_layers
    forward = Forward(net, torch.from_numpy(images))
    tensor = forward.find(value_in_onnx(plain, layer, images))
    assert tensor is not None
    module = forward.module_of(tensor)
    found = Classifier(plain).target_layers(layer)[0].map
    expected, layout, extra = LAYERS[name]
    assert module == (expected and f"net.{expected}")
    assert (found.layout, found.extra) == (layout, extra)
    assert [check for check in verify(explained, plain) if not check.passed] == []


def test_no_image_classifier_of_transformers_is_forgotten() -> None:
    """Each is in the zoo, or the reason why not is given."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as MAPPING,
    )

    classes = [
        name
        for names in MAPPING.values()
        for name in ((names,) if isinstance(names, str) else names)
    ]
    known = {*TRANSFORMERS, *UNFIT}
    written = {name.replace("ForImageClassification", "/").rstrip("/") for name in classes}
    assert written <= known
