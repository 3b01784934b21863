"""Trigonometric and hyperbolic functions and their inverses, element by element."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from exporters.cotangent import Cotangent
from exporters.vjp_rules.registry import Site, vjp


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


@vjp("Tan", sparse=True)
def tan(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = tan(x); dx = g (1 + y^2)."""
    op = site.op

    def rule(g: ir.Value, y: ir.Value) -> ir.Value:
        return op.Mul(g, op.Add(op.Mul(y, y), site.scalar(1.0)))  # type: ignore[no-any-return]

    return [site.pointwise(g, rule, site.output)]


@vjp("Sinh", sparse=True)
def sinh(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = sinh(x); dx = g cosh(x)."""
    op = site.op
    return [site.pointwise(g, lambda g, x: op.Mul(g, op.Cosh(x)), site.input(0))]


@vjp("Cosh", sparse=True)
def cosh(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = cosh(x); dx = g sinh(x)."""
    op = site.op
    return [site.pointwise(g, lambda g, x: op.Mul(g, op.Sinh(x)), site.input(0))]


@vjp("Asin", sparse=True)
def asin(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = arcsin(x); dx = g / sqrt((1 - x) (1 + x)), infinite at -1 and 1 (as torch)."""
    op = site.op
    return [_over(site, g, lambda x: op.Sqrt(_one_minus_square(site, x)))]


@vjp("Acos", sparse=True)
def acos(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = arccos(x); dx = -g / sqrt((1 - x) (1 + x)), infinite at -1 and 1 (as torch)."""
    op = site.op
    return [_over(site, g, lambda x: op.Neg(op.Sqrt(_one_minus_square(site, x))))]


@vjp("Atan", sparse=True)
def atan(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = arctan(x); dx = g / (1 + x^2)."""
    op = site.op
    return [_over(site, g, lambda x: op.Add(op.Mul(x, x), site.scalar(1.0)))]


@vjp("Asinh", sparse=True)
def asinh(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = arsinh(x); dx = g / sqrt(x^2 + 1)."""
    op = site.op
    return [_over(site, g, lambda x: op.Sqrt(op.Add(op.Mul(x, x), site.scalar(1.0))))]


@vjp("Acosh", sparse=True)
def acosh(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = arcosh(x); dx = g / sqrt((x - 1) (x + 1)), infinite at 1 (as torch)."""
    op, one = site.op, site.scalar(1.0)
    return [_over(site, g, lambda x: op.Sqrt(op.Mul(op.Sub(x, one), op.Add(x, one))))]


@vjp("Atanh", sparse=True)
def atanh(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = artanh(x); dx = g / ((1 - x) (1 + x))."""
    return [_over(site, g, lambda x: _one_minus_square(site, x))]


def _over(site: Site, g: Cotangent, below: Callable[[ir.Value], ir.Value]) -> Cotangent:
    """g / below(x)."""
    return site.pointwise(g, lambda g, x: site.op.Div(g, below(x)), site.input(0))


def _one_minus_square(site: Site, x: ir.Value) -> ir.Value:
    """1 - x^2, as exact near 1 as anywhere."""
    op, one = site.op, site.scalar(1.0)
    return op.Mul(op.Sub(one, x), op.Add(one, x))  # type: ignore[no-any-return]
