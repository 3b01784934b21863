"""Operators that reduce axes. Their gradient is constant along those axes, and stored so."""

from __future__ import annotations

from dataclasses import replace

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
