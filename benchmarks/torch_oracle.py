"""An ONNX classifier as a torch module, so that torch.autograd can say what its gradient is.

An interpreter for the operators of the sample models; an operator it doesn't know is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

Attributes = dict[str, Any]

KINKED = frozenset({"Clip", "MaxPool", "Relu"})


class TorchClassifier(nn.Module):
    """The graph node by node: each is a submodule, whose output hooks can take.

    Attributes:
        image: name of the input.
        score: name of the value that a call returns.
    """

    def __init__(self, path: Path, score: str | None = None) -> None:
        """Read a plain ONNX classifier with one input.

        Args:
            path: the .onnx file.
            score: name of the value that a call returns; ``None``: the first output.
        """
        super().__init__()
        graph = onnx.load(path).graph
        self.image, self.score = graph.input[0].name, score or graph.output[0].name
        weights = {
            t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer
        }
        # Parameters, because what looks at a module asks these for its device.
        self._weights = nn.ParameterList(
            nn.Parameter(w, requires_grad=False) for w in weights.values()
        )
        self._names = list(weights)
        self._nodes = nn.ModuleList(_Node(node) for node in graph.node)

    def layer(self, value: str) -> nn.Module:
        """The submodule whose output is the ONNX value of this name."""
        return next(node for node in self._nodes if node.output == value)

    def activations_and_gradient(
        self, layer: str, images: NDArray[np.float32], classes: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The activations at value `layer`, and torch.autograd's gradient there.

        Args:
            layer: name of the value to differentiate with respect to, the image or a later one.
            images: the input tensor.
            classes: int64 [B], the class of each image.
        """
        kept = [torch.from_numpy(images).requires_grad_()]
        hooks = []
        if layer != self.image:
            module = self.layer(layer)
            hooks.append(module.register_forward_hook(lambda _module, _in, out: kept.append(out)))
        chosen = self(kept[0]).gather(1, torch.from_numpy(classes)[:, None]).sum()
        for hook in hooks:
            hook.remove()
        (gradient,) = torch.autograd.grad(chosen, kept[-1])
        return kept[-1].detach().numpy(), gradient.numpy()

    def forward(self, images: Tensor) -> Tensor:
        """The scores [B, N] of a batch of input tensors."""
        values = dict(zip(self._names, self._weights, strict=True))
        values[self.image] = images
        for node in self._nodes:
            values[node.output] = node(*(values[name] if name else None for name in node.inputs))
            if node.output == self.score:
                break
        return values[self.score]


class _Node(nn.Module):
    """One node of the graph."""

    def __init__(self, node: onnx.NodeProto) -> None:
        super().__init__()
        self.inputs, self.output = list(node.input), node.output[0]
        self.operator = node.op_type
        if self.operator not in OPERATORS:
            raise NotImplementedError(f"no operator {self.operator!r} in torch_oracle.OPERATORS")
        self._attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def forward(self, *inputs: Tensor | None) -> Tensor:
        return OPERATORS[self.operator](list(inputs), self._attributes)


class OnTheSameSide(TorchClassifier):
    """The same network with ONNX Runtime's values in front of each kink.

    Where an activation comes to nearly 0, rounding decides on which side of ReLU's kink it lies,
    and so whether its unit has a gradient at all. Here torch goes where ONNX Runtime went: the
    values are exchanged, what autograd does with them is not.
    """

    def __init__(self, path: Path, score: str | None = None) -> None:
        """As `TorchClassifier`."""
        super().__init__(path, score)
        kinked = [node for node in self._nodes if node.operator in KINKED]
        self._seen = dict.fromkeys(node.inputs[0] for node in kinked)
        model = onnx.load(path)
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._seen)
        self._session = quiet_session(model.SerializeToString())
        for node in kinked:
            node.register_forward_pre_hook(self._exchanged)

    def forward(self, images: Tensor) -> Tensor:
        """The scores [B, N]; ONNX Runtime gets one picture at a time."""
        if not self._seen:
            return super().forward(images)
        rows = [self._session.run(None, {self.image: row[None]}) for row in images.detach().numpy()]
        values = [torch.from_numpy(np.concatenate(column)) for column in zip(*rows, strict=True)]
        self._seen = dict(zip(self._seen, values, strict=True))
        return super().forward(images)

    def _exchanged(self, node: _Node, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_Instead.apply(inputs[0], self._seen[node.inputs[0]]), *inputs[1:])


