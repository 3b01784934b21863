"""What is differentiated: from the targets of a file to the cotangent of the score.

| targets | the file takes | it explains |
|---|---|---|
| ``class_index`` | `class_index`, int64 [B, K] | those classes, -1 for the predicted one |
| ``one_class`` | `class_index`, int64 [B, 1] | that class; its gradient is faster |
| ``predicted`` | nothing more | the K classes of highest score |
| ``cotangent`` | `cotangent`, float32 [B, K, N] | K weighted sums of the scores |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporters.builder import Ops
from exporters.cotangent import Cotangent, OneHot
from exporters.image_input import ImageInput
from exporters.probe import Shapes
from exporters.quantized import as_float
from exporters.score import Score
from xai_onnx.errors import TargetError

TARGETS = ("class_index", "one_class", "predicted", "cotangent")


@dataclass(frozen=True)
class Targets:
    """What a file is told to explain.

    Attributes:
        kind: a key of the table above.
        input: the input that says so, if there is one.
        chosen: int64 [B, K], the classes; ``None`` for a cotangent.
        k: K as the file declares it.
    """

    kind: str
    input: ir.Value | None
    chosen: ir.Value | None
    k: int | str


def targets(
    op: Ops, image: ImageInput, score: Score, shapes: Shapes, kind: str, top_k: int
) -> Targets:
    """The targets of a file.

    Raises:
        TargetError: no such kind, or the model hasn't so many classes.
    """
    if kind not in TARGETS:
        raise TargetError(f"targets {kind!r} is none of {', '.join(TARGETS)}")
    if not 1 <= top_k <= score.num_classes:
        raise TargetError(f"top_k={top_k}: the model has {score.num_classes} classes")
    if kind == "cotangent":
        shape = ir.Shape([image.batch_dim, "K", score.num_classes])
        floats = ir.TensorType(ir.DataType.FLOAT)
        given = ir.Value(name=op.unique("cotangent"), shape=shape, type=floats)
        return Targets(kind, given, None, "K")
    rank = len(shapes[score.output])
    others = [axis for axis in range(1, rank) if axis - rank != score.output_axis]
    if kind == "predicted":
        flat = op.squeeze(score.output, others)  # [B, N]
        _, best = op.TopK(flat, op.constant([top_k]), axis=-1, _outputs=2)
        return Targets(kind, None, best, top_k)
    k: int | str = 1 if kind == "one_class" else "K"
    class_index = ir.Value(
        name=op.unique("class_index"),
        shape=ir.Shape([image.batch_dim, k]),
        type=ir.TensorType(ir.DataType.INT64),
    )
    predicted = op.squeeze(op.ArgMax(score.output, axis=score.output_axis, keepdims=1), others)
    negative = op.Less(class_index, op.constant(0))
    chosen = op.Where(negative, predicted, class_index)
    return Targets(kind, class_index, chosen, k)


def always_one(kind: str, top_k: int) -> bool:
    """Whether K is always 1."""
    return kind == "one_class" or (kind == "predicted" and top_k == 1)


def seed(op: Ops, score: Score, wanted: Targets, shapes: Shapes) -> Cotangent:
    """The derivative of what is explained by all scores: one where a chosen class stands."""
    shape, dtype = shapes[score.value], as_float(op, score.value).dtype
    assert dtype is not None
    if wanted.chosen is None:
        assert wanted.input is not None
        rows = op.transpose(wanted.input, [1, 0, 2])  # [K, B, N]
        if dtype != ir.DataType.FLOAT:
            rows = op.Cast(rows, to=int(dtype))
        place = len(shape) + score.axis  # of the classes; every other axis but the batch has size 1
        more = [axis + 1 for axis in range(1, len(shape)) if axis != place]
        return Cotangent(op.unsqueeze(rows, more), shape)
    ones = op.constant(np.ones([1] * (len(shape) + 1)), dtype)
    index = op.transpose(wanted.chosen, [1, 0])
    return Cotangent(ones, shape, frozenset(), OneHot(score.axis, index, wanted.chosen))
