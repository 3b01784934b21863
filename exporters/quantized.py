"""Integers that stand for floats: which they are, and the float operators behind integer ones.

A quantised value q stands for the number scale (q - zero point). Its cotangent is that of this
number, and the activations of a quantised target layer are these numbers (`as_float`).

Quantised values are made by QuantizeLinear, DynamicQuantizeLinear and the operators of `FORMS`, and
are passed on by any operator of the default domain that keeps their type (MaxPool, Reshape, ...).
Every operator on quantised values is a float operator on the numbers that they stand for, rounded
(`expand`). MatMulInteger and ConvInteger give int32 sums, which stand for themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from exporters.builder import Ops

FLOATS = frozenset(
    {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
)
RANGES = {
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-32768, 32767),
    ir.DataType.UINT16: (0, 65535),
}
MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
_DEFAULT = ("", "ai.onnx")
_WIDE = (ir.DataType.INT16, ir.DataType.UINT16)  # in DequantizeLinear from opset 21


@dataclass(frozen=True)
class Quantisation:
    """q stands for scale (q - zero): `zero` may be left out; a `scale` left out is 1.

    `axis` counts where there is a scale for each place along an axis.
    """

    scale: ir.Value | None
    zero: ir.Value | None = None
    axis: int = 1


@dataclass(frozen=True)
class Operand:
    """An input of a float operator: the input `at` of the integer operator, dequantised.

    `scales` (multiplied) and `zero` are inputs too; without `scales` the input is a float already.
    """

    at: int
    scales: tuple[int, ...] = ()
    zero: int | None = None
    axis: int = 1
    whole: bool = False  # an integer that stands for itself, but for its zero point


@dataclass(frozen=True)
class Form:
    """An integer operator as a float one: the inputs, and the positions of the result's scale."""

    operator: str
    operands: Sequence[Operand] | Callable[[ir.Node], Sequence[Operand]]
    result: tuple[int, int] | None = None  # scale and zero point; None: not quantised
    bias: int | None = None  # a float input to be added in the end

    def read(self, node: ir.Node) -> Sequence[Operand]:
        """The operands of this node, in the order of the float operator's inputs."""
        return self.operands(node) if callable(self.operands) else self.operands


def _triple(at: int, axis: int = 1) -> Operand:
    return Operand(at, (at + 1,), at + 2, axis)


def _unary(operator: str) -> Form:
    return Form(operator, [_triple(0)], result=(3, 4))


def _binary(operator: str) -> Form:
    return Form(operator, [_triple(0), _triple(3)], result=(6, 7))


def _gemm(node: ir.Node) -> Sequence[Operand]:
    transposed = "transB" in node.attributes and node.attributes["transB"].as_int()
    return [_triple(0), _triple(3, axis=0 if transposed else 1), Operand(6, (1, 4), None, 0)]


def _concat(node: ir.Node) -> Sequence[Operand]:
    return [_triple(at) for at in range(2, len(node.inputs), 3)]


