"""Class activation maps: from activations A and the gradient G of the score to one map a class.

A has shape [B, C, h, w], G [K, B, C, h, w]; a method returns the map before normalisation,
[B, K, h, w]. To add one: write its formula here and decorate it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx_ir as ir

from exporters.builder import Ops
from exporters.cotangent import Cotangent, dense, total
from exporters.probe import Shape

CamFunction = Callable[[Ops, ir.Value, Shape, Cotangent], ir.Value]

CAM_METHODS: dict[str, CamFunction] = {}


def cam_method(name: str) -> Callable[[CamFunction], CamFunction]:
    """Enter a method into `CAM_METHODS`; a second one of that name is an error."""

    def enter(function: CamFunction) -> CamFunction:
        if name in CAM_METHODS:
            raise ValueError(f"two CAM methods called {name!r}")
        CAM_METHODS[name] = function
        return function

    return enter


@cam_method("gradcam")
def gradcam(op: Ops, a: ir.Value, shape: Shape, g: Cotangent) -> ir.Value:
    """Grad-CAM: relu(sum_c alpha_c A_c), alpha_c = mean over positions of G_c.

    Selvaraju et al. 2017, equations 1 and 2.
    """
    g = _channels(op, g, a)
    spatial = [axis for axis in (-2, -1) if axis not in g.constant]
    return _weighted(op, op.mean(g.value, spatial), a, shape)


@cam_method("gradcam++")
def gradcam_plus_plus(op: Ops, a: ir.Value, shape: Shape, g: Cotangent) -> ir.Value:
    """Grad-CAM++: relu(sum_c w_c A_c), w_c = sum over positions of alpha relu(G_c).

    alpha = G^2 / (2 G^2 + G^3 sum of A_c), Chattopadhay et al. 2018, equations 10 and 19 for the
    exponential of the score; where G > 0 that is 1 / (2 + G sum of A_c), without squares that
    underflow. There is no term that keeps the denominator from 0: one of the size of G^2 (behind a
    pooling, 1e-7) would take the formula's place.
    """
    g = _channels(op, g, a)
    total = op.ReduceSum(a, op.constant([-2, -1]), keepdims=1)
    denominator = op.Add(op.Mul(g.value, total), _scalar(op, 2.0, a))
    safe = op.Where(op.Equal(denominator, _scalar(op, 0.0, a)), _scalar(op, 1.0, a), denominator)
    share = op.Div(op.Relu(g.value), safe)
    return _weighted(op, _sum(op, g.with_value(share), a, shape), a, shape)


@cam_method("xgradcam")
def xgradcam(op: Ops, a: ir.Value, shape: Shape, g: Cotangent) -> ir.Value:
    """XGrad-CAM: relu(sum_c alpha_c A_c), alpha_c = sum of G_c A_c over sum of A_c.

    Fu et al. 2020, equation 8. A gradient that is the same at all positions is alpha itself. A
    channel whose activations sum up to 0 is left out.
    """
    if {-1, -2} <= g.constant:
        return gradcam(op, a, shape, g)
    spatial, zero = op.constant([-2, -1]), _scalar(op, 0.0, a)
    total = op.ReduceSum(a, spatial, keepdims=1)
    empty = op.Equal(total, zero)
    share = op.Where(empty, zero, op.Div(a, op.Where(empty, _scalar(op, 1.0, a), total)))
    return _weighted(op, op.ReduceSum(op.Mul(g.value, share), spatial, keepdims=1), a, shape)


@cam_method("hirescam")
def hirescam(op: Ops, a: ir.Value, shape: Shape, g: Cotangent) -> ir.Value:
    """HiResCAM: relu(sum_c G_c A_c), position by position.

    Draelos and Carin 2020, equation 3. Where the gradient is the same at all positions it is
    Grad-CAM.
    """
    if {-1, -2} <= g.constant:
        return gradcam(op, a, shape, g)
    return _summed(op, op.Mul(g.value, a))


@cam_method("layercam")
def layercam(op: Ops, a: ir.Value, shape: Shape, g: Cotangent) -> ir.Value:
    """LayerCAM: relu(sum_c relu(G_c) A_c), position by position.

    Jiang et al. 2021, equations 4 to 6.
    """
    positive = g.with_value(op.Relu(g.value))
    if {-1, -2} <= g.constant:
        return gradcam(op, a, shape, positive)
    return _summed(op, op.Mul(positive.value, a))


@cam_method("elementwise")
def elementwise(op: Ops, a: ir.Value, shape: Shape, g: Cotangent) -> ir.Value:
    """Element-wise Grad-CAM: sum_c relu(G_c A_c), position by position.

    As `GradCAMElementWise` of pytorch-grad-cam (Pillai and Pirsiavash 2021 train with it).
    """
    return _summed(op, op.Relu(op.Mul(g.value, a)))


def _channels(op: Ops, g: Cotangent, a: ir.Value) -> Cotangent:
    """g with every channel at its full size."""
    return dense(op, g, a) if -3 in g.constant else g


def _weighted(op: Ops, weights: ir.Value, a: ir.Value, shape: Shape) -> ir.Value:
    """relu(sum_c w_c A_c) for weights [K, B, C, 1, 1].

    The sum over channels is a matrix product, so that no second tensor of the size of A is made.
    """
    rows = op.transpose(op.squeeze(weights, [3, 4]), [1, 0, 2])  # [B, K, C]
    return _maps(op, op.Relu(op.MatMul(rows, _flat(op, a, shape))), a, shape)


def _summed(op: Ops, terms: ir.Value) -> ir.Value:
    """relu(sum over channels) of [K, B, C, h, w], as [B, K, h, w]."""
    cam = op.Relu(op.ReduceSum(terms, op.constant([2]), keepdims=0))
    return op.transpose(cam, [1, 0, 2, 3])


def _sum(op: Ops, g: Cotangent, a: ir.Value, shape: Shape) -> ir.Value:
    """The sum over positions, [K, B, C, 1, 1], of what may be stored with size 1 along them."""
    return total(op, replace(g, shape=shape), (-2, -1), a).value


def _scalar(op: Ops, content: float, like: ir.Value) -> ir.Value:
    assert like.dtype is not None
    return op.constant(content, like.dtype)


def _flat(op: Ops, a: ir.Value, shape: Shape) -> ir.Value:
    _, channels, height, width = shape
    if isinstance(height, int) and isinstance(width, int):
        return op.Reshape(a, op.constant([0, channels, height * width]))  # type: ignore[no-any-return]
    return op.Reshape(a, op.constant([0, channels, -1]))  # type: ignore[no-any-return]


def _maps(op: Ops, flat: ir.Value, a: ir.Value, shape: Shape) -> ir.Value:
    """[B, K, h*w] as [B, K, h, w]."""
    _, _, height, width = shape
    if isinstance(height, int) and isinstance(width, int):
        return op.Reshape(flat, op.constant([0, 0, height, width]))  # type: ignore[no-any-return]
    size = op.Concat(op.constant([0, 0]), op.Shape(a, start=2), axis=0)
    return op.Reshape(flat, size)  # type: ignore[no-any-return]
