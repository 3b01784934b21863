"""Which positions of a feature map something depends on: gradients, measured on random pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

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

Array = NDArray[np.bool_]

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
    gradients = _gradients(op, model, maps, score.value, start, shapes)
    open_ones = [g for g in gradients if not {-1, -2} <= g.constant]
    measured: Iterator[Array] = iter(_measured(model, op, open_ones, image) if open_ones else ())
    op.discard()
    return [1.0 if {-1, -2} <= g.constant else float(next(measured).mean()) for g in gradients]


def gathered(
    model: ir.Model,
    image: ImageInput,
    tokens: FeatureMap,
    shapes: Shapes,
    maps: Sequence[FeatureMap],
) -> list[tuple[float, float]]:
    """What a map of tokens has gathered since each of `maps`, which lie before it.

    The share of positions that the tokens without position, and that one single position of
    `tokens`, depend on.
    """
    op = Ops(names(model.graph))
    width, length = int(tokens.channels), int(tokens.height) * int(tokens.width) + tokens.extra
    weights = np.random.default_rng(0).standard_normal((2, 1, length, width))
    weights[0, :, tokens.extra :] = 0
    weights[1, :, : tokens.extra] = weights[1, :, tokens.extra + 1 :] = 0
    dtype = as_float(op, tokens.value).dtype
    assert dtype is not None
    start = Cotangent(op.constant(weights, dtype), shapes[tokens.value], frozenset({-3}))
    gradients = _gradients(op, model, maps, tokens.value, start, shapes)
    measured = _measured(model, op, gradients, image)
    op.discard()
    return [(float(used[0].mean()), float(used[-1].mean())) for used in measured]


def _gradients(
    op: Ops,
    model: ir.Model,
    maps: Sequence[FeatureMap],
    of: ir.Value,
    start: Cotangent,
    shapes: Shapes,
) -> list[Cotangent]:
    """The gradient at each map, as one of it as [B, C, h, w]."""
    walked = vjp(op, model, [found.value for found in maps], of, start, shapes)
    return [found.gradient(op, g) for found, g in zip(maps, walked, strict=True)]


def _seed(op: Ops, score: Score, shapes: Shapes) -> Cotangent:
    shape, dtype = shapes[score.value], as_float(op, score.value).dtype
    assert dtype is not None
    sizes = [1] * (len(shape) + 1)
    sizes[score.axis] = score.num_classes
    weights = np.random.default_rng(0).standard_normal(sizes)
    return Cotangent(op.constant(weights, dtype), shape, frozenset({-len(shape)}))


def _measured(
    model: ir.Model, op: Ops, gradients: Sequence[Cotangent], image: ImageInput
) -> list[Array]:
    """Where each gradient, [K, B, C, h, w], isn't zero in all channels: bool [K, B, h, w].

    The model runs once, with what was emitted; it is left as it was.
    """
    outputs = []
    for g in gradients:
        used = op.ReduceMax(op.Abs(g.value), op.constant([2]), keepdims=0)
        outputs.append(op.Cast(used, to=int(ir.DataType.FLOAT)))
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
    return [array != 0 for array in run(session, listed, feed, "the model")]
