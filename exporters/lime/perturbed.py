"""The classifier in the body of a Loop, each turn of which is on a batch of perturbed pictures.

A perturbed picture shows the image where its mask is on and the fill elsewhere. It is composed in
the file, pixel by pixel, so that the host hands over one picture instead of a thousand, and no more
than one batch is ever in memory. The weights are initializers of the body: in the outer graph ONNX
Runtime would not prepare them for its kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporters.builder import PREFIX, Ops
from exporters.classifier import Classifier


@dataclass(frozen=True)
class Perturbation:
    """What perturbed pictures are made of, besides the image.

    Attributes:
        fill: [1, C, H, W] or [1, H, W, C], of the image's type: what stands where a mask is off.
        segments: int32 [H, W], the superpixel of each pixel.
        masks: bool [N, D], whether superpixel d is on in perturbed picture n.
    """

    fill: ir.Value
    segments: ir.Value
    masks: ir.Value


def classify(
    classifier: Classifier,
    outer: Ops,
    inner: Ops,
    given: Perturbation,
    wanted: Sequence[ir.Value],
    batch_size: int,
) -> list[ir.Value]:
    """Classify every perturbed picture.

    The model's nodes and weights, and those of `inner`, move into the body. The last batch is
    filled up with the last picture; what comes of those is cut off.

    Args:
        classifier: whose graph is emptied, but for its inputs.
        outer: records the nodes around the Loop.
        inner: has recorded nodes behind the model's own.
        given: values of the outer graph.
        wanted: scores of all classes, [batch, classes], values of the model or of `inner`.
        batch_size: pictures in a batch.

    Returns:
        For each of `wanted` a value of the outer graph, [N, classes].
    """
    main, x = classifier.model.graph, classifier.image.value
    turn = _value(inner, "turn", ir.DataType.INT64)
    going = _value(inner, "going", ir.DataType.BOOL)
    count = outer.Shape(given.masks, start=0, end=1)
    last = outer.Sub(count, outer.constant([1]))

    before = inner.beside()
    start = before.Mul(turn, before.constant(batch_size))
    rows = before.Min(before.Add(start, before.constant(np.arange(batch_size))), last)
    batch = before.transpose(before.Gather(given.masks, rows, axis=0), [1, 0])  # [D, batch]
    # Gathered a pixel's masks at a time, which takes a third of the time of a mask's pixels.
    shown = before.transpose(before.Gather(batch, given.segments, axis=0), [2, 0, 1])
    channels = 1 if classifier.image.layout == "NCHW" else 3
    picture = before.Where(before.unsqueeze(shown, [channels]), x, given.fill)
    nodes_before, constants_before = before.needed_for([picture])

    for node, index in list(x.uses()):
        if node not in nodes_before:
            node.replace_input_with(index, picture)
    again = inner.Identity(going)
    nodes, constants = inner.needed_for([again, *wanted])
    own, weights = list(main), list(main.initializers.values())
    main.remove(own)
    main.initializers.clear()
    main.outputs.clear()
    body = ir.Graph(
        [turn, going],
        [again, *wanted],
        nodes=[*nodes_before, *own, *nodes],
        initializers=[*weights, *constants, *constants_before],
        opset_imports=main.opset_imports,
        name="one_batch",
    )
    turns = outer.Div(outer.Add(last, outer.constant([batch_size])), outer.constant([batch_size]))
    stacked = outer.Loop(outer.squeeze(turns, [0]), None, body=body, _outputs=len(wanted))
    listed = [stacked] if isinstance(stacked, ir.Value) else list(stacked)
    classes = outer.constant([-1, classifier.score.num_classes])
    axis = outer.constant([0])
    return [outer.Slice(outer.Reshape(item, classes), axis, count, axis) for item in listed]


def _value(op: Ops, name: str, dtype: ir.DataType) -> ir.Value:
    return ir.Value(
        name=op.unique(f"{PREFIX}/{name}"), shape=ir.Shape([]), type=ir.TensorType(dtype)
    )
