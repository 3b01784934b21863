"""Slow NumPy twins, in float64 and loops, of what trains a ProtoPNet (Chen et al. 2019)."""

import numpy as np


def patches(z, size):
    """Every patch of a latent grid [D, h, w], in the order y * w + x: [n, D, h1, w1]."""
    _, height, width = z.shape
    places = np.ndindex(height - size[0] + 1, width - size[1] + 1)
    return np.array([z[:, y : y + size[0], x : x + size[1]] for y, x in places], np.float64)


def distances(z, prototypes):
    """Squared distances of each prototype to each patch, [P, n]."""
    found = patches(z, prototypes.shape[2:])
    return np.array(
        [[((patch - p.astype(np.float64)) ** 2).sum() for patch in found] for p in prototypes]
    )


def similarity(distance, epsilon=1e-4):
    return np.log((distance + 1) / (distance + epsilon))


def forward(z, prototypes, weights):
    """Logits, smallest distances and their places, for a batch of latent grids."""
    rows = [distances(grid, prototypes) for grid in z]
    least = np.array([row.min(1) for row in rows])
    places = np.array([row.argmin(1) for row in rows])
    return similarity(least) @ weights.T.astype(np.float64), least, places


def loss_terms(logits, min_distances, classes, prototype_class, weights):
    """Cross entropy, cluster, separation, sparsity: means over the batch, a picture at a time."""
    entropy, cluster, separation = [], [], []
    for row, near, own in zip(logits, min_distances, classes, strict=True):
        shifted = row - row.max()
        entropy.append(np.log(np.exp(shifted).sum()) - shifted[own])
        cluster.append(min(d for d, c in zip(near, prototype_class, strict=True) if c == own))
        separation.append(min(d for d, c in zip(near, prototype_class, strict=True) if c != own))
    sparsity = sum(
        abs(weights[c, j])
        for c in range(len(weights))
        for j, owner in enumerate(prototype_class)
        if owner != c
    )
    return np.mean(entropy), np.mean(cluster), np.mean(separation), sparsity


def projection(z, classes, prototypes, prototype_class):
    """New prototypes, the pictures and places that they come from: the first on ties."""
    moved, pictures, places = [], [], []
    for p, owner in zip(prototypes, prototype_class, strict=True):
        best = (np.inf, None, None, None)
        for index, (grid, own) in enumerate(zip(z, classes, strict=True)):
            if own != owner:
                continue
            for place, patch in enumerate(patches(grid, p.shape[1:])):
                distance = ((patch - p.astype(np.float64)) ** 2).sum()
                if distance < best[0]:
                    best = (distance, index, place, patch)
        pictures.append(best[1])
        places.append(best[2])
        moved.append(best[3])
    return np.array(moved), np.array(pictures), np.array(places)


def kept(min_distances, classes, prototype_class, nearest=6, needed=3):
    """Indices of the prototypes that at least 3 of the 6 nearest pictures agree with."""
    found = []
    for j, owner in enumerate(prototype_class):
        order = sorted(range(len(classes)), key=lambda n: (min_distances[n, j], n))
        if sum(classes[n] == owner for n in order[:nearest]) >= needed:
            found.append(j)
    return found


def class_evidence(grids, classes, count, ridge):
    """What a channel adds to each class, [channels, C]: least squares with rows for the penalty.

    The channels' means are divided by their deviations; sqrt(ridge * N) I against 0 are the rows.
    """
    means = np.array([[channel.astype(np.float64).mean() for channel in grid] for grid in grids])
    scale = np.array([column.std() or 1.0 for column in means.T])
    x, y = (means - means.mean(0)) / scale, np.eye(count)[classes]
    rows = np.vstack([x, np.sqrt(ridge * len(x)) * np.eye(x.shape[1])])
    targets = np.vstack([y - y.mean(0), np.zeros((x.shape[1], count))])
    return np.linalg.lstsq(rows, targets)[0] / scale[:, None]
