"""Scores of models that are no classifiers: nodes behind an output that give scores [B, N].

| head | reads | score of n | takes besides |
|---|---|---|---|
| ``segmentation`` | logits [B, N, h, w] | class n's logits, summed where n is predicted | |
| ``region`` | logits [B, N, h, w] | class n's logits, summed over a mask | `mask` [B, 1, h, w] |
| ``detection`` | class scores [B, boxes, C] | of box n // C the class n % C | |
| ``embedding`` | features [B, D] | cosine similarity, n = 0 | `reference` [1, D] |

They become part of the model before it is differentiated. To add one: write it here and decorate
it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporters.builder import Ops
from exporters.image_input import ImageInput
from exporters.probe import Shape

Inputs = dict[str, ir.Value]
HeadFunction = Callable[[Ops, ir.Value, Shape, ImageInput], tuple[ir.Value, Inputs]]


@dataclass(frozen=True)
class Head:
    """What a head reads, and the function that emits it: scores [B, N], and inputs by role."""

    reads: str
    fits: Callable[[Shape], bool]
    function: HeadFunction


SCORE_HEADS: dict[str, Head] = {}


def head(
    name: str, reads: str, fits: Callable[[Shape], bool]
) -> Callable[[HeadFunction], HeadFunction]:
    """Enter a head into `SCORE_HEADS`; a second one of that name is an error."""

    def enter(function: HeadFunction) -> HeadFunction:
        if name in SCORE_HEADS:
            raise ValueError(f"two score heads called {name!r}")
        SCORE_HEADS[name] = Head(reads, fits, function)
        return function

    return enter


def _is_dense(shape: Shape) -> bool:
    return len(shape) == 4 and isinstance(shape[1], int)


def _is_boxes(shape: Shape) -> bool:
    return len(shape) == 3 and all(isinstance(size, int) for size in shape[1:])


def _is_vector(shape: Shape) -> bool:
    return len(shape) == 2 and isinstance(shape[1], int)


@head("segmentation", "logits [B, N, h, w]", _is_dense)
def segmentation(op: Ops, z: ir.Value, shape: Shape, image: ImageInput) -> tuple[ir.Value, Inputs]:
    """y_n = sum of z_n where n = argmax of z; the mask is taken for a constant.

    As Vinogradova et al. 2020 (Seg-Grad-CAM), equation 2, with the predicted mask.
    """
    assert z.dtype is not None
    predicted = op.ArgMax(z, axis=1, keepdims=1)
    every = op.constant(np.arange(int(shape[1])).reshape(1, -1, 1, 1))
    mask = op.Cast(op.Equal(predicted, every), to=int(z.dtype))
    return op.ReduceSum(op.Mul(z, mask), op.constant([2, 3]), keepdims=0), {}


@head("region", "logits [B, N, h, w]", _is_dense)
def region(op: Ops, z: ir.Value, shape: Shape, image: ImageInput) -> tuple[ir.Value, Inputs]:
    """y_n = sum of mask z_n (Vinogradova et al. 2020, equation 2, with a mask of one's own)."""
    sizes = [
        size if isinstance(size, int) else name for size, name in zip(shape[2:], "hw", strict=True)
    ]
    mask = _input(op, "mask", [image.batch_dim, 1, *sizes], z)
    return op.ReduceSum(op.Mul(z, mask), op.constant([2, 3]), keepdims=0), {"mask": mask}


@head("detection", "class scores [B, boxes, C]", _is_boxes)
def detection(op: Ops, z: ir.Value, shape: Shape, image: ImageInput) -> tuple[ir.Value, Inputs]:
    """y_n = z[n // C, n % C]: every box's every class is a score of its own."""
    return op.Reshape(z, op.constant([0, int(shape[1]) * int(shape[2])])), {}


@head("embedding", "features [B, D]", _is_vector)
def embedding(op: Ops, e: ir.Value, shape: Shape, image: ImageInput) -> tuple[ir.Value, Inputs]:
    """y_0 = <e, r> / (|e| |r|) for a reference r."""
    axis = op.constant([-1])
    reference = _input(op, "reference", [1, int(shape[1])], e)
    product = op.ReduceSum(op.Mul(e, reference), axis, keepdims=1)
    lengths = op.Mul(op.ReduceL2(e, axis, keepdims=1), op.ReduceL2(reference, axis, keepdims=1))
    return op.Div(product, lengths), {"reference": reference}


def _input(op: Ops, name: str, sizes: list[int | str], like: ir.Value) -> ir.Value:
    assert like.dtype is not None
    return ir.Value(name=op.unique(name), shape=ir.Shape(sizes), type=ir.TensorType(like.dtype))
