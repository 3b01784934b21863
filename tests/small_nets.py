"""Small torch classifiers in the shapes of the classic families, and torch's own gradients.

Weights are random but seeded, and scaled so that activations neither vanish nor explode; the
running statistics of BatchNorm come from a pass over noise, then shaken, so that they matter.
Input: float32 [B, 3, 64, 64]. Output: [B, 10].

The second oracle of the gradient tests: `activations_and_gradient` is torch.autograd's answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from exporters.torch_model.state import quiet

NUM_CLASSES = 10
IMAGE_SHAPE = (3, 64, 64)
OPSET_DYNAMO, OPSET_TORCHSCRIPT = 18, 17


class SmallNet(nn.Module):
    """A classifier that says where Grad-CAM usually looks.

    Attributes:
        target: dotted name of the submodule whose output is the usual Grad-CAM target layer.
        earlier_target: one further from the score, so that more operators lie behind it.
    """

    target: str
    earlier_target: str

    def logits(self, x: Tensor) -> Tensor:
        """The class scores before any final softmax or sigmoid, [B, 10]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x)


def conv_bn(
    inputs: int, outputs: int, kernel: int = 3, *, act: nn.Module | None = None, **options: int
) -> nn.Sequential:
    """Convolution that keeps the size at stride 1, BatchNorm, activation."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([] if act is None else [act]))


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(inputs, outputs, act=nn.ReLU(), stride=stride), conv_bn(outputs, outputs)
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride=stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.shortcut(x))


class Bottleneck(BasicBlock):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, stride)
        middle = outputs // 4
        self.body = nn.Sequential(
            conv_bn(inputs, middle, 1, act=nn.ReLU()),
            conv_bn(middle, middle, act=nn.ReLU(), stride=stride),
            conv_bn(middle, outputs, 1),
        )


class ResNet(SmallNet):
    """He et al. 2015: residual sums, global average pool, one Linear."""

    target = "layer3"
    earlier_target = "layer2"

    def __init__(self, block: type[BasicBlock]) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16, 7, act=nn.ReLU(), stride=2)
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = nn.Sequential(block(16, 16, 1), block(16, 16, 1))
        self.layer2 = nn.Sequential(block(16, 32, 2), block(32, 32, 1))
        self.layer3 = nn.Sequential(block(32, 64, 2), block(64, 64, 1))
        self.average = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(64, NUM_CLASSES)

    def logits(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.pool(self.stem(x)))))
        return self.fc(torch.flatten(self.average(x), 1))


class Vgg(SmallNet):
    """Simonyan and Zisserman 2014: a MaxPool at the end and a head of three Linear layers."""

    target = "features.9"
    earlier_target = "features.6"

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 8), (8, 16)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)]
        layers += [nn.Conv2d(16, 24, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)]
        self.features = nn.Sequential(*layers)
        self.average = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(
            nn.Linear(24 * 2 * 2, 48),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(48, 48),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(48, NUM_CLASSES),
        )

    def logits(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.average(self.features(x)), 1))


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, 2 * growth, 1, bias=False),
            nn.BatchNorm2d(2 * growth),
            nn.ReLU(),
            nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


class DenseNet(SmallNet):
    """Huang et al. 2016: concatenations; a last BatchNorm and ReLU before the average."""

    target = "features.norm_last"
    earlier_target = "features.dense1"

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("stem", conv_bn(3, 16, 7, act=nn.ReLU(), stride=2))
        self.features.add_module("pool", nn.MaxPool2d(3, 2, padding=1))
        self.features.add_module("dense1", nn.Sequential(DenseLayer(16, 8), DenseLayer(24, 8)))
        transition = nn.Sequential(
            nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 1, bias=False), nn.AvgPool2d(2, 2)
        )
        self.features.add_module("transition", transition)
        self.features.add_module("dense2", nn.Sequential(DenseLayer(16, 8), DenseLayer(24, 8)))
        self.features.add_module("norm_last", nn.BatchNorm2d(32))
        self.classifier = nn.Linear(32, NUM_CLASSES)

    def logits(self, x: Tensor) -> Tensor:
        features = functional.relu(self.features(x))
        return self.classifier(torch.flatten(functional.adaptive_avg_pool2d(features, (1, 1)), 1))


class SqueezeExcite(nn.Module):
    """Hu et al. 2017: every channel times a gate in [0, 1] made from the channels' means."""

    def __init__(self, channels: int, act: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.average = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, channels // 4, 1)
        self.act = act
        self.expand = nn.Conv2d(channels // 4, channels, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.expand(self.act(self.reduce(self.average(x))))) * x


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, perhaps squeeze and excite, project."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        act: Callable[[], nn.Module],
        kernel: int = 3,
        excite: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        wide = 4 * inputs
        layers = [conv_bn(inputs, wide, 1, act=act())]
        layers += [conv_bn(wide, wide, kernel, act=act(), stride=stride, groups=wide)]
        self.body = nn.Sequential(
            *layers, *([] if excite is None else [excite(wide)]), conv_bn(wide, outputs, 1)
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNetV2(SmallNet):
    """Sandler et al. 2018: ReLU6, depthwise convolutions, linear bottlenecks."""

    target = "features.5"
    earlier_target = "features.2"

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(3, 8, act=nn.ReLU6(), stride=2),
            InvertedResidual(8, 8, 2, nn.ReLU6),
            InvertedResidual(8, 16, 2, nn.ReLU6),
            InvertedResidual(16, 16, 1, nn.ReLU6),
            InvertedResidual(16, 24, 1, nn.ReLU6),
            conv_bn(24, 64, 1, act=nn.ReLU6()),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(64, NUM_CLASSES))

    def logits(self, x: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


class MobileNetV3(SmallNet):
    """Howard et al. 2019: Hardswish, gates of Hardsigmoid, a head of Linear, Hardswish, Linear."""

    target = "features.4"
    earlier_target = "features.1"

    def __init__(self) -> None:
        super().__init__()

        def excite(channels: int) -> nn.Module:
            return SqueezeExcite(channels, nn.ReLU(), nn.Hardsigmoid())

        self.features = nn.Sequential(
            conv_bn(3, 8, act=nn.Hardswish(), stride=2),
            InvertedResidual(8, 8, 2, nn.ReLU, excite=excite),
            InvertedResidual(8, 16, 2, nn.Hardswish, 5, excite),
            InvertedResidual(16, 16, 1, nn.Hardswish, 5, excite),
            conv_bn(16, 48, 1, act=nn.Hardswish()),
        )
        self.average = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(48, 64), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(64, NUM_CLASSES)
        )

    def logits(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.average(self.features(x)), 1))


class EfficientNet(SmallNet):
    """Tan and Le 2019: SiLU, gates of Sigmoid."""

    target = "features.4"
    earlier_target = "features.1"

    def __init__(self) -> None:
        super().__init__()

        def excite(channels: int) -> nn.Module:
            return SqueezeExcite(channels, nn.SiLU(), nn.Sigmoid())

        self.features = nn.Sequential(
            conv_bn(3, 8, act=nn.SiLU(), stride=2),
            InvertedResidual(8, 8, 2, nn.SiLU, excite=excite),
            InvertedResidual(8, 16, 2, nn.SiLU, 5, excite),
            InvertedResidual(16, 16, 1, nn.SiLU, 3, excite),
            conv_bn(16, 48, 1, act=nn.SiLU()),
        )
        self.average = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(48, NUM_CLASSES))

    def logits(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.average(self.features(x)), 1))


