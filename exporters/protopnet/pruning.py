"""Which prototypes stand for no class, and which are the same.

Pruning (Chen et al. 2019, section 2.4 and supplement): a prototype goes if fewer than 3 of the 6
training pictures nearest to it, each by its closest patch, are of its class. Merging: prototypes
that were projected onto the same patch are equal, so their columns of the last layer can be summed:
the logits stay what they were.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from exporters.protopnet.arrays import ProtoPNetArrays, PrototypeSources

NEAREST, NEEDED = 6, 3


def kept_prototypes(
    min_distances: NDArray[np.floating],
    classes: NDArray[np.int64],
    prototype_class: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The prototypes that pruning leaves.

    Args:
        min_distances: of the N training pictures to the P prototypes, [N, P]; of equal ones the
            first picture counts as nearer.
        classes: of the pictures, [N].
        prototype_class: [P].

    Returns:
        Their indices, ascending; a class may be left without any.
    """
    nearest = np.argsort(min_distances, axis=0, kind="stable")[:NEAREST]  # [6, P]
    own = (classes[nearest] == prototype_class).sum(0)
    return np.flatnonzero(own >= NEEDED).astype(np.int64)


def merge_duplicates(arrays: ProtoPNetArrays) -> ProtoPNetArrays:
    """One prototype for each group of equal ones of a class, the first; their weights are summed.

    The sums are made in float64 and rounded once to float32, as the model stores them.
    """
    groups = duplicate_groups(arrays.prototypes, arrays.prototype_class)
    kept = np.unique(groups)
    if len(kept) == len(groups):
        return arrays
    merged = merged_weights(arrays.weights.astype(np.float64), groups)
    sources = arrays.sources
    return replace(
        arrays,
        prototypes=arrays.prototypes[kept],
        prototype_class=arrays.prototype_class[kept],
        weights=merged.astype(np.float32),
        sources=None if sources is None else _selected(sources, kept),
        notes=(*arrays.notes, f"{len(groups) - len(kept)} equal prototypes were merged"),
    )


def duplicate_groups(
    prototypes: NDArray[np.float32], prototype_class: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each prototype the first one that equals it and is of its class, int64 [P]."""
    first: dict[tuple[int, bytes], int] = {}
    flat = prototypes.reshape(len(prototypes), -1) + 0.0  # -0 and 0 are equal
    rows = zip(prototype_class.tolist(), flat, strict=True)
    return np.array(
        [first.setdefault((owner, row.tobytes()), j) for j, (owner, row) in enumerate(rows)],
        np.int64,
    )


def merged_weights(weights: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """The columns of each group summed, [C, P] to [C, groups]."""
    kept, place = np.unique(groups, return_inverse=True)
    merged = np.zeros((len(weights), len(kept)))
    np.add.at(merged.T, place, weights.T)
    return merged


def _selected(sources: PrototypeSources, kept: NDArray[np.int64]) -> PrototypeSources:
    shown = sources.self_similarity
    return PrototypeSources(
        image_ids=tuple(sources.image_ids[j] for j in kept),
        image_sha256=tuple(sources.image_sha256[j] for j in kept),
        boxes=sources.boxes[kept],
        receptive_boxes=sources.receptive_boxes[kept],
        locations=sources.locations[kept],
        self_similarity=None if shown is None else shown[kept],
        patches=tuple(sources.patches[j] for j in kept),
        pictures=tuple(sources.pictures[j] for j in kept),
    )
