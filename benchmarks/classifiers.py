"""Classifiers to run on: the bundled one, and well-known architectures of random weights."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

import onnx_ir as ir

BUNDLED = Path(str(resources.files("xai_onnx"))) / "assets" / "efficientnet_lite0.onnx"


def resnet50(folder: Path) -> Path:
    """A ResNet-50, 224 x 224, as `folder`/resnet50.onnx."""
    return architecture("ResNet", {"num_labels": 1000}, 224, folder / "resnet50.onnx")


def mobilenet_v2(folder: Path) -> Path:
    """A MobileNetV2 of width 1, 224 x 224, as `folder`/mobilenet_v2.onnx."""
    path = folder / "mobilenet_v2.onnx"
    return architecture("MobileNetV2", {"num_labels": 1000}, 224, path, keep_signal=True)


def efficientnet_b0(folder: Path) -> Path:
    """An EfficientNet-B0, 224 x 224, as `folder`/efficientnet_b0.onnx."""
    settings = {"num_labels": 1000, "image_size": 224, "hidden_dim": 1280}
    settings |= {"width_coefficient": 1.0, "depth_coefficient": 1.0}
    path = folder / "efficientnet_b0.onnx"
    return architecture("EfficientNet", settings, 224, path, keep_signal=True)


def vgg16(folder: Path) -> Path:
    """A VGG-16 (Simonyan and Zisserman 2015, D), 224 x 224, as `folder`/vgg16.onnx."""
    from torch import nn

    layers: list[nn.Module] = []
    width = 3
    for channels, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU()]
            width = channels
        layers.append(nn.MaxPool2d(2))
    head = [nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU()]
    layers += [nn.Flatten(), *head, nn.Linear(4096, 1000)]
    return exported(_with_signal(nn.Sequential(*layers)), 224, folder / "vgg16.onnx")


def densenet121(folder: Path) -> Path:
    """A DenseNet-121 (Huang et al. 2017), 224 x 224, as `folder`/densenet121.onnx."""
    import torch
    from torch import nn

    class Dense(nn.Module):
        """A layer of a block: what came before, and `growth` more channels made of it."""

        def __init__(self, width: int, growth: int) -> None:
            super().__init__()
            squeeze = [
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, 4 * growth, 1, bias=False),
            ]
            grow = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
            self.made = nn.Sequential(*squeeze, nn.BatchNorm2d(4 * growth), nn.ReLU(), grow)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, self.made(x)], 1)

    growth, width = 32, 64
    stem = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
    layers = [stem, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    for depth in (6, 12, 24, 16):
        if len(layers) > 4:
            halve = nn.Conv2d(width, width // 2, 1, bias=False)
            layers += [nn.BatchNorm2d(width), nn.ReLU(), halve, nn.AvgPool2d(2)]
            width //= 2
        for _ in range(depth):
            layers.append(Dense(width, growth))
            width += growth
    layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(*layers, nn.Linear(width, 1000))
    return exported(_with_signal(net), 224, folder / "densenet121.onnx")


def architecture(
    family: str, settings: dict[str, Any], size: int, path: Path, *, keep_signal: bool = False
) -> Path:
    """Save a classifier of a transformers family, input "image" with a free batch, "logits" out.

    Args:
        family: as in the names of its config and its classifier, e.g. ``"ResNet"``.
        settings: of its config.
        size: height and width of the image, in pixels.
        path: the .onnx file.
        keep_signal: whether the weights are drawn so that activations keep their size.
    """
    net = architecture_module(family, settings)
    return exported(_with_signal(net) if keep_signal else net, size, path)


def architecture_module(family: str, settings: dict[str, Any]) -> Any:
    """The torch module of `architecture`, in evaluation mode."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**settings)
    return getattr(transformers, f"{family}ForImageClassification")(config).eval()


def _with_signal(net: torch.nn.Module) -> torch.nn.Module:
    """Draw weights anew, and measure the statistics of normalisations, so that signals keep size.

    What fifty layers of small weights leave are denormal numbers, at which a processor is slow.
    """
    import torch

    torch.manual_seed(0)
    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        net.train()(torch.randn(4, 3, 224, 224))
    return net.eval()


def exported(net: torch.nn.Module, size: int, path: Path) -> Path:
    """Save `net`, [B, 3, size, size] to logits, as the .onnx file `path`; B stays free."""
    import torch

    from exporters import torch_model

    model = torch_model.export(net, torch.randn(2, 3, size, size)).model
    model.graph.inputs[0].name = "image"
    ir.save(model, path)
    return path
