"""Operators that work element by element. y is the output, x the input, g the cotangent of y.

Where a formula in y exists it is used: y is what the next layer reads, so that ONNX Runtime can
still fuse the activation into the convolution before it.
"""

from __future__ import annotations

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


def _zero(site: Site) -> ir.Value:
    return site.scalar(0.0)


def _where(site: Site, condition: ir.Value, g: ir.Value) -> ir.Value:
    return site.op.Where(condition, g, _zero(site))  # type: ignore[no-any-return]
