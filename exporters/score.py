"""Which value is the score: the class scores before a final softmax or sigmoid.

After a softmax the gradient of one class mixes in all the others, and fades where the model is
sure; Selvaraju 2017 (section 3) differentiates the score before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from exporters.graph import is_float
from exporters.probe import Shape, Shapes
from xai_onnx.errors import ScoreError

ACTIVATIONS = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}
_PASSING = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Score:
    """What is differentiated, and where the classes stand in it.

    Attributes:
        value: [B, N], further axes of size 1 allowed.
        axis: the class axis of `value`, counted from the end.
        num_classes: N.
        output: the model output that ranks the classes, also [B, N] but for axes of size 1.
        output_axis: its class axis, counted from the end.
        activation: the recognised function that ends in `output`, or ``None``.
    """

    value: ir.Value
    axis: int
    num_classes: int
    output: ir.Value
    output_axis: int
    activation: str | None


def find(outputs: Sequence[ir.Value], shapes: Shapes, wanted: str, name: str) -> Score:
    """Find the score.

    Args:
        outputs: the model's outputs.
        shapes: measured shapes of the outputs and of the values before them.
        wanted: ``"logits"``: before a final softmax or sigmoid; ``"output"``: the output itself.
        name: how messages call the model.

    Raises:
        ScoreError: no output, or more than one, holds one score per class.
    """
    found = [v for v in outputs if is_float(v) and class_axis(shapes[v]) is not None]
    if len(found) != 1:
        listed = ", ".join(f"{v.name!r} {_text(shapes[v])}" for v in outputs)
        raise ScoreError(
            f"{name}: {'no output' if not found else 'more than one output'} holds class scores "
            f"[batch, classes]; its outputs are {listed}; export the classifier with its head, and "
            "with one output of scores"
        )
    output = found[0]
    logits, activation = _before_activation(output, shapes)
    value = output if wanted == "output" else logits
    axis, output_axis = class_axis(shapes[value]), class_axis(shapes[output])
    assert axis is not None
    assert output_axis is not None
    classes = shapes[value][axis]
    assert isinstance(classes, int)
    return Score(value, axis, classes, output, output_axis, activation)


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
            return output, None
        before = node.inputs[0]
        scores = class_axis(shapes.get(before, ()))
        if scores is not None and _is_activation(node, scores, len(shapes[before])):
            return before, ACTIVATIONS[node.op_type]
        if node.op_type not in _PASSING or scores is None or not is_float(before):
            return output, None
        value = before


def _is_activation(node: ir.Node, classes: int, rank: int) -> bool:
    """Whether the node turns logits into probabilities: a softmax must run over the classes."""
    if node.op_type not in ACTIVATIONS:
        return False
    attribute = node.attributes.get("axis")
    axis = -1 if attribute is None else attribute.as_int()
    return node.op_type == "Sigmoid" or (axis if axis < 0 else axis - rank) == classes


def _text(shape: Shape) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"
