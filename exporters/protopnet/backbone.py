"""The original's backbones, rebuilt with ONNX operators from nothing but their weights.

A state dict's names say which network it is: VGG (with or without batch normalisation), ResNet
(basic blocks or bottlenecks) or DenseNet, each without its classifier, and the add-on layers behind
it. Widths and depths are those of the weights. As in the original VGG keeps its last pooling, and
DenseNet ends with ``norm5`` and a ReLU. Every name must be used up, or the network is another one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters.builder import Ops
from xai_onnx.errors import PrototypeError, reason

State = Mapping[str, NDArray[np.float32]]

OPSET, IR_VERSION = 18, 8
_EPSILON = 1e-5  # of torch's batch normalisation
_POOL = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}


def rebuild(features: State, add_on: State, image_size: int, where: str) -> ir.Model:
    """The network from picture to latent grid.

    Args:
        features: weights below ``features.``, by the rest of their name.
        add_on: weights below ``add_on_layers.``: convolutions with a ReLU between them and a
            sigmoid behind the last.
        image_size: side of the picture, in pixels.
        where: how error messages call the checkpoint.

    Returns:
        A model with the input ``image`` [batch, 3, side, side] and the output ``z``.

    Raises:
        PrototypeError: the names are those of no network above.
    """
    network = _Network(features)
    kinds: dict[str, Callable[[_Network, ir.Value], ir.Value]] = {
        "layer1.0.conv1.weight": _resnet,
        "features.conv0.weight": _densenet,
        "features.0.weight": _vgg,
    }
    build = next((function for name, function in kinds.items() if name in features), None)
    if build is None:
        raise PrototypeError(
            f"{where}: its backbone is no VGG, ResNet or DenseNet by the names of its weights "
            f"({', '.join(list(features)[:3]) or 'there are none'} ...); give the network up to "
            "the latent grid as backbone="
        )
    image = ir.Value(
        name="image",
        shape=ir.Shape(["batch", 3, image_size, image_size]),
        type=ir.TensorType(ir.DataType.FLOAT),
    )
    try:
        grid = build(network, image)
        z = _add_on(network, grid, add_on)
    except KeyError as error:
        raise PrototypeError(
            f"{where}: its backbone lacks the weights {error}; give the network as backbone="
        ) from error
    except (ValueError, IndexError) as error:
        raise PrototypeError(
            f"{where}: the weights of its backbone or add-on layers are named or shaped otherwise "
            f"({reason(error)}); give the network as backbone="
        ) from error
    unused = [name for name in features if name not in network.used and not _counts(name)]
    if unused:
        raise PrototypeError(
            f"{where}: its backbone has weights that a {build.__name__[1:]} has not "
            f"({', '.join(unused[:3])}); give the network as backbone="
        )
    channels = list(add_on.values())[-1].shape[0] if add_on else "channels"
    z.name, z.dtype = "z", ir.DataType.FLOAT
    z.shape = ir.Shape(["batch", channels, "h", "w"])
    graph = ir.Graph(
        [image],
        [z],
        nodes=network.op.nodes,
        initializers=network.op.initializers,
        opset_imports={"": OPSET},
        name="backbone",
    )
    return ir.Model(graph, ir_version=IR_VERSION)


def _counts(name: str) -> bool:
    return name.endswith("num_batches_tracked")


class _Network:
    """Emits layers by the names of their weights, and notes which were used."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.op = Ops({"image", "z"})
        self.used: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether there are weights of this name."""
        return name in self.state

    def weight(self, name: str) -> ir.Value:
        """Weights as an initializer."""
        self.used.add(name)
        return self.op.constant(self.state[name], ir.DataType.FLOAT)

    def conv(self, x: ir.Value, name: str, stride: int = 1) -> ir.Value:
        """A convolution, padded to keep the size at stride 1."""
        inputs = [x, self.weight(f"{name}.weight")]
        if self.has(f"{name}.bias"):
            inputs.append(self.weight(f"{name}.bias"))
        around = self.state[f"{name}.weight"].shape[2] // 2
        return self.op.Conv(  # type: ignore[no-any-return]
            *inputs, strides=[stride, stride], pads=[around] * 4
        )

    def norm(self, x: ir.Value, name: str) -> ir.Value:
        """A batch normalisation, by its running mean and variance."""
        parts = [
            self.weight(f"{name}.{part}")
            for part in ("weight", "bias", "running_mean", "running_var")
        ]
        return self.op.BatchNormalization(x, *parts, epsilon=_EPSILON)  # type: ignore[no-any-return]


def _vgg(network: _Network, x: ir.Value) -> ir.Value:
    """Convolutions in a row; a number that is skipped was a pooling, and the last layer is one."""
    op: Any = network.op
    places = sorted(
        int(name.split(".")[1])
        for name, array in network.state.items()
        if re.fullmatch(r"features\.\d+\.weight", name) and array.ndim == 4
    )
    for place, following in zip(places, [*places[1:], None], strict=True):
        x = network.conv(x, f"features.{place}")
        behind = place + 1
        if network.has(f"features.{behind}.running_mean"):
            x = network.norm(x, f"features.{behind}")
            behind += 1
        x = op.Relu(x)
        if following != behind + 1:
            x = op.MaxPool(x, kernel_shape=[2, 2], strides=[2, 2])
    return x


def _resnet(network: _Network, x: ir.Value) -> ir.Value:
    """He et al. 2016; a bottleneck strides in its 3x3 convolution, as torchvision's does."""
    op: Any = network.op
    x = op.Relu(network.norm(network.conv(x, "conv1", 2), "bn1"))
    x = op.MaxPool(x, **_POOL)
    for layer in (1, 2, 3, 4):
        block = 0
        while network.has(f"layer{layer}.{block}.conv1.weight"):
            name = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            bottleneck = network.has(f"{name}.conv3.weight")
            inner = network.conv(x, f"{name}.conv1", 1 if bottleneck else stride)
            inner = op.Relu(network.norm(inner, f"{name}.bn1"))
            inner = network.conv(inner, f"{name}.conv2", stride if bottleneck else 1)
            inner = network.norm(inner, f"{name}.bn2")
            if bottleneck:
                inner = network.conv(op.Relu(inner), f"{name}.conv3")
                inner = network.norm(inner, f"{name}.bn3")
            if network.has(f"{name}.downsample.0.weight"):
                x = network.conv(x, f"{name}.downsample.0", stride)
                x = network.norm(x, f"{name}.downsample.1")
            x = op.Relu(op.Add(inner, x))
            block += 1
    return x


