"""Masks: the cotangent where a value lies inside an interval, else 0.

A mask is a factor of zeros and ones, since ONNX Runtime is slow at Where: Greater and Where took
139 milliseconds on [8, 96, 112, 112], HardSigmoid and Mul 25. The factor is a line clipped to
[0, 1], so steep that no float but the bound itself lies on its slope: HardSigmoid, or a 1x1
depthwise Conv and Clip, where that stays in the blocked layout of the convolutions around it. Of
floats, only those that aren't 0 but below 2**-127 are seen as a bound of 0.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from exporters.vjp_rules.registry import Site, masked

BLOCK = 16  # channels; ONNX Runtime blocks by 8 or 16


def inside(site: Site, g: ir.Value, x: ir.Value, low: float | None, high: float | None) -> ir.Value:
    """g where low < x < high, else 0; a bound of ``None`` is none."""
    op = site.op
    if site.output.dtype != ir.DataType.FLOAT:
        conditions = [
            compare(x, site.scalar(bound))
            for compare, bound in ((op.Greater, low), (op.Less, high))
            if bound is not None
        ]
        return masked(site, conditions[0] if len(conditions) == 1 else op.And(*conditions), g)
    if low == 0 and high is not None and high > 0 and in_blocks(site, x):
        return op.times(into_blocks(site, g, x), _bump(site, x, high))
    lines = [(steep(low), low)] if low is not None else []
    lines += [(-steep(high), high)] if high is not None else []
    factors = [_clipped_line(site, x, slope, -slope * bound) for slope, bound in lines]
    factor = factors[0] if len(factors) == 1 else op.Mul(*factors)
    return op.times(into_blocks(site, g, x), factor)


def steep(bound: float) -> float:
    """A power of two by which the smallest distance of a float32 from `bound` exceeds 1."""
    return 2.0**127 if bound == 0 else 2.0 ** (100 - math.frexp(bound)[1])


def into_blocks(site: Site, g: ir.Value, x: ir.Value) -> ir.Value:
    """g in the blocked layout of the factors of `x`, which is [B, C, ...] and dense as `x` is.

    A pooling of single positions is what ONNX Runtime reorders its input for. Without it the first
    product would be one outside of the layout, and all sums with it after that.
    """
    if not in_blocks(site, x) or _is_blocked(g):
        return g
    return site.op.AveragePool(g, kernel_shape=[1, 1])  # type: ignore[no-any-return]


def in_blocks(site: Site, x: ir.Value) -> bool:
    """Whether ONNX Runtime can keep `x` in blocks of channels where it multiplies it with g."""
    shape = site.shapes.get(x, ())
    if not site.op.single or x.dtype != ir.DataType.FLOAT or len(shape) != 4:
        return False
    _, channels, *size = shape
    return all(isinstance(n, int) for n in (channels, *size)) and int(channels) % BLOCK == 0


def _is_blocked(g: ir.Value) -> bool:
    node = g.producer()
    if node is None or node.op_type not in ("Conv", "AveragePool", "Clip", "Mul", "Add"):
        return False
    if node.op_type in ("Mul", "Add"):
        return all(_is_blocked(value) for value in node.inputs if value is not None)
    return True


def _clipped_line(site: Site, x: ir.Value, slope: float, offset: float) -> ir.Value:
    """min(max(slope x + offset, 0), 1)."""
    op = site.op
    if not in_blocks(site, x):
        return op.HardSigmoid(x, alpha=slope, beta=offset)  # type: ignore[no-any-return]
    line = blocked_line(site, x, slope, offset)
    return op.Clip(line, site.scalar(0.0), site.scalar(1.0))  # type: ignore[no-any-return]


def _bump(site: Site, x: ir.Value, high: float) -> ir.Value:
    """1 where 0 < x < high, else 0, for x in [0, high].

    tanh(s min(x, high - x)): two passes over memory, where two lines and their product are three.
    s is as large as float32 allows, so that of the floats between 0 and 2**-120 high alone some
    are seen as less than 1; at 0 and at high nothing is rounded.
    """
    op = site.op
    slope = 2.0 ** (125 - math.frexp(high)[1])
    excess = op.Clip(blocked_line(site, x, -2 * slope, slope * high), None, site.scalar(0.0))
    return op.Tanh(op.Add(blocked_line(site, x, slope, 0.0), excess))  # type: ignore[no-any-return]


def blocked_line(site: Site, x: ir.Value, slope: float, offset: float) -> ir.Value:
    """slope x + offset as a depthwise Conv, for a value that `in_blocks` is true of."""
    op, channels = site.op, site.shapes[x][1]
    weight = op.constant(np.full((channels, 1, 1, 1), slope), ir.DataType.FLOAT)
    bias = [op.constant(np.full(channels, offset), ir.DataType.FLOAT)] if offset else []
    return op.Conv(x, weight, *bias, group=channels)  # type: ignore[no-any-return]
