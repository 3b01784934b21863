"""Normalising operators: BatchNormalization at inference, Softmax, LogSoftmax."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporters.cotangent import Cotangent
from exporters.vjp_rules.registry import Site, vjp


@vjp("BatchNormalization", sparse=True)
def batch_normalization(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = scale (x - mean) / sqrt(var + eps) + bias, inference; dx = g scale / sqrt(var + eps)."""
    if site.attribute("training_mode", 0):
        raise site.unsupported("in training mode")
    scale, variance = site.given(1), site.given(4)
    assert scale is not None
    assert variance is not None
    epsilon = site.attribute("epsilon", 1e-5)
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    factor = factor.reshape(-1, *[1] * (g.rank - 2))
    dtype = site.output.dtype
    assert dtype is not None
    return [site.pointwise(g, site.op.Mul, site.op.constant(factor, dtype))]


@vjp("Softmax", sparse=True)
def softmax(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = exp(x) / sum(exp(x)); dx = y (g - sum(g y))."""
    op, axis = site.op, _axis(site, g)
    g = site.dense(g)
    weighted = op.ReduceSum(op.Mul(g.value, site.output), op.constant([axis]), keepdims=1)
    return [g.with_value(op.Mul(site.output, op.Sub(g.value, weighted)))]


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
