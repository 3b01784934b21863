"""Activations, element by element. y is the output, x the input, g the cotangent of y.

Where a formula in y exists it is used: y is what the next layer reads, so that ONNX Runtime can
still fuse the activation into the convolution before it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters.cotangent import Cotangent
from exporters.vjp_rules.masks import blocked_line, in_blocks, inside, into_blocks
from exporters.vjp_rules.registry import Site, masked, vjp

# --- Piecewise linear -----------------------------------------------------------------------------


@vjp("Relu", sparse=True)
def relu(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = max(x, 0); dx = g where y > 0, so 0 at x = 0 (as torch)."""
    return [_gated(site, g, 0.0, None)]


@vjp("LeakyRelu", sparse=True)
def leaky_relu(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x where x > 0, else alpha x; dx = g or alpha g; alpha g at x = 0 (as torch)."""
    slope = site.scalar(site.attribute("alpha", 0.01))

    def rule(g: ir.Value, x: ir.Value) -> ir.Value:
        positive = site.op.Greater(x, site.scalar(0.0))
        return site.op.Where(positive, g, site.op.scale(g, slope))  # type: ignore[no-any-return]

    return [site.pointwise(g, rule, site.input(0))]


@vjp("Clip", sparse=True)
def clip(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = min(max(x, low), high); dx = g where low < y < high; dlow, dhigh = g where they are y.

    Zero for x at both ends, as torch's relu6 and hardtanh; torch.clamp has g there. ONNX has one
    operator for both, and relu6 is what image classifiers use.
    """
    gradients: list[Cotangent | None] = [g, None, None]
    if site.on(0):
        gradients[0] = _by_input(site, g)
    for index in (1, 2):
        if site.on(index):
            gradients[index] = _by_bound(site, g, index)
    return gradients


def _by_input(site: Site, g: Cotangent) -> Cotangent:
    op = site.op
    fixed = [site.known(index) if site.has(index) else None for index in (1, 2)]
    if all((known is not None) == site.has(index) for index, known in enumerate(fixed, 1)):
        low, high = (_finite(known) for known in fixed)
        return g if low is None and high is None else _gated(site, g, low, high)
    bounds = [
        (compare, bound)
        for compare, index in ((op.Greater, 1), (op.Less, 2))
        if (bound := _bound(site, index)) is not None
    ]

    def rule(g: ir.Value, y: ir.Value, *ends: ir.Value) -> ir.Value:
        held = [compare(y, end) for (compare, _), end in zip(bounds, ends, strict=True)]
        return masked(site, held[0] if len(held) == 1 else op.And(*held), g)

    return site.pointwise(g, rule, site.output, *(end for _, end in bounds))


def _bound(site: Site, index: int) -> ir.Value | None:
    """A bound of a Clip, ``None`` for one that is left out or infinite."""
    if not site.has(index):
        return None
    known = site.known(index)
    if known is None:
        return site.input(index)
    number = _finite(known)
    if number is None:
        return None
    value = site.scalar(number)
    site.shapes[value] = ()
    return value


def _by_bound(site: Site, g: Cotangent, index: int) -> Cotangent:
    """g where this bound is what y equals; where both are, `high` is."""
    op, bound = site.op, site.input(index)
    compare = op.Less if index == 1 else op.Greater
    other = _bound(site, 3 - index)

    def rule(g: ir.Value, x: ir.Value, bound: ir.Value, *other: ir.Value) -> ir.Value:
        reached = compare(x, bound)
        if other and index == 1:
            reached = op.And(reached, op.Less(bound, *other))
        elif other:
            reached = op.Or(reached, op.Greater(*other, bound))
        return masked(site, reached, g)

    return site.pointwise(g, rule, site.input(0), bound, *([] if other is None else [other]))


def _gated(site: Site, g: Cotangent, low: float | None, high: float | None) -> Cotangent:
    """g where low < y < high, else 0."""
    if site.op.single and g.one_hot is None:
        g = site.dense(g)
    return site.pointwise(g, lambda g, y: inside(site, g, y, low, high), site.output)


def _finite(bound: NDArray[Any] | None) -> float | None:
    """A bound of Clip as a number; ``None`` where it bounds nothing."""
    if bound is None or not np.isfinite(bound) or abs(bound) == np.finfo(bound.dtype).max:
        return None
    return float(bound.reshape(()))


@vjp("HardSigmoid", sparse=True)
def hard_sigmoid(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = min(max(alpha x + beta, 0), 1); dx = alpha g where 0 < y < 1, else 0 (as torch)."""
    op = site.op
    alpha = site.scalar(site.attribute("alpha", 0.2))

    return [_gated(site, g.with_value(op.scale(g.value, alpha)), 0.0, 1.0)]


@vjp("HardSwish", sparse=True)
def hard_swish(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x min(max(x + 3, 0), 6) / 6; dx = g s, s = 0 up to -3, 1 from 3 on, else x/3 + 1/2."""
    op = site.op

    def rule(g: ir.Value, x: ir.Value) -> ir.Value:
        line = op.Add(op.Div(x, site.scalar(3.0)), site.scalar(0.5))
        below = op.LessOrEqual(x, site.scalar(-3.0))
        above = op.GreaterOrEqual(x, site.scalar(3.0))
        slope = op.Where(below, site.scalar(0.0), op.Where(above, site.scalar(1.0), line))
        return op.Mul(g, slope)  # type: ignore[no-any-return]

    return [site.pointwise(g, rule, site.input(0))]


# --- Smooth ---------------------------------------------------------------------------------------


@vjp("Sigmoid", sparse=True)
def sigmoid(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = 1 / (1 + exp(-x)); dx = g y (1 - y)."""
    op = site.op

    def rule(g: ir.Value, y: ir.Value) -> ir.Value:
        return op.Mul(g, op.Mul(y, op.Sub(site.scalar(1.0), y)))  # type: ignore[no-any-return]

    return [site.pointwise(g, rule, site.output)]


@vjp("Swish", sparse=True)
def swish(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x s, s = sigmoid(alpha x); dx = g (s + alpha y (1 - s))."""
    op = site.op
    alpha = site.scalar(site.attribute("alpha", 1.0))

    def rule(g: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
        s = op.Sigmoid(op.scale(x, alpha))
        rest = op.scale(op.Mul(y, op.Sub(site.scalar(1.0), s)), alpha)
        return op.Mul(g, op.Add(s, rest))  # type: ignore[no-any-return]

    return [site.pointwise(g, rule, site.input(0), site.output)]


def swish_gradient(site: Site, g: Cotangent, x: ir.Value, s: ir.Value) -> Cotangent:
    """y = x s, s = sigmoid(x), both of them at hand; dx = g s (1 + x - y)."""
    op, blocked = site.op, in_blocks(site, x) and g.one_hot is None

    def rule(g: ir.Value, x: ir.Value, s: ir.Value, y: ir.Value) -> ir.Value:
        if blocked:
            slope = op.Mul(s, op.Add(blocked_line(site, y, -1.0, 1.0), x))
            return op.times(into_blocks(site, g, x), slope)
        return op.Mul(g, op.Mul(s, op.Sub(op.Add(x, site.scalar(1.0)), y)))  # type: ignore[no-any-return]

    return site.pointwise(site.dense(g) if blocked else g, rule, x, s, site.output)


@vjp("Tanh", sparse=True)
def tanh(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = tanh(x); dx = g (1 - y^2)."""
    op = site.op

    def rule(g: ir.Value, y: ir.Value) -> ir.Value:
        return op.Mul(g, op.Sub(site.scalar(1.0), op.Mul(y, y)))  # type: ignore[no-any-return]

    return [site.pointwise(g, rule, site.output)]


@vjp("Gelu", sparse=True)
def gelu(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x P(x), P the normal distribution function; dx = g (P(x) + x p(x)), p its density.

    With approximate="tanh": P(x) = (1 + t) / 2, t = tanh(c (x + a x^3)), c = sqrt(2 / pi),
    a = 0.044715, and p(x) = (1 - t^2) c (1 + 3 a x^2) / 2.
    """
    op, scalar = site.op, site.scalar

    def exact(g: ir.Value, x: ir.Value) -> ir.Value:
        share = op.Mul(op.Add(op.Erf(op.Mul(x, scalar(math.sqrt(0.5)))), scalar(1.0)), scalar(0.5))
        bell = op.Exp(op.Mul(op.Mul(x, x), scalar(-0.5)))
        density = op.Mul(bell, scalar(1 / math.sqrt(2 * math.pi)))
        return op.Mul(g, op.Add(share, op.Mul(x, density)))  # type: ignore[no-any-return]

    def by_tanh(g: ir.Value, x: ir.Value) -> ir.Value:
        c, a = math.sqrt(2 / math.pi), 0.044715
        square = op.Mul(x, x)
        inner = op.Mul(op.Mul(x, op.Add(op.Mul(square, scalar(a)), scalar(1.0))), scalar(c))
        t = op.Tanh(inner)
        share = op.Mul(op.Add(t, scalar(1.0)), scalar(0.5))
        slope = op.Add(op.Mul(square, scalar(3 * a * c / 2)), scalar(c / 2))
        density = op.Mul(op.Sub(scalar(1.0), op.Mul(t, t)), slope)
        return op.Mul(g, op.Add(share, op.Mul(x, density)))  # type: ignore[no-any-return]

    mode = site.attribute("approximate", "none")
    return [site.pointwise(g, by_tanh if mode == "tanh" else exact, site.input(0))]


@vjp("Softplus", sparse=True)
def softplus(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = log(1 + exp(x)); dx = g sigmoid(x)."""
    op = site.op
    return [site.pointwise(g, lambda g, x: op.Mul(g, op.Sigmoid(x)), site.input(0))]


@vjp("Softsign", sparse=True)
def softsign(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x / (1 + |x|); dx = g / (1 + |x|)^2."""
    op = site.op

    def rule(g: ir.Value, x: ir.Value) -> ir.Value:
        below = op.Add(op.Abs(x), site.scalar(1.0))
        return op.Div(g, op.Mul(below, below))  # type: ignore[no-any-return]

    return [site.pointwise(g, rule, site.input(0))]


@vjp("Mish", sparse=True)
def mish(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x t, t = tanh(softplus(x)); dx = g (t + x (1 - t^2) sigmoid(x))."""
    op = site.op

    def rule(g: ir.Value, x: ir.Value) -> ir.Value:
        t = op.Tanh(op.Softplus(x))
        bent = op.Mul(op.Mul(x, op.Sub(site.scalar(1.0), op.Mul(t, t))), op.Sigmoid(x))
        return op.Mul(g, op.Add(t, bent))  # type: ignore[no-any-return]

    return [site.pointwise(g, rule, site.input(0))]


# --- With a kink ----------------------------------------------------------------------------------


@vjp("Elu", sparse=True)
def elu(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x for x > 0, else alpha (exp(x) - 1); dx = g or g (y + alpha); the latter at 0."""
    return _exponential_below(site, g, 1.0, site.attribute("alpha", 1.0), 1.0)


@vjp("Celu", sparse=True)
def celu(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x for x > 0, else alpha (exp(x / alpha) - 1); dx = g or g (y + alpha) / alpha."""
    alpha = site.attribute("alpha", 1.0)
    return _exponential_below(site, g, 1.0, alpha, 1 / alpha)


@vjp("Selu", sparse=True)
def selu(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = gamma x for x > 0, else gamma alpha (exp(x) - 1); dx = g gamma or g (y + gamma alpha)."""
    gamma = site.attribute("gamma", 1.0507009873554805)
    alpha = site.attribute("alpha", 1.6732632423543772)
    return _exponential_below(site, g, gamma, gamma * alpha, 1.0)


@vjp("PRelu", sparse=True)
def prelu(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = x for x > 0, else s x; dx = g or g s, ds = 0 or g x; g s and g x at 0 (as torch)."""
    op = site.op
    x, slope = site.input(0), site.input(1)

    def by_x(g: ir.Value, x: ir.Value, slope: ir.Value) -> ir.Value:
        return op.Where(op.Greater(x, site.scalar(0.0)), g, op.Mul(g, slope))  # type: ignore[no-any-return]

    def by_slope(g: ir.Value, x: ir.Value) -> ir.Value:
        return op.Mul(g, op.Min(x, site.scalar(0.0)))  # type: ignore[no-any-return]

    return [
        site.pointwise(g, by_x, x, slope) if site.on(0) else None,
        site.pointwise(g, by_slope, x) if site.on(1) else None,
    ]


@vjp("ThresholdedRelu", sparse=True)
def thresholded_relu(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x for x > alpha, else 0; dx = g or 0; 0 at alpha."""
    op = site.op
    alpha = site.scalar(site.attribute("alpha", 1.0))
    return [site.pointwise(g, lambda g, x: masked(site, op.Greater(x, alpha), g), site.input(0))]


@vjp("Shrink", sparse=True)
def shrink(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x + bias for x < -lambd, x - bias for x > lambd, else 0; dx = g, g, 0; 0 at the ends."""
    op, end = site.op, site.scalar(site.attribute("lambd", 0.5))

    def rule(g: ir.Value, x: ir.Value) -> ir.Value:
        return masked(site, op.Greater(op.Abs(x), end), g)

    return [site.pointwise(g, rule, site.input(0))]


def _exponential_below(
    site: Site, g: Cotangent, above: float, offset: float, factor: float
) -> list[Cotangent]:
    """dx = g above for x > 0, else g (y + offset) factor."""
    op = site.op

    def rule(g: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
        below = op.Mul(op.Add(y, site.scalar(offset)), site.scalar(factor))
        slope = op.Where(op.Greater(x, site.scalar(0.0)), site.scalar(above), below)
        return op.Mul(g, slope)  # type: ignore[no-any-return]

    return [site.pointwise(g, rule, site.input(0), site.output)]
