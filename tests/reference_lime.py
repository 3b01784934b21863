"""Slow NumPy twins of LIME's kernels, written from the definitions."""

from __future__ import annotations

import math

import numpy as np


def composed(image, fill, segments, masks, channels_last=False):
    """Perturbed pictures, one mask and one superpixel at a time."""
    batch = []
    for mask in masks:
        picture = image.copy()
        for j, on in enumerate(mask):
            if not on:
                where = (
                    (segments == j)[..., None] & np.ones(image.shape, bool)
                    if channels_last
                    else (segments == j)[None] & np.ones(image.shape, bool)
                )
                picture[where] = fill[where]
        batch.append(picture)
    return np.array(batch).reshape(len(masks), *image.shape)


def segment_means(planes, segments, count):
    """Mean of each plane over each superpixel, by NumPy's own mean of the values in order."""
    return np.array([[np.mean(plane[segments == j]) for j in range(count)] for plane in planes])


def densities(planes, radius, factor, noise):
    """Quickshift's densities: the noise, then the neighbours' exponentials in row-major order."""
    dtype = planes.dtype.type
    _, height, width = planes.shape
    result = noise.copy()
    for r, c, other_r, other_c in _pairs(height, width, radius):
        weight = math.exp(_squared(planes, r, c, other_r, other_c) * factor)
        result[r, c] = dtype(float(result[r, c]) + weight)
    return result


def parents(planes, density, radius, max_dist):
    """Each pixel's nearest neighbour of higher density, the first of equals; else itself."""
    dtype = planes.dtype.type
    _, height, width = planes.shape
    found = np.arange(height * width).reshape(height, width)
    closest = np.full((height, width), dtype(np.inf))
    for r, c, other_r, other_c in _pairs(height, width, radius):
        if density[other_r, other_c] > density[r, c]:
            squared = _squared(planes, r, c, other_r, other_c)
            if squared < closest[r, c]:
                closest[r, c], found[r, c] = squared, other_r * width + other_c
    too_far = np.sqrt(closest) > max_dist
    found[too_far] = np.arange(height * width).reshape(height, width)[too_far]
    return found.reshape(-1)


def labels(parent):
    """Number of the tree of each pixel, in the order of the roots."""
    root = np.asarray(parent)
    while (root[root] != root).any():
        root = root[root]
    return np.unique(root, return_inverse=True)[1]


def _pairs(height, width, radius):
    for r in range(height):
        for c in range(width):
            for other_r in range(max(r - radius, 0), min(r + radius + 1, height)):
                for other_c in range(max(c - radius, 0), min(c + radius + 1, width)):
                    yield r, c, other_r, other_c


def _squared(planes, r, c, other_r, other_c):
    dtype = planes.dtype.type
    total = dtype(0)
    for difference in planes[:, r, c] - planes[:, other_r, other_c]:
        total += difference * difference
    total += dtype((r - other_r) ** 2)
    return total + dtype((c - other_c) ** 2)
