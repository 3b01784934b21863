"""The loss of Chen et al. 2019, section 2.2.

    cross entropy + 0.8 * cluster - 0.08 * separation + 1e-4 * |last-layer weights of other classes|

Cluster cost: the distance to the closest prototype of the picture's class; separation: to the
closest one of another class; both are means over the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - as everywhere in torch

from exporters.protopnet.schedule import SEPARATION, SPARSITY

CLUSTER = 0.8


class Loss(NamedTuple):
    """The terms, scalars."""

    cross_entropy: Tensor
    cluster: Tensor
    separation: Tensor
    sparsity: Tensor

    def total(self, separation: float = SEPARATION) -> Tensor:
        """What the first two stages minimise; `separation` is the factor of that cost."""
        distances = CLUSTER * self.cluster - separation * self.separation
        return self.cross_entropy + distances + SPARSITY * self.sparsity


def loss(
    logits: Tensor,
    min_distances: Tensor,
    classes: Tensor,
    prototype_class: Tensor,
    weights: Tensor,
) -> Loss:
    """The terms for a batch.

    Args:
        logits: [B, C].
        min_distances: [B, P]; every class has a prototype.
        classes: of the pictures, int64 [B].
        prototype_class: int64 [P].
        weights: of the last layer, [C, P].
    """
    own = prototype_class == classes[:, None]
    nearest = min_distances.masked_fill(~own, torch.inf).amin(1)
    other = min_distances.masked_fill(own, torch.inf).amin(1)
    return Loss(
        F.cross_entropy(logits, classes),
        nearest.mean(),
        other.mean(),
        sparsity(weights, prototype_class),
    )


def sparsity(weights: Tensor, prototype_class: Tensor) -> Tensor:
    """Sum of the absolute weights between prototypes and classes that they don't belong to."""
    classes = torch.arange(len(weights), device=weights.device)
    return weights.abs().masked_fill(prototype_class == classes[:, None], 0).sum()
