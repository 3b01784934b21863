"""Operators that reduce axes. y is the output, x the input, g the cotangent of y.

The gradient of means and sums is constant along those axes, and stored so.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from exporters.cotangent import Cotangent, dimension, scaled
from exporters.vjp_rules.registry import Site, as_array, vjp


@vjp("ReduceMean", sparse=True)
def reduce_mean(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = mean of x over n entries; dx = g / n, spread over them."""
    axes = _axes(site)
    return [_over_count(site, _spread(site, g, axes), axes)]


@vjp("ReduceSum", sparse=True)
def reduce_sum(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = sum of x; dx = g, spread over the summed entries."""
    return [_spread(site, g, _axes(site))]


@vjp("GlobalAveragePool", sparse=True)
def global_average_pool(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = mean of x over n positions; dx = g / n, spread over them."""
    return [spread_mean(site, g)]


@vjp("ReduceMax", "ReduceMin", sparse=True)
def reduce_extreme(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = max or min of x; dx = g / n where x is one of the n entries that equal y.

    Ties share, as in torch.amax and torch.amin.
    """
    op, axes = site.op, _axes(site)
    dtype = site.output.dtype
    assert dtype is not None
    reached = op.Cast(op.Equal(site.input(0), _kept(site, axes)), to=int(dtype))
    count = op.ReduceSum(reached, op.constant(axes), keepdims=1) if axes else None
    return [_weighed(site, g, axes, reached if count is None else op.Div(reached, count))]


@vjp("ReduceL1", sparse=True)
def reduce_l1(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = sum of |x|; dx = g sign(x), 0 at 0."""
    return [_weighed(site, g, _axes(site), site.op.Sign(site.input(0)))]


@vjp("ReduceL2", sparse=True)
def reduce_l2(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = square root of the sum of x^2; dx = g x / y, 0 where y is 0 (as torch)."""
    op, axes = site.op, _axes(site)
    y, zero = _kept(site, axes), site.scalar(0.0)
    safe = op.Where(op.Equal(y, zero), site.scalar(1.0), y)  # x is 0 there
    return [_weighed(site, g, axes, op.Div(site.input(0), safe))]


@vjp("ReduceSumSquare", sparse=True)
def reduce_sum_square(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = sum of x^2; dx = 2 g x."""
    twice = scaled(site.op, g, site.scalar(2.0))
    return [_weighed(site, twice, _axes(site), site.input(0))]


@vjp("ReduceLogSum", sparse=True)
def reduce_log_sum(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = log of the sum of x; dx = g exp(-y), spread over the summed entries."""
    by_sum = site.pointwise(g, lambda g, y: site.op.Div(g, site.op.Exp(y)), site.output)
    return [_spread(site, by_sum, _axes(site))]


@vjp("ReduceLogSumExp", sparse=True)
def reduce_log_sum_exp(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = log of the sum of exp(x); dx = g exp(x - y)."""
    op, axes = site.op, _axes(site)
    return [_weighed(site, g, axes, op.Exp(op.Sub(site.input(0), _kept(site, axes))))]


@vjp("ReduceProd", sparse=True)
def reduce_prod(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = product of x; dx = g times the product of the other entries.

    That is y / x; with a single 0 among them the product of the rest at the 0, with more 0.
    """
    op, axes, x = site.op, _axes(site), site.input(0)
    if not axes:
        return [g]
    dtype, over = site.output.dtype, op.constant(axes)
    assert dtype is not None
    zero, one = site.scalar(0.0), site.scalar(1.0)
    is_zero = op.Equal(x, zero)
    others = op.Where(is_zero, one, x)
    product = op.ReduceProd(others, over, keepdims=1)
    zeros = op.ReduceSum(op.Cast(is_zero, to=int(dtype)), over, keepdims=1)
    at_zero = op.Where(op.Equal(zeros, one), product, zero)
    beside = op.Where(op.Equal(zeros, zero), op.Div(product, others), zero)
    return [_weighed(site, g, axes, op.Where(is_zero, at_zero, beside))]


@vjp("GlobalMaxPool", sparse=True)
def global_max_pool(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = max of x over the positions; dx = g at the first maximum in row-major order."""
    op, x = site.op, site.input(0)
    dtype = site.output.dtype
    assert dtype is not None
    flat = op.Reshape(x, op.constant([0, 0, -1]))
    first = op.ArgMax(flat, axis=-1, keepdims=1)
    zero, one = op.constant(0), op.constant(1)
    places = op.Range(zero, op.Squeeze(op.Shape(flat, start=2)), one)
    mask = op.Reshape(op.Cast(op.Equal(places, first), to=int(dtype)), op.Shape(x))
    return [_weighed(site, g, list(range(2 - g.rank, 0)), mask)]


@vjp("GlobalLpPool", sparse=True)
def global_lp_pool(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = (sum of |x|^p over the positions)^(1/p); dx = g sign(x) (|x| / y)^(p - 1), 0 at 0."""
    op, x, y = site.op, site.input(0), site.output
    p: int = site.attribute("p", 2)
    safe = op.Where(op.Equal(y, site.scalar(0.0)), site.scalar(1.0), y)
    share = op.Sign(x)
    if p == 2:
        share = op.Div(x, safe)
    elif p > 2:
        share = op.Mul(share, op.Pow(op.Div(op.Abs(x), safe), site.scalar(p - 1.0)))
    return [_weighed(site, g, list(range(2 - g.rank, 0)), share)]


def spread_mean(site: Site, g: Cotangent) -> Cotangent:
    """g / n, spread over all axes behind batch and channels, which y keeps with size 1."""
    axes = list(range(2 - g.rank, 0))
    x = site.shape(site.input(0))
    if g.one_hot is not None and g.one_hot.axis in axes:  # of size 1 here, but not in x
        g = site.dense(g)
    return _over_count(site, Cotangent(g.value, x, g.constant | set(axes), g.one_hot), axes)


def _axes(site: Site) -> list[int]:
    """The reduced axes, counted from the end."""
    rank = len(site.shape(site.input(0)))
    given = as_array(site.given(1), ())
    if not given and not site.attribute("noop_with_empty_axes", 0):
        given = list(range(rank))
    return [axis if axis < 0 else axis - rank for axis in given]


def _spread(site: Site, g: Cotangent, axes: list[int]) -> Cotangent:
    x = site.shape(site.input(0))
    keepdims = site.attribute("keepdims", 1)
    if g.one_hot is not None and (-len(x) in axes or (keepdims and g.one_hot.axis in axes)):
        g = site.dense(g)  # its images must stay in front, and its axis what it is
    value, constant, one_hot = g.value, set(axes), g.one_hot
    kept = [axis for axis in range(-len(x), 0) if axis not in axes]
    if keepdims:
        constant |= g.constant
    else:
        value = site.op.unsqueeze(value, sorted(axis + len(x) + 1 for axis in axes))
        constant |= {kept[axis] for axis in g.constant}
        if one_hot is not None:
            one_hot = replace(one_hot, axis=kept[one_hot.axis])
    return Cotangent(value, x, frozenset(constant), one_hot)


def _kept(site: Site, axes: list[int]) -> ir.Value:
    """y with the reduced axes at size 1."""
    if site.attribute("keepdims", 1):
        return site.output
    rank = len(site.shape(site.input(0)))
    return site.op.unsqueeze(site.output, sorted(axis + rank for axis in axes))


def _weighed(site: Site, g: Cotangent, axes: list[int], weight: ir.Value) -> Cotangent:
    """g, spread over the reduced axes, times a weight of the shape of x."""
    site.shapes[weight] = site.shape(site.input(0))
    return site.pointwise(_spread(site, g, axes), site.op.Mul, weight)


def _over_count(site: Site, g: Cotangent, axes: list[int]) -> Cotangent:
    """g divided by the number of entries along `axes` of the input."""
    x, op = site.input(0), site.op
    dtype = x.dtype
    assert dtype is not None
    sizes = [g.shape[axis] for axis in axes]
    count = 1
    for size in sizes:
        count *= size if isinstance(size, int) else 1
    g = scaled(op, g, site.scalar(1.0 / count))
    for axis, size in zip(axes, sizes, strict=True):
        if not isinstance(size, int):
            g = g.with_value(op.Div(g.value, dimension(op, x, g.shape, axis, dtype)))
    return g
