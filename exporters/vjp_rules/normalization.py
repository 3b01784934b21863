"""Normalising operators.

BatchNormalization is the one of inference. Those that normalise by the statistics of their input
compute them once more: asking the model's node for them could change its kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters import graph
from exporters.cotangent import Cotangent, with_k
from exporters.vjp_rules.registry import Site, vjp


@vjp("BatchNormalization", sparse=True)
def batch_normalization(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = scale (x - mean) / sqrt(var + eps) + bias, inference; dx = g scale / sqrt(var + eps)."""
    if site.attribute("training_mode", 0):
        raise site.unsupported("in training mode")
    scale, variance = site.known(1), site.known(4)
    epsilon = site.attribute("epsilon", 1e-5)
    if scale is None or variance is None:
        return [site.pointwise(g, site.op.Mul, _factor(site, g.rank, epsilon))]
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    factor = factor.reshape(-1, *[1] * (g.rank - 2))
    dtype = site.output.dtype
    assert dtype is not None
    return [site.pointwise(g, site.op.scale_channels, site.op.constant(factor, dtype))]


def _factor(site: Site, rank: int, epsilon: float) -> ir.Value:
    """scale / sqrt(var + eps), found at run time."""
    op, scale, variance = site.op, site.input(1), site.input(4)
    assert variance.dtype is not None
    spread = op.Add(variance, op.constant(epsilon, variance.dtype))
    factor: ir.Value = op.Div(scale, op.Cast(op.Sqrt(spread), to=int(_dtype_of(scale))))
    factor = op.Cast(factor, to=int(_dtype_of(site.output)))
    site.shapes[factor] = site.shape(scale)
    return _per_channel(site, factor, rank)


def _dtype_of(value: ir.Value) -> ir.DataType:
    assert value.dtype is not None
    return value.dtype