def quiet_session(model: bytes | str) -> onnxruntime.InferenceSession:
    """A session beside torch: its threads wait for work without taking time from torch's."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class _Instead(torch.autograd.Function):
    """`value` in place of x, with the gradient of x."""

    @staticmethod
    def forward(_context: Any, x: Tensor, value: Tensor) -> Tensor:
        assert x.shape == value.shape
        return value.clone()

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def activations_and_gradient(
    path: Path, layer: str, score: str, images: NDArray[np.float32], classes: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`TorchClassifier.activations_and_gradient` of a file, for the score of this name."""
    return TorchClassifier(path, score).activations_and_gradient(layer, images, classes)


def _conv(x: list[Any], a: Attributes) -> Tensor:
    pads = a.get("pads", [0, 0, 0, 0])
    padded = functional.pad(x[0], (pads[1], pads[3], pads[0], pads[2]))
    bias = x[2] if len(x) > 2 else None
    return functional.conv2d(
        padded, x[1], bias, a.get("strides", 1), 0, a.get("dilations", 1), a.get("group", 1)
    )


def _max_pool(x: list[Any], a: Attributes) -> Tensor:
    pads = a.get("pads", [0, 0, 0, 0])
    assert pads[:2] == pads[2:]
    return functional.max_pool2d(
        x[0], a["kernel_shape"], a["strides"], pads[:2], ceil_mode=bool(a.get("ceil_mode", 0))
    )


def _clip(x: list[Any], _a: Attributes) -> Tensor:
    assert (float(x[1]), float(x[2])) == (0.0, 6.0)
    return functional.relu6(x[0])


def _reduce_mean(x: list[Any], a: Attributes) -> Tensor:
    axes = a["axes"] if "axes" in a else [int(axis) for axis in x[1]]
    return x[0].mean(axes, keepdim=bool(a.get("keepdims", 1)))


def _gemm(x: list[Any], a: Attributes) -> Tensor:
    assert a.get("alpha", 1.0) == a.get("beta", 1.0) == 1.0
    weight = x[1].T if a.get("transB", 0) else x[1]
    return x[0] @ weight + x[2]


def _pad(x: list[Any], _a: Attributes) -> Tensor:
    pads = [int(size) for size in x[1]]
    axes = len(pads) // 2
    order = [pads[i] for axis in reversed(range(axes)) for i in (axis, axis + axes)]
    return functional.pad(x[0], order)


def _cast(x: list[Any], a: Attributes) -> Tensor:
    types = {1: torch.float32, 7: torch.int64, 10: torch.float16}
    return x[0].to(types[a["to"]])


def _reshape(x: list[Any], _a: Attributes) -> Tensor:
    sizes = [int(size) for size in x[1]]
    return x[0].reshape([x[0].shape[i] if size == 0 else size for i, size in enumerate(sizes)])


OPERATORS: dict[str, Callable[[list[Any], Attributes], Tensor]] = {
    "Add": lambda x, a: x[0] + x[1],
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda x, a: torch.cat(x, a["axis"]),
    "Conv": _conv,
    "Flatten": lambda x, a: x[0].flatten(a.get("axis", 1)),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x, a: x[0].mean((-2, -1), keepdim=True),
    "MaxPool": _max_pool,
    "Mul": lambda x, a: x[0] * x[1],
    "Pad": _pad,
    "ReduceMean": _reduce_mean,
    "Relu": lambda x, a: functional.relu(x[0]),
    "Reshape": _reshape,
    "Sigmoid": lambda x, a: torch.sigmoid(x[0]),
}
