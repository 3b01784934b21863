"""Arithmetic, element by element. y is the output, x the input, g the cotangent of y."""

from __future__ import annotations

import math

import onnx_ir as ir

from exporters import graph
from exporters.cotangent import ZERO, Cotangent, Zero
from exporters.quantized import Quantisation
from exporters.vjp_rules.activations import swish_gradient
from exporters.vjp_rules.quantization import rescaled
from exporters.vjp_rules.registry import Site, masked, vjp

# --- Gradient passes as it is ---------------------------------------------------------------------


@vjp("Identity", sparse=True)
def identity(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = x; dx = g."""
    return [g]


@vjp("Dropout", sparse=True)
def dropout(site: Site, g: Cotangent) -> list[Cotangent | Zero]:
    """y = x at inference; dx = g; the ratio counts for nothing."""
    training = site.given(2)
    if training is not None and training.any():
        raise site.unsupported("in training mode")
    return [g, ZERO]


@vjp("Cast", "CastLike", sparse=True)
def cast(site: Site, g: Cotangent) -> list[Cotangent | Zero]:
    """y = x in another float type; dx = g in x's type; only the type of CastLike's other counts.

    A quantised x is taken as it is, without its scale.
    """
    if not graph.is_float(site.input(0)):
        return [rescaled(site, g, Quantisation(None), site.input(0)), ZERO]
    dtype = site.input(0).dtype
    assert dtype is not None
    return [g.with_value(site.op.Cast(g.value, to=int(dtype))), ZERO]


# --- Arithmetic -----------------------------------------------------------------------------------


@vjp("Add", sparse=True)
def add(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = a + b; da = db = g."""
    return [g, g]


@vjp("Sub", sparse=True)
def sub(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = a - b; da = g, db = -g."""
    return [g, g.with_value(site.op.Neg(g.value)) if site.on(1) else g]


@vjp("Mul", sparse=True)
def mul(site: Site, g: Cotangent) -> list[Cotangent | Zero | None]:
    """y = a b; da = g b, db = g a; with b = sigmoid(a), da holds all that Swish has."""
    a, b = site.input(0), site.input(1)
    for x, s in ((a, b), (b, a)):
        if _is_swish(site, x, s):
            gated = swish_gradient(site, g, x, s)
            return [gated if value is x else ZERO for value in (a, b)]
    return [
        site.pointwise(g, site.op.Mul, b) if site.on(0) else None,
        site.pointwise(g, site.op.Mul, a) if site.on(1) else None,
    ]


def _is_swish(site: Site, x: ir.Value, s: ir.Value) -> bool:
    """Whether s is sigmoid(x), for this node alone, and x is differentiated."""
    node = s.producer()
    return (
        node is not None
        and node.op_type == "Sigmoid"
        and node.inputs[0] is x
        and len(s.uses()) == 1
        and {x, s} <= site.on_path
    )


@vjp("Div", sparse=True)
def div(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = a / b; da = g / b, db = -g y / b."""
    b = site.input(1)
    by_b = site.pointwise(g, site.op.Div, b)
    by_y = site.pointwise(by_b, site.op.Mul, site.output) if site.on(1) else None
    return [by_b, by_y and by_y.with_value(site.op.Neg(by_y.value))]


# --- Functions of one variable --------------------------------------------------------------------


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


@vjp("Erf", sparse=True)
def erf(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = erf(x); dx = g 2 / sqrt(pi) exp(-x^2)."""
    op = site.op
    factor = site.scalar(2 / math.sqrt(math.pi))

    def rule(g: ir.Value, x: ir.Value) -> ir.Value:
        bell = op.Exp(op.Neg(op.Mul(x, x)))
        return op.Mul(g, op.Mul(bell, factor))  # type: ignore[no-any-return]

    return [site.pointwise(g, rule, site.input(0))]


# --- Powers, choices, sums of several -------------------------------------------------------------


@vjp("Pow", sparse=True)
def power(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = x^p; dx = g p x^(p - 1), 0 where p is 0; dp = g y log(x), 0 where x is not positive."""
    op = site.op
    x, p = site.input(0), site.input(1)
    one, zero = site.scalar(1.0), site.scalar(0.0)

    def by_x(g: ir.Value, x: ir.Value, p: ir.Value) -> ir.Value:
        exponent = op.Sub(op.Where(op.Equal(p, zero), one, p), one)
        return op.Mul(g, op.Mul(p, op.Pow(x, exponent)))  # type: ignore[no-any-return]

    def by_p(g: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
        logarithm = op.Log(op.Where(op.Greater(x, zero), x, one))
        return op.Mul(g, op.Mul(y, logarithm))  # type: ignore[no-any-return]

    on_p = site.pointwise(g, by_p, x, site.output) if site.on(1) else None
    if not site.on(0):
        return [None, on_p]
    known = graph.constant(p)
    if known is not None and known.size == 1:
        return [_known_power(site, g, float(known.reshape(()))), on_p]
    if x.dtype != p.dtype:
        assert x.dtype is not None
        cast: ir.Value = op.Cast(p, to=int(x.dtype))
        site.shapes[cast] = site.shape(p)
        p = cast
    return [site.pointwise(g, by_x, x, p), on_p]


def _known_power(site: Site, g: Cotangent, p: float) -> Cotangent:
    """g p x^(p - 1) for a number p: no power is taken where none is needed."""
    op, x = site.op, site.input(0)
    scaled = g.with_value(op.scale(g.value, site.scalar(p)))
    if p in (0.0, 1.0):
        return scaled
    if p == 2.0:
        return site.pointwise(scaled, op.Mul, x)
    exponent = site.scalar(p - 1.0)
    return site.pointwise(scaled, lambda g, x: op.Mul(g, op.Pow(x, exponent)), x)


@vjp("Where", sparse=True)
def where(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = a where c, else b; da = g where c, db = g where not c."""
    op, c = site.op, site.input(0)

    def by_a(g: ir.Value, c: ir.Value) -> ir.Value:
        return masked(site, c, g)

    def by_b(g: ir.Value, c: ir.Value) -> ir.Value:
        return op.Where(c, site.scalar(0.0), g)  # type: ignore[no-any-return]

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
