"""At which positions of a feature map the score has a gradient: measured on a random picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from exporters.builder import Ops
from exporters.cotangent import Cotangent
from exporters.feature_map import FeatureMap
from exporters.gradient import vjp
from exporters.graph import names
from exporters.image_input import ImageInput
from exporters.ort import open_model, run
from exporters.probe import Shapes
from exporters.quantized import as_float
from exporters.score import Score

_SIZE = (224, 224)  # of the picture, where its size is free


def reached(
    model: ir.Model,
    image: ImageInput,
    score: Score,
    shapes: Shapes,
    maps: Sequence[FeatureMap],
) -> list[float]:
    """For each map the share of positions, in [0, 1], whose gradient isn't zero in all channels.

    The gradient is that of a random sum of all scores: a single class may have none on noise.
    A gradient that is the same at all positions, as behind a pooling, reaches them all: where that
    is known, nothing is run.
    """
    op = Ops(names(model.graph))
    start = _seed(op, score, shapes)
    walked = vjp(op, model, [found.value for found in maps], score.value, start, shapes)
    gradients = [found.gradient(op, g) for found, g in zip(maps, walked, strict=True)]
    open_ones = [g for g in gradients if not {-1, -2} <= g.constant]
    measured: Iterator[float] = iter(())
    if open_ones:
        outputs = []
        for g in open_ones:
            used = op.ReduceMax(op.Abs(g.value), op.constant([2]), keepdims=0)
            outputs.append(op.Cast(used, to=int(ir.DataType.FLOAT)))
        measured = iter(_measured(model, op, outputs, image))
    op.discard()
    return [1.0 if {-1, -2} <= g.constant else next(measured) for g in gradients]


def _seed(op: Ops, score: Score, shapes: Shapes) -> Cotangent:
    shape, dtype = shapes[score.value], as_float(op, score.value).dtype
    assert dtype is not None
    sizes = [1] * (len(shape) + 1)
    sizes[score.axis] = score.num_classes
    weights = np.random.default_rng(0).standard_normal(sizes)
    return Cotangent(op.constant(weights, dtype), shape, frozenset({-len(shape)}))


def _measured(model: ir.Model, op: Ops, outputs: list[ir.Value], image: ImageInput) -> list[float]:
    """Run the model, with what was emitted, once; the model is left as it was."""
    main = model.graph
    nodes, initializers = op.needed_for(outputs)
    before = list(main.outputs)
    for initializer in initializers:
        main.register_initializer(initializer)
    main.extend(nodes)
    main.outputs.clear()
    main.outputs.extend(outputs)
    try:
        session = open_model(model, "the gradient of the model")
    finally:
        main.outputs.clear()
        main.outputs.extend(before)
        main.remove(nodes[::-1])
        for initializer in initializers:
            del main.initializers[str(initializer.name)]
    feed = image.feed(1, _SIZE)
    listed = [str(value.name) for value in outputs]
    return [float((array != 0).mean()) for array in run(session, listed, feed, "the model")]
