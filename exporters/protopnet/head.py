"""The prototype layer in ONNX operators, over any backbone (Chen et al. 2019, section 2.1).

With x the patches of the latent grid [B, L, n], one row for each of L places where a prototype
fits, n = h1 w1 D numbers long, p a prototype, mu the prototypes' mean and c = x - mu:

    d = (c, |c|^2, 1) . (-2 (p - mu), 1, |p - mu|^2)      one matrix product
    location = ArgMin(d);  min_distance = sum (x[location] - p)^2;  logits = W similarity

Centring keeps the three terms of d small, so that little cancels; still the smallest distance is
computed anew from the patch at the minimum. There d is nearly 0, and the logarithm would turn a
rounding error of 1e-5 into one of 0.1.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters.builder import Ops
from exporters.protopnet.arrays import ProtoPNetArrays
from xai_onnx.errors import PrototypeError

PRECISIONS = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16}

BLOCK, MOST_BLOCKS = 2**18, 16  # bytes; a core's second-level cache holds a block three times

_FLOAT = ir.DataType.FLOAT


def head(
    op: Ops,
    z: ir.Value,
    grid: tuple[int, int],
    arrays: ProtoPNetArrays,
    *,
    asked: ir.Value | None,
    top_count: int,
    precision: str = "float32",
    activation_maps: bool = False,
) -> dict[str, ir.Value]:
    """Emit the head.

    Args:
        op: what emits.
        z: the latent grid, float [B, D, h, w].
        grid: h, w.
        arrays: prototypes, classes and last layer.
        asked: the class whose top prototypes are wanted, int64 [B, 1], -1 for the predicted one;
            ``None``: the predicted one.
        top_count: K.
        precision: of the distances that the minimum is searched in; the smallest distance, the
            similarity and the logits are float32 always.
        activation_maps: whether all P similarity maps are wanted; they come from the searched
            distances, `top_maps` from exact ones.

    Returns:
        By name: ``logits`` [B, C]; ``similarities``, ``min_distances`` [B, P]; ``locations`` int64
        [B, P]; ``top_indices`` int64 [B, K]; ``top_maps`` [B, K, h', w'] and, if wanted,
        ``activation_maps`` [B, P, h', w'], at the h' = h - h1 + 1, w' = w - w1 + 1 places where a
        prototype fits.

    Raises:
        PrototypeError: the prototypes are larger than the grid, K isn't between 1 and P, or the
            precision is unknown.
    """
    count, _, *patch = arrays.prototypes.shape
    if patch[0] > grid[0] or patch[1] > grid[1]:
        raise PrototypeError(
            f"prototypes of {patch[0]}x{patch[1]} cells don't fit the latent grid of "
            f"{grid[0]}x{grid[1]}; give pictures of the size that the model was trained with"
        )
    if not 1 <= top_count <= count:
        raise PrototypeError(f"top_count must be 1 to {count}, the prototypes, not {top_count}")
    if precision not in PRECISIONS:
        raise PrototypeError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    if z.dtype != _FLOAT:
        z = op.Cast(z, to=int(_FLOAT))
    places = (grid[0] - patch[0] + 1, grid[1] - patch[1] + 1)
    rows = np.moveaxis(arrays.prototypes, 1, 3).reshape(count, -1)  # [P, n], as the patches
    prototypes = op.constant(rows, _FLOAT)
    patches = _patches(op, z, places, patch, rows.shape[1])
    searched = _distances(op, patches, rows, PRECISIONS[precision])
    locations = op.ArgMin(searched, axis=1, keepdims=0)
    distances = _closest(op, patches, prototypes, locations, rows.shape)
    similarities = _similarity(op, distances, arrays)
    weights = op.constant(arrays.weights, _FLOAT)
    logits = op.Gemm(similarities, weights, transB=1)
    top = _top(op, similarities, weights, logits, asked, top_count)
    chosen = op.Unsqueeze(op.Gather(prototypes, top, axis=0), op.constant([2]))  # [B, K, 1, n]
    maps = _squared(op, op.Sub(op.Unsqueeze(patches, op.constant([1])), chosen))
    outputs = {
        "logits": logits,
        "similarities": similarities,
        "min_distances": distances,
        "locations": locations,
        "top_indices": top,
        "top_maps": _on_grid(op, _similarity(op, maps, arrays), top_count, places),
    }
    if activation_maps:
        if precision != "float32":
            searched = op.Cast(searched, to=int(_FLOAT))
        positive = op.Relu(op.Transpose(searched, perm=[0, 2, 1]))  # else the logarithm could fail
        everywhere = _similarity(op, positive, arrays)
        outputs["activation_maps"] = _on_grid(op, everywhere, count, places)
    return outputs


def _patches(
    op: Ops, z: ir.Value, places: tuple[int, int], patch: list[int], length: int
) -> ir.Value:
    """Every patch of z as a row, cell after cell: [B, L, n]."""
    cells = op.Transpose(z, perm=[0, 2, 3, 1])
    if math.prod(patch) > 1:
        shifted = [
            op.Slice(
                cells,
                op.constant([y, x]),
                op.constant([y + places[0], x + places[1]]),
                op.constant([1, 2]),
            )
            for y, x in np.ndindex(*patch)
        ]
        cells = op.Concat(*shifted, axis=3)
    return op.Reshape(cells, op.constant([0, math.prod(places), length]))  # type: ignore[no-any-return]


def _distances(
    op: Ops, patches: ir.Value, rows: NDArray[np.float32], dtype: ir.DataType
) -> ir.Value:
    """Squared distances of every patch to every prototype, [B, L, P], centred."""
    mean = rows.mean(0, dtype=np.float64).astype(np.float32)
    centred = rows.astype(np.float64) - mean
    c = op.Sub(patches, op.constant(mean, _FLOAT))
    squares = op.ReduceSumSquare(c, op.constant([2]), keepdims=1)
    row = op.Pad(  # with the 1 behind it
        op.Concat(c, squares, axis=2), op.constant([0, 0, 0, 0, 0, 1]), op.constant(1.0, _FLOAT)
    )
    if dtype != _FLOAT:
        row = op.Cast(row, to=int(dtype))
    lengths = (centred**2).sum(1)
    matrix = np.concatenate([-2 * centred.T, np.ones((1, len(rows))), lengths[None]])
    return op.MatMul(row, op.constant(matrix, dtype))  # type: ignore[no-any-return]


def _closest(
    op: Ops, patches: ir.Value, prototypes: ir.Value, locations: ir.Value, shape: tuple[int, ...]
) -> ir.Value:
    """Squared distances of the prototypes to the patches at `locations`, [B, P], exact.

    In blocks, none of which leaves the cache between gathering and summing: 2,000 prototypes of
    128 channels take a third less time than at once.
    """
    count, length = shape
    blocks = min(math.ceil(count * length * 4 / BLOCK), count, MOST_BLOCKS)
    where = op.Unsqueeze(locations, op.constant([2]))
    found = []
    for block in np.array_split(np.arange(count), blocks):
        first, end = op.constant([int(block[0])]), op.constant([int(block[-1]) + 1])
        at = op.Slice(where, first, end, op.constant([1])) if blocks > 1 else where
        vectors = op.Slice(prototypes, first, end, op.constant([0])) if blocks > 1 else prototypes
        closest = op.GatherND(patches, at, batch_dims=1)
        found.append(_squared(op, op.Sub(closest, vectors)))
    return found[0] if blocks == 1 else op.Concat(*found, axis=1)


def _squared(op: Ops, apart: ir.Value) -> ir.Value:
    """The sum of squares along the last axis; ReduceSumSquare would take twice as long."""
    return op.ReduceSum(op.Mul(apart, apart), op.constant([-1]), keepdims=0)  # type: ignore[no-any-return]


def _on_grid(op: Ops, rows: ir.Value, count: int, places: tuple[int, int]) -> ir.Value:
    """Maps [B, count, L] as [B, count, h', w']."""
    return op.Reshape(rows, op.constant([0, count, *places]))  # type: ignore[no-any-return]


def _similarity(op: Ops, distances: ir.Value, arrays: ProtoPNetArrays) -> ir.Value:
    """log((d + 1) / (d + epsilon)), or -d."""
    if arrays.similarity == "linear":
        return op.Neg(distances)  # type: ignore[no-any-return]
    above = op.Add(distances, op.constant(1.0, _FLOAT))
    below = op.Add(distances, op.constant(arrays.epsilon, _FLOAT))
    return op.Log(op.Div(above, below))  # type: ignore[no-any-return]


def _top(
    op: Ops,
    similarities: ir.Value,
    weights: ir.Value,
    logits: ir.Value,
    asked: ir.Value | None,
    top_count: int,
) -> ir.Value:
    """The prototypes that add most to the class, int64 [B, K], the first on ties."""
    target = op.ArgMax(logits, axis=1, keepdims=1)
    if asked is not None:
        target = op.Where(op.Less(asked, op.constant(0)), target, asked)
    row = op.Squeeze(op.Gather(weights, target, axis=0), op.constant([1]))  # [B, P]
    evidence = op.Mul(similarities, row)
    _, indices = op.TopK(evidence, op.constant([top_count]), axis=1, _outputs=2)
    return indices  # type: ignore[no-any-return]
