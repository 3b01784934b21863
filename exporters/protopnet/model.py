"""The ProtoPNet of Chen et al. 2019, "This Looks Like That", section 2.1, over any backbone.

A picture becomes a latent grid z; a prototype p is as similar to it as to its closest patch, by
log((d + 1) / (d + epsilon)) of the squared distance d; the scores are a weighted sum, without bias,
of the similarities. Parameters are named as in the original's state dicts.

As in the exported graph (`exporters.protopnet.head`) the smallest distance is computed anew, as a
sum of squares, from the patch that was found to be closest: the expanded square loses all its
digits where d is nearly 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everywhere in torch

from xai_onnx.errors import PrototypeError
from xai_onnx.prototypes import EPSILON, SIMILARITIES

ADD_ONS = ("regular", "bottleneck")
OWN_WEIGHT, OTHER_WEIGHT = 1.0, -0.5  # of the last layer, before training


class Outputs(NamedTuple):
    """What a pass gives: logits [B, C], squared distances and places y * w + x [B, P]."""

    logits: Tensor
    min_distances: Tensor
    locations: Tensor


class ProtoPNet(nn.Module):
    """C classes, P = C * `per_class` prototypes of D channels.

    Attributes:
        features: the backbone; gives a grid [B, channels, h, w], as a tensor or as transformers
            do (``feature_maps``, ``last_hidden_state``).
        add_on_layers: from that grid to the latent grid z, [B, D, h, w] in 0..1.
        prototype_vectors: [P, D, h1, w1].
        prototype_class: the class of each, int64 [P].
        last_layer: linear, no bias, [C, P].
    """

    prototype_class: Tensor

    def __init__(
        self,
        features: nn.Module,
        grid_channels: int,
        num_classes: int,
        *,
        per_class: int = 10,
        channels: int = 128,
        patch: tuple[int, int] = (1, 1),
        add_on: str = "regular",
        similarity: str = "log",
        epsilon: float = EPSILON,
    ) -> None:
        """Start with prototypes drawn from U[0, 1) and a last layer of 1 and -0.5.

        Args:
            features: the backbone.
            grid_channels: of the grid that it gives.
            num_classes: C.
            per_class: prototypes of each class.
            channels: D.
            patch: h1, w1, cells of a prototype.
            add_on: one of `ADD_ONS`: two convolutions 1x1, or as many as it takes to halve the
                channels down to D.
            similarity: ``"log"``, or ``"linear"``: -d.
            epsilon: of the log similarity.

        Raises:
            PrototypeError: an unknown add-on or similarity, or nothing to train.
        """
        super().__init__()
        if add_on not in ADD_ONS or similarity not in SIMILARITIES:
            raise PrototypeError(
                f"add_on {add_on!r}, similarity {similarity!r}: the choices are "
                f"{', '.join(ADD_ONS)} and {', '.join(SIMILARITIES)}"
            )
        if min(per_class, channels, *patch) < 1 or num_classes < 2:
            raise PrototypeError(
                f"{per_class} prototypes of {channels} channels and {patch} cells for each of "
                f"{num_classes} classes: there must be at least 1 of each, and 2 classes"
            )
        self.similarity, self.epsilon = similarity, epsilon
        self.features = features
        self.add_on_layers = add_on_layers(grid_channels, channels, add_on)
        count = per_class * num_classes
        self.prototype_vectors = nn.Parameter(torch.rand(count, channels, *patch))
        self.register_buffer("prototype_class", torch.arange(count) // per_class)
        self.last_layer = nn.Linear(count, num_classes, bias=False)
        own = self.prototype_class == torch.arange(num_classes)[:, None]
        with torch.no_grad():
            self.last_layer.weight.copy_(torch.where(own, OWN_WEIGHT, OTHER_WEIGHT))

    def forward(self, images: Tensor) -> Outputs:
        """From images [B, channels, H, W]."""
        return self.head(self.grid(images))

    def grid(self, images: Tensor) -> Tensor:
        """The backbone's grid [B, channels, h, w], before the add-on layers."""
        return grid_of(self.features(images))

    def head(self, grid: Tensor) -> Outputs:
        """From the backbone's grid on."""
        z = self.add_on_layers(grid)
        with torch.no_grad():
            locations = self.distances(z).flatten(2).argmin(2)
        closest = self.patches(z).gather(
            1, locations[:, :, None].expand(-1, -1, self.prototype_vectors[0].numel())
        )
        distances = (closest - self.prototype_vectors.flatten(1)).square().sum(2)
        return Outputs(self.last_layer(self.similarities(distances)), distances, locations)

    def distances(self, z: Tensor) -> Tensor:
        """Squared distances at every place, [B, P, h', w'], as in `exporters.protopnet.head`."""
        mean = self.prototype_vectors.mean((0, 2, 3), keepdim=True)
        c, p = z - mean, self.prototype_vectors - mean
        squares = F.conv2d(c.square(), torch.ones_like(p[:1]))
        return F.relu(F.conv2d(c, -2 * p, p.square().sum((1, 2, 3))) + squares)

    def patches(self, z: Tensor) -> Tensor:
        """Every patch of the size of a prototype, [B, h' * w', D * h1 * w1]."""
        return F.unfold(z, self.prototype_vectors.shape[2:]).transpose(1, 2)

    def similarities(self, distances: Tensor) -> Tensor:
        """log((d + 1) / (d + epsilon)), or -d."""
        if self.similarity == "linear":
            return -distances
        return torch.log((distances + 1) / (distances + self.epsilon))

    def keep(self, indices: Sequence[int]) -> None:
        """Drop all prototypes but these, with their columns of the last layer."""
        kept = torch.as_tensor(indices, device=self.prototype_class.device)
        with torch.no_grad():
            self.prototype_vectors = nn.Parameter(self.prototype_vectors[kept].clone())
            self.prototype_class = self.prototype_class[kept].clone()
            self.last_layer.weight = nn.Parameter(self.last_layer.weight[:, kept].clone())
        self.last_layer.in_features = len(kept)


class LatentGrid(nn.Module):
    """From picture to latent grid: what `exporters.export_protopnet` takes as the backbone."""

    def __init__(self, model: ProtoPNet) -> None:
        super().__init__()
        self.features, self.add_on_layers = model.features, model.add_on_layers

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, channels, H, W] to z [B, D, h, w]."""
        z: Tensor = self.add_on_layers(grid_of(self.features(images)))
        return z


def grid_of(output: Any) -> Tensor:
    """The grid [B, channels, h, w] in what a backbone gives.

    Raises:
        PrototypeError: there is none.
    """
    if getattr(output, "feature_maps", None):
        output = output.feature_maps[-1]
    elif hasattr(output, "last_hidden_state"):
        output = output.last_hidden_state
    if not isinstance(output, Tensor) or output.ndim != 4:
        shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise PrototypeError(
            f"the backbone gives {shape}, no grid [batch, channels, h, w]; wrap it in a module "
            "that gives its last feature map"
        )
    return output


def add_on_layers(grid_channels: int, channels: int, kind: str) -> nn.Sequential:
    """Convolutions 1x1 with ReLU between them and a sigmoid behind the last.

    ``"bottleneck"`` halves the channels with each pair, down to `channels`, as the original.
    """
    widths = [grid_channels, channels, channels]
    if kind == "bottleneck":
        widths = [grid_channels]
        while widths[-1] > channels or len(widths) == 1:
            widths += [max(channels, widths[-1] // 2)] * 2
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        convolution = nn.Conv2d(before, after, 1)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
        layers += [convolution, nn.ReLU()]
    layers[-1] = nn.Sigmoid()
    return nn.Sequential(*layers)
