"""The tensor of a torch module that is a given value of its ONNX export, and autograd's gradients.

All tensors that the forward pass makes are kept, and the one that holds the same numbers is taken,
in whatever order its axes are. The exporters' own notes on modules aren't used.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from exporters.torch_model.state import as_for_export
from exporters.torch_model.values import scores, tensors

SAME = 1e-4  # of the largest activation: what two orders of summing make of a network

Array = NDArray[Any]


class _Record(TorchFunctionMode):
    """Keeps every float tensor that depends on the image, in the order in which they are made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, Tensor] = {}

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tensors(result):
            if tensor.requires_grad and tensor.is_floating_point():
                self.made.setdefault(id(tensor), tensor)
        return result


@dataclass(frozen=True)
class Layer:
    """A tensor of a forward pass: its place among all, and its axes in the order of the value."""

    tensor: Tensor
    place: int
    order: tuple[int, ...]
    shape: tuple[int, ...]

    def array(self, tensor: Tensor) -> Array:
        """The tensor, or its gradient, as the ONNX value has it."""
        return tensor.detach().permute(self.order).reshape(self.shape).numpy()


class Forward:
    """One forward pass of a classifier on images [B, 3, H, W], everything it made at hand."""

    def __init__(self, net: nn.Module, images: Tensor) -> None:
        self.images = images.clone().requires_grad_()
        self.outputs: dict[str, list[Tensor]] = {}
        hooks = [
            part.register_forward_hook(self._note(path))
            for path, part in net.named_modules()
            if path
        ]
        with as_for_export(net), torch.enable_grad(), _Record() as record:
            found = scores(net(self.images))
        for hook in hooks:
            hook.remove()
        assert found is not None
        self.scores = found
        self.made = list(record.made.values())
        self._places = {id(tensor): place for place, tensor in enumerate(self.made)}

    def _note(self, path: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self.outputs.setdefault(path, []).extend(tensors(output))

        return hook

    def find(self, value: Array) -> Layer | None:
        """The first tensor that holds the same numbers as the value."""
        scale = float(np.abs(value).max())
        mean, spread = float(value.mean()), float(value.std())
        for place, tensor in enumerate(self.made):
            if tensor.numel() != value.size or len(tensor) != len(value):
                continue
            content = tensor.detach()
            away = abs(float(content.mean()) - mean) + abs(float(content.std()) - spread)
            if away > 0.01 * scale:
                continue
            for order in _orders(tensor.ndim):
                layer = Layer(tensor, place, order, value.shape)
                if float(np.abs(layer.array(content) - value).max()) <= SAME * scale:
                    return layer
        return None

    def place_of(self, path: str) -> int | None:
        """The place of what the module called `path` gives, among all that was made."""
        given = self.outputs.get(path, [])
        places = [self._places[id(tensor)] for tensor in given if id(tensor) in self._places]
        return places[-1] if places else None

    def module_of(self, layer: Layer) -> str | None:
        """The outermost module that gives this tensor."""
        given = [p for p, out in self.outputs.items() if any(t is layer.tensor for t in out)]
        return min(given, key=len, default=None)

    def gradients(self, classes: NDArray[np.int64], *at: Tensor) -> list[list[Tensor]]:
        """For each column of classes [B, K] the gradient of the classes' scores at each tensor."""
        found = []
        for column in torch.from_numpy(classes).T:
            score = self.scores.gather(1, column[:, None]).sum()
            given = torch.autograd.grad(score, at, retain_graph=True, allow_unused=True)
            both = zip(given, at, strict=True)
            found.append([torch.zeros_like(x) if g is None else g for g, x in both])
        return found


def _orders(rank: int) -> Iterator[tuple[int, ...]]:
    """The orders of the axes behind the batch, the plain one first."""
    return ((0, *order) for order in itertools.permutations(range(1, rank)))
