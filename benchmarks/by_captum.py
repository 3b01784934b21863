"""What captum says of an ONNX classifier, by its own classes as they are; a picture, a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from unittest import mock

import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from torch import Tensor
from torch_oracle import TorchClassifier

Given = Mapping[str, Tensor]

_AT_ONCE = 8  # pictures in one pass


def saliency(net: TorchClassifier, x: Tensor, target: int, given: Given) -> Tensor:
    return Saliency(net).attribute(x, target, abs=False)


def input_x_gradient(net: TorchClassifier, x: Tensor, target: int, given: Given) -> Tensor:
    return InputXGradient(net).attribute(x, target)


def smoothgrad(net: TorchClassifier, x: Tensor, target: int, given: Given) -> Tensor:
    """NoiseTunnel, whose draws are the given ones, [n, C, H, W], times the range of x."""
    draws = (x.max() - x.min()).detach() * given["noise"]
    with mock.patch.object(torch, "normal", return_value=draws):
        return NoiseTunnel(Saliency(net)).attribute(
            x, nt_samples=len(draws), target=target, abs=False
        )


def integrated_gradients(net: TorchClassifier, x: Tensor, target: int, given: Given) -> Tensor:
    return IntegratedGradients(net).attribute(
        x,
        given["baseline"],
        target,
        n_steps=int(given["steps"]),
        method="riemann_middle",
        internal_batch_size=_AT_ONCE,
    )


# By our name: the attribution of the score of `target` at x [1, C, H, W], given what a file takes.
ATTRIBUTIONS: dict[str, Callable[[TorchClassifier, Tensor, int, Given], Tensor]] = {
    "saliency": saliency,
    "input-x-gradient": input_x_gradient,
    "smoothgrad": smoothgrad,
    "integrated-gradients": integrated_gradients,
}
