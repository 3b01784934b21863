"""Slow twin of a ProtoPNet's head and boxes, loop by loop, in plain NumPy and float64."""

import math

import numpy as np


def distances(z, prototypes):
    """Squared distance of every prototype [P, D, h1, w1] at every place of z [D, h, w]."""
    z, prototypes = z.astype(np.float64), prototypes.astype(np.float64)
    count, _, high, wide = prototypes.shape
    rows, columns = z.shape[1] - high + 1, z.shape[2] - wide + 1
    found = np.zeros((count, rows, columns))
    for j in range(count):
        for y in range(rows):
            for x in range(columns):
                apart = z[:, y : y + high, x : x + wide] - prototypes[j]
                found[j, y, x] = (apart**2).sum()
    return found


def similarity(distance, kind="log", epsilon=1e-4):
    """Chen et al. 2019, section 2.1."""
    return np.log((distance + 1) / (distance + epsilon)) if kind == "log" else -distance


def forward(z, prototypes, weights, kind="log", epsilon=1e-4):
    """Logits, similarities, smallest distances and where they are, for one picture."""
    maps = distances(z, prototypes)
    smallest = [min(float(d) for d in grid.flat) for grid in maps]
    places = [
        next(i for i, d in enumerate(grid.flat) if d == least)
        for grid, least in zip(maps, smallest, strict=True)
    ]
    similarities = similarity(np.array(smallest), kind, epsilon)
    logits = np.array([math.fsum(row * similarities) for row in weights.astype(np.float64)])
    return logits, similarities, np.array(smallest), np.array(places)


def enlarged(grid, height, width):
    """Cubic convolution with a = -0.75 between the centres of cells, the edge repeated."""

    def weight(t):
        t, a = abs(t), -0.75
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    def matrix(cells, pixels):
        rows = np.zeros((pixels, cells))
        for pixel in range(pixels):
            place = (pixel + 0.5) * cells / pixels - 0.5
            first = math.floor(place) - 1
            for cell in range(first, first + 4):
                rows[pixel, min(max(cell, 0), cells - 1)] += weight(place - cell)
        return rows

    tall, broad = matrix(grid.shape[0], height), matrix(grid.shape[1], width)
    return tall @ grid.astype(np.float64) @ broad.T


def box(large, percentile=95):
    """The rectangle around all values at or above the percentile: y0, y1, x0, x1, half open."""
    ordered = sorted(float(v) for v in large.flat)
    place = (len(ordered) - 1) * percentile / 100
    low, share = math.floor(place), place - math.floor(place)
    high = ordered[min(low + 1, len(ordered) - 1)]
    threshold = ordered[low] + (high - ordered[low]) * share
    found = [(y, x) for y, x in np.ndindex(large.shape) if large[y, x] >= threshold]
    rows, columns = [y for y, _ in found], [x for _, x in found]
    return min(rows), max(rows) + 1, min(columns), max(columns) + 1
