"""Small models for every gradient rule: one entry per operator of `VJP_RULES`, one case per branch.

`test_vjp_rules` takes the gradient of `y` with respect to `x` in each of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Content = tuple[int, ...] | NDArray[Any]


@dataclass(frozen=True)
class Case:
    """A model from `x` to `y`.

    Attributes:
        name: what is special about it.
        body: its nodes in ONNX's text syntax; a single one goes without ``y =``.
        x: shape of the input, its batch first.
        constants: initializers; a shape stands for random numbers.
        beside: shapes of further inputs, the batch first, which the gradient does not go to.
        free: axes of `x` behind the batch whose size is only known at run time.
        batch_free: whether the batch size may be free; some models fix it.
        opset: of the model.
        reference: whether onnx's reference evaluator can run it; else ONNX Runtime in float64 does.
        at: the input where random numbers won't do, in the order of memory.
        kink: the gradient at `at` for a cotangent of ones, where there is no derivative.
    """

    name: str
    body: str
    x: tuple[int, ...]
    constants: dict[str, Content] = field(default_factory=dict)
    beside: dict[str, tuple[int, ...]] = field(default_factory=dict)
    free: tuple[int, ...] = ()
    batch_free: bool = True
    opset: int = 18
    reference: bool = True
    at: ArrayLike | None = None
    kink: ArrayLike | None = None

    @property
    def nodes(self) -> str:
        """The nodes, each with its result."""
        return (
            self.body
            if "=" in self.body.partition("(")[0].partition("<")[0]
            else (f"y = {self.body}")
        )


def ints(*content: int) -> NDArray[np.int64]:
    return np.array(content, np.int64)


def scalar(content: float) -> NDArray[np.float32]:
    return np.array(content, np.float32)


IMAGE = (2, 3, 6, 5)
FLOAT, DOUBLE = 1, 11  # of onnx.TensorProto
INFINITY = float("inf")

# --- Pointwise --------------------------------------------------------------------------------

POINTWISE = {
    "Identity": [Case("plain", "Identity(x)", IMAGE)],
    "Dropout": [
        Case("at inference", "Dropout(x)", IMAGE),
        Case("with ratio", "Dropout(x, ratio)", IMAGE, {"ratio": scalar(0.5)}),
    ],
    "Cast": [
        Case(
            "to double and back",
            f"t = Cast<to={DOUBLE}>(x)  s = Sigmoid(t)  y = Cast<to={FLOAT}>(s)",
            IMAGE,
        ),
        Case("to its own type", f"Cast<to={FLOAT}>(x)", IMAGE),
    ],
    "Add": [
        Case("one operand", "Add(x, c)", IMAGE, {"c": (3, 1, 1)}),
        Case("the other operand", "Add(c, x)", IMAGE, {"c": scalar(2)}),
        Case("both operands", "s = Sigmoid(x)  y = Add(x, s)", IMAGE),
        Case("the same value twice", "Add(x, x)", IMAGE),
        Case("channels stretched", "Add(x, c)", (2, 1, 4, 5), {"c": (1, 3, 1, 1)}),
        Case("classes stretched, then weighted", "t = Add(x, c)  y = Mul(t, s)", (2, 1),
             {"c": (1, 4), "s": scalar(3)}),
        Case("positions stretched", "Add(x, c)", (2, 3, 1, 5), {"c": (2, 3, 4, 5)},
             batch_free=False),
        Case("positions of free size stretched",
             "p = GlobalAveragePool(x)  y = Add(p, x)", IMAGE, free=(2, 3)),
        Case("leading axes stretched", "Add(x, c)", (2, 5), {"c": (4, 3, 1, 5)}),
        Case("leading axes of free size stretched", "Add(x, c)", (2, 5), {"c": (4, 2, 1, 5)},
             batch_free=False),
    ],
    "Sub": [
        Case("minuend", "Sub(x, c)", IMAGE, {"c": (3, 1, 1)}),
        Case("subtrahend", "Sub(c, x)", IMAGE, {"c": (3, 6, 5)}),
        Case("both", "s = Sigmoid(x)  y = Sub(s, x)", IMAGE),
        Case("subtrahend stretched", "m = ReduceMean(x, axes)  y = Sub(x, m)", IMAGE,
             {"axes": ints(1)}),
    ],
    "Mul": [
        Case("by a number", "Mul(x, c)", IMAGE, {"c": scalar(-2)}),
        Case("by channels", "Mul(c, x)", IMAGE, {"c": (3, 1, 1)}),
        Case("by rows", "Mul(x, c)", IMAGE, {"c": (6, 5)}),
        Case("by one map", "Mul(x, c)", IMAGE, {"c": (1, 1, 6, 5)}),
        Case("by a weight for each class", "Mul(x, c)", (2, 7), {"c": (7,)}),
        Case("by another map", "Mul(x, z)", IMAGE, beside={"z": IMAGE}),
        Case("by a gate per channel", "Mul(z, x)", IMAGE, beside={"z": (2, 3, 1, 1)}),
        Case("by a gate per position", "Mul(x, z)", IMAGE, beside={"z": (2, 1, 6, 5)}),
        Case("by a gate without channels", "Mul(x, z)", (2, 2, 5), beside={"z": (2, 5)},
             batch_free=False),
        Case("of maps of free size", "Mul(x, z)", IMAGE, beside={"z": (2, 3, 1, 1)}, free=(2, 3)),
        Case("by a mask made of comparisons",
             f"b = Greater(x, c)  m = Cast<to={FLOAT}>(b)  y = Mul(x, m)", IMAGE,
             {"c": scalar(0.25)}),
        Case("squared", "Mul(x, x)", IMAGE),
        Case("squeeze and excite",
             "p = GlobalAveragePool(x)  s = Sigmoid(p)  y = Mul(x, s)", IMAGE),
        Case("a gate itself", "Mul(z, x)", (2, 3, 1, 1), beside={"z": IMAGE}),
    ],
    "Div": [
        Case("numerator", "Div(x, c)", IMAGE, {"c": (3, 1, 1)}),
        Case("denominator", "e = Sigmoid(x)  y = Div(c, e)", IMAGE, {"c": (3, 1, 1)}),
        Case("both", "e = Sigmoid(x)  y = Div(x, e)", IMAGE),
        Case("denominator stretched",
             "e = Sigmoid(x)  s = ReduceSum(e, axes)  y = Div(e, s)", IMAGE, {"axes": ints(1)}),
        Case("by what depends on the image", "s = Sigmoid(z)  y = Div(x, s)", IMAGE,
             beside={"z": IMAGE}),
    ],
    "Relu": [
        Case("plain", "Relu(x)", IMAGE),
        Case("classes", "Relu(x)", (2, 7)),
        Case("of free size", "Relu(x)", IMAGE, free=(2, 3)),
        Case("0 at 0", "Relu(x)", (1, 3), at=[-1, 0, 1], kink=[0, 0, 1]),
    ],
    "LeakyRelu": [
        Case("default slope", "LeakyRelu(x)", IMAGE),
        Case("given slope", "LeakyRelu<alpha=0.3>(x)", IMAGE),
        Case("slope 1", "LeakyRelu<alpha=1.0>(x)", IMAGE),
        Case("the slope at 0", "LeakyRelu<alpha=0.25>(x)", (1, 3), at=[-1, 0, 1],
             kink=[0.25, 0.25, 1]),
    ],
    "Clip": [
        Case("both bounds", "Clip(x, low, high)", IMAGE,
             {"low": scalar(-0.5), "high": scalar(0.5)}),
        Case("only a lower bound", "Clip(x, low)", IMAGE, {"low": scalar(-0.5)}),
        Case("only an upper bound", "Clip(x, , high)", IMAGE, {"high": scalar(0.5)}),
        Case("no bound", "Clip(x)", IMAGE),
        Case("infinite upper bound", "Clip(x, low, high)", IMAGE,
             {"low": scalar(0), "high": scalar(INFINITY)}),
        Case("infinite bounds", "Clip(x, low, high)", IMAGE,
             {"low": scalar(-INFINITY), "high": scalar(INFINITY)}),
        Case("bounds of one element", "Clip(x, low, high)", IMAGE,
             {"low": scalar(-1), "high": scalar(0.25)}),
        Case("bounds computed from constants", "low = Neg(high)  y = Clip(x, low, high)", IMAGE,
             {"high": scalar(0.75)}),
        Case("0 at both ends", "Clip(x, low, high)", (1, 5),
             {"low": scalar(0), "high": scalar(6)}, at=[-1, 0, 3, 6, 7], kink=[0, 0, 1, 0, 0]),
    ],
    "HardSigmoid": [
        Case("default", "HardSigmoid(x)", (2, 3, 6, 5), at=np.linspace(-4, 4, 180)),
        Case("given line", "HardSigmoid<alpha=0.5, beta=0.3>(x)", IMAGE),
        Case("0 at both ends", "HardSigmoid<alpha=0.25, beta=0.5>(x)", (1, 5),
             at=[-3, -2, 0, 2, 3], kink=[0, 0, 0.25, 0, 0]),
    ],
    "HardSwish": [
        Case("plain", "HardSwish(x)", IMAGE, at=np.linspace(-5, 5, 180)),
        Case("0 at -3, 1 at 3", "HardSwish(x)", (1, 5), at=[-4, -3, 0, 3, 4],
             kink=[0, 0, 0.5, 1, 1]),
    ],
    "Sigmoid": [
        Case("plain", "Sigmoid(x)", IMAGE),
        Case("classes", "Sigmoid(x)", (2, 7)),
        Case("swish spelled out", "s = Sigmoid(x)  y = Mul(x, s)", IMAGE),
    ],
    "Swish": [
        Case("default slope", "Swish(x)", IMAGE, opset=24),
        Case("given slope", "Swish<alpha=1.7>(x)", IMAGE, opset=24),
    ],
}  # fmt: skip

# --- Reductions -------------------------------------------------------------------------------


def _reductions(op: str) -> list[Case]:
    """Both reductions take their axes in the same ways."""
    return [
        Case("positions", f"{op}(x, axes)", IMAGE, {"axes": ints(2, 3)}),
        Case("positions, dropped", f"{op}<keepdims=0>(x, axes)", IMAGE, {"axes": ints(-1, -2)}),
        Case("axes out of order", f"{op}<keepdims=0>(x, axes)", IMAGE, {"axes": ints(3, 1)}),
        Case("channels", f"{op}<keepdims=1>(x, axes)", IMAGE, {"axes": ints(1)}),
        Case("channels, dropped", f"{op}<keepdims=0>(x, axes)", IMAGE, {"axes": ints(-3)}),
        Case("classes to one", f"{op}(x, axes)", (2, 7), {"axes": ints(1)}),
        Case("everything", f"{op}(x)", IMAGE),
        Case("everything, dropped", f"{op}<keepdims=0>(x)", IMAGE),
        Case("everything by an empty list", f"{op}(x, axes)", (2, 3), {"axes": ints()}),
        Case("nothing", f"{op}<noop_with_empty_axes=1>(x)", IMAGE),
        Case("nothing, dropped",
             f"{op}<noop_with_empty_axes=1, keepdims=0>(x, axes)", IMAGE, {"axes": ints()}),
        Case("positions of free size", f"{op}(x, axes)", IMAGE, {"axes": ints(2, 3)}, free=(2, 3)),
        Case("one of two free axes, dropped", f"{op}<keepdims=0>(x, axes)", IMAGE,
             {"axes": ints(2)}, free=(2, 3)),
        Case("what was reduced already",
             f"t = {op}<keepdims=0>(x, rows)  y = {op}<keepdims=0>(t, columns)", IMAGE,
             {"rows": ints(2), "columns": ints(-1)}),
        Case("an axis before the batch",
             f"t = Transpose<perm=[1, 0, 2]>(x)  y = {op}<keepdims=0>(t, axes)", (2, 3, 4),
             {"axes": ints(0)}),
    ]  # fmt: skip


REDUCTIONS = {
    "ReduceMean": _reductions("ReduceMean"),
    "ReduceSum": _reductions("ReduceSum"),
    "GlobalAveragePool": [
        Case("an image", "GlobalAveragePool(x)", IMAGE),
        Case("a row", "GlobalAveragePool(x)", (2, 3, 4)),
        Case("a volume", "GlobalAveragePool(x)", (2, 3, 2, 3, 2)),
        Case("of free size", "GlobalAveragePool(x)", IMAGE, free=(2, 3)),
        Case("half of free size", "GlobalAveragePool(x)", IMAGE, free=(3,)),
        Case("a single position", "GlobalAveragePool(x)", (2, 3, 1, 1)),
        Case("a head", "p = GlobalAveragePool(x)  f = Flatten(p)  y = Gemm<transB=1>(f, w, b)",
             IMAGE, {"w": (4, 3), "b": (4,)}),
    ],
}  # fmt: skip

# --- Weighted sums ----------------------------------------------------------------------------

LINEAR = {
    "Gemm": [
        Case("plain", "Gemm(x, b, c)", (2, 5), {"b": (5, 4), "c": (4,)}),
        Case("without C", "Gemm(x, b)", (2, 5), {"b": (5, 4)}),
        Case("transB", "Gemm<transB=1>(x, b, c)", (2, 5), {"b": (4, 5), "c": (4,)}),
        Case("alpha", "Gemm<transB=1, alpha=0.5, beta=2.0>(x, b, c)", (2, 5),
             {"b": (4, 5), "c": (4,)}),
        Case("transA", "t = Transpose(x)  y = Gemm<transA=1>(t, b)", (2, 5), {"b": (5, 4)}),
        Case("transA and transB", "t = Transpose(x)  y = Gemm<transA=1, transB=1>(t, b)", (2, 5),
             {"b": (4, 5)}),
        Case("B on path", "t = Transpose(x)  y = Gemm<alpha=3.0>(a, t)", (2, 5),
             {"a": (2, 5)}, batch_free=False),
        Case("B on path, transB", "Gemm<transB=1>(a, x)", (2, 5), {"a": (2, 5)}, batch_free=False),
        Case("B on path, transA", "Gemm<transA=1>(a, x)", (2, 5), {"a": (2, 3)}, batch_free=False),
        Case("A and B on path", "Gemm<transB=1>(x, x)", (2, 5), batch_free=False),
        Case("A, B and C on path, both transposed",
             "s = Sigmoid(x)  y = Gemm<transA=1, transB=1, alpha=0.5, beta=3.0>(x, s, x)", (3, 3),
             batch_free=False),
        Case("only C on path", "Gemm<beta=0.5>(a, b, x)", (2, 5), {"b": (3, 5)},
             beside={"a": (2, 3)}),
        Case("C on path, stretched", "Gemm(a, b, x)", (2, 1), {"b": (3, 5)}, beside={"a": (2, 3)}),
        Case("A and C on path", "Gemm(x, b, x)", (2, 5), {"b": (5, 5)}),
    ],
    "MatMul": [
        Case("a matrix", "MatMul(x, b)", (2, 5), {"b": (5, 4)}),
        Case("a matrix that depends on the image", "MatMul(x, b)", (2, 3, 5),
             beside={"b": (2, 5, 4)}),
        Case("batch axes", "MatMul(x, b)", (2, 3, 5), {"b": (5, 4)}),
        Case("batch axes on both", "MatMul(x, b)", (2, 1, 3, 5), {"b": (4, 5, 2)}),
        Case("B on path", "MatMul(a, x)", (2, 3, 5), {"a": (4, 3)}),
        Case("B on path, stretched", "MatMul(a, x)", (2, 1, 3, 5), {"a": (4, 2, 3)}),
        Case("both on path, x x^T", "t = Transpose<perm=[0, 2, 1]>(x)  y = MatMul(x, t)",
             (2, 3, 5)),
        Case("both on path, matrices", "t = Transpose(x)  y = MatMul(x, t)", (2, 5),
             batch_free=False),
        Case("of free size", "MatMul(x, b)", (2, 3, 5), {"b": (5, 4)}, free=(1,)),
    ],
    "Conv": [
        Case("plain", "Conv(x, w)", IMAGE, {"w": (4, 3, 3, 3)}),
        Case("bias", "Conv(x, w, b)", IMAGE, {"w": (4, 3, 3, 2), "b": (4,)}),
        Case("pads", "Conv<pads=[1, 1, 1, 1]>(x, w)", IMAGE, {"w": (4, 3, 3, 3)}),
        Case("uneven pads", "Conv<pads=[0, 2, 1, 1]>(x, w)", IMAGE, {"w": (4, 3, 3, 3)}),
        Case("strides that fit", "Conv<strides=[2, 2], pads=[1, 1, 0, 1]>(x, w)", IMAGE,
             {"w": (4, 3, 3, 3)}),
        Case("strides that leave a rest", "Conv<strides=[2, 3]>(x, w)", (2, 2, 8, 9),
             {"w": (3, 2, 3, 3)}),
        Case("strides beyond the kernel", "Conv<strides=[4, 4]>(x, w)", (2, 2, 9, 8),
             {"w": (3, 2, 2, 2)}),
        Case("one axis with end padding, one with a rest",
             "Conv<strides=[2, 2], pads=[1, 0, 1, 0]>(x, w)", (2, 2, 7, 8), {"w": (3, 2, 3, 3)}),
        Case("dilations", "Conv<dilations=[2, 1], pads=[1, 1, 1, 1]>(x, w)", IMAGE,
             {"w": (4, 3, 3, 3)}),
        Case("dilations and strides", "Conv<dilations=[3, 2], strides=[2, 2]>(x, w)", (2, 2, 10, 8),
             {"w": (3, 2, 3, 3)}),
        Case("pads beyond the kernel", "Conv<pads=[3, 3, 3, 3], strides=[2, 2]>(x, w)", IMAGE,
             {"w": (4, 3, 2, 2)}),
        Case("groups", "Conv<group=2, pads=[1, 1, 1, 1]>(x, w)", (2, 4, 5, 5), {"w": (6, 2, 3, 3)}),
        Case("depthwise", "Conv<group=4, strides=[2, 2], pads=[1, 1, 1, 1]>(x, w)", (2, 4, 5, 6),
             {"w": (4, 1, 3, 3)}),
        Case("SAME_UPPER", 'Conv<auto_pad="SAME_UPPER", strides=[2, 2]>(x, w)', (2, 2, 6, 7),
             {"w": (3, 2, 3, 3)}),
        Case("SAME_LOWER", 'Conv<auto_pad="SAME_LOWER", strides=[2, 2]>(x, w)', (2, 2, 6, 7),
             {"w": (3, 2, 3, 3)}),
        Case("SAME_UPPER, kernel smaller than the stride",
             'Conv<auto_pad="SAME_UPPER", strides=[3, 3]>(x, w)', (2, 2, 7, 8),
             {"w": (3, 2, 2, 2)}),
        Case("VALID", 'Conv<auto_pad="VALID", strides=[2, 2]>(x, w)', (2, 2, 6, 7),
             {"w": (3, 2, 3, 3)}),
        Case("1x1", "Conv(x, w, b)", IMAGE, {"w": (4, 3, 1, 1), "b": (4,)}),
        Case("1x1, strides", "Conv<strides=[2, 2]>(x, w)", IMAGE, {"w": (4, 3, 1, 1)}),
        Case("1x1, groups", "Conv<group=3>(x, w)", IMAGE, {"w": (6, 1, 1, 1)}),
        Case("1x1, pads", "Conv<pads=[1, 0, 1, 0]>(x, w)", IMAGE, {"w": (4, 3, 1, 1)}),
        Case("1x1 of free size", "Conv(x, w)", IMAGE, {"w": (4, 3, 1, 1)}, free=(2, 3)),
        Case("a head of maps",
             "c = Conv(x, w)  r = Relu(c)  p = GlobalAveragePool(r)  y = Flatten(p)", IMAGE,
             {"w": (4, 3, 1, 1)}),
        Case("one axis", "Conv<strides=[2], pads=[1, 1]>(x, w)", (2, 3, 8), {"w": (4, 3, 3)}),
        Case("three axes", "Conv<strides=[1, 2, 1], pads=[0, 1, 0, 1, 0, 0]>(x, w)",
             (2, 2, 3, 4, 3), {"w": (3, 2, 2, 2, 2)}),
        Case("of free size", "Conv<pads=[1, 1, 1, 1]>(x, w)", IMAGE, {"w": (4, 3, 3, 3)},
             free=(2, 3)),
        Case("of free size, strides", "Conv<strides=[2, 3], pads=[1, 0, 1, 1]>(x, w)",
             (2, 2, 8, 9), {"w": (3, 2, 3, 3)}, free=(2, 3)),
        Case("half of free size, strides beyond the kernel", "Conv<strides=[4, 4]>(x, w)",
             (2, 2, 9, 8), {"w": (3, 2, 2, 2)}, free=(3,)),
        Case("weights computed from constants", "w = Mul(v, s)  y = Conv(x, w)", IMAGE,
             {"v": (4, 3, 3, 3), "s": scalar(0.5)}),
    ],
}  # fmt: skip

# --- Normalisation ----------------------------------------------------------------------------

STATISTICS = {
    "scale": np.array([1.5, -0.5, 2], np.float32), "bias": (3,), "mean": (3,),
    "variance": np.array([0.5, 2, 1e-6], np.float32),
}  # fmt: skip

NORMALIZATION = {
    "BatchNormalization": [
        Case("maps", "BatchNormalization(x, scale, bias, mean, variance)", IMAGE, STATISTICS),
        Case("epsilon", "BatchNormalization<epsilon=0.5>(x, scale, bias, mean, variance)", IMAGE,
             STATISTICS),
        Case("vectors", "BatchNormalization(x, scale, bias, mean, variance)", (2, 3), STATISTICS),
        Case("rows of free size", "BatchNormalization(x, scale, bias, mean, variance)", (2, 3, 4),
             STATISTICS, free=(2,)),
    ],
    "Softmax": [
        Case("classes", "Softmax(x)", (2, 7)),
        Case("channels", "Softmax<axis=1>(x)", IMAGE),
        Case("rows", "Softmax<axis=-2>(x)", IMAGE),
        Case("of free size", "Softmax(x)", IMAGE, free=(3,)),
    ],
    "LogSoftmax": [
        Case("classes", "LogSoftmax(x)", (2, 7)),
        Case("channels", "LogSoftmax<axis=1>(x)", IMAGE),
        Case("rows", "LogSoftmax<axis=-2>(x)", IMAGE),
    ],
}  # fmt: skip

# --- Pooling ----------------------------------------------------------------------------------

POOLING = {
    "AveragePool": [
        Case("plain", "AveragePool<kernel_shape=[2, 2], strides=[2, 2]>(x)", (2, 3, 6, 4)),
        Case("overlap", "AveragePool<kernel_shape=[3, 2]>(x)", IMAGE),
        Case("a rest", "AveragePool<kernel_shape=[2, 2], strides=[3, 4]>(x)", (2, 3, 7, 8)),
        Case("the whole image", "AveragePool<kernel_shape=[6, 5]>(x)", IMAGE),
        Case("padding left out",
             "AveragePool<kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]>(x)", IMAGE),
        Case("padding counted",
             "AveragePool<kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], "
             "count_include_pad=1>(x)", IMAGE),
        Case("the whole padded image, padding left out",
             "AveragePool<kernel_shape=[6, 5], pads=[1, 1, 1, 1]>(x)", IMAGE),
        Case("uneven pads",
             "AveragePool<kernel_shape=[3, 2], pads=[2, 0, 1, 1]>(x)", IMAGE),
        Case("SAME_UPPER",
             'AveragePool<kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER">(x)', IMAGE),
        Case("SAME_LOWER",
             'AveragePool<kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER">(x)', IMAGE),
        Case("ceil_mode",
             "AveragePool<kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1>(x)", (2, 3, 5, 6)),
        Case("ceil_mode, padding counted",
             "AveragePool<kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, "
             "count_include_pad=1>(x)", (2, 3, 6, 6)),
        Case("ceil_mode, padding left out",
             "AveragePool<kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1>(x)",
             (2, 3, 6, 6)),
        Case("dilations", "AveragePool<kernel_shape=[2, 2], dilations=[2, 3]>(x)", IMAGE,
             opset=19),
        Case("dilations and pads",
             "AveragePool<kernel_shape=[2, 2], dilations=[2, 2], pads=[1, 1, 1, 1]>(x)", IMAGE,
             opset=19),
        Case("one axis", "AveragePool<kernel_shape=[3], pads=[1, 0]>(x)", (2, 3, 7)),
        Case("three axes", "AveragePool<kernel_shape=[2, 1, 2], strides=[1, 2, 1]>(x)",
             (2, 2, 3, 4, 3)),
        Case("of free size", "AveragePool<kernel_shape=[2, 3], strides=[2, 2]>(x)", IMAGE,
             free=(2, 3)),
    ],
    "MaxPool": [
        Case("plain", "MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(x)", (2, 3, 6, 4)),
        Case("overlap", "MaxPool<kernel_shape=[3, 2]>(x)", IMAGE),
        Case("pads", "MaxPool<kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]>(x)", IMAGE),
        Case("ceil_mode", "MaxPool<kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1>(x)", IMAGE),
        Case("dilations", "MaxPool<kernel_shape=[2, 2], dilations=[2, 3]>(x)", IMAGE),
        Case("SAME_LOWER",
             'MaxPool<kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER">(x)', IMAGE,
             reference=False),
        Case("column-major indices", "MaxPool<kernel_shape=[2, 2], storage_order=1>(x)", IMAGE),
        Case("one axis", "MaxPool<kernel_shape=[3], pads=[1, 0]>(x)", (2, 3, 7), reference=False),
        Case("three axes", "MaxPool<kernel_shape=[2, 1, 2], strides=[1, 2, 1]>(x)",
             (2, 2, 3, 4, 3)),
        Case("of free size", "MaxPool<kernel_shape=[3, 3], strides=[2, 2]>(x)", IMAGE,
             free=(2, 3)),
        Case("the first of equals", "MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(x)",
             (1, 1, 2, 4), at=[1, 3, 5, 5, 3, 3, 5, 5], kink=[0, 1, 1, 0, 0, 0, 0, 0]),
        Case("the first of equals, overlapping", "MaxPool<kernel_shape=[2]>(x)",
             (1, 1, 4), at=[0, 0, 0, 0], kink=[1, 1, 1, 0]),
    ],
}  # fmt: skip

# --- Moving numbers ---------------------------------------------------------------------------

SHAPING = {
    "Reshape": [
        Case("drops axes of size 1", "Reshape(x, s)", (2, 5, 1, 1), {"s": ints(0, 5)}),
        Case("inserts axes of size 1", "Reshape(x, s)", (2, 5), {"s": ints(0, 1, 5, 1)}),
        Case("merges", "Reshape(x, s)", IMAGE, {"s": ints(0, -1)}),
        Case("splits", "Reshape(x, s)", (2, 12), {"s": ints(-1, 3, 4)}),
        Case("merges the batch", "Reshape(x, s)", IMAGE, {"s": ints(-1, 5)}),
        Case("an axis of size 1 before the batch", "Reshape(x, s)", (2, 5),
             {"s": ints(1, -1, 5)}),
        Case("keeps a free axis", "Reshape(x, s)", (2, 1, 3, 5), {"s": ints(0, 3, -1)}, free=(3,)),
        Case("merges two free axes", "Reshape(x, s)", IMAGE, {"s": ints(0, 3, -1)}, free=(2, 3)),
        Case("to a shape computed from constants", "s = Neg(n)  y = Reshape(x, s)", (2, 6),
             {"n": ints(1, -3, -2)}),
    ],
    "Flatten": [
        Case("maps", "Flatten(x)", IMAGE),
        Case("pooled maps", "Flatten(x)", (2, 3, 1, 1)),
        Case("in the middle", "Flatten<axis=2>(x)", IMAGE),
        Case("everything", "Flatten<axis=0>(x)", IMAGE),
        Case("of free size", "Flatten(x)", IMAGE, free=(2, 3)),
    ],
    "Squeeze": [
        Case("given axes", "Squeeze(x, axes)", (2, 3, 1, 1), {"axes": ints(2, -1)}),
        Case("all", "Squeeze(x)", (2, 1, 3, 1), batch_free=False),
        Case("beside a free axis", "Squeeze(x, axes)", (2, 3, 1, 4), {"axes": ints(2)},
             free=(3,)),
    ],
    "Unsqueeze": [
        Case("at the end", "Unsqueeze(x, axes)", (2, 3), {"axes": ints(-1, 2)}),
        Case("in the middle", "Unsqueeze(x, axes)", (2, 3), {"axes": ints(1)}),
        Case("before the batch", "Unsqueeze(x, axes)", (2, 3), {"axes": ints(0)}),
    ],
    "Transpose": [
        Case("to channels last", "Transpose<perm=[0, 2, 3, 1]>(x)", IMAGE),
        Case("to channels first", "Transpose<perm=[0, 3, 1, 2]>(x)", IMAGE),
        Case("reversed", "Transpose(x)", (2, 3, 4)),
        Case("the batch moved", "Transpose<perm=[1, 0, 2]>(x)", (2, 3, 4)),
        Case("of free size", "Transpose<perm=[0, 2, 3, 1]>(x)", IMAGE, free=(2,)),
    ],
    "Concat": [
        Case("channels", "Concat<axis=1>(c, x)", IMAGE, {"c": (2, 2, 6, 5)}, batch_free=False),
        Case("channels, both on path", "s = Sigmoid(x)  y = Concat<axis=-3>(x, s)", IMAGE),
        Case("rows", "r = Relu(x)  y = Concat<axis=2>(r, x, x)", IMAGE),
        Case("columns", "Concat<axis=3>(z, x)", IMAGE, beside={"z": (2, 3, 6, 2)}),
        Case("classes", "Concat<axis=1>(z, x)", (2, 4), beside={"z": (2, 3)}),
        Case("images", "s = Sigmoid(x)  y = Concat<axis=0>(s, x)", (2, 4), batch_free=False),
        Case("one only", "Concat<axis=1>(x)", IMAGE),
        Case("beside a free axis", "s = Sigmoid(x)  y = Concat<axis=1>(x, s)", IMAGE, free=(2, 3)),
    ],
    "Pad": [
        Case("every axis", "Pad(x, pads)", IMAGE, {"pads": ints(0, 0, 1, 2, 0, 1, 0, 1)}),
        Case("given axes", "Pad(x, pads, , axes)", IMAGE,
             {"pads": ints(1, 0, 2, 3), "axes": ints(-1, 2)}),
        Case("a value", "Pad(x, pads, value)", IMAGE,
             {"pads": ints(0, 0, 1, 1, 0, 0, 1, 1), "value": scalar(3)}),
        Case("negative", "Pad(x, pads)", IMAGE, {"pads": ints(0, 0, -1, 0, 0, 0, 0, -2)},
             reference=False),
        Case("both signs", "Pad(x, pads, , axes)", IMAGE,
             {"pads": ints(-1, 2), "axes": ints(2)}, reference=False),
        Case("of free size", "Pad(x, pads)", IMAGE, {"pads": ints(0, 0, 1, 0, 0, 0, 2, -1)},
             free=(2, 3), reference=False),
    ],
}  # fmt: skip

VJP_CASES: dict[str, list[Case]] = {
    **POINTWISE,
    **REDUCTIONS,
    **LINEAR,
    **NORMALIZATION,
    **POOLING,
    **SHAPING,
}