class Fire(nn.Module):
    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(inputs, squeezed, 1), nn.ReLU())
        self.expand1 = nn.Sequential(nn.Conv2d(squeezed, expanded, 1), nn.ReLU())
        self.expand3 = nn.Sequential(nn.Conv2d(squeezed, expanded, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        return torch.cat([self.expand1(x), self.expand3(x)], 1)


class SqueezeNet(SmallNet):
    """Iandola et al. 2016: classifies by a convolution, ReLU, and averages the maps."""

    target = "features.6"
    earlier_target = "features.3"

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(16, 8, 16),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(32, 12, 24),
            Fire(48, 12, 24),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(48, NUM_CLASSES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d((1, 1))
        )

    def logits(self, x: Tensor) -> Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


class Inception(nn.Module):
    """Five branches side by side; the two average pools count the padding, and don't."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()

        def branch(*layers: nn.Module, inputs: int = inputs) -> nn.Sequential:
            return nn.Sequential(*layers, conv_bn(inputs, outputs, 1, act=nn.ReLU()))

        self.branches = nn.ModuleList(
            [
                branch(),
                branch(conv_bn(inputs, outputs, 3, act=nn.ReLU()), inputs=outputs),
                branch(nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True)),
                branch(nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=True)),
                branch(nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class GoogLeNet(SmallNet):
    """Szegedy et al. 2014: inception blocks."""

    target = "inception3"
    earlier_target = "inception1"

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16, 7, act=nn.ReLU(), stride=2)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception1 = Inception(16, 6)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception2 = Inception(30, 8)
        self.inception3 = Inception(40, 10)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(50, NUM_CLASSES)

    def logits(self, x: Tensor) -> Tensor:
        x = self.pool2(self.inception1(self.pool1(self.stem(x))))
        x = functional.adaptive_avg_pool2d(self.inception3(self.inception2(x)), (1, 1))
        return self.fc(self.dropout(torch.flatten(x, 1)))


class LeakyReluNet(SmallNet):
    """LeakyReLU throughout; the average is a plain mean over positions."""

    target = "features.5"
    earlier_target = "features.3"

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(3, 16, act=nn.LeakyReLU(0.1), stride=2),
            conv_bn(16, 24, act=nn.LeakyReLU(0.2), stride=2),
            nn.Conv2d(24, 24, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(24, 32, 3, padding=1, stride=2),
            nn.LeakyReLU(),
        )
        self.head = nn.Sequential(
            nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, NUM_CLASSES, bias=False)
        )

    def logits(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class PlainNet(SmallNet):
    """Two convolutions and a Linear: the body of the nets that end in an activation."""

    target = "features.1"
    earlier_target = "features.0"

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(3, 16, act=nn.ReLU(), stride=4), conv_bn(16, 32, act=nn.ReLU(), stride=2)
        )
        self.fc = nn.Linear(32, NUM_CLASSES)

    def logits(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(self.features(x), 1), 1))


class SoftmaxNet(PlainNet):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.logits(x), 1)


class SigmoidNet(PlainNet):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(x))


class AsymmetricPad(nn.Module):
    """Zeros left, right, above, below: the "same" padding of TensorFlow at stride 2."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.widths = list(widths)

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x, self.widths)


class ConvTail(SmallNet):
    """Every form of convolution behind the target layer."""

    target = "features.1"
    earlier_target = "features.0.2"

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(3, 12, act=nn.ReLU(), stride=2), conv_bn(12, 16, act=nn.ReLU())
        )
        self.tail = nn.Sequential(
            AsymmetricPad(0, 1, 1, 2),
            nn.Conv2d(16, 24, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(24, 24, 3, padding=2, dilation=2, groups=4),
            nn.ReLU(),
            nn.Conv2d(24, 24, (5, 2), padding=(2, 1), groups=24, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            # stride 3 doesn't fit: the last rows and columns are read by no window
            nn.Conv2d(24, 32, (3, 2), stride=3, padding=(0, 1)),
            nn.AvgPool2d(3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.fc = nn.Linear(32 * 3 * 3, NUM_CLASSES)

    def logits(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.tail(self.features(x)), 1))


SMALL_NETS: dict[str, Callable[[], SmallNet]] = {
    "resnet_basic": lambda: ResNet(BasicBlock),
    "resnet_bottleneck": lambda: ResNet(Bottleneck),
    "vgg": Vgg,
    "densenet": DenseNet,
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3": MobileNetV3,
    "efficientnet": EfficientNet,
    "squeezenet": SqueezeNet,
    "googlenet": GoogLeNet,
    "leaky_relu": LeakyReluNet,
    "softmax": SoftmaxNet,
    "sigmoid": SigmoidNet,
    "conv_tail": ConvTail,
}


def build(name: str, seed: int = 0) -> SmallNet:
    """One of `SMALL_NETS`, with its weights drawn and settled, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SMALL_NETS[name]()
        _draw(net)
        _settle(net)
    return net.eval().requires_grad_(False)


def images(count: int, seed: int = 1) -> Tensor:
    """Seeded noise with coarse structure, standard normal per pixel, [count, 3, 64, 64]."""
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = IMAGE_SHAPE
    coarse = torch.randn(count, channels, height // 8, width // 8, generator=generator)
    fine = torch.randn(count, *IMAGE_SHAPE, generator=generator)
    mixed = functional.interpolate(coarse, (height, width), mode="bilinear") + 0.5 * fine
    return mixed / mixed.std((1, 2, 3), keepdim=True)


def activations_and_gradient(
    net: SmallNet, image: Tensor, classes: Tensor, layer: str | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What torch.autograd says at a layer.

    Args:
        net: from `build`.
        image: [B, 3, 64, 64].
        classes: int64 [B], the class of each image.
        layer: dotted name of a submodule; ``None``: the net's `target`.

    Returns:
        The submodule's output and the gradient there of the chosen logits, both [B, C, h, w].
        The logits are summed over images, which eval mode keeps independent of each other.
    """
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    hook = net.get_submodule(layer or net.target).register_forward_hook(keep)
    try:
        with torch.enable_grad():
            score = net.logits(image).gather(1, classes.reshape(-1, 1)).sum()
            (gradient,) = torch.autograd.grad(score, kept)
    finally:
        hook.remove()
    return kept[0].detach().numpy(), gradient.numpy()


def export(module: nn.Module, path: str | os.PathLike[str], example: Tensor, dynamo: bool) -> None:
    """Write `module` as ONNX with a free batch size, by torch's new exporter or its old one.

    The file has input ``image`` and output ``scores``.

    Args:
        module: in eval mode.
        path: the .onnx file; weights are kept inside.
        example: at least two images: the new exporter takes a size of 1 for a constant.
        dynamo: the new exporter at opset 18, or the TorchScript one at opset 17.
    """
    names = {"input_names": ["image"], "output_names": ["scores"]}
    with quiet():
        if dynamo:
            torch.onnx.export(
                module,
                (example,),
                os.fspath(path),
                dynamo=True,
                opset_version=OPSET_DYNAMO,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
                **names,
            )
        else:
            torch.onnx.export(
                module,
                (example,),
                os.fspath(path),
                dynamo=False,
                opset_version=OPSET_TORCHSCRIPT,
                dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
                **names,
            )


def value_names(path: str | os.PathLike[str]) -> list[str]:
    """The names of all values that the ONNX file computes, in order."""
    return [output for node in onnx.load(path).graph.node for output in node.output if output]


def onnx_value(
    path: str | os.PathLike[str], image: Tensor, activations: NDArray[np.float32]
) -> str:
    """The name of the value in the ONNX file that holds `activations` when it is fed `image`.

    Raises:
        LookupError: no float value comes within 1e-4 of them.
    """
    model = onnx.load(path)
    names = value_names(path)
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # fusion would change the values that are about to be compared
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: image.numpy()}
    errors = {}
    for name, value in zip(names, session.run(names, feed), strict=True):
        if value.shape == activations.shape and value.dtype == np.float32:
            errors[name] = float(np.abs(value - activations).max())
    name = min(errors, key=errors.__getitem__, default="")
    if not name or errors[name] > 1e-4 * max(1.0, float(np.abs(activations).max())):
        raise LookupError(f"{os.fspath(path)}: no value equals the given activations")
    return name


def _draw(net: nn.Module) -> None:
    """He initialisation; scales, slopes and offsets that differ from channel to channel."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.6, 1.4)
            nn.init.normal_(module.bias, std=0.3)


def _settle(net: SmallNet) -> None:
    """Fill the running statistics from noise, then shake them so that they don't just whiten."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # a plain mean over the passes
    with torch.no_grad():
        net.train()(images(8, seed=2))
        for norm in norms:
            norm.momentum = 0.1
            norm.running_mean += 0.2 * norm.running_var.sqrt() * torch.randn(norm.num_features)
            norm.running_var *= torch.empty(norm.num_features).uniform_(0.7, 1.4)
