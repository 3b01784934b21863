"""Class activation maps: from activations A and the gradient G of the score to one map a class.

A has shape [B, C, h, w], G [K, B, C, h, w]; a method returns the map before normalisation,
[B, K, h, w]. To add one: write its formula here and decorate it.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from exporters.builder import Ops
from exporters.cotangent import Cotangent, dense
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

    Selvaraju et al. 2017, equations 1 and 2. The sum over channels is a matrix product, so that no
    second tensor of the size of A is made.
    """
    assert a.dtype is not None
    if -3 in g.constant:
        g = dense(op, g, a)
    spatial = [axis for axis in (-2, -1) if axis not in g.constant]
    alpha = op.squeeze(op.mean(g.value, spatial), [3, 4])
    alpha = op.transpose(alpha, [1, 0, 2])  # [B, K, C]
    channels = _flat(op, a, shape)  # [B, C, h*w]
    weighted = op.Relu(op.MatMul(alpha, channels))
    return _maps(op, weighted, a, shape)


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
