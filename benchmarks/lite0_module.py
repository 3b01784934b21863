"""The bundled EfficientNet-Lite0 as a torch module, up to its last feature map."""

from __future__ import annotations

import onnx
import torch
from classifiers import BUNDLED
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everywhere in torch

LAST = "head.relu6"  # [B, 1280, 7, 7]


class Lite0(nn.Module):
    """Runs the graph's Conv, Clip and Add nodes; the weights are those of the file."""

    def __init__(self) -> None:
        super().__init__()
        graph = onnx.load(BUNDLED).graph
        weights = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        cast = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
        self.steps: list[tuple[str, str, list[str], str, dict[str, list[int]]]] = []
        for node in graph.node:
            if node.op_type == "Cast":
                continue
            name, key = node.output[0], node.output[0].replace(".", "_")
            options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Conv":
                kernel, bias = node.input[1:]
                for part, source in (("weight", cast[kernel]), ("bias", bias)):
                    self.register_buffer(
                        f"{key}_{part}", torch.from_numpy(weights[source].astype("float32"))
                    )
            self.steps.append((node.op_type, key, [*node.input], name, options))
            if name == LAST:
                break

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, 224, 224] to [B, 1280, 7, 7]."""
        values = {"input": images}
        for kind, key, inputs, name, options in self.steps:
            x = values[inputs[0]]
            if kind == "Conv":
                top, left, bottom, right = options["pads"]
                values[name] = F.conv2d(
                    F.pad(x, (left, right, top, bottom)),
                    getattr(self, f"{key}_weight"),
                    getattr(self, f"{key}_bias"),
                    stride=options["strides"],
                    groups=options["group"],
                )
            elif kind == "Clip":
                values[name] = F.relu6(x)
            else:
                values[name] = x + values[inputs[1]]
        return values[LAST]


class UnitCells(nn.Module):
    """What a cell differs in from the mean, at length three, averaged over its neighbours.

    The raw channels, of length 26, saturate the sigmoids of new add-on layers; what is left to
    learn then is the stamps by heart.
    """

    def __init__(self, mean: Tensor) -> None:
        """With the mean of the training pictures' cells, [1280]."""
        super().__init__()
        self.register_buffer("mean", mean[:, None, None])

    def forward(self, grid: Tensor) -> Tensor:
        """[B, 1280, h, w] to the same shape."""
        apart = grid - self.mean
        unit = apart / (apart.norm(dim=1, keepdim=True) + 1)  # a cell may be the mean
        return 3 * F.avg_pool2d(unit, 3, 1, 1, count_include_pad=False)
