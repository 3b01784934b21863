"""The receptive field of a feature map, read off the graph.

A cell's centre and extent in pixels follow from the windows on the way (Araujo et al. 2019,
"Computing receptive fields of convolutional neural networks"): behind a window of k cells, stride
s, dilation l, padding p, in a map of jump j,

    size + (k - 1) l j,   start + ((k - 1) l / 2 - p) j,   jump s j

Where ways meet, the field is the smallest interval around all of theirs. Squares only: the height
decides, and a map whose axes differ has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from exporters.graph import path
from xai_onnx.prototypes import ReceptiveField

_WINDOWS = ("Conv", "MaxPool", "AveragePool", "LpPool")
_POINTWISE = frozenset(
    (
        *("Relu", "Sigmoid", "Tanh", "Clip", "LeakyRelu", "Elu", "Selu", "PRelu", "Gelu", "Erf"),
        *("HardSwish", "HardSigmoid", "Swish", "Mish", "Softplus", "Exp", "Sqrt", "Pow", "Abs"),
        *("Add", "Sub", "Mul", "Div", "Neg", "Sum", "Max", "Min", "Concat", "Identity", "Cast"),
        *("BatchNormalization", "Dropout", "QuantizeLinear", "DequantizeLinear"),
    )
)


@dataclass(frozen=True)
class _Field:
    """Of one axis: pixels between cells, and the first cell's interval."""

    jump: float
    low: float
    high: float


def receptive_field(image: ir.Value, z: ir.Value, cells: int) -> ReceptiveField | None:
    """The receptive field of `z` on `image`, both NCHW.

    Args:
        image: the model's input.
        z: the feature map.
        cells: side of `z`.

    Returns:
        ``None`` where an operator on the way (a global pooling, attention, a reshape) lets every
        pixel reach every cell, or where the two axes differ.
    """
    graph = image.graph
    assert isinstance(graph, ir.Graph)
    on_path = path(image, z)
    # The centre of the first pixel lies at 0.5, as in the original.
    fields: dict[ir.Value, _Field] = {image: _Field(1.0, 0.0, 1.0)}
    for node in graph:
        met = [fields[v] for v in node.inputs if v is not None and v in on_path and v in fields]
        reached = [value for value in node.outputs if value in on_path]
        if not reached:
            continue
        field = _behind(node, met) if met else None
        if field is None:
            return None
        fields.update(dict.fromkeys(reached, field))
    found = fields.get(z)
    if found is None:
        return None
    return ReceptiveField(cells, found.jump, found.high - found.low, (found.low + found.high) / 2)


def _behind(node: ir.Node, met: list[_Field]) -> _Field | None:
    if len({field.jump for field in met}) != 1:
        return None
    jump = met[0].jump
    low, high = min(field.low for field in met), max(field.high for field in met)
    if node.op_type in _POINTWISE:
        return _Field(jump, low, high)
    if node.op_type not in _WINDOWS:
        return None
    kernel = _square(node, "kernel_shape", None)
    if kernel is None and node.op_type == "Conv":
        shape = node.inputs[1].shape if node.inputs[1] is not None else None
        sides = shape.dims[2:] if shape is not None else ()
        kernel = _equal([side for side in sides if isinstance(side, int)])
    stride, dilation = _square(node, "strides", 1), _square(node, "dilations", 1)
    padding = _padding(node)
    if None in (kernel, stride, dilation, padding):
        return None
    assert kernel is not None
    assert stride is not None
    assert dilation is not None
    assert padding is not None
    last = (kernel - 1) * dilation - padding
    return _Field(jump * stride, low - padding * jump, high + last * jump)


def _square(node: ir.Node, name: str, default: int | None) -> int | None:
    if name not in node.attributes:
        return default
    return _equal(list(node.attributes[name].as_ints()))


def _equal(sides: list[int]) -> int | None:
    return sides[0] if len(sides) == 2 and sides[0] == sides[1] else None


def _padding(node: ir.Node) -> int | None:
    """Cells before the first; those behind the last only matter at the far edge."""
    if "auto_pad" in node.attributes and node.attributes["auto_pad"].as_string() not in (
        "NOTSET",
        "VALID",
    ):
        return None
    pads = list(node.attributes["pads"].as_ints()) if "pads" in node.attributes else [0] * 4
    return pads[0] if len(pads) == 4 and pads[0] == pads[1] else None
