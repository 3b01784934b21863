"""Which value is the score: the class scores before a final softmax or sigmoid.

After a softmax the gradient of one class mixes in all the others, and fades where the model is
sure; Selvaraju 2017 (section 3) differentiates the score before it.

What is wanted is said as ``KIND``, ``KIND:VALUE`` or ``VALUE``; VALUE is the name of an output, or
of any other value, where the model has more than one that fits. KIND is ``logits`` (the default),
``output`` (an activation at the end is differentiated, too), or one of `exporters.heads`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from exporters import quantized
from exporters.graph import is_float
from exporters.heads import SCORE_HEADS
from exporters.probe import Shape, Shapes
from xai_onnx.errors import ScoreError

ACTIVATIONS = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}
_PASSING = (
    *("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze"),
    *("QuantizeLinear", "DequantizeLinear"),
)


@dataclass(frozen=True)
class Score:
    """What is differentiated, and where the classes stand in it.

    Attributes:
        value: [B, N], further axes of size 1 allowed.
        axis: the class axis of `value`, counted from the end.
        num_classes: N.
        output: the model output that ranks the classes, also [B, N] but for axes of size 1.
        output_axis: its class axis, counted from the end.
        activation: the recognised function that ends in `output`; ``None`` for logits; ``"none"``
            for scores that are no logits.
        at: how it was asked for.
        inputs: what the model takes for its sake, by role.
    """

    value: ir.Value
    axis: int
    num_classes: int
    output: ir.Value
    output_axis: int
    activation: str | None
    at: str
    inputs: Mapping[str, ir.Value]


def parse(at: str) -> tuple[str, str | None]:
    """KIND and VALUE, out of what was asked for."""
    kinds = ("logits", "output", *SCORE_HEADS)
    kind, colon, value = at.partition(":")
    if kind not in kinds:
        return "logits", at
    return kind, value if colon else None


def find(graph: ir.Graph, shapes: Shapes, at: str, name: str) -> Score:
    """Find the class scores, for the kinds ``logits`` and ``output``.

    Args:
        graph: the model's graph.
        shapes: measured shapes of the outputs and of the values before them.
        at: what is wanted.
        name: how messages call the model.

    Raises:
        ScoreError: no output, or more than one, holds one score per class.
    """
    kind, wanted = parse(at)
    output = pick(graph, shapes, wanted, _is_scores, "class scores [batch, classes]", name)
    logits, activation = _before_activation(output, shapes)
    value = output if kind == "output" else logits
    axis, output_axis = class_axis(shapes[value]), class_axis(shapes[output])
    assert axis is not None
    assert output_axis is not None
    classes = shapes[value][axis]
    assert isinstance(classes, int)
    return Score(value, axis, classes, output, output_axis, activation, at, {})


def pick(
    graph: ir.Graph,
    shapes: Shapes,
    wanted: str | None,
    fits: Callable[[Shape], bool],
    reads: str,
    name: str,
) -> ir.Value:
    """The value called `wanted`, or the one output that fits.

    Raises:
        ScoreError: there is none, or more than one; `reads` says what is looked for.
    """
    outputs = list(graph.outputs)
    if wanted is not None:
        named = {str(v.name): v for node in graph for v in node.outputs}
        value = named.get(wanted)
        if value is None or value not in shapes or not is_float(value):
            kinds = ", ".join(("logits", "output", *SCORE_HEADS))
            raise ScoreError(
                f"{name}: score {wanted!r} is neither a kind of score ({kinds}) nor a value that "
                f"depends on the picture; its outputs are {_listed(outputs, shapes)}"
            )
        if not fits(shapes[value]):
            raise ScoreError(
                f"{name}: score {wanted!r} has shape {_text(shapes[value])} and is no {reads}"
            )
        return value
    found = [v for v in outputs if is_float(v) and fits(shapes[v])]
    if len(found) != 1:
        raise ScoreError(
            f"{name}: {'no output' if not found else 'more than one output'} holds {reads}; its "
            f"outputs are {_listed(outputs, shapes)}; name one with --score NAME, or say what kind "
            f"of score is meant: {', '.join(SCORE_HEADS)}"
        )
    return found[0]


def _is_scores(shape: Shape) -> bool:
    return class_axis(shape) is not None


def _listed(values: Sequence[ir.Value], shapes: Shapes) -> str:
    return ", ".join(f"{v.name!r} {_text(shapes[v])}" for v in values)


def class_axis(shape: Shape) -> int | None:
    """The class axis of [B, N], further axes of size 1 allowed; ``None`` if there is none."""
    if len(shape) < 2 or not all(isinstance(size, int) for size in shape[1:]):
        return None
    larger = [axis for axis in range(1 - len(shape), 0) if shape[axis] != 1]
    if len(larger) > 1:
        return None
    return larger[0] if larger else 1 - len(shape)


def _before_activation(output: ir.Value, shapes: Shapes) -> tuple[ir.Value, str | None]:
    """Step back over a final activation and over what only reshapes its result."""
    value = output
    while True:
        node = value.producer()
        if node is None or not node.inputs or node.inputs[0] is None:
            return _before_rounding(output, shapes), None
        before = node.inputs[0]
        scores = class_axis(shapes.get(before, ()))
        if scores is not None and _is_activation(node, scores, len(shapes[before])):
            return _before_rounding(before, shapes), ACTIVATIONS[quantized.operator(node)]
        if node.op_type not in _PASSING or scores is None or not quantized.carries(before):
            return _before_rounding(output, shapes), None
        value = before


def _before_rounding(output: ir.Value, shapes: Shapes) -> ir.Value:
    """Step back over a final QuantizeLinear and its inverse: the score may lie beyond its range."""
    value = output
    while (node := value.producer()) is not None and quantized.is_boundary(node):
        before = node.inputs[0]
        if before is None or class_axis(shapes.get(before, ())) is None:
            break
        value = before
    return value


def _is_activation(node: ir.Node, classes: int, rank: int) -> bool:
    """Whether the node turns logits into probabilities: a softmax must run over the classes."""
    operator = quantized.operator(node)
    if operator not in ACTIVATIONS:
        return False
    attribute = node.attributes.get("axis")
    axis = -1 if attribute is None else attribute.as_int()
    return operator == "Sigmoid" or (axis if axis < 0 else axis - rank) == classes


def _text(shape: Shape) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"
