"""Operators that work element by element. y is the output, x the input, g the cotangent of y.

Where a formula in y exists it is used: y is what the next layer reads, so that ONNX Runtime can
still fuse the activation into the convolution before it.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from exporters.cotangent import Cotangent
from exporters.vjp_rules.registry import Site, vjp

# --- Gradient passes as it is -----------------------------------------------------------------


@vjp("Identity", sparse=True)
def identity(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x; dx = g."""
    return [g]


@vjp("Dropout", sparse=True)
def dropout(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x at inference; dx = g."""
    training = site.given(2)
    if training is not None and training.any():
        raise site.unsupported("in training mode")
    return [g]


@vjp("Cast", sparse=True)
def cast(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x in another float type; dx = g in x's type."""
    dtype = site.input(0).dtype
    assert dtype is not None
    return [g.with_value(site.op.Cast(g.value, to=int(dtype)))]


# --- Arithmetic -------------------------------------------------------------------------------


@vjp("Add", sparse=True)
def add(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = a + b; da = db = g."""
    return [g, g]


@vjp("Sub", sparse=True)
def sub(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = a - b; da = g, db = -g."""
    return [g, g.with_value(site.op.Neg(g.value)) if site.on(1) else g]


@vjp("Mul", sparse=True)
def mul(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = a b; da = g b, db = g a."""
    a, b = site.input(0), site.input(1)
    return [
        site.pointwise(g, site.op.Mul, b) if site.on(0) else None,
        site.pointwise(g, site.op.Mul, a) if site.on(1) else None,
    ]


@vjp("Div", sparse=True)
def div(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = a / b; da = g / b, db = -g y / b."""
    b = site.input(1)
    by_b = site.pointwise(g, site.op.Div, b)
    by_y = site.pointwise(by_b, site.op.Mul, site.output) if site.on(1) else None
    return [by_b, by_y and by_y.with_value(site.op.Neg(by_y.value))]


# --- Piecewise linear activations -------------------------------------------------------------


@vjp("Relu", sparse=True)
def relu(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = max(x, 0); dx = g where y > 0, so 0 at x = 0 (as torch)."""

    def rule(g: ir.Value, y: ir.Value) -> ir.Value:
        return _where(site, site.op.Greater(y, _zero(site)), g)

    return [site.pointwise(g, rule, site.output)]


@vjp("LeakyRelu", sparse=True)
def leaky_relu(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x where x > 0, else alpha x; dx = g or alpha g; alpha g at x = 0 (as torch)."""
    slope = site.scalar(site.attribute("alpha", 0.01))

    def rule(g: ir.Value, x: ir.Value) -> ir.Value:
        positive = site.op.Greater(x, _zero(site))
        return site.op.Where(positive, g, site.op.scale(g, slope))  # type: ignore[no-any-return]

    return [site.pointwise(g, rule, site.input(0))]


@vjp("Clip", sparse=True)
def clip(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = min(max(x, low), high); dx = g where low < y < high, else 0.

    Zero at both ends, as torch's relu6 and hardtanh; torch.clamp has g there. ONNX has one operator
    for both, and relu6 is what image classifiers use.
    """
    op = site.op
    low, high = site.given(1), site.given(2)
    bounds = [
        (compare, site.scalar(float(bound.reshape(()))))
        for compare, bound in ((op.Greater, low), (op.Less, high))
        if bound is not None and np.isfinite(bound)
    ]
    if not bounds:
        return [g]

    def rule(g: ir.Value, y: ir.Value) -> ir.Value:
        inside = [compare(y, bound) for compare, bound in bounds]
        return _where(site, inside[0] if len(inside) == 1 else op.And(*inside), g)

    return [site.pointwise(g, rule, site.output)]


@vjp("HardSigmoid", sparse=True)
def hard_sigmoid(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = min(max(alpha x + beta, 0), 1); dx = alpha g where 0 < y < 1, else 0 (as torch)."""
    op = site.op
    alpha = site.scalar(site.attribute("alpha", 0.2))

    def rule(g: ir.Value, y: ir.Value) -> ir.Value:
        inside = op.And(op.Greater(y, _zero(site)), op.Less(y, site.scalar(1.0)))
        return _where(site, inside, op.scale(g, alpha))

    return [site.pointwise(g, rule, site.output)]


@vjp("HardSwish", sparse=True)
def hard_swish(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x min(max(x + 3, 0), 6) / 6; dx = g s, s = 0 up to -3, 1 from 3 on, else x/3 + 1/2."""
    op = site.op

    def rule(g: ir.Value, x: ir.Value) -> ir.Value:
        line = op.Add(op.Div(x, site.scalar(3.0)), site.scalar(0.5))
        below = op.LessOrEqual(x, site.scalar(-3.0))
        above = op.GreaterOrEqual(x, site.scalar(3.0))
        slope = op.Where(below, _zero(site), op.Where(above, site.scalar(1.0), line))
        return op.Mul(g, slope)  # type: ignore[no-any-return]

    return [site.pointwise(g, rule, site.input(0))]


# --- Smooth activations -----------------------------------------------------------------------


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


# --- More smooth functions --------------------------------------------------------------------


@vjp("Neg", sparse=True)
def neg(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = -x; dx = -g."""
    return [g.with_value(site.op.Neg(g.value))]


@vjp("Abs", sparse=True)
def absolute(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = |x|; dx = g sign(x), 0 at 0 (as torch)."""
    op = site.op
    return [site.pointwise(g, lambda g, x: op.Mul(g, op.Sign(x)), site.input(0))]


@vjp("Exp", sparse=True)
def exp(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = exp(x); dx = g y."""
    return [site.pointwise(g, site.op.Mul, site.output)]


@vjp("Log", sparse=True)
def log(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = log(x); dx = g / x."""
    return [site.pointwise(g, site.op.Div, site.input(0))]


@vjp("Sqrt", sparse=True)
def sqrt(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = sqrt(x); dx = g / (2 y)."""
    half = g.with_value(site.op.scale(g.value, site.scalar(0.5)))
    return [site.pointwise(half, site.op.Div, site.output)]


@vjp("Reciprocal", sparse=True)
def reciprocal(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = 1 / x; dx = -g y^2."""
    op = site.op
    return [site.pointwise(g, lambda g, y: op.Neg(op.Mul(g, op.Mul(y, y))), site.output)]


@vjp("Sin", sparse=True)
def sin(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = sin(x); dx = g cos(x)."""
    op = site.op
    return [site.pointwise(g, lambda g, x: op.Mul(g, op.Cos(x)), site.input(0))]


@vjp("Cos", sparse=True)
def cos(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = cos(x); dx = -g sin(x)."""
    op = site.op
    return [site.pointwise(g, lambda g, x: op.Neg(op.Mul(g, op.Sin(x))), site.input(0))]


@vjp("Tanh", sparse=True)
def tanh(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = tanh(x); dx = g (1 - y^2)."""
    op = site.op

    def rule(g: ir.Value, y: ir.Value) -> ir.Value:
        return op.Mul(g, op.Sub(site.scalar(1.0), op.Mul(y, y)))  # type: ignore[no-any-return]

    return [site.pointwise(g, rule, site.output)]


@vjp("Erf", sparse=True)
def erf(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = erf(x); dx = g 2 / sqrt(pi) exp(-x^2)."""
    op = site.op
    factor = site.scalar(2 / math.sqrt(math.pi))

    def rule(g: ir.Value, x: ir.Value) -> ir.Value:
        bell = op.Exp(op.Neg(op.Mul(x, x)))
        return op.Mul(g, op.Mul(bell, factor))  # type: ignore[no-any-return]

    return [site.pointwise(g, rule, site.input(0))]


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


# --- More activations with a kink -------------------------------------------------------------


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
        return op.Where(op.Greater(x, _zero(site)), g, op.Mul(g, slope))  # type: ignore[no-any-return]

    def by_slope(g: ir.Value, x: ir.Value) -> ir.Value:
        return op.Mul(g, op.Min(x, _zero(site)))  # type: ignore[no-any-return]

    return [
        site.pointwise(g, by_x, x, slope) if site.on(0) else None,
        site.pointwise(g, by_slope, x) if site.on(1) else None,
    ]


@vjp("ThresholdedRelu", sparse=True)
def thresholded_relu(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x for x > alpha, else 0; dx = g or 0; 0 at alpha."""
    op = site.op
    alpha = site.scalar(site.attribute("alpha", 1.0))
    return [site.pointwise(g, lambda g, x: _where(site, op.Greater(x, alpha), g), site.input(0))]


# --- Powers, choices, sums of several ---------------------------------------------------------


@vjp("Pow", sparse=True)
def power(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = x^p; dx = g p x^(p - 1), dp = g y log(x), 0 where x is 0."""
    op = site.op
    x, p = site.input(0), site.input(1)
    if x.dtype != p.dtype:
        p = op.CastLike(p, x)
        site.shapes[p] = site.shape(site.input(1))

    def by_x(g: ir.Value, x: ir.Value, p: ir.Value) -> ir.Value:
        return op.Mul(g, op.Mul(p, op.Pow(x, op.Sub(p, site.scalar(1.0)))))  # type: ignore[no-any-return]

    def by_p(g: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
        positive = op.Greater(x, _zero(site))
        return op.Mul(g, op.Mul(y, op.Log(op.Where(positive, x, site.scalar(1.0)))))  # type: ignore[no-any-return]

    return [
        site.pointwise(g, by_x, x, p) if site.on(0) else None,
        site.pointwise(g, by_p, x, site.output) if site.on(1) else None,
    ]


@vjp("Where", sparse=True)
def where(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = a where c, else b; da = g where c, db = g where not c."""
    op, c = site.op, site.input(0)

    def by_a(g: ir.Value, c: ir.Value) -> ir.Value:
        return _where(site, c, g)

    def by_b(g: ir.Value, c: ir.Value) -> ir.Value:
        return op.Where(c, _zero(site), g)  # type: ignore[no-any-return]

    return [
        None,
        site.pointwise(g, by_a, c) if site.on(1) else None,
        site.pointwise(g, by_b, c) if site.on(2) else None,
    ]


@vjp("Sum", sparse=True)
def sum_of(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x_1 + x_2 + ...; dx_i = g."""
    return [g for _ in site.node.inputs]


@vjp("Mean", sparse=True)
def mean_of(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = (x_1 + ... + x_n) / n; dx_i = g / n."""
    share = g.with_value(site.op.scale(g.value, site.scalar(1 / len(site.node.inputs))))
    return [share for _ in site.node.inputs]


@vjp("Max", "Min", sparse=True)
def extreme_of(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = max or min of x_1, x_2, ...; dx_i = g / n where x_i is one of the n that equal y.

    Ties share (as torch.maximum and torch.minimum).
    """
    op, dtype = site.op, site.output.dtype
    assert dtype is not None
    inputs = [site.input(index) for index in range(len(site.node.inputs))]

    def rule(g: ir.Value, x: ir.Value, y: ir.Value, *every: ir.Value) -> ir.Value:
        reached = [op.Cast(op.Equal(item, y), to=int(dtype)) for item in every]
        count = op.Sum(*reached)
        return op.Div(op.Mul(g, op.Cast(op.Equal(x, y), to=int(dtype))), count)  # type: ignore[no-any-return]

    return [
        site.pointwise(g, rule, item, site.output, *inputs) if site.on(index) else None
        for index, item in enumerate(inputs)
    ]


@vjp("Mod", sparse=True)
def mod(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = a - b q, q the whole quotient; da = g, db = -g q."""
    op = site.op
    a, b = site.input(0), site.input(1)

    def by_b(g: ir.Value, a: ir.Value, b: ir.Value, y: ir.Value) -> ir.Value:
        return op.Neg(op.Mul(g, op.Round(op.Div(op.Sub(a, y), b))))  # type: ignore[no-any-return]

    return [g, site.pointwise(g, by_b, a, b, site.output) if site.on(1) else None]


def _exponential_below(
    site: Site, g: Cotangent, above: float, offset: float, factor: float
) -> list[Cotangent]:
    """dx = g above for x > 0, else g (y + offset) factor."""
    op = site.op

    def rule(g: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
        below = op.Mul(op.Add(y, site.scalar(offset)), site.scalar(factor))
        slope = op.Where(op.Greater(x, _zero(site)), site.scalar(above), below)
        return op.Mul(g, slope)  # type: ignore[no-any-return]

    return [site.pointwise(g, rule, site.input(0), site.output)]


def _zero(site: Site) -> ir.Value:
    return site.scalar(0.0)


def _where(site: Site, condition: ir.Value, g: ir.Value) -> ir.Value:
    return site.op.Where(condition, g, _zero(site))  # type: ignore[no-any-return]