def _densenet(network: _Network, x: ir.Value) -> ir.Value:
    """Huang et al. 2017: each layer sees all before it; transitions halve the grid."""
    op: Any = network.op
    x = op.Relu(network.norm(network.conv(x, "features.conv0", 2), "features.norm0"))
    x = op.MaxPool(x, **_POOL)
    block = 1
    while network.has(f"features.denseblock{block}.denselayer1.norm1.weight"):
        layer = 1
        while network.has(f"features.denseblock{block}.denselayer{layer}.norm1.weight"):
            name = f"features.denseblock{block}.denselayer{layer}"
            inner = op.Relu(network.norm(x, f"{name}.norm1"))
            inner = op.Relu(network.norm(network.conv(inner, f"{name}.conv1"), f"{name}.norm2"))
            x = op.Concat(x, network.conv(inner, f"{name}.conv2"), axis=1)
            layer += 1
        name = f"features.transition{block}"
        if network.has(f"{name}.conv.weight"):
            x = network.conv(op.Relu(network.norm(x, f"{name}.norm")), f"{name}.conv")
            x = op.AveragePool(x, kernel_shape=[2, 2], strides=[2, 2])
        block += 1
    return op.Relu(network.norm(x, "features.norm5"))  # type: ignore[no-any-return]


def _add_on(network: _Network, x: ir.Value, add_on: State) -> ir.Value:
    """1x1 convolutions, ReLU between them, sigmoid behind the last; ``bottleneck`` has more."""
    op: Any = network.op
    places = sorted(int(name.split(".")[0]) for name in add_on if name.endswith(".weight"))
    for place in places:
        parts = [add_on[f"{place}.weight"]]
        if f"{place}.bias" in add_on:
            parts.append(add_on[f"{place}.bias"])
        x = op.Conv(x, *(op.constant(part, ir.DataType.FLOAT) for part in parts))
        x = op.Sigmoid(x) if place == places[-1] else op.Relu(x)
    return x
