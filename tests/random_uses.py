"""How a random classifier uses each operator: `USES`, functions that add it to a draft.

To add an operator: write a function that takes a `Draft`, finds operands in it (`some`, `image`,
`other`...) and adds nodes; decorate it with the operator's name. Several functions for one operator
are several uses. Where nothing in the draft fits, `Unfit` ends the attempt.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from random_graphs import Draft, Unfit, Value

from exporters.probe import BATCH, FREE, Dim

USES: dict[str, list[Callable[[Draft], Value]]] = {}

FLOAT, DOUBLE, BOOL = 1, 11, 9  # of onnx.TensorProto
FAR = 2**63 - 1


def use(*op_types: str) -> Callable[[Callable[..., Value]], Callable[..., Value]]:
    """Enter a use; where it is one of several operators, it is told which."""

    def enter(function: Callable[..., Value]) -> Callable[..., Value]:
        for op_type in op_types:
            bound = _bound(function, op_type) if len(op_types) > 1 else function
            USES.setdefault(op_type, []).append(bound)
        return function

    return enter


def _bound(function: Callable[..., Value], op_type: str) -> Callable[[Draft], Value]:
    return lambda m: function(m, op_type)


def image(m: Draft, *ranks: int) -> Value:
    """Something with the batch, channels and one to three axes behind them, none of them empty."""
    wanted = ranks or (3, 4, 4, 5)
    return m.some(*wanted, where=lambda v: isinstance(v.shape[1], int) and BATCH not in v.shape[2:])


def positive(m: Draft, x: Value, low: float = 0.2) -> Value:
    return m.between(x, low, 2.0)


def other(m: Draft, x: Value) -> Any:
    """Something that can stand beside x: itself, a constant, or another value that broadcasts."""
    kind = m.number(0, 5)
    if kind == 0:
        return x
    if kind == 1:
        return m.node(m.choose(["Tanh", "Sigmoid", "Neg"]), x)
    if kind == 2 and x.rank > 1:
        axes = sorted({m.axis(x, known=False) for _ in range(m.number(1, 2))})
        return m.node("ReduceMean", x, np.array(axes))
    if kind == 3:
        return m.some(where=lambda v: _broadcasts(v, x))
    return broadcast_constant(m, x.shape)


def broadcast_constant(m: Draft, shape: tuple[Dim, ...]) -> np.ndarray:
    """A constant that broadcasts against `shape`, which it may stretch."""
    sizes = []
    for size in shape:
        if not isinstance(size, int):
            sizes.append(1)
        elif size == 1:
            sizes.append(m.choose([1, 1, 2, 3]))
        else:
            sizes.append(m.choose([size, 1]))
    if m.free_batch and sizes:
        sizes[0] = 1
    keep = m.number(0, len(sizes))
    return m.weights(*(sizes if m.chance(2, 3) else sizes[len(sizes) - keep :]))


def _broadcasts(a: Value, b: Value) -> bool:
    try:
        for x, y in zip(a.arrays, b.arrays, strict=True):
            np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        return False
    pairs = zip(a.shape[::-1], b.shape[::-1], strict=False)
    return all(x == y or 1 in (x, y) for x, y in pairs)


# --- Element by element ---------------------------------------------------------------------------


@use("Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Sin", "Cos", "Erf", "Softplus", "Softsign")
def plain(m: Draft, op_type: str) -> Value:
    return m.node(op_type, m.some())


@use("HardSwish", "Mish", "Identity")
def plain_too(m: Draft, op_type: str) -> Value:
    return m.node(op_type, m.some())


@use("LeakyRelu", "Elu", "Celu", "ThresholdedRelu")
def with_alpha(m: Draft, op_type: str) -> Value:
    return m.node(op_type, m.some(), alpha=m.choose([None, 0.3, 0.75, 1.0]))


@use("Selu")
def selu(m: Draft) -> Value:
    return m.node("Selu", m.some(), alpha=m.choose([None, 0.5]), gamma=m.choose([None, 2.0]))


@use("HardSigmoid")
def hard_sigmoid(m: Draft) -> Value:
    return m.node("HardSigmoid", m.some(), alpha=m.choose([None, 0.5]), beta=m.choose([None, 0.3]))


@use("Swish")
def swish(m: Draft) -> Value:
    if m.opset != 24:
        raise Unfit  # beyond it ONNX Runtime 1.32 has neither a kernel nor its function
    return m.node("Swish", m.some(), alpha=m.choose([None, 1.7]))


@use("Gelu")
def gelu(m: Draft) -> Value:
    if m.opset < 20:
        raise Unfit
    return m.node("Gelu", m.some(), approximate=m.choose([None, "tanh"]))


@use("PRelu")
def prelu(m: Draft) -> Value:
    x = m.some(2, 3, 4, 5)
    if m.chance(1, 3):
        return m.node("PRelu", x, m.node("Tanh", x))
    size = x.shape[1] if isinstance(x.shape[1], int) else 1
    return m.node("PRelu", x, m.weights(m.choose([1, size]), *[1] * (x.rank - 2)))


@use("Clip")
def clip(m: Draft) -> Value:
    low, high = m.choose([None, np.float32(-0.6)]), m.choose([None, np.float32(0.7)])
    return m.node("Clip", m.some(), low, high)


@use("Exp")
def exp(m: Draft) -> Value:
    return m.node("Exp", m.node("Tanh", m.some()))


@use("Log", "Sqrt", "Reciprocal")
def of_positive(m: Draft, op_type: str) -> Value:
    return m.node(op_type, positive(m, m.some()))


@use("Cast")
def cast(m: Draft) -> Value:
    inner = m.node("Tanh", m.node("Cast", m.some(), to=DOUBLE))
    return m.node("Cast", inner, to=FLOAT)


@use("Cast")
def cast_mask(m: Draft) -> Value:
    x = m.some()
    mask = m.node("Cast", m.node("Greater", x, np.float32(0.3)), to=FLOAT)
    return m.node("Mul", x, mask)


@use("CastLike")
def cast_like(m: Draft) -> Value:
    inner = m.node("Sigmoid", m.node("CastLike", m.some(), np.float64(0)))
    return m.node("CastLike", inner, np.float32(0))


@use("Dropout")
def dropout(m: Draft) -> Value:
    return m.node("Dropout", m.some(), m.choose([None, np.float32(0.5)]))


@use("Add", "Sub", "Mul", "Max", "Min")
def of_two(m: Draft, op_type: str) -> Value:
    x = m.some()
    pair = [x, other(m, x)]
    return m.node(op_type, *(pair[::-1] if m.chance(1, 2) else pair))


@use("Sum", "Mean", "Max", "Min")
def of_several(m: Draft, op_type: str) -> Value:
    x = m.some()
    count = m.number(0, 2)
    operands = [x, *(other(m, x) if i == 0 else m.weights() for i in range(count))]
    return m.node(op_type, *operands)


@use("Div")
def div(m: Draft) -> Value:
    x = m.some()
    if m.chance(1, 3):
        return m.node("Div", other(m, x), positive(m, x))
    below = other(m, x)
    below = positive(m, below) if isinstance(below, Value) else np.abs(below) + np.float32(0.2)
    return m.node("Div", x, below)


@use("Pow")
def power(m: Draft) -> Value:
    x = m.some()
    kind = m.number(0, 3)
    if kind == 0:
        return m.node(
            "Pow", x, np.asarray(m.choose([2, 1, 3, 0]), m.choose([np.float32, np.int64]))
        )
    base = positive(m, x)
    if kind == 1:
        return m.node("Pow", base, np.float32(m.choose([0.5, -0.5, 1.5])))
    if kind == 2:
        return m.node("Pow", base, broadcast_constant(m, x.shape))
    return m.node("Pow", base, m.node("Tanh", other(m, x)))


@use("Mod")
def mod(m: Draft) -> Value:
    x = m.some()
    if m.chance(1, 2):
        return m.node("Mod", m.between(x, -1, 3), np.float32(3.7), fmod=1)
    return m.node("Mod", np.float32(m.choose([2.6, -2.6])), m.between(x, 1.0, 1.2), fmod=1)


@use("Where")
def where(m: Draft) -> Value:
    x = m.some()
    if m.chance(1, 3):
        condition: Any = broadcast_constant(m, x.shape) > 0
    else:
        condition = m.node("Greater", m.some(where=lambda v: _broadcasts(v, x)), np.float32(0.3))
    pair = [x, other(m, x)]
    try:
        return m.node("Where", condition, *(pair[::-1] if m.chance(1, 2) else pair))
    except Unfit:
        return m.node("Where", condition, x, np.float32(-0.5))


# --- Reductions -----------------------------------------------------------------------------------

_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2")
_REDUCTIONS += ("ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd")


@use(*_REDUCTIONS)
def reduction(m: Draft, op_type: str) -> Value:
    x = m.some(2, 3, 4, 5) if m.chance(5, 6) else m.some()
    if op_type in ("ReduceLogSum", "ReduceProd"):
        x = positive(m, x)
    first = 1 if m.free_batch else 0
    pool = list(range(first, x.rank))
    axes = []
    for _ in range(m.number(1, 3)):
        axes += [m.signed(pool.pop(m.number(0, len(pool) - 1)), x.rank)] if pool else []
    keepdims = m.choose([None, 0, 1])
    if m.chance(1, 8) or not axes:
        if m.free_batch or m.chance(1, 2):
            empty = m.choose([None, np.array([], np.int64)])
            return m.node(op_type, x, empty, noop_with_empty_axes=1, keepdims=keepdims)
        return m.node(op_type, x, keepdims=keepdims)
    return m.node(op_type, x, np.array(axes), keepdims=keepdims)


@use("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(m: Draft, op_type: str) -> Value:
    if op_type == "GlobalLpPool" and m.opset > 21:
        raise Unfit  # ONNX Runtime has no kernel for it
    attributes = {"p": m.choose([None, 1, 2, 3])} if op_type == "GlobalLpPool" else {}
    pooled = m.node(op_type, image(m), **attributes)
    return m.node("Flatten", pooled) if m.chance(1, 2) else pooled


# --- Weighted sums --------------------------------------------------------------------------------


@use("Gemm")
def gemm(m: Draft) -> Value:
    x = m.some(2)
    width, out = x.shape[1], m.number(1, 5)
    (width,) = x.sizes(1)
    trans_a, trans_b = m.number(0, 1), m.number(0, 1)
    attributes = {
        "alpha": m.choose([None, 0.5]), "beta": m.choose([None, 2.0]),
        "transA": trans_a or None, "transB": trans_b or None,
    }  # fmt: skip
    if not m.free_batch and m.chance(1, 3):  # B or both on the way
        (rows,) = x.sizes(0)
        inner = width if trans_b else rows
        a = m.weights(*((inner, out) if trans_a else (out, inner)), fan_in=inner)
        if m.chance(1, 3):
            y = m.node("Tanh", x)
            return m.node("Gemm", x, y, transA=trans_a, transB=1 - trans_a)
        return m.node("Gemm", a, x, **attributes)
    a = m.node("Transpose", x) if trans_a else x
    b = m.weights(*((out, width) if trans_b else (width, out)), fan_in=width)
    c = m.choose([None, m.weights(out), m.weights(1, out), m.weights(), m.weights(1)])
    if m.chance(1, 4):
        c = m.node("ReduceMean", x, np.array([1]))
    return m.node("Gemm", a, b, c, **attributes)


@use("MatMul")
def matmul(m: Draft) -> Value:
    x = m.some(1, 2, 3, 4)
    kind = m.number(0, 3)
    if kind == 0 and x.rank >= 3:
        x.sizes(-1, -2)
        perm = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
        pair = [x, m.node("Transpose", x, perm=perm)]
        return m.node("MatMul", *(pair[::-1] if m.chance(1, 2) else pair))
    if kind == 1 and x.rank >= 2 and not (m.free_batch and x.rank == 2):
        (rows,) = x.sizes(-2)
        lead = _lead(m, x)
        shape = (*lead, m.number(1, 4), rows) if m.chance(3, 4) else (rows,)
        return m.node("MatMul", m.weights(*shape, fan_in=rows), x)
    (width,) = x.sizes(-1)
    lead = _lead(m, x) if x.rank > 1 else []
    shape = (*lead, width, m.number(1, 4)) if m.chance(3, 4) else (width,)
    return m.node("MatMul", x, m.weights(*shape, fan_in=width))


def _lead(m: Draft, x: Value) -> list[int]:
    """Axes before a matrix that stands beside those of x."""
    if m.chance(1, 2) or x.rank < 3:
        return []
    size = x.shape[-3] if x.rank > 3 or not m.free_batch else FREE
    return [m.choose([1, size, 2 if size == 1 else 1]) if isinstance(size, int) else 1]


@use("Einsum")
def einsum(m: Draft) -> Value:
    x = m.some(2, 3, 4)
    letters = "bcde"[: x.rank]
    kind = m.number(0, 3)
    if kind == 0:
        (width,) = x.sizes(-1)
        equation = f"{letters},{letters[-1]}z->{letters[:-1]}z"
        equation = m.choose([equation, equation.replace(letters[:-1], "...")])
        return m.node("Einsum", x, m.weights(width, 3, fan_in=width), equation=equation)
    if kind == 1 and x.rank == 3:
        x.sizes(1, 2)
        y = m.node("Tanh", x)
        return m.node("Einsum", x, y, equation=m.choose(["bqc,bkc->bqk", "bqc,bqk->bck"]))
    if kind == 2:
        kept = "".join(letter for i, letter in enumerate(letters) if i == 0 or m.chance(1, 2))
        return m.node("Einsum", x, equation=f"{letters}->{kept}")
    perm = letters[0] + "".join(sorted(letters[1:], reverse=True))
    operands = [x, m.node("Sigmoid", x)]
    return m.node("Einsum", *operands, equation=f"{letters},{letters}->{m.choose([perm, 'b'])}")


def window(m: Draft, x: Value, *, dilated: bool = True) -> dict[str, Any]:
    """Kernel size, strides, dilations and pads that fit the image."""
    sizes = [min(a.shape[2 + axis] for a in x.arrays) for axis in range(x.rank - 2)]
    kernel = [m.number(1, min(3, size)) for size in sizes]
    dilations = [
        m.number(1, 2) if dilated and (k - 1) * 2 + 1 <= size else 1
        for k, size in zip(kernel, sizes, strict=True)
    ]
    given: dict[str, Any] = {"kernel_shape": kernel}
    if any(d > 1 for d in dilations):
        given["dilations"] = dilations
    if m.chance(1, 2):
        given["strides"] = [m.number(1, 3) for _ in sizes]
    mode = m.number(0, 5)
    if mode == 5 and "dilations" not in given:
        given["auto_pad"] = m.choose(["SAME_UPPER", "SAME_LOWER", "VALID"])
    elif mode >= 3:
        ends = [k - 1 for k in kernel] * 2
        given["pads"] = [m.number(0, end) for end in ends]
    return given


@use("Conv")
def conv(m: Draft) -> Value:
    x = image(m)
    (channels,) = x.sizes(1)
    group = m.choose([g for g in (1, 1, 2, 3, channels) if channels % g == 0])
    out = group * m.number(1, max(1, 4 // group))
    given = window(m, x)
    kernel = given.pop("kernel_shape")
    if m.chance(1, 2):
        given["kernel_shape"] = kernel
    fan_in = channels // group * math.prod(kernel)
    weight = m.weights(out, channels // group, *kernel, fan_in=fan_in)
    bias = m.weights(out) if m.chance(1, 2) else None
    y = m.node(
        "Conv", x, weight, bias, group=m.choose([group, group if group > 1 else None]), **given
    )
    return m.node("Relu", y) if m.chance(1, 3) else y


@use("ConvTranspose")
def conv_transpose(m: Draft) -> Value:
    x = image(m)
    (channels,) = x.sizes(1)
    group = m.choose([g for g in (1, 1, 2, channels) if channels % g == 0])
    out = m.number(1, 2)
    given = window(m, x)
    kernel = given.pop("kernel_shape")
    strides = given.get("strides", [1] * len(kernel))
    if "auto_pad" not in given and m.chance(1, 3):
        given["output_padding"] = [m.number(0, stride - 1) for stride in strides]
    weight = m.weights(channels, out, *kernel, fan_in=channels // group * math.prod(kernel))
    bias = m.weights(out * group) if m.chance(1, 2) else None
    return m.node("ConvTranspose", x, weight, bias, group=group, **given)


# --- Normalisation --------------------------------------------------------------------------------


@use("BatchNormalization")
def batch_normalization(m: Draft) -> Value:
    x = m.some(2, 3, 4, 5)
    (channels,) = x.sizes(1)
    variance = np.abs(m.weights(channels)) + np.float32(0.1)
    parameters = [m.weights(channels), m.weights(channels), m.weights(channels), variance]
    return m.node("BatchNormalization", x, *parameters, epsilon=m.choose([None, 0.1]))


@use("Softmax", "LogSoftmax")
def softmax(m: Draft, op_type: str) -> Value:
    x = m.some(2, 3, 4, 5)
    axis = m.choose([None, m.signed(m.axis(x, known=False), x.rank)])
    return m.node(op_type, x, axis=axis)


@use("LayerNormalization", "RMSNormalization")
def layer_normalization(m: Draft, op_type: str) -> Value:
    if op_type == "RMSNormalization" and m.opset < 23:
        raise Unfit
    x = m.some(2, 3, 4, 5)
    known = x.known()
    axis = x.rank - 1
    while axis - 1 in known and axis > (1 if m.free_batch else 0) and m.chance(1, 3):
        axis -= 1
    shape = x.sizes(*range(axis, x.rank))
    if m.chance(1, 6):
        shape = shape[1:] or [1]
    parameters: list[Any] = [m.weights(*shape)]
    if op_type == "LayerNormalization" and m.chance(1, 2):
        parameters.append(m.weights(*shape))
    given = axis - x.rank if axis < x.rank - 1 or m.chance(1, 2) else None
    return m.node(op_type, x, *parameters, axis=given, epsilon=m.choose([1e-2, 0.3]))


@use("InstanceNormalization")
def instance_normalization(m: Draft) -> Value:
    x = image(m)
    (channels,) = x.sizes(1)
    if any(math.prod(array.shape[2:]) < 2 for array in x.arrays):
        raise Unfit
    scale, bias = m.weights(channels), m.weights(channels)
    return m.node("InstanceNormalization", x, scale, bias, epsilon=m.choose([1e-2, 0.3]))


@use("GroupNormalization")
def group_normalization(m: Draft) -> Value:
    if m.opset < 21:
        raise Unfit
    x = image(m)
    (channels,) = x.sizes(1)
    groups = m.choose([g for g in (1, 2, channels) if channels % g == 0])
    if any(math.prod(array.shape[1:]) // groups < 2 for array in x.arrays):
        raise Unfit
    scale, bias = m.weights(channels), m.weights(channels)
    epsilon = m.choose([1e-2, 0.3])
    return m.node("GroupNormalization", x, scale, bias, num_groups=groups, epsilon=epsilon)


@use("LpNormalization")
def lp_normalization(m: Draft) -> Value:
    x = m.some(2, 3, 4, 5)
    axis = m.choose([None, m.signed(m.axis(x, known=False), x.rank)])
    return m.node("LpNormalization", x, axis=axis, p=m.choose([None, 2, 1]))


@use("LRN")
def lrn(m: Draft) -> Value:
    x = image(m, 4)
    size = m.choose([3, 1, 5])
    return m.node("LRN", x, size=size, alpha=m.choose([None, 0.5]), beta=m.choose([None, 0.6]))


# --- Pooling --------------------------------------------------------------------------------------


@use("AveragePool")
def average_pool(m: Draft) -> Value:
    x = image(m)
    given = window(m, x, dilated=m.opset >= 19)
    if m.chance(1, 3) and "auto_pad" not in given:
        given["ceil_mode"] = 1
    if "pads" in given and m.chance(1, 2):
        given["count_include_pad"] = 1
    return m.node("AveragePool", x, **given)


@use("MaxPool")
def max_pool(m: Draft) -> Value:
    x = image(m)
    given = window(m, x)
    if m.chance(1, 3) and "auto_pad" not in given:
        given["ceil_mode"] = 1
    return m.node("MaxPool", x, **given)


# --- Moving numbers -------------------------------------------------------------------------------


@use("Reshape")
def reshape(m: Draft) -> Value:
    x = m.some(2, 3, 4, 5)
    first = 1 if m.free_batch else 0
    if all(isinstance(size, int) for size in x.shape[first:]):
        rest = math.prod(int(size) for size in x.shape[first:])
        factors = []
        for _ in range(m.number(0, 2)):
            factors.append(m.choose([d for d in (1, 2, 3, 4, 5, 6, 7, rest) if rest % d == 0]))
            rest //= factors[-1]
        target = [*factors, rest]
        if m.chance(1, 3):
            target = target[::-1]
        if m.free_batch:
            lead = m.choose([0, 0, -1])
            target = [lead, *target]
        elif m.chance(1, 3):
            target[m.number(0, len(target) - 1)] = -1
        return m.node("Reshape", x, np.array(target))
    if x.rank == 4 and x.sizes(1):
        return m.node("Reshape", x, np.array([0, x.sizes(1)[0], -1]))
    raise Unfit


@use("Reshape")
def tokens(m: Draft) -> Value:
    x = m.some(4)
    (channels,) = x.sizes(1)
    return m.node("Transpose", m.node("Reshape", x, np.array([0, channels, -1])), perm=[0, 2, 1])


@use("Flatten")
def flatten(m: Draft) -> Value:
    x = m.some(2, 3, 4, 5)
    axis = m.choose([None, m.signed(m.number(1 if m.free_batch else 0, x.rank - 1), x.rank)])
    return m.node("Flatten", x, axis=axis)


@use("Squeeze")
def squeeze(m: Draft) -> Value:
    x = m.some(where=lambda v: 1 in v.shape)
    axes = [axis for axis, size in enumerate(x.shape) if size == 1]
    if not m.free_batch and m.chance(1, 4):
        return m.node("Squeeze", x)
    axes = axes[: m.number(1, 3)]
    return m.node("Squeeze", x, np.array([m.signed(axis, x.rank) for axis in axes]))


@use("Unsqueeze")
def unsqueeze(m: Draft) -> Value:
    x = m.some(1, 2, 3, 4)
    axes = sorted({m.number(0, x.rank) for _ in range(m.number(1, 5 - x.rank))})
    rank = x.rank + len(axes)
    return m.node("Unsqueeze", x, np.array([m.signed(axis, rank) for axis in axes]))


@use("Transpose")
def transpose(m: Draft) -> Value:
    x = m.some(2, 3, 4, 5)
    if m.chance(1, 6):
        return m.node("Transpose", x)
    axes = list(range(x.rank))
    perm = [axes.pop(0)] if m.chance(3, 4) else []
    while axes:
        perm.append(axes.pop(m.number(0, len(axes) - 1)))
    return m.node("Transpose", x, perm=perm)


@use("Concat")
def concat(m: Draft) -> Value:
    x = m.some(1, 2, 3, 4, 5)
    axis = m.axis(x, known=m.chance(9, 10))

    def joins(v: Value) -> bool:
        pairs = zip(v.arrays, x.arrays, strict=True)
        beside = [i for i in range(x.rank) if i != axis]
        return all(a.shape[i] == b.shape[i] for a, b in pairs for i in beside)

    parts: list[Any] = [x]
    for _ in range(m.number(0, 2)):
        parts.append(m.some(x.rank, where=joins))
    if m.chance(1, 4) and len(x.known()) == x.rank:
        sizes = x.sizes()
        sizes[axis] = m.number(1, 3)
        parts.append(m.weights(*sizes))
    return m.node("Concat", *parts, axis=m.signed(axis, x.rank))


@use("Split")
def split(m: Draft) -> Value:
    x = m.some(2, 3, 4, 5)
    axis = m.axis(x)
    (size,) = x.sizes(axis)
    given = m.signed(axis, x.rank)
    count = m.number(1, min(size, 3))
    if m.chance(1, 3):
        parts = m.node("Split", x, outputs=count, axis=given, num_outputs=count)
    else:
        cuts = sorted(m.number(1, size) for _ in range(count - 1))
        sizes = np.diff([0, *cuts, size])
        if 0 in sizes:
            raise Unfit
        parts = m.node("Split", x, np.array(sizes), outputs=count, axis=given)
    parts = parts if count > 1 else [parts]
    return m.node("Tanh", m.choose(parts))


@use("Expand")
def expand(m: Draft) -> Value:
    x = m.some(where=lambda v: v.rank > 0)
    sizes = [m.number(2, 3) if size == 1 else 1 for size in x.shape]
    if m.chance(1, 6):
        sizes = [m.number(1, 2), *sizes]
    return m.node("Expand", x, np.array(sizes))


@use("Expand")
def expand_like(m: Draft) -> Value:
    x = m.some(2, 3, 4)
    small = m.node("ReduceMax", x, np.array([m.axis(x, known=False)]))
    return m.node("Expand", small, m.node("Shape", x))


@use("Tile")
def tile(m: Draft) -> Value:
    x = m.some(1, 2, 3, 4)
    repeats = [1 if m.free_batch and i == 0 else m.choose([1, 1, 2]) for i in range(x.rank)]
    return m.node("Tile", x, np.array(repeats))


@use("DepthToSpace")
def depth_to_space(m: Draft) -> Value:
    x = image(m, 4)
    (channels,) = x.sizes(1)
    if channels % 4:
        x = m.node("Conv", x, m.weights(4, channels, 1, 1, fan_in=channels))
    return m.node("DepthToSpace", x, blocksize=2, mode=m.choose([None, "CRD", "DCR"]))


@use("SpaceToDepth")
def space_to_depth(m: Draft) -> Value:
    x = image(m, 4)
    if any(size % 2 for array in x.arrays for size in array.shape[2:]):
        x = m.node("Tile", x, np.array([1, 1, 2, 2]))
    return m.node("SpaceToDepth", x, blocksize=2)


# --- Entries by position --------------------------------------------------------------------------


@use("Slice")
def slice_(m: Draft) -> Value:
    x = m.some(1, 2, 3, 4, 5)
    axes = sorted({m.axis(x, known=m.chance(3, 4)) for _ in range(m.number(1, 2))})
    starts, ends, steps = [], [], []
    for axis in axes:
        size = min(array.shape[axis] for array in x.arrays)
        start, step = m.number(0, size - 1), m.choose([1, 1, 2, -1, -2])
        end = m.choose([FAR, size, size - 1] if step > 0 else [-FAR, 0])
        starts.append(start - (size if m.chance(1, 4) else 0))
        ends.append(end)
        steps.append(step)
    given: list[Any] = [np.array(starts), np.array(ends)]
    given.append(np.array([m.signed(axis, x.rank) for axis in axes]))
    if any(step != 1 for step in steps):
        given.append(np.array(steps))
    return m.node("Slice", x, *given)


def indices(m: Draft, size: int, *shape: int) -> np.ndarray:
    """Random positions in an axis, some counted from its end."""
    kind = m.choose([np.int64, np.int32])
    return np.asarray(m.rng.integers(-size, size, shape), kind)


@use("Gather")
def gather(m: Draft) -> Value:
    x = m.some(1, 2, 3, 4)
    axis = m.axis(x)
    (size,) = x.sizes(axis)
    shape = m.choose([(), (1,), (3,), (2, 2)])
    if x.rank == 1 and not shape:
        shape = (2,)
    return m.node("Gather", x, indices(m, size, *shape), axis=m.signed(axis, x.rank))


@use("GatherElements")
def gather_elements(m: Draft) -> Value:
    x = m.some(2, 3)
    axis = m.axis(x)
    sizes = x.sizes()
    size, sizes[axis] = sizes[axis], m.number(1, 4)
    return m.node("GatherElements", x, indices(m, size, *sizes), axis=m.signed(axis, x.rank))


@use("GatherND")
def gather_nd(m: Draft) -> Value:
    x = m.some(2, 3, 4)
    if m.free_batch:  # the images go behind what is picked
        x = m.node("Transpose", x, perm=[*range(1, x.rank), 0])
    depth = m.number(1, x.rank - 1)
    sizes = x.sizes(*range(depth))
    lead = m.choose([(), (2,), (2, 2)])
    tuples = np.stack([m.rng.integers(-n, n, lead) for n in sizes], axis=-1)
    if not m.free_batch and depth > 1 and m.chance(1, 3):
        tuples = m.rng.integers(-sizes[1], sizes[1], (sizes[0], 2, 1))
        return m.node("GatherND", x, tuples, batch_dims=1)
    return m.node("GatherND", x, tuples)


@use("ScatterND")
def scatter_nd(m: Draft) -> Value:
    x = m.some(2, 3, 4)
    (size,) = x.sizes(m.axis(x) if not m.free_batch else 1)
    if m.free_batch:
        x = m.node("Transpose", x, perm=[1, 0, *range(2, x.rank)])
    (size,) = x.sizes(0)
    kind, count = m.choose([None, "add"]), m.number(1, size)
    places = m.rng.permutation(size)[:count, None]
    if kind == "add" and m.chance(1, 2):
        places = m.rng.integers(0, size, (count, 1))
    updates = m.node("Slice", m.node("Tanh", x), np.array([0]), np.array([count]), np.array([0]))
    data: Any = x
    if len(x.known()) == x.rank and m.chance(1, 4):
        data = m.weights(*x.sizes())
    return m.node("ScatterND", data, places, updates, reduction=kind)


@use("ScatterElements")
def scatter_elements(m: Draft) -> Value:
    x = m.some(2, 3)
    axis = m.axis(x)
    sizes = x.sizes()
    kind, size = m.choose([None, "add"]), sizes[axis]
    places = np.argsort(m.rng.random(sizes), axis=axis)  # each place once
    if kind == "add":
        places = m.rng.integers(-size, size, sizes)
    count = m.number(1, size)
    places = np.take(places, range(count), axis=axis)
    updates = m.node("Slice", m.node("Tanh", x), np.array([0]), np.array([count]), np.array([axis]))
    data: Any = m.weights(*sizes) if m.chance(1, 4) else x
    axis = m.signed(axis, x.rank)
    return m.node("ScatterElements", data, places, updates, axis=axis, reduction=kind)


@use("Trilu")
def trilu(m: Draft) -> Value:
    x = m.some(3, 4, 5)
    return m.node(
        "Trilu", x, m.choose([None, np.int64(1), np.int64(-1)]), upper=m.choose([None, 0])
    )


# --- Mixing along an axis -------------------------------------------------------------------------


@use("Pad")
def pad(m: Draft) -> Value:
    x = m.some(2, 3, 4)
    mode = m.choose([None, "constant", "reflect", "edge", *(["wrap"] if m.opset >= 19 else [])])
    axes = sorted({m.axis(x, known=mode not in (None, "constant")) for _ in range(m.number(1, 2))})
    pads: list[int] = []
    for _ in range(2):
        for axis in axes:
            size = min(array.shape[axis] for array in x.arrays)
            low = -1 if mode in (None, "constant") and size > 2 else 0
            pads.append(m.number(low, min(2, size - 1)))
    value = np.float32(0.5) if mode in (None, "constant") and m.chance(1, 3) else None
    if m.chance(1, 3):
        whole = np.zeros((2, x.rank), np.int64)
        whole[:, axes] = np.array(pads).reshape(2, -1)
        return m.node("Pad", x, whole.reshape(-1), value, mode=mode)
    places = np.array([m.signed(axis, x.rank) for axis in axes])
    return m.node("Pad", x, np.array(pads), value, places, mode=mode)


@use("Resize")
def resize(m: Draft) -> Value:
    x = m.some(3, 4)
    mode = m.choose(["nearest", "linear", "cubic"])
    if mode == "cubic" and x.rank != 4:
        raise Unfit
    coordinates = [None, "asymmetric", "align_corners", "pytorch_half_pixel"]
    nearest = ["floor", "round_prefer_floor", "ceil", None] if mode == "nearest" else [None]
    given = {
        "mode": mode,
        "coordinate_transformation_mode": m.choose(coordinates),
        "nearest_mode": m.choose(nearest),
        "cubic_coeff_a": m.choose([None, -0.5]) if mode == "cubic" else None,
    }
    x_axes = list(range(2, x.rank))
    if m.chance(1, 3) and all(isinstance(x.shape[axis], int) for axis in x_axes):
        sizes = np.array([m.number(1, 9) for _ in x_axes])
        return m.node("Resize", x, None, None, sizes, axes=x_axes, **given)
    factors = [2, 3, 1] if mode == "nearest" else [2, 1.5, 0.6, 1]
    if given["coordinate_transformation_mode"] == "align_corners":
        factors = [2, 3, 1]  # of sizes that come out broken, onnx's evaluator aligns others
    scales = [1, 1, *(m.choose(factors) for _ in x_axes)]
    return m.node("Resize", x, None, np.array(scales, np.float32), **given)


@use("CumSum")
def cum_sum(m: Draft) -> Value:
    x = m.some(2, 3, 4)
    axis = np.int64(m.signed(m.axis(x, known=False), x.rank))
    exclusive, reverse = m.choose([None, 1]), m.choose([None, 1])
    return m.node("CumSum", x, axis, exclusive=exclusive, reverse=reverse)


# --- Rarer ones -----------------------------------------------------------------------------------


@use("Sinh", "Cosh", "Tan", "Asin", "Acos", "Atanh")
def of_small(m: Draft, op_type: str) -> Value:
    return m.node(op_type, m.between(m.some(), -0.9, 0.9))


@use("Asinh", "Atan", "MeanVarianceNormalization")
def plain_as_well(m: Draft, op_type: str) -> Value:
    if op_type != "MeanVarianceNormalization":
        return m.node(op_type, m.some())
    x = m.some(3, 4)
    return m.node(op_type, x, axes=[m.signed(x.rank - 1, x.rank), x.rank - 2])


@use("Acosh")
def acosh(m: Draft) -> Value:
    return m.node("Acosh", m.between(m.some(), 1.1, 3.0))


@use("Shrink")
def shrink(m: Draft) -> Value:
    return m.node("Shrink", m.some(), bias=m.choose([None, 0.2]), lambd=m.choose([None, 0.3]))


@use("Ceil", "Floor", "Round", "Sign", "Hardmax")
def steps(m: Draft, op_type: str) -> Value:
    x = m.some(1, 2, 3, 4)
    return m.node("Mul", x, m.node(op_type, x))


@use("EyeLike")
def eye_like(m: Draft) -> Value:
    x = m.some(2)
    return m.node("Mul", x, m.node("EyeLike", x, k=m.choose([None, 1, -1])))


@use("LpPool")
def lp_pool(m: Draft) -> Value:
    x = image(m)
    return m.node("LpPool", x, p=m.choose([None, 1, 3]), **window(m, x))


@use("Col2Im")
def col2im(m: Draft) -> Value:
    x = image(m, 4)
    channels, height, width = x.sizes(1, 2, 3)
    count = 4 * m.number(1, 2)
    mixed = m.node("Conv", x, m.weights(count, channels, 1, 1, fan_in=channels))
    columns = m.node("Reshape", mixed, np.array([0, count, height * width]))
    if m.chance(1, 2):
        return m.node("Col2Im", columns, np.array([height + 1, width + 1]), np.array([2, 2]))
    sizes = np.array([height * 2, width * 2])
    return m.node("Col2Im", columns, sizes, np.array([2, 2]), strides=[2, 2])


@use("TopK")
def top_k(m: Draft) -> Value:
    x = m.some(2, 3, 4)
    axis = m.axis(x)
    k = m.number(1, x.sizes(axis)[0])
    given = {"axis": m.signed(axis, x.rank), "largest": m.choose([None, 0])}
    return m.node("TopK", x, np.array([k]), outputs=2, **given)[0]


@use("Compress")
def compress(m: Draft) -> Value:
    x = m.some(2, 3, 4)
    axis = m.axis(x)
    kept = m.rng.random(x.sizes(axis)[0]) > 0.4
    return m.node("Compress", x, kept, axis=m.signed(axis, x.rank))


@use("ReverseSequence")
def reverse_sequence(m: Draft) -> Value:
    x = m.some(2, 3, 4)
    images, length = x.sizes(0, 1)
    lengths = m.rng.integers(1, length + 1, images)
    return m.node("ReverseSequence", x, lengths, time_axis=1, batch_axis=0)


@use("CenterCropPad")
def center_crop_pad(m: Draft) -> Value:
    x = m.some(3, 4)
    axes = sorted({m.axis(x), m.axis(x)})
    sizes = np.array([m.number(1, 8) for _ in axes])
    return m.node("CenterCropPad", x, sizes, axes=[m.signed(axis, x.rank) for axis in axes])


@use("OneHot")
def one_hot(m: Draft) -> Value:
    if m.free_batch:
        raise Unfit  # what is on and off would be one image's
    pair = m.node("Reshape", m.some(2, 3), np.array([-1]))
    pair = m.node("Slice", pair, np.array([0]), np.array([2]))
    if pair.shape != (2,):
        raise Unfit
    return m.node("OneHot", m.rng.integers(0, 4, 3), np.int64(4), pair)


@use("TensorScatter")
def tensor_scatter(m: Draft) -> Value:
    if m.opset < 24:
        raise Unfit
    x = m.some(3, 4)
    images, length = x.sizes(0, -2)
    count = m.number(1, length)
    ends = [np.array([number]) for number in (0, count, -2)]
    update = m.node("Slice", m.node("Tanh", x), *ends)
    return m.node("TensorScatter", x, update, m.rng.integers(0, length - count + 1, images))


@use("Attention")
def attention(m: Draft) -> Value:
    if m.opset < 23:
        raise Unfit
    x = m.some(3)
    (width,) = x.sizes(2)
    heads = m.choose([n for n in (1, 2, 3) if width % n == 0])
    others = [m.node("Tanh", x) if m.chance(1, 2) else x for _ in range(2)]
    given = {"q_num_heads": heads, "kv_num_heads": heads, "is_causal": m.choose([None, 1])}
    return m.node("Attention", x, *others, scale=m.choose([None, 0.7]), **given)


@use("RotaryEmbedding")
def rotary_embedding(m: Draft) -> Value:
    if m.opset < 23:
        raise Unfit
    x = m.some(4, where=lambda v: isinstance(v.shape[-1], int) and v.shape[-1] % 2 == 0)
    images, length, width = x.sizes(0, 2, 3)
    tables = [m.weights(images, length, width // 2) for _ in range(2)]
    return m.node("RotaryEmbedding", x, *tables, interleaved=m.choose([None, 1]))


# Operators with a rule that can't be tried so, and why.
WITHOUT: dict[str, str] = {
    "GridSample": "onnx's evaluator overflows at places far outside the picture",
    "AffineGrid": "onnx's evaluator computes it in float32",
    "DeformConv": "onnx's evaluator has it for a batch of one only",
    "RoiAlign": "onnx's evaluator computes it in float32",
    "MaxUnpool": "onnx's evaluator wants its third input",
    "DynamicQuantizeLinear": "its rounding has no derivative, and its scale depends on the image",
    "QuantizeLinear": "numbers on a grid tie, which differences of numbers off it don't see",
    "DequantizeLinear": "as QuantizeLinear",
    "DFT": "of complex numbers, for which the generator has no values",
}