FORMS: dict[str, Form] = {
    "QLinearConv": Form(
        "Conv", [_triple(0), _triple(3, axis=0), Operand(8, (1, 4), None, 0)], result=(6, 7)
    ),
    "QLinearMatMul": Form("MatMul", [_triple(0, axis=-2), _triple(3, axis=-1)], result=(6, 7)),
    "QGemm": Form("Gemm", _gemm, result=(7, 8)),
    "QLinearAdd": _binary("Add"),
    "QLinearMul": _binary("Mul"),
    "QLinearSigmoid": _unary("Sigmoid"),
    "QLinearLeakyRelu": _unary("LeakyRelu"),
    "QLinearSoftmax": _unary("Softmax"),
    "QLinearAveragePool": _unary("AveragePool"),
    "QLinearGlobalAveragePool": _unary("GlobalAveragePool"),
    "QLinearConcat": Form("Concat", _concat, result=(0, 1)),
    "QLinearWhere": Form("Where", [Operand(0), _triple(1), _triple(4)], result=(7, 8)),
    "MatMulInteger": Form(
        "MatMul", [Operand(0, zero=2, axis=-2, whole=True), Operand(1, zero=3, whole=True, axis=-1)]
    ),
    "ConvInteger": Form(
        "Conv", [Operand(0, zero=2, whole=True), Operand(1, zero=3, axis=0, whole=True)]
    ),
    "MatMulIntegerToFloat": Form(
        "MatMul", [Operand(0, (2,), 4, -2), Operand(1, (3,), 5, -1)], bias=6
    ),
    "DynamicQuantizeMatMul": Form("MatMul", [Operand(0), Operand(1, (2,), 3, -1)], bias=4),
}
# Operators whose result lies between the least and the largest of what they read.
_BETWEEN = frozenset(
    {"AveragePool", "GlobalAveragePool", "ReduceMean", "MaxPool", "GlobalMaxPool", "ReduceMax"}
    | {"Concat", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)
_SUMS = ("MatMulInteger", "ConvInteger")
_OURS = ("channels_last", "opset")  # attributes that the float operators don't have


def form_of(node: ir.Node) -> Form | None:
    """The node's entry in `FORMS`."""
    known = node.domain in (*_DEFAULT, MICROSOFT)
    return FORMS.get(node.op_type) if known else None


def is_boundary(node: ir.Node) -> bool:
    """Whether the node goes from floats to quantised values or back."""
    boundary = node.op_type in ("QuantizeLinear", "DequantizeLinear")
    return boundary and node.domain in (*_DEFAULT, MICROSOFT)


def operator(node: ir.Node) -> str:
    """The operator, of floats, that the node stands for."""
    form = form_of(node)
    return node.op_type if form is None else form.operator


def quantisation(value: ir.Value) -> Quantisation | None:
    """How the value was quantised; ``None`` where it wasn't."""
    node = value.producer()
    if node is None or value.dtype in FLOATS:
        return None
    form, inputs = form_of(node), [*node.inputs, None]
    if node.op_type in _SUMS:
        return Quantisation(None)
    if form is not None:
        return form.result and Quantisation(inputs[form.result[0]], inputs[form.result[1]])
    if node.op_type == "QuantizeLinear" and is_boundary(node):
        axis = node.attributes.get("axis")
        return Quantisation(inputs[1], inputs[2], 1 if axis is None else axis.as_int())
    if node.op_type == "DynamicQuantizeLinear":
        found = Quantisation(node.outputs[1], node.outputs[2])
        return found if value is node.outputs[0] else None
    if node.domain in _DEFAULT and value.dtype in RANGES and node.op_type != "Cast":
        for given in node.inputs:
            passed_on = None
            if given is not None and given.dtype == value.dtype:
                passed_on = quantisation(given)
            if passed_on is not None:
                return passed_on
    return None


def carries(value: ir.Value) -> bool:
    """Whether gradients flow through the value: floats, and integers that stand for some.

    The scale that a DynamicQuantizeLinear finds counts as a constant.
    """
    node = value.producer()
    if node is not None and node.op_type == "DynamicQuantizeLinear":
        return value is node.outputs[0]
    return value.dtype in FLOATS or quantisation(value) is not None


def works_on_integers(node: ir.Node) -> bool:
    """Whether the node computes with quantised values (QuantizeLinear and its inverse do not)."""
    if is_boundary(node) or node.op_type == "DynamicQuantizeLinear":
        return False
    if form_of(node) is not None:
        return True
    return node.op_type != "Cast" and any(quantisation(output) for output in node.outputs)


def saturates(node: ir.Node) -> bool:
    """Whether a result at the end of its range counts as saturated, so that no gradient passes.

    An operator that was merged into the rounding, as a Relu is into that of a convolution, shows in
    nothing else. Averages, maxima and moved values reach the end by rounding alone, or where the
    calibration saw too little.
    """
    if node.op_type == "DynamicQuantizeLinear":
        return False
    before: ir.Node | None = node
    if node.op_type == "QuantizeLinear" and node.inputs[0] is not None:
        before = node.inputs[0].producer()
    return before is None or operator(before) not in _BETWEEN


# --- Emitting -------------------------------------------------------------------------------------


def as_float(op: Ops, value: ir.Value) -> ir.Value:
    """The numbers that a quantised value stands for; any other value as it is."""
    found = quantisation(value)
    return value if found is None else dequantised(op, value, found)


def activations(op: Ops, value: ir.Value) -> ir.Value:
    """A target layer's values as floats: `as_float`, and a DequantizeLinear of the model anew.

    ONNX Runtime fuses the model's own with the operator behind it, unless it is an output as well.
    """
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear" or not is_boundary(node):
        return as_float(op, value)
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    result: ir.Value = op.DequantizeLinear(*node.inputs, **attributes)
    assert value.dtype is not None
    result.dtype, result.shape = value.dtype, value.shape
    return result


def dequantised(op: Ops, q: ir.Value, by: Quantisation) -> ir.Value:
    """scale (q - zero)."""
    dtype = (by.scale and by.scale.dtype) or ir.DataType.FLOAT
    if by.scale is None and by.zero is None:
        result: ir.Value = op.Cast(q, to=int(dtype))
    elif q.dtype in _WIDE and not is_vector(by.scale):  # DequantizeLinear's from opset 21 only
        steps = op.Cast(q, to=int(dtype))
        if by.zero is not None:
            steps = op.Sub(steps, op.Cast(by.zero, to=int(dtype)))
        result = op.Mul(steps, by.scale)
    else:
        scale = op.constant(1.0, dtype) if by.scale is None else by.scale
        if by.scale is None and is_vector(by.zero):
            scale = op.Expand(scale, op.Shape(by.zero))
        given = [q, scale] if by.zero is None else [q, scale, by.zero]
        along = {"axis": by.axis} if is_vector(by.scale) or is_vector(by.zero) else {}
        result = op.DequantizeLinear(*given, **along)
    result.dtype, result.shape = dtype, q.shape
    return result


def is_vector(value: ir.Value | None) -> bool:
    """Whether the scale or zero point is one for each place along an axis."""
    if value is None or value.shape is None or not len(value.shape):
        return False
    return value.shape[0] != 1


@dataclass(frozen=True)
class Expansion:
    """An integer operator as emitted: a float operator, of which the model itself runs none.

    Attributes:
        node: the float operator.
        outputs: what it gives, before rounding, in the layout of the model's own outputs.
        sources: for each of its inputs the position of the model's input that it stands for, and
            how that was dequantised, ``None`` for floats.
        channels_last: whether the model's values are [B, ..., C] where the node's are [B, C, ...].
    """

    node: ir.Node
    outputs: tuple[ir.Value, ...]
    sources: dict[int, Quantisation | None]
    channels_last: bool


def expand(op: Ops, node: ir.Node, rank: int) -> Expansion:
    """Emit the float operator behind an integer one, whose output has `rank` axes."""
    form = form_of(node)
    given: list[ir.Value | None] = []
    sources: dict[int, Quantisation | None] = _passed_on(node) if form is None else {}
    if form is not None:
        inputs: list[ir.Value | None] = [*node.inputs, *[None] * 9]
        for operand in form.read(node):
            if inputs[operand.at] is not None:
                sources[operand.at] = _quantisation_of(op, operand, inputs)
    last = "channels_last" in node.attributes and bool(node.attributes["channels_last"].as_int())
    for at, by in sources.items():
        value = node.inputs[at]
        taken = value if value is None or by is None else dequantised(op, value, by)
        if last and taken is not None and at == 0:
            taken = _permuted(op, taken, [0, rank - 1, *range(1, rank - 1)])
        given.append(taken)
    attributes: dict[str, Any] = {
        name: attribute.value for name, attribute in node.attributes.items() if name not in _OURS
    }
    count = len(node.outputs)
    if count > 1:
        attributes["_outputs"] = count
    result = getattr(op, operator(node))(*given, **attributes)
    outputs: tuple[ir.Value, ...] = result if count > 1 else (result,)
    inner = outputs[0].producer()
    assert inner is not None
    for output in outputs:
        output.dtype = next(v.dtype for v in given if v and v.dtype and v.dtype in FLOATS)
    if last:
        outputs = tuple(_permuted(op, v, [0, *range(2, rank), 1]) for v in outputs)
    if form is not None and form.bias is not None and len(node.inputs) > form.bias:
        outputs = (op.Add(outputs[0], node.inputs[form.bias]),)
    return Expansion(inner, outputs, sources, last)


def _passed_on(node: ir.Node) -> dict[int, Quantisation | None]:
    """Of an operator that passes quantised values on: how each of its inputs was quantised."""
    common = next(found for found in map(quantisation, node.outputs) if found is not None)
    return {
        at: (quantisation(value) or common) if value is not None and value.dtype in RANGES else None
        for at, value in enumerate(node.inputs)
    }


def _quantisation_of(
    op: Ops, operand: Operand, inputs: Sequence[ir.Value | None]
) -> Quantisation | None:
    zero = None if operand.zero is None else inputs[operand.zero]
    if operand.whole:
        return Quantisation(None, zero, operand.axis)
    if not operand.scales:
        return None
    first, *rest = [inputs[at] for at in operand.scales]
    assert first is not None
    scale = first
    for factor in rest:
        assert factor is not None
        scale = op.Mul(scale, factor)
        scale.dtype = first.dtype
        scale.shape = factor.shape if is_vector(factor) else first.shape
    return Quantisation(scale, zero, operand.axis)


def _permuted(op: Ops, value: ir.Value, perm: Sequence[int]) -> ir.Value:
    moved = op.transpose(value, perm)
    assert value.dtype is not None
    moved.dtype = value.dtype
    if value.shape is not None:
        moved.shape = ir.Shape([value.shape[axis] for axis in perm])
    return moved
