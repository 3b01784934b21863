"""From the map at layer size to the saliency map at image size, in [0, 1].

Bilinear with half-pixel centres (as torch's align_corners=False, OpenCV and Pillow), then min-max
scaled per map; a constant map gives all zeros.

Where all sizes are known the resize is two matrix products, R_h cam R_w^T, which ONNX Runtime runs
several times faster than Resize. And the scaling is done on the small map: a bilinear surface has
its extremes, within each cell of the small map, at the first or last sample that falls into it, so
the minimum and maximum of the large map are those of a few sampled rows and columns, and the large
map is written once. Both are exact up to rounding.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters.builder import Ops
from exporters.probe import Dim, Shape

_TINY = float(np.finfo(np.float32).tiny)  # keeps 0 / 0 from being NaN where a map is constant


def saliency_map(
    op: Ops,
    cam: ir.Value,
    size: Shape,
    target: tuple[Dim, Dim],
    image: ir.Value,
    *,
    spatial: tuple[int, int],
) -> ir.Value:
    """[B, K, h, w] to [B, K, H, W].

    Args:
        op: where nodes are emitted.
        cam: the raw map, float32.
        size: (h, w) of the map.
        target: (H, W) of the image.
        image: the image input, asked for H, W where they are free.
        spatial: the image's height and width axes.
    """
    known = (*size, *target)
    static = all(isinstance(n, int) for n in known)
    if static and size == target:
        return scaled(op, cam)
    spread = op.Sub(cam, op.ReduceMin(cam, op.constant([-2, -1]), keepdims=1))
    if static:
        (h, w), (height, width) = [int(n) for n in size], [int(n) for n in target]
        rows, columns = interpolation(height, h), interpolation(width, w)
        some_rows, some_columns = _extremes(height, h), _extremes(width, w)
        samples = _resized(op, spread, rows[some_rows], columns[some_columns])
        small = _between(op, spread, samples)
        return op.Clip(_resized(op, small, rows, columns), _float(op, 0.0), _float(op, 1.0))  # type: ignore[no-any-return]
    axes = op.constant(list(spatial))
    sizes = op.Concat(op.Shape(cam, end=2), op.Gather(op.Shape(image), axes), axis=0)
    large = op.Resize(
        spread, None, None, sizes, mode="linear", coordinate_transformation_mode="half_pixel"
    )
    return scaled(op, large)


def scaled(op: Ops, maps: ir.Value) -> ir.Value:
    """Maps [B, K, H, W] min-max scaled, each by itself."""
    return _between(op, maps, maps)


def interpolation(large: int, small: int) -> NDArray[np.float64]:
    """The matrix [large, small] of bilinear resizing along one axis, half-pixel, edges clamped."""
    positions = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    below = np.minimum(positions.astype(int), max(small - 2, 0))
    above = np.minimum(below + 1, small - 1)
    fraction = positions - below
    matrix = np.zeros((large, small))
    matrix[np.arange(large), below] += 1 - fraction
    matrix[np.arange(large), above] += fraction
    return matrix


def _extremes(large: int, small: int) -> NDArray[np.int64]:
    """Indices of the first and the last sample in every cell between neighbouring small samples."""
    positions = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    cells = np.floor(positions).astype(int)
    changes = np.flatnonzero(np.diff(cells))
    return np.unique(np.concatenate([[0], changes, changes + 1, [large - 1]]))


def _resized(
    op: Ops, x: ir.Value, rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> ir.Value:
    wide = op.MatMul(x, op.constant(columns.T, ir.DataType.FLOAT))
    return op.MatMul(op.constant(rows, ir.DataType.FLOAT), wide)  # type: ignore[no-any-return]


def _between(op: Ops, x: ir.Value, samples: ir.Value) -> ir.Value:
    """(x - min) / (max - min), minimum and maximum taken from `samples`, map by map."""
    axes = op.constant([-2, -1])
    low = op.ReduceMin(samples, axes, keepdims=1)
    span = op.Sub(op.ReduceMax(samples, axes, keepdims=1), low)
    return op.Div(op.Sub(x, low), op.Max(span, _float(op, _TINY)))  # type: ignore[no-any-return]


def _float(op: Ops, content: float) -> ir.Value:
    return op.constant(content, ir.DataType.FLOAT)
