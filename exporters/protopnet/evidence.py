"""Where prototypes can start: on the parts of pictures that speak for their class.

A linear classifier on the mean of the backbone's grid says how much each cell adds to each class:
a class activation map (Zhou et al. 2016, "Learning Deep Features for Discriminative Localization").
The place of the highest mean of its own class's map is taken from every picture; k-means groups
what a class's pictures show there, and each of its prototypes starts on the patch that is nearest
to a group's mean. What the classes share, such as backgrounds, adds to none of them.

The classifier is a ridge regression on channels of unit variance, which has no rate to choose. With
X [N, channels] the centred means and Y [N, C] the classes, one-hot and centred,

    W = (X'X / N + lambda I)^-1 X'Y / N
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - as everywhere in torch

from exporters.protopnet.model import ProtoPNet
from exporters.protopnet.passes import Grids, batches
from exporters.protopnet.projection import Places
from xai_onnx.errors import PrototypeError

RIDGE = 1.0  # the mean eigenvalue of X'X / N
ROUNDS = 20  # of k-means


def start_on_evidence(
    model: ProtoPNet, grids: Grids, classes: NDArray[np.int64], rng: np.random.Generator
) -> Places:
    """Move every prototype onto a patch of a picture of its class that speaks for the class.

    Args:
        model: whose prototypes are moved; its backbone should have learnt something already.
        grids: gives the backbone's grids of training pictures, not augmented.
        classes: of the pictures, int64 [N].
        rng: what k-means++ draws from.

    Returns:
        Where the prototypes lie.

    Raises:
        PrototypeError: a class has fewer patches than prototypes.
    """
    model.eval()
    height, width = model.prototype_vectors.shape[2:]
    owners = model.prototype_class.cpu().numpy()
    pictures, locations = np.zeros((2, len(owners)), np.int64)
    with torch.no_grad():
        weights, scale = class_evidence(grids, classes, len(model.last_layer.weight))
        for owner in np.unique(owners):
            mine = np.flatnonzero(owners == owner)
            its = np.flatnonzero(classes == owner)
            each = -(-len(mine) // len(its))
            where, seen = [], []
            for batch in batches(its, f"evidence, class {owner}"):
                grid = grids(batch)
                cells = torch.einsum("bchw,c->bhw", grid.double(), weights[:, owner] / scale)
                evidence = F.avg_pool2d(cells, (height, width), 1).flatten(1)
                if each > evidence.shape[1]:
                    raise PrototypeError(
                        f"{len(mine)} prototypes of class {owner} can't start on the "
                        f"{evidence.shape[1]} places of each of its {len(its)} pictures; have "
                        'fewer prototypes per class, or start="random"'
                    )
                best = evidence.topk(each, dim=1).indices
                patches = F.unfold(grid, (height, width)).transpose(1, 2)
                where.append(best)
                seen.append(patches.gather(1, best[..., None].expand(-1, -1, patches.shape[2])))
            places = torch.cat(where).flatten().cpu().numpy()
            chosen = _central(torch.cat(seen).flatten(0, 1), len(mine), rng)
            pictures[mine], locations[mine] = its[chosen // each], places[chosen]
        for j, (picture, location) in enumerate(zip(pictures, locations, strict=True)):
            z = model.add_on_layers(grids(np.array([picture])))
            vector = model.patches(z)[0, location]
            model.prototype_vectors[j] = vector.reshape(model.prototype_vectors[j].shape)
    return Places(pictures, locations)


def class_evidence(
    grids: Grids, classes: NDArray[np.int64], num_classes: int
) -> tuple[Tensor, Tensor]:
    """The classifier W, [channels, C], and the channels' deviations that it divides by, float64."""
    means = torch.cat(
        [
            grids(batch).mean((2, 3), dtype=torch.float64)
            for batch in batches(np.arange(len(classes)), "evidence")
        ]
    )
    scale = means.std(0, correction=0)
    scale[scale == 0] = 1
    x = (means - means.mean(0)) / scale
    y = F.one_hot(torch.from_numpy(classes).to(x.device), num_classes).double()
    ridge = RIDGE * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return torch.linalg.solve(x.T @ x / len(x) + ridge, x.T @ (y - y.mean(0)) / len(x)), scale


def _central(rows: Tensor, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Of rows [n, d] those nearest to the means of `count` groups, found by k-means++."""
    values = rows.double().cpu().numpy()
    chosen = [int(rng.integers(len(values)))]
    nearest = np.full(len(values), np.inf)
    for _ in range(count - 1):
        nearest = np.minimum(nearest, ((values - values[chosen[-1]]) ** 2).sum(1))
        total = nearest.sum()
        chosen.append(int(rng.choice(len(values), p=nearest / total if total > 0 else None)))
    centres = values[chosen]
    for _ in range(ROUNDS):
        group = _squared_distances(values, centres).argmin(1)
        for k in np.unique(group):  # a group that is empty stays where it was
            centres[k] = values[group == k].mean(0)
    found: NDArray[np.int64] = _squared_distances(values, centres).argmin(0)
    return found


def _squared_distances(
    rows: NDArray[np.float64], centres: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.stack([((rows - centre) ** 2).sum(1) for centre in centres], axis=1)