@vjp("Softmax", sparse=True)
def softmax(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = exp(x) / sum(exp(x)); dx = y (g - sum(g y)).

    A row that is masked wholly, all -inf, gives NaN; where the model guards against that, so does
    the gradient: nothing flows to such a row.
    """
    op, axis, y = site.op, _axis(site, g), site.output
    g = site.dense(g)
    if _is_guarded(y):
        y = op.Where(op.IsNaN(y), site.scalar(0.0), y)
    weighted = op.ReduceSum(op.Mul(g.value, y), op.constant([axis]), keepdims=1)
    return [g.with_value(op.Mul(y, op.Sub(g.value, weighted)))]


def _is_guarded(y: ir.Value) -> bool:
    """Whether y is read, or its cast is, by what puts something in the place of NaN."""
    readers = [use.node for use in y.uses()]
    casts = [node for node in readers if node.op_type == "Cast"]
    readers += [use.node for node in casts for use in node.outputs[0].uses()]
    return any(node.op_type in ("Where", "IsNaN") for node in readers)


@vjp("LogSoftmax", sparse=True)
def log_softmax(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x - log(sum(exp(x))); dx = g - exp(y) sum(g)."""
    op, axis = site.op, _axis(site, g)
    g = site.dense(g)
    total: ir.Value = op.ReduceSum(g.value, op.constant([axis]), keepdims=1)
    return [g.with_value(op.Sub(g.value, op.Mul(op.Exp(site.output), total)))]


def _axis(site: Site, g: Cotangent) -> int:
    axis: int = site.attribute("axis", -1)
    return axis if axis < 0 else axis - g.rank


@vjp("LayerNormalization", sparse=True)
def layer_normalization(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = scale u + bias, u = (x - mean) / s, s^2 = variance + eps, over the axes from `axis` on.

    dx = (d - mean(d) - u mean(d u)) / s with d = g scale; dscale = g u, dbias = g.
    """
    return _over_trailing_axes(site, g, centred=True)


@vjp("RMSNormalization", sparse=True)
def rms_normalization(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = scale u, u = x / s, s^2 = mean(x^2) + eps, over the axes from `axis` on.

    dx = (d - u mean(d u)) / s with d = g scale; dscale = g u.
    """
    return _over_trailing_axes(site, g, centred=False)


@vjp("InstanceNormalization", sparse=True)
def instance_normalization(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = scale u + bias, u = (x - mean) / s, s^2 = variance + eps, over a channel's positions.

    dx = (d - mean(d) - u mean(d u)) / s with d = g scale.
    """
    axes = list(range(2 - g.rank, 0))
    u, s = _statistics(site, site.input(0), axes, centred=True)
    scale = _per_channel(site, site.input(1), g.rank)
    g = site.dense(g) if g.one_hot is not None else g
    d = site.pointwise(g, site.op.Mul, scale)
    return [_narrow(site, Cotangent(_through(site, d.value, u, s, axes, True), g.shape))]


@vjp("GroupNormalization")
def group_normalization(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = scale u + bias, u = (x - mean) / s, s^2 = variance + eps, over each group of channels.

    dx = (d - mean(d) - u mean(d u)) / s with d = g scale.
    """
    op, x = site.op, site.input(0)
    groups: int = site.attribute("num_groups", 1)
    scale = site.input(1)
    if site.shape(scale) != (site.shape(x)[1],):
        raise site.unsupported("with a scale for each group, as before opset 21")
    d = op.Mul(g.value, _per_channel(site, scale, g.rank))
    rest = g.shape[1:]
    static = all(isinstance(size, int) for size in rest)
    size = int(np.prod([int(n) for n in rest])) // groups if static else "free"
    grouped = (g.shape[0], groups, size)
    by_group = op.Reshape(x, op.constant([0, groups, -1]))
    u, s = _statistics(site, by_group, [-1], centred=True)
    d = op.Reshape(d, with_k(op, g, by_group, grouped))
    dx = Cotangent(_through(site, d, u, s, [-1], True), grouped)
    whole = op.Reshape(dx.value, with_k(op, dx, x, g.shape))
    return [_narrow(site, Cotangent(whole, g.shape))]


@vjp("LpNormalization")
def lp_normalization(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x / n, n = |x|_p along an axis, p = 1 or 2; dx = (g - v sum(g y)) / n, 0 where n is 0.

    v is sign(x) for p = 1, y for p = 2.
    """
    op, x = site.op, site.input(0)
    axes = op.constant([_axis(site, g)])
    p = site.attribute("p", 2)
    n = (op.ReduceL1 if p == 1 else op.ReduceL2)(x, axes, keepdims=1)
    v = op.Sign(x) if p == 1 else site.output
    along = op.ReduceSum(op.Mul(g.value, site.output), axes, keepdims=1)
    inner = op.Sub(g.value, op.Mul(v, along))
    zero = op.Equal(n, site.scalar(0.0))
    safe = op.Where(zero, site.scalar(1.0), n)
    return [g.with_value(op.Where(zero, site.scalar(0.0), op.Div(inner, safe)))]


@vjp("MeanVarianceNormalization")
def mean_variance_normalization(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = (x - mean) / s, s the deviation over axes; dx = (g - mean(g) - y mean(g y)) / s."""
    op, x = site.op, site.input(0)
    axes = [axis % g.rank - g.rank for axis in site.attribute("axes", (0, 2, 3))]
    over = op.constant(axes)
    centred = op.Sub(_wide(site, x), op.ReduceMean(_wide(site, x), over, keepdims=1))
    s = op.Sqrt(op.ReduceMean(op.Mul(centred, centred), over, keepdims=1))
    y = _wide(site, site.output)
    return [_narrow(site, g.with_value(_through(site, g.value, y, s, axes, True)))]


@vjp("LRN")
def local_response_normalization(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x s^-beta, s = bias + alpha / size W x^2, W summing over a window of channels.

    dx = g s^-beta - 2 alpha beta / size x W^T (g x s^(-beta - 1)).
    """
    op, x = site.op, site.input(0)
    channels, dtype = site.shape(x)[1], site.output.dtype
    assert dtype is not None
    if not isinstance(channels, int):
        raise site.unsupported("with channels whose number is only known at run time")
    size: int = site.attribute("size", 1)
    alpha, beta = site.attribute("alpha", 1e-4), site.attribute("beta", 0.75)
    before, after = (size - 1) // 2, size // 2
    offset = np.arange(channels) - np.arange(channels)[:, None]  # of the summand
    window = ((offset >= -before) & (offset <= after)).astype(np.float64)

    def summed(value: ir.Value, matrix: NDArray[Any], rank: int) -> ir.Value:
        last = [*range(rank - g.rank + 1), *range(rank - g.rank + 2, rank), rank - g.rank + 1]
        product = op.MatMul(op.transpose(value, last), op.constant(matrix.T, dtype))
        return op.transpose(product, [int(axis) for axis in np.argsort(last)])

    squares = summed(op.Mul(x, x), window, g.rank)
    s = op.Add(op.Mul(squares, site.scalar(alpha / size)), site.scalar(site.attribute("bias", 1.0)))
    scaled = op.Mul(g.value, op.Pow(s, site.scalar(-beta)))
    across = summed(op.Mul(scaled, op.Div(x, s)), window.T, g.rank + 1)
    factor = op.Mul(x, site.scalar(2 * alpha * beta / size))
    return [g.with_value(op.Sub(scaled, op.Mul(factor, across)))]


def _over_trailing_axes(site: Site, g: Cotangent, *, centred: bool) -> list[Cotangent | None]:
    axes = list(range(_axis(site, g), 0))
    u, s = _statistics(site, site.input(0), axes, centred=centred)
    g = site.dense(g) if g.one_hot is not None else g
    gradients: list[Cotangent | None] = [None, None, g]
    if site.on(0):
        d = site.pointwise(g, site.op.Mul, site.input(1)) if site.has(1) else g
        dx = Cotangent(_through(site, d.value, u, s, axes, centred), g.shape)
        gradients[0] = _narrow(site, dx)
    if site.on(1):
        spelled = Cotangent(site.op.Mul(_wide(site, g.value), u), g.shape)
        gradients[1] = _narrow(site, spelled)
    return gradients


def _statistics(
    site: Site, x: ir.Value, axes: Sequence[int], *, centred: bool
) -> tuple[ir.Value, ir.Value]:
    """u and s: x without its mean (if `centred`) over s, its root mean square, eps added below."""
    op, over = site.op, site.op.constant(list(axes))
    x = _wide(site, x)
    epsilon = op.constant(site.attribute("epsilon", 1e-5), _wide_type(site))
    if centred:
        x = op.Sub(x, op.ReduceMean(x, over, keepdims=1))
    s = op.Sqrt(op.Add(op.ReduceMean(op.Mul(x, x), over, keepdims=1), epsilon))
    return op.Div(x, s), s


def _through(
    site: Site, d: ir.Value, u: ir.Value, s: ir.Value, axes: Sequence[int], centred: bool
) -> ir.Value:
    """(d - mean(d) - u mean(d u)) / s; an axis along which d is stored with size 1 stays so."""
    op, over = site.op, site.op.constant(list(axes))
    d = _wide(site, d)
    inner = op.Sub(d, op.Mul(u, op.ReduceMean(op.Mul(d, u), over, keepdims=1)))
    if centred:
        inner = op.Sub(inner, op.ReduceMean(d, over, keepdims=1))
    return op.Div(inner, s)  # type: ignore[no-any-return]


def _wide_type(site: Site) -> ir.DataType:
    dtype = site.output.dtype
    assert dtype is not None
    return ir.DataType.FLOAT if dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16) else dtype


def _wide(site: Site, value: ir.Value) -> ir.Value:
    """At least single precision: squares of half precision overflow."""
    if _wide_type(site) == site.output.dtype:
        return value
    return site.op.Cast(value, to=int(_wide_type(site)))  # type: ignore[no-any-return]


def _narrow(site: Site, g: Cotangent) -> Cotangent:
    """Undo `_wide`."""
    dtype = site.output.dtype
    assert dtype is not None
    if _wide_type(site) == dtype:
        return g
    return g.with_value(site.op.Cast(g.value, to=int(dtype)))


def _per_channel(site: Site, vector: ir.Value, rank: int) -> ir.Value:
    """A number for each channel, [C], as [C, 1, ...]."""
    op, behind = site.op, list(range(1, rank - 1))
    known = graph.constant(vector)
    if known is not None:
        assert vector.dtype is not None
        return op.constant(known.reshape(-1, *[1] * len(behind)), vector.dtype)
    value = op.unsqueeze(vector, behind)
    site.shapes[value] = (*site.shape(vector), *[1] * len(behind))
    return value
