"""Projection ("push" in the original code), Chen et al. 2019, section 2.3.

Each prototype becomes the closest patch of a training picture of its own class, so that it can be
shown. Of equally close patches the first counts: in the order of the pictures, then y * w + x.
Distances are summed in float64, so that a prototype that lies on a patch already stays on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporters.protopnet.model import ProtoPNet
from exporters.protopnet.passes import Grids, batches


@dataclass(frozen=True, eq=False)
class Places:
    """Where P prototypes lie.

    Attributes:
        pictures: index of the source picture, int64 [P].
        locations: y * w + x in its similarity map, int64 [P].
    """

    pictures: NDArray[np.int64]
    locations: NDArray[np.int64]

    def kept(self, indices: NDArray[np.int64]) -> Places:
        """Of some prototypes."""
        return Places(self.pictures[indices], self.locations[indices])


def project(model: ProtoPNet, grids: Grids, classes: NDArray[np.int64]) -> Places:
    """Move every prototype onto its closest patch of a picture of its own class.

    Args:
        model: whose prototypes are moved.
        grids: gives the backbone's grids of training pictures, not augmented.
        classes: of the pictures, int64 [N]; every class of a prototype has one.
    """
    model.eval()
    vectors = model.prototype_vectors.detach()
    owners = model.prototype_class.cpu().numpy()
    best = np.full(len(owners), np.inf)
    pictures, locations = np.zeros((2, len(owners)), np.int64)
    found = vectors.clone()
    with torch.no_grad():
        for owner in np.unique(owners):
            mine = np.flatnonzero(owners == owner)
            for batch in batches(np.flatnonzero(classes == owner), f"projection, class {owner}"):
                patches = model.patches(model.add_on_layers(grids(batch)))
                near = squared_distances(patches, vectors[mine].flatten(1))
                flat = near.transpose(0, 1).flatten(1)  # [prototypes, pictures * places]
                first = flat.argmin(1)
                least = flat.gather(1, first[:, None])[:, 0].cpu().numpy()
                for row, j in enumerate(mine):
                    if least[row] < best[j]:
                        picture, location = divmod(int(first[row]), patches.shape[1])
                        best[j], pictures[j], locations[j] = least[row], batch[picture], location
                        found[j] = patches[picture, location].reshape(found[j].shape)
        vectors.copy_(found)
    return Places(pictures, locations)


def squared_distances(patches: Tensor, vectors: Tensor) -> Tensor:
    """Between patches [B, n, D] and prototypes [P, D], in float64: [B, P, n]."""
    wide = patches.double()
    rows = [(wide - vector).square().sum(2) for vector in vectors.double()]
    return torch.stack(rows, 1)
