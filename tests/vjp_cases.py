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
BLOCKS = (2, 16, 6, 4)  # channels that ONNX Runtime keeps together
FLOAT, DOUBLE = 1, 11  # of onnx.TensorProto
INFINITY = float("inf")


def around(bound: float) -> list[float]:
    """The float32 below `bound`, itself, and the one above."""
    single = np.float32(bound)
    return [float(np.nextafter(single, np.float32(to))) for to in (-9, bound, 9)]


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
    "CastLike": [
        Case("to double and back", "t = CastLike(x, d)  s = Sigmoid(t)  y = CastLike(s, f)", IMAGE,
             {"d": np.array(0.0), "f": scalar(0)}),
        Case("a number to the type of the image", "t = CastLike(c, x)  y = Mul(x, t)", IMAGE,
             {"c": np.array(2.0)}),
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
        Case("by its sigmoid", "s = Sigmoid(x)  y = Mul(x, s)", IMAGE),
        Case("by its sigmoid, behind it", "s = Sigmoid(x)  y = Mul(s, x)", (2, 7)),
        Case("by its sigmoid, which is read twice", "s = Sigmoid(x)  p = Mul(x, s)  y = Add(p, s)",
             IMAGE),
        Case("by its sigmoid, blocks of channels",
             "c = Conv(x, w)  s = Sigmoid(c)  y = Mul(c, s)", BLOCKS, {"w": (16, 16, 1, 1)}),
        Case("by a gate, blocks of channels",
             "p = GlobalAveragePool(x)  c = Conv(p, w)  s = Sigmoid(c)  y = Mul(x, s)", BLOCKS,
             {"w": (16, 16, 1, 1)}),
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
        Case("blocks of channels", "Relu(x)", BLOCKS),
        Case("blocks of channels, between convolutions",
             "c = Conv(x, w)  r = Relu(c)  d = Conv(r, w)  s = Add(d, x)  y = Relu(s)", BLOCKS,
             {"w": (16, 16, 1, 1)}),
        Case("blocks of channels, behind a normalisation",
             "n = BatchNormalization(x, s, s, s, v)  r = Relu(n)  y = Conv(r, w)", BLOCKS,
             {"s": (16,), "v": np.linspace(0.5, 2, 16, dtype=np.float32), "w": (4, 16, 1, 1)}),
        Case("blocks of channels, then averaged",
             "r = Relu(x)  p = GlobalAveragePool(r)  f = Flatten(p)  y = Gemm(f, w)", BLOCKS,
             {"w": (16, 4)}),
        Case("blocks of channels, 0 at 0 and 1 at small numbers", "Relu(x)", (1, 16, 2, 1),
             at=[0, 1e-37, -1e-37, 1e-4] * 8, kink=[0, 1, 0, 1] * 8),
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
        Case("bounds found at run time",
             "m = ReduceMax<keepdims=0>(z)  l = Neg(m)  y = Clip(x, l, m)", IMAGE,
             beside={"z": (2, 1)}),
        Case("lower bound on path", "low = ReduceMean<keepdims=0>(x)  y = Clip(z, low, high)",
             (2, 5), {"high": scalar(0.5)}, beside={"z": (2, 5)}),
        Case("upper bound on path", "high = ReduceMean<keepdims=0>(x)  y = Clip(x, low, high)",
             IMAGE, {"low": scalar(-0.5)}),
        Case("bounds that cross", "high = ReduceMean<keepdims=0>(x)  low = Add(high, one)"
             "  y = Clip(z, low, high)", (2, 5), {"one": scalar(1)}, beside={"z": (2, 5)}),
        Case("0 at both ends", "Clip(x, low, high)", (1, 5),
             {"low": scalar(0), "high": scalar(6)}, at=[-1, 0, 3, 6, 7], kink=[0, 0, 1, 0, 0]),
        Case("ends to the last float", "Clip(x, low, high)", (1, 6),
             {"low": scalar(-0.3), "high": scalar(6)}, at=around(-0.3) + around(6),
             kink=[0, 0, 1, 1, 0, 0]),
        Case("blocks of channels, relu6", "Clip(x, low, high)", BLOCKS,
             {"low": scalar(0), "high": scalar(0.5)}),
        Case("blocks of channels, both bounds", "Clip(x, low, high)", BLOCKS,
             {"low": scalar(-0.5), "high": scalar(0.5)}),
        Case("blocks of channels, ends to the last float", "Clip(x, low, high)", (1, 16, 2, 1),
             {"low": scalar(0), "high": scalar(6)}, at=[*around(6), -1e-30, 0, 1e-30, 3, 9] * 4,
             kink=[1, 0, 0, 0, 0, 1, 1, 0] * 4),
    ],
    "HardSigmoid": [
        Case("default", "HardSigmoid(x)", (2, 3, 6, 5), at=np.linspace(-4, 4, 180)),
        Case("given line", "HardSigmoid<alpha=0.5, beta=0.3>(x)", IMAGE),
        Case("0 at both ends", "HardSigmoid<alpha=0.25, beta=0.5>(x)", (1, 5),
             at=[-3, -2, 0, 2, 3], kink=[0, 0, 0.25, 0, 0]),
        Case("blocks of channels", "HardSigmoid(x)", (2, 16, 3, 2), at=np.linspace(-4, 4, 192)),
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
    "Neg": [Case("plain", "Neg(x)", IMAGE)],
    "Abs": [
        Case("plain", "Abs(x)", IMAGE),
        Case("0 at 0", "Abs(x)", (1, 3), at=[-1, 0, 1], kink=[-1, 0, 1]),
    ],
    "Exp": [Case("plain", "Exp(x)", IMAGE), Case("classes", "Exp(x)", (2, 7))],
    "Log": [Case("plain", "e = Sigmoid(x)  y = Log(e)", IMAGE)],
    "Sqrt": [Case("plain", "e = Sigmoid(x)  y = Sqrt(e)", IMAGE)],
    "Reciprocal": [Case("plain", "e = Sigmoid(x)  y = Reciprocal(e)", IMAGE)],
    "Erf": [
        Case("plain", "Erf(x)", IMAGE),
        Case("gelu spelled out",
             "a = Mul(x, c)  e = Erf(a)  b = Add(e, one)  d = Mul(x, b)  y = Mul(d, half)",
             IMAGE, {"c": scalar(0.5**0.5), "one": scalar(1), "half": scalar(0.5)}),
    ],
    "Tanh": [
        Case("plain", "Tanh(x)", IMAGE),
        Case("of free size", "Tanh(x)", IMAGE, free=(2, 3)),
    ],
    "Gelu": [
        Case("exact", "Gelu(x)", IMAGE, opset=20),
        Case("by tanh", 'Gelu<approximate="tanh">(x)', IMAGE, opset=20),
        Case("tokens", "Gelu(x)", (2, 4, 6), opset=20, free=(1,)),
    ],
    "Softplus": [Case("plain", "Softplus(x)", IMAGE)],
    "Softsign": [Case("plain", "Softsign(x)", IMAGE)],
    "Mish": [
        Case("plain", "Mish(x)", IMAGE),
        Case("classes", "Mish(x)", (2, 7)),
    ],
    "Elu": [
        Case("default", "Elu(x)", IMAGE),
        Case("alpha", "Elu<alpha=0.3>(x)", IMAGE),
        Case("alpha at 0", "Elu<alpha=0.25>(x)", (1, 2), at=[0, 1], kink=[0.25, 1]),
    ],
    "Celu": [
        Case("default", "Celu(x)", IMAGE),
        Case("alpha", "Celu<alpha=0.3>(x)", IMAGE),
        Case("1 at 0", "Celu<alpha=0.25>(x)", (1, 2), at=[0, 1], kink=[1, 1]),
    ],
    "Selu": [
        Case("default", "Selu(x)", IMAGE),
        Case("given alpha and gamma", "Selu<alpha=0.5, gamma=2.0>(x)", IMAGE),
        Case("alpha gamma at 0", "Selu<alpha=0.25, gamma=2.0>(x)", (1, 2), at=[0, 1],
             kink=[0.5, 2]),
    ],
    "PRelu": [
        Case("a slope per channel", "PRelu(x, s)", IMAGE, {"s": (3, 1, 1)}),
        Case("one slope", "PRelu(x, s)", (2, 7), {"s": scalar(0.2)}),
        Case("a slope per entry", "PRelu(x, s)", IMAGE, {"s": (3, 6, 5)}),
        Case("slope on path", "m = ReduceMean(x, axes)  y = PRelu(z, m)", IMAGE,
             {"axes": ints(2, 3)}, beside={"z": IMAGE}),
        Case("both on path", "t = Tanh(x)  y = PRelu(x, t)", IMAGE),
        Case("the slope at 0", "PRelu(x, s)", (1, 3), {"s": scalar(0.25)}, at=[-1, 0, 1],
             kink=[0.25, 0.25, 1]),
    ],
    "ThresholdedRelu": [
        Case("default", "ThresholdedRelu(x)", IMAGE),
        Case("alpha", "ThresholdedRelu<alpha=0.3>(x)", IMAGE),
        Case("0 at alpha", "ThresholdedRelu<alpha=0.5>(x)", (1, 3), at=[0.25, 0.5, 1],
             kink=[0, 0, 1]),
    ],
    "Shrink": [
        Case("hard", "Shrink<lambd=0.4>(x)", IMAGE),
        Case("soft", "Shrink<lambd=0.4, bias=0.4>(x)", IMAGE),
        Case("0 at the ends", "Shrink(x)", (1, 3), at=[-0.5, 0.5, 1], kink=[0, 0, 1]),
    ],
    "Pow": [
        Case("squared", "Pow(x, p)", IMAGE, {"p": scalar(2)}),
        Case("cubed, by an integer", "Pow(x, p)", IMAGE, {"p": ints(3)}),
        Case("to the 1", "Pow(x, p)", IMAGE, {"p": scalar(1)}),
        Case("to the 0", "Pow(x, p)", IMAGE, {"p": scalar(0)}),
        Case("the square at 0", "Pow(x, p)", (1, 3), {"p": scalar(2)}, at=[-1, 0, 1],
             kink=[-2, 0, 2]),
        Case("to the 1, at 0", "Pow(x, p)", (1, 2), {"p": scalar(1)}, at=[0, 1], kink=[1, 1]),
        Case("to the 0, at 0", "Pow(x, p)", (1, 2), {"p": scalar(0)}, at=[0, 1], kink=[0, 0]),
        Case("root", "e = Sigmoid(x)  y = Pow(e, p)", IMAGE, {"p": scalar(0.5)}),
        Case("negative", "e = Sigmoid(x)  y = Pow(e, p)", IMAGE, {"p": scalar(-0.5)}),
        Case("a power per channel", "e = Sigmoid(x)  y = Pow(e, p)", IMAGE,
             {"p": np.array([[[0.5]], [[2]], [[1.5]]], np.float32)}),
        Case("exponent on path", "t = Tanh(x)  y = Pow(b, t)", IMAGE,
             {"b": np.array([[[0.5]], [[2]], [[1.5]]], np.float32)}),
        Case("both on path", "e = Sigmoid(x)  y = Pow(e, x)", IMAGE),
        Case("generalised mean pooling",
             "c = Clip(x, low)  p = Pow(c, three)  m = GlobalAveragePool(p)  y = Pow(m, third)",
             IMAGE, {"low": scalar(1e-6), "three": scalar(3), "third": scalar(1 / 3)}),
    ],
    "Where": [
        Case("first", "b = Greater(z, c)  y = Where(b, x, z)", IMAGE, {"c": scalar(0)},
             beside={"z": IMAGE}),
        Case("second", "b = Greater(z, c)  y = Where(b, z, x)", IMAGE, {"c": scalar(0)},
             beside={"z": IMAGE}),
        Case("both", "b = Greater(x, c)  t = Tanh(x)  y = Where(b, x, t)", IMAGE,
             {"c": scalar(0.25)}),
        Case("a fixed condition", "Where(c, x, minus)", (2, 4),
             {"c": np.array([True, False, True, True]), "minus": scalar(-9)}),
        Case("a fixed condition, both stretched",
             "t = Tanh(x)  y = Where(c, x, t)", (2, 1), {"c": np.array([[True, False, True]])}),
        Case("a condition per image", "b = Greater(z, c)  y = Where(b, x, c)", IMAGE,
             {"c": scalar(0)}, beside={"z": (2, 1, 1, 1)}),
    ],
    "Sum": [
        Case("one", "Sum(x)", IMAGE),
        Case("three", "t = Tanh(x)  y = Sum(x, c, t)", IMAGE, {"c": (3, 1, 1)}),
        Case("stretched", "m = GlobalAveragePool(x)  y = Sum(m, x, m)", IMAGE),
    ],
    "Mean": [
        Case("one", "Mean(x)", IMAGE),
        Case("three", "t = Tanh(x)  y = Mean(x, c, t)", IMAGE, {"c": (3, 1, 1)}),
        Case("stretched", "m = GlobalAveragePool(x)  y = Mean(x, m)", IMAGE),
        Case("the first stretched", "m = GlobalAveragePool(x)  y = Mean(m, x)", IMAGE),
    ],
    "Max": [
        Case("with a number", "Max(x, c)", IMAGE, {"c": scalar(0.1)}),
        Case("of three", "t = Tanh(x)  n = Neg(x)  y = Max(x, t, n)", IMAGE),
        Case("one only", "Max(x)", IMAGE),
        Case("stretched", "m = GlobalAveragePool(x)  y = Max(m, x)", IMAGE),
        Case("maxout", "Max(x, z)", IMAGE, beside={"z": IMAGE}),
        Case("ties share", "Max(x, c)", (1, 3), {"c": scalar(0)}, at=[-1, 0, 1],
             kink=[0, 0.5, 1]),
    ],
    "Min": [
        Case("with a number", "Min(c, x)", IMAGE, {"c": scalar(0.1)}),
        Case("of three", "t = Tanh(x)  n = Neg(x)  y = Min(x, t, n)", IMAGE),
        Case("ties share", "Min(x, c)", (1, 3), {"c": scalar(0)}, at=[-1, 0, 1],
             kink=[1, 0.5, 0]),
    ],
    "Mod": [
        Case("dividend", "Mod<fmod=1>(x, c)", IMAGE, {"c": scalar(0.7)}),
        Case("divisor", "s = Sigmoid(x)  y = Mod<fmod=1>(c, s)", IMAGE, {"c": scalar(2.6)}),
        Case("negative dividend", "s = Sigmoid(x)  y = Mod<fmod=1>(c, s)", IMAGE,
             {"c": scalar(-2.6)}),
    ],
}  # fmt: skip

# --- Trigonometry and steps -------------------------------------------------------------------

TRIGONOMETRY = {
    **{op: [Case("plain", f"{op}(x)", IMAGE)] for op in ("Sin", "Cos", "Sinh", "Cosh", "Atan")},
    "Asinh": [Case("plain", "Asinh(x)", IMAGE), Case("classes", "Asinh(x)", (2, 7))],
    "Tan": [Case("plain", "t = Sigmoid(x)  y = Tan(t)", IMAGE)],
    "Asin": [Case("plain", "t = Tanh(x)  h = Mul(t, c)  y = Asin(h)", IMAGE, {"c": scalar(0.9)})],
    "Acos": [Case("plain", "t = Tanh(x)  h = Mul(t, c)  y = Acos(h)", IMAGE, {"c": scalar(0.9)})],
    "Atanh": [Case("plain", "t = Tanh(x)  h = Mul(t, c)  y = Atanh(h)", IMAGE, {"c": scalar(0.9)})],
    "Acosh": [Case("plain", "e = Exp(x)  t = Add(e, c)  y = Acosh(t)", IMAGE, {"c": scalar(1.1)})],
}  # fmt: skip

STEPS = {
    **{
        op: [
            Case("alone", f"{op}(x)", IMAGE),
            Case("beside a path", f"r = {op}(x)  y = Sub(x, r)", IMAGE),
            Case("as a gate", f"r = {op}(x)  y = Mul(x, r)", IMAGE),
            Case("0 at the step", f"r = {op}(x)  y = Add(x, r)", (1, 3), at=[-1, 0, 1],
                 kink=[1, 1, 1]),
        ]
        for op in ("Floor", "Ceil", "Sign")
    },
    "Round": [
        Case("alone", "Round(x)", IMAGE),
        Case("as a gate", "r = Round(x)  y = Mul(x, r)", IMAGE),
        Case("0 at the step", "r = Round(x)  y = Add(x, r)", (1, 2), at=[-0.5, 1.5], kink=[1, 1]),
    ],
    "Hardmax": [
        Case("alone", "Hardmax(x)", (2, 5)),
        Case("as a gate", "h = Hardmax<axis=1>(x)  y = Mul(x, h)", IMAGE),
    ],
    "EyeLike": [
        Case("as a gate", "e = EyeLike(x)  y = Mul(x, e)", (3, 4), batch_free=False),
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


def _few_reductions(op: str, before: str = "", x: str = "x") -> list[Case]:
    """What matters where the gradient differs from entry to entry."""
    return [
        Case("positions", f"{before}y = {op}({x}, a)", (2, 3, 3, 4), {"a": ints(2, 3)}),
        Case("axes out of order, dropped", f"{before}y = {op}<keepdims=0>({x}, a)", (2, 3, 2, 3),
             {"a": ints(3, 1)}),
        Case("channels, dropped", f"{before}y = {op}<keepdims=0>({x}, a)", IMAGE,
             {"a": ints(-3)}),
        Case("everything", f"{before}y = {op}<keepdims=0>({x})", (2, 4)),
        Case("nothing", f"{before}y = {op}<noop_with_empty_axes=1>({x})", (2, 4)),
        Case("of free size", f"{before}y = {op}({x}, a)", (2, 3, 2, 3), {"a": ints(2)},
             free=(2, 3)),
    ]  # fmt: skip


REDUCTIONS = {
    "ReduceMean": _reductions("ReduceMean"),
    "ReduceSum": _reductions("ReduceSum"),
    "ReduceMax": [
        *_few_reductions("ReduceMax"),
        Case("ties share", "ReduceMax(x, a)", (1, 4), {"a": ints(1)}, at=[1, 3, 0, 3],
             kink=[0, 0.5, 0, 0.5]),
    ],
    "ReduceMin": [
        *_few_reductions("ReduceMin"),
        Case("ties share", "ReduceMin(x, a)", (1, 4), {"a": ints(1)}, at=[1, 3, 1, 3],
             kink=[0.5, 0, 0.5, 0]),
    ],
    "ReduceL1": [
        *_few_reductions("ReduceL1"),
        Case("0 at 0", "ReduceL1(x, a)", (1, 3), {"a": ints(1)}, at=[-1, 0, 1], kink=[-1, 0, 1]),
    ],
    "ReduceL2": [
        *_few_reductions("ReduceL2"),
        Case("unit length", "n = ReduceL2(x, a)  y = Div(x, n)", (2, 7), {"a": ints(-1)}),
        Case("0 at 0", "ReduceL2(x, a)", (1, 2), {"a": ints(1)}, at=[0, 0], kink=[0, 0]),
    ],
    "ReduceSumSquare": _few_reductions("ReduceSumSquare"),
    "ReduceLogSum": _few_reductions("ReduceLogSum", "t = Sigmoid(x)  ", "t"),
    "ReduceLogSumExp": _few_reductions("ReduceLogSumExp"),
    "ReduceProd": [
        *_few_reductions("ReduceProd"),
        Case("a zero", "ReduceProd(x, a)", (1, 3), {"a": ints(1)}, at=[2, 0, 3], kink=[0, 6, 0]),
        Case("two zeros", "ReduceProd(x, a)", (1, 3), {"a": ints(1)}, at=[0, 0, 3],
             kink=[0, 0, 0]),
    ],
    "GlobalMaxPool": [
        Case("an image", "GlobalMaxPool(x)", IMAGE),
        Case("a row", "GlobalMaxPool(x)", (2, 3, 4)),
        Case("of free size", "GlobalMaxPool(x)", IMAGE, free=(2, 3)),
        Case("a head", "p = GlobalMaxPool(x)  f = Flatten(p)  y = Gemm<transB=1>(f, w)", IMAGE,
             {"w": (4, 3)}),
        Case("the first of equals", "GlobalMaxPool(x)", (1, 1, 2, 2), at=[1, 3, 3, 0],
             kink=[0, 1, 0, 0]),
    ],
    "GlobalLpPool": [
        Case("default", "GlobalLpPool(x)", IMAGE),
        Case("p 1", "GlobalLpPool<p=1>(x)", IMAGE),
        Case("p 3", "GlobalLpPool<p=3>(x)", IMAGE),
        Case("of free size", "GlobalLpPool(x)", IMAGE, free=(2, 3)),
        Case("0 at 0", "GlobalLpPool(x)", (1, 1, 2), at=[0, 0], kink=[0, 0]),
    ],
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
        Case("by a vector", "MatMul(x, b)", (2, 3, 5), {"b": (5,)}),
        Case("a matrix by a vector", "MatMul(x, b)", (2, 5), {"b": (5,)}),
        Case("of a vector", "MatMul(a, x)", (2, 5, 3), {"a": (5,)}),
        Case("a vector on path", "MatMul(x, b)", (3,), {"b": (4, 3, 2)}, batch_free=False),
        Case("a vector as second on path", "MatMul(a, x)", (3,), {"a": (4, 2, 3)},
             batch_free=False),
        Case("vectors on path", "t = Tanh(x)  y = MatMul(x, t)", (3,), batch_free=False),
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
        Case("strides, an odd size", "Conv<strides=[2, 2], pads=[1, 1, 1, 1]>(x, w)", (2, 2, 7, 9),
             {"w": (3, 2, 3, 3)}),
        Case("strides, a large kernel", "Conv<strides=[2, 2], pads=[3, 3, 3, 3]>(x, w)",
             (2, 3, 12, 10), {"w": (4, 3, 7, 7)}),
        Case("strides, a kernel of their size", "Conv<strides=[3, 3]>(x, w)", (2, 2, 9, 6),
             {"w": (4, 2, 3, 3)}),
        Case("strides, pads at the end", "Conv<strides=[2, 2], pads=[0, 0, 1, 1]>(x, w)",
             (2, 2, 8, 6), {"w": (3, 2, 3, 3)}),
        Case("strides, an oblong kernel", "Conv<strides=[2, 2], pads=[0, 1, 0, 1]>(x, w)",
             (2, 2, 8, 6), {"w": (3, 2, 1, 3)}),
        Case("strides, far pads", "Conv<strides=[3, 3], pads=[5, 4, 5, 6]>(x, w)", (2, 2, 5, 6),
             {"w": (3, 2, 4, 4)}),
        Case("depthwise, stride 1", "Conv<group=4, pads=[1, 1, 1, 1]>(x, w)", (2, 4, 5, 6),
             {"w": (4, 1, 3, 3)}),
        Case("depthwise, strides that leave a rest", "Conv<group=4, strides=[2, 2]>(x, w)",
             (2, 4, 8, 9), {"w": (4, 1, 3, 3)}),
        Case("depthwise, no end", "Conv<group=2, strides=[2, 2], pads=[0, 0, 1, 1]>(x, w)",
             (2, 2, 7, 7), {"w": (2, 1, 3, 3)}),
        Case("groups, strides", "Conv<group=2, strides=[2, 2], pads=[1, 1, 1, 1]>(x, w)",
             (2, 4, 6, 6), {"w": (6, 2, 3, 3)}),
        Case("1x1, strides that leave a rest", "Conv<strides=[2, 2]>(x, w)", (2, 3, 7, 6),
             {"w": (4, 3, 1, 1)}),
        Case("1x1, strides that miss the end", "Conv<strides=[3, 3]>(x, w)", (2, 3, 6, 9),
             {"w": (4, 3, 1, 1)}),
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
        Case("quantised weights", "w = DequantizeLinear(v, s)  y = Conv(x, w)", IMAGE,
             {"v": np.arange(-54, 54, dtype=np.int8).reshape(4, 3, 3, 3), "s": scalar(0.01)},
             opset=21),
    ],
    "Einsum": [
        Case("attention scores", 'Einsum<equation="bqc,bkc->bqk">(x, z)', (2, 3, 5),
             beside={"z": (2, 4, 5)}),
        Case("the other operand", 'Einsum<equation="bqc,bkc->bqk">(z, x)', (2, 3, 5),
             beside={"z": (2, 4, 5)}),
        Case("heads", 'Einsum<equation="bhqk,bkhc->bqhc">(z, x)', (2, 4, 3, 5),
             beside={"z": (2, 3, 6, 4)}),
        Case("a weight", 'Einsum<equation="bchw,dc->bdhw">(x, w)', IMAGE, {"w": (4, 3)}),
        Case("both on path", 't = Tanh(x)  y = Einsum<equation="bqc,bkc->bqk">(x, t)', (2, 3, 5)),
        Case("relative position", 'Einsum<equation="bhwc,hkc->bhwk">(x, r)', (2, 3, 4, 5),
             {"r": (3, 6, 5)}),
        Case("three operands", 'Einsum<equation="bi,ij,bj->b">(x, w, z)', (2, 3), {"w": (3, 4)},
             beside={"z": (2, 4)}),
        Case("one operand, permuted", 'Einsum<equation="bij->bji">(x)', (2, 3, 4)),
        Case("one operand, summed", 'Einsum<equation="bij->bj">(x)', (2, 3, 4)),
        Case("a letter that is summed alone", 'Einsum<equation="bij,bk->bik">(x, z)', (2, 3, 4),
             beside={"z": (2, 5)}),
        Case("outer product", 'Einsum<equation="bi,bj->bij">(x, z)', (2, 3),
             beside={"z": (2, 5)}),
        Case("without a result", 'Einsum<equation="bc,cd">(x, w)', (2, 3), {"w": (3, 4)}),
        Case("axes left open", 'Einsum<equation="...c,cd->...d">(x, w)', (2, 4, 3),
             {"w": (3, 4)}),
        Case("of free size", 'Einsum<equation="bqc,bkc->bqk">(x, z)', (2, 3, 5),
             beside={"z": (2, 4, 5)}, free=(1,)),
    ],
    "ConvTranspose": [
        Case("plain", "ConvTranspose(x, w)", IMAGE, {"w": (3, 4, 3, 3)}),
        Case("bias, strides", "ConvTranspose<strides=[2, 2]>(x, w, b)", IMAGE,
             {"w": (3, 4, 2, 2), "b": (4,)}),
        Case("pads and output padding",
             "ConvTranspose<strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]>(x, w)",
             IMAGE, {"w": (3, 4, 3, 3)}),
        Case("output padding without pads",
             "ConvTranspose<strides=[2, 3], output_padding=[1, 2]>(x, w)", IMAGE,
             {"w": (3, 4, 3, 3)}),
        Case("strides beyond the kernel", "ConvTranspose<strides=[4, 3]>(x, w)", (2, 2, 3, 4),
             {"w": (2, 3, 2, 2)}),
        Case("dilations", "ConvTranspose<dilations=[2, 1], pads=[1, 0, 0, 1]>(x, w)", IMAGE,
             {"w": (3, 4, 3, 3)}),
        Case("groups", "ConvTranspose<group=2, strides=[2, 2]>(x, w)", (2, 4, 3, 3),
             {"w": (4, 2, 3, 3)}),
        Case("depthwise", "ConvTranspose<group=3, strides=[2, 2], pads=[1, 1, 1, 1]>(x, w)",
             IMAGE, {"w": (3, 1, 4, 4)}),
        Case("SAME_UPPER", 'ConvTranspose<auto_pad="SAME_UPPER", strides=[2, 2]>(x, w)', IMAGE,
             {"w": (3, 4, 3, 3)}),
        Case("SAME_LOWER", 'ConvTranspose<auto_pad="SAME_LOWER", strides=[2, 2]>(x, w)', IMAGE,
             {"w": (3, 4, 3, 3)}),
        Case("output_shape", "ConvTranspose<output_shape=[12, 10], strides=[2, 2]>(x, w)", IMAGE,
             {"w": (3, 4, 3, 3)}),
        Case("one axis", "ConvTranspose<strides=[2], pads=[1, 0]>(x, w)", (2, 3, 5),
             {"w": (3, 2, 3)}),
        Case("of free size",
             "ConvTranspose<strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 0]>(x, w)",
             IMAGE, {"w": (3, 4, 3, 3)}, free=(2, 3)),
    ],
}  # fmt: skip

# --- Normalisation ----------------------------------------------------------------------------

STATISTICS = {
    "scale": np.array([1.5, -0.5, 2], np.float32), "bias": (3,), "mean": (3,),
    "variance": np.array([0.5, 2, 1e-6], np.float32),
}  # fmt: skip

NORMALIZATION = {
    "BatchNormalization": [
        Case("found at run time", "m = ReduceMean<keepdims=0>(z, a)  s = Exp(m)"
             "  y = BatchNormalization(x, m, m, m, s)", (2, 3, 4), {"a": ints(0)},
             beside={"z": (2, 3)}),
        Case("maps", "BatchNormalization(x, scale, bias, mean, variance)", IMAGE, STATISTICS),
        Case("epsilon", "BatchNormalization<epsilon=0.5>(x, scale, bias, mean, variance)", IMAGE,
             STATISTICS),
        Case("vectors", "BatchNormalization(x, scale, bias, mean, variance)", (2, 3), STATISTICS),
        Case("rows of free size", "BatchNormalization(x, scale, bias, mean, variance)", (2, 3, 4),
             STATISTICS, free=(2,)),
    ],
    "Softmax": [
        Case("a row masked wholly, guarded",
             "t = Add(x, m)  s = Softmax(t)  n = IsNaN(s)  y = Where(n, zero, s)", (2, 3, 4),
             {"m": np.where(np.eye(3, 4), 0, [[-np.inf], [-np.inf], [0]]).astype(np.float32)
              + np.array([[0], [-np.inf], [0]], np.float32), "zero": scalar(0)}),
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
    "LayerNormalization": [
        Case("tokens", "LayerNormalization(x, s, b)", (2, 4, 6), {"s": (6,), "b": (6,)}),
        Case("classes", "LayerNormalization(x, s, b)", (2, 7), {"s": (7,), "b": (7,)}),
        Case("without bias, epsilon", "LayerNormalization<epsilon=0.5>(x, s)", (2, 4, 6),
             {"s": (6,)}),
        Case("from an axis on", "LayerNormalization<axis=1>(x, s, b)", IMAGE,
             {"s": (3, 6, 5), "b": (3, 6, 5)}),
        Case("from an axis on, scale stretched", "LayerNormalization<axis=-2>(x, s)", IMAGE,
             {"s": (5,)}),
        Case("tokens of free size", "LayerNormalization(x, s, b)", (2, 4, 6),
             {"s": (6,), "b": (6,)}, free=(1,)),
        Case("channels first",
             "t = Transpose<perm=[0, 2, 3, 1]>(x)  n = LayerNormalization(t, s, b)"
             "  y = Transpose<perm=[0, 3, 1, 2]>(n)", (2, 8, 3, 4), {"s": (8,), "b": (8,)}),
        Case("scale depends on the image", "LayerNormalization(x, z, z)", (2, 4, 6),
             beside={"z": (2, 1, 6)}, reference=False),
        Case("scale and bias on path", "m = ReduceMean(x, a)  y = LayerNormalization(x, m, m)",
             (2, 4, 6), {"a": ints(0, 1)}, batch_free=False),
        Case("a pooled head", "n = LayerNormalization(x, s, b)  p = ReduceMean<keepdims=0>(n, a)"
             "  y = MatMul(p, w)", (2, 4, 6), {"s": (6,), "b": (6,), "a": ints(1), "w": (6, 3)}),
    ],
    "RMSNormalization": [
        Case("tokens", "RMSNormalization(x, s)", (2, 4, 6), {"s": (6,)}, opset=23),
        Case("from an axis on", "RMSNormalization<axis=1, epsilon=0.1>(x, s)", IMAGE,
             {"s": (3, 6, 5)}, opset=23),
    ],
    "InstanceNormalization": [
        Case("maps", "InstanceNormalization(x, s, b)", IMAGE, {"s": (3,), "b": (3,)}),
        Case("epsilon", "InstanceNormalization<epsilon=0.3>(x, s, b)", IMAGE,
             {"s": (3,), "b": (3,)}),
        Case("rows", "InstanceNormalization(x, s, b)", (2, 3, 7), {"s": (3,), "b": (3,)}),
        Case("of free size", "InstanceNormalization(x, s, b)", IMAGE, {"s": (3,), "b": (3,)},
             free=(2, 3)),
        Case("groups spelled out", "r = Reshape(x, to)  n = InstanceNormalization(r, s, b)"
             "  y = Reshape(n, back)", (2, 6, 4, 5),
             {"s": (2,), "b": (2,), "to": ints(0, 2, -1), "back": ints(0, 6, 4, 5)}),
    ],
    "GroupNormalization": [
        Case("maps", "GroupNormalization<num_groups=2>(x, s, b)", (2, 6, 4, 5),
             {"s": (6,), "b": (6,)}, opset=21),
        Case("one group, epsilon", "GroupNormalization<num_groups=1, epsilon=0.2>(x, s, b)", IMAGE,
             {"s": (3,), "b": (3,)}, opset=21),
        Case("rows", "GroupNormalization<num_groups=2>(x, s, b)", (2, 4, 5),
             {"s": (4,), "b": (4,)}, opset=21),
        Case("of free size", "GroupNormalization<num_groups=2>(x, s, b)", (2, 6, 4, 5),
             {"s": (6,), "b": (6,)}, opset=21, free=(2, 3)),
    ],
    "LpNormalization": [
        Case("default", "LpNormalization(x)", (2, 7)),
        Case("channels", "LpNormalization<axis=1>(x)", IMAGE),
        Case("p 1", "LpNormalization<axis=1, p=1>(x)", (2, 6, 3, 4)),
        Case("0 at 0", "LpNormalization(x)", (1, 2), at=[0, 0], kink=[0, 0]),
    ],
    "MeanVarianceNormalization": [
        Case("of a batch", "MeanVarianceNormalization<axes=[0, 2, 3]>(x)", (2, 3, 4, 2),
             batch_free=False),
        Case("of channels", "MeanVarianceNormalization<axes=[-2]>(x)", (2, 5, 3)),
        Case("of positions of free size", "MeanVarianceNormalization<axes=[2, 3]>(x)", IMAGE,
             free=(2, 3)),
    ],
    "LRN": [
        Case("odd", "LRN<size=3, alpha=0.3>(x)", (2, 5, 4, 3)),
        Case("beta and bias", "LRN<size=3, alpha=0.5, beta=0.6, bias=1.5>(x)", (2, 6, 4, 3)),
        Case("beyond the channels", "LRN<size=5, alpha=0.5>(x)", (2, 2, 3, 3)),
        Case("of free size", "LRN<size=3, alpha=0.3>(x)", (2, 5, 4, 3), free=(2, 3)),
    ],
}  # fmt: skip

# --- Quantisation -----------------------------------------------------------------------------

_QUANTISED = "q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z)"


def _quantised() -> list[Case]:
    """The two operators come in pairs."""
    return [
        Case("unsigned, zero lowest", _QUANTISED, (1, 6),
             {"s": scalar(0.5), "z": np.array(0, np.uint8)}, at=[-1, 0.1, 0.3, 9, 127, 130],
             kink=[0, 0, 1, 1, 1, 0], opset=21),
        Case("signed", _QUANTISED, (1, 5), {"s": scalar(0.5), "z": np.array(3, np.int8)},
             at=[-70, -64, 0, 61, 63], kink=[0, 1, 1, 1, 0], opset=21),
        Case("without zero point", "q = QuantizeLinear(x, s)  y = DequantizeLinear(q, s)", (1, 3),
             {"s": scalar(0.5)}, at=[-1, 1, 130], kink=[0, 1, 0], opset=21),
        Case("a scale for each channel",
             "q = QuantizeLinear<axis=1>(x, s, z)  y = DequantizeLinear<axis=1>(q, s, z)",
             (1, 2, 3), {"s": np.array([1, 0.5], np.float32), "z": np.zeros(2, np.int8)},
             at=[-130, 0, 100, -60, 0, 100], kink=[0, 1, 1, 1, 1, 0],
             opset=21),
        Case("twice, between weights",
             f"t = MatMul(x, w)  {_QUANTISED.replace('x', 't').replace('y =', 'd =')}"
             "  y = MatMul(d, v)", (1, 2),
             {"w": np.array([[1, 200], [2, 0]], np.float32), "v": np.array([[3], [1]], np.float32),
              "s": scalar(1), "z": np.array(0, np.int8)}, at=[1, 2], kink=[3, 6],
             opset=21),
    ]  # fmt: skip


QUANTIZATION = {
    "QuantizeLinear": _quantised(),
    "DequantizeLinear": [
        *_quantised(),
        Case("with another scale than it was quantised by",
             "q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, t, z)", (1, 3),
             {"s": scalar(0.5), "t": scalar(1.5), "z": np.array(0, np.int8)}, at=[-1, 1, 130],
             kink=[3, 3, 0], opset=21),
    ],
    "DynamicQuantizeLinear": [
        Case("and back", "q, s, z = DynamicQuantizeLinear(x)  y = DequantizeLinear(q, s, z)",
             (1, 4), at=[-1, 0, 0.3, 2], kink=[1, 1, 1, 1], opset=21),
    ],
}  # fmt: skip

# --- Pooling ----------------------------------------------------------------------------------

POOLING = {
    "LpPool": [
        Case("default", "LpPool<kernel_shape=[3, 2]>(x)", IMAGE),
        Case("p 1", "LpPool<p=1, kernel_shape=[2, 2], strides=[2, 1]>(x)", IMAGE),
        Case("p 3, padded", "LpPool<p=3, kernel_shape=[3, 3], pads=[1, 0, 1, 2]>(x)", IMAGE),
        Case("SAME", 'LpPool<kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER">(x)',
             IMAGE),
        Case("dilated, ceil_mode",
             "LpPool<kernel_shape=[2, 2], strides=[2, 2], dilations=[2, 1], ceil_mode=1>(x)",
             (2, 2, 6, 7)),
        Case("of free size", "LpPool<kernel_shape=[2, 2], strides=[2, 2]>(x)", IMAGE, free=(2, 3)),
        Case("0 at 0", "LpPool<kernel_shape=[2]>(x)", (1, 1, 2), at=[0, 0], kink=[0, 0]),
    ],
    "Col2Im": [
        Case("without overlap", "Col2Im<strides=[2, 3]>(x, s, b)", (2, 12, 4),
             {"s": ints(4, 6), "b": ints(2, 3)}),
        Case("overlapping", "Col2Im(x, s, b)", (2, 8, 12), {"s": ints(4, 5), "b": ints(2, 2)}),
        Case("pads and dilations", "Col2Im<pads=[1, 0, 0, 2], dilations=[2, 1], strides=[1, 2]>"
             "(x, s, b)", (2, 4, 9), {"s": ints(4, 5), "b": ints(2, 2)}),
        Case("a rest that no window reaches", "Col2Im<strides=[2, 2]>(x, s, b)", (2, 4, 4),
             {"s": ints(5, 5), "b": ints(2, 2)}),
        Case("a volume", "Col2Im(x, s, b)", (2, 8, 4), {"s": ints(2, 3, 3), "b": ints(2, 2, 2)}),
    ],
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
        Case("more than the image",
             "AveragePool<kernel_shape=[9, 9], strides=[9, 9], ceil_mode=1>(x)", IMAGE),
        Case("the image and its border", "AveragePool<kernel_shape=[8, 7], pads=[1, 1, 1, 1]>(x)",
             IMAGE),
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
        Case("tiles, then a convolution",
             "p = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(x)  y = Conv(p, w)", BLOCKS,
             {"w": (4, 16, 1, 1)}),
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
        Case("along a free axis", "s = Sigmoid(x)  y = Concat<axis=2>(c, x, c, s)", IMAGE,
             {"c": (2, 3, 1, 5)}, free=(2,), batch_free=False),
    ],
    "Split": [
        Case("channels, all read", "a, b = Split<axis=1>(x, n)  t = Sigmoid(a)  y = Mul(t, b)",
             (2, 6, 4), {"n": ints(3, 3)}),
        Case("uneven parts", "a, b, c = Split<axis=-1>(x, n)  t = Relu(b)"
             "  y = Concat<axis=2>(c, t, a)", (2, 3, 6), {"n": ints(1, 2, 3)}),
        Case("the first read", "y, b, c = Split<axis=1>(x, n)", (2, 6, 4), {"n": ints(1, 2, 3)}),
        Case("the second read", "a, y, c = Split<axis=1>(x, n)", (2, 6, 4), {"n": ints(1, 2, 3)}),
        Case("the last read", "a, b, y = Split<axis=1>(x, n)", (2, 6), {"n": ints(1, 2, 3)}),
        Case("the second and fourth read",
             "a, b, c, d, e = Split<axis=1>(x, n)  y = Concat<axis=1>(d, b)", (2, 9),
             {"n": ints(1, 2, 3, 2, 1)}),
        Case("summed", "a, b = Split<axis=1, num_outputs=2>(x)  y = Add(a, b)", (2, 6, 4)),
        Case("equal parts and a rest", "a, b, c = Split<axis=2, num_outputs=3>(x)"
             "  y = Concat<axis=2>(c, b)", (2, 3, 8), reference=False),
        Case("beside a free axis", "a, b = Split<axis=1, num_outputs=2>(x)  y = Mul(a, b)",
             (2, 6, 4, 5), free=(2, 3)),
        Case("along a free axis", "a, b = Split<axis=2, num_outputs=2>(x)"
             "  y = Concat<axis=1>(a, a)", (2, 3, 6), batch_free=False),
        Case("half of a free axis", "a, b = Split<axis=2, num_outputs=2>(x)  y = Relu(b)",
             (2, 3, 6), free=(2,), reference=False),
        Case("parts found at run time", "h = Shape<start=2, end=3>(x)  d = Sub(h, o)"
             "  n = Concat<axis=0>(o, d)  a, y = Split<axis=2>(x, n)", (2, 3, 6), {"o": ints(2)},
             free=(2,)),
        Case("images", "a, b = Split<axis=0, num_outputs=2>(x)  y = Mul(a, b)", (4, 3),
             batch_free=False),
        Case("one part", "Split<axis=1, num_outputs=1>(x)", (2, 3)),
        Case("parts of size 1", "a, b = Split<axis=1, num_outputs=2>(x)  y = Mul(a, b)",
             (2, 2, 3, 3)),
    ],
    "Expand": [
        Case("positions", "Expand(x, s)", (2, 3, 1, 1), {"s": ints(1, 3, 4, 5)}),
        Case("new axes", "Expand(x, s)", (2, 3), {"s": ints(4, 1, 3)}),
        Case("nothing", "Expand(x, s)", (2, 3), {"s": ints(1)}),
        Case("to the size of another map", "s = Shape(z)  y = Expand(x, s)", (2, 3, 1, 1),
             beside={"z": IMAGE}),
        Case("beside a free axis", "Expand(x, s)", (2, 1, 5), {"s": ints(1, 3, 1)}, free=(2,)),
    ],
    "Tile": [
        Case("positions", "Tile(x, n)", (2, 3, 4), {"n": ints(1, 1, 2)}),
        Case("several axes", "Tile(x, n)", (2, 3, 4), {"n": ints(1, 2, 3)}),
        Case("images", "Tile(x, n)", (2, 3), {"n": ints(2, 1)}),
        Case("nothing", "Tile(x, n)", (2, 3), {"n": ints(1, 1)}),
        Case("found at run time", "h = Shape<start=2, end=3>(x)  n = Concat<axis=0>(o, o, h, o)"
             "  y = Tile(x, n)", (2, 3, 2, 3), {"o": ints(1)}, free=(2,)),
        Case("of free size", "Tile(x, n)", IMAGE, {"n": ints(1, 1, 2, 1)}, free=(2, 3)),
    ],
    "DepthToSpace": [
        Case("depth first", "DepthToSpace<blocksize=2>(x)", (2, 12, 2, 3)),
        Case("columns first", 'DepthToSpace<blocksize=2, mode="CRD">(x)', (2, 12, 2, 3)),
        Case("by 3", 'DepthToSpace<blocksize=3, mode="CRD">(x)', (2, 9, 2, 1)),
        Case("of free size", "DepthToSpace<blocksize=2>(x)", (2, 8, 2, 3), free=(2, 3)),
    ],
    "SpaceToDepth": [
        Case("plain", "SpaceToDepth<blocksize=2>(x)", (2, 3, 4, 6)),
        Case("by 3", "SpaceToDepth<blocksize=3>(x)", (2, 2, 3, 6)),
    ],
}  # fmt: skip

# --- Values between positions ---------------------------------------------------------------------


def _grid(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
    """Places in and around an image, none near a border between positions."""
    return np.random.default_rng(1).uniform(-scale, scale, shape).astype(np.float32)


def _grid_samples() -> list[Case]:
    cases = []
    for mode in ("linear", "nearest", "cubic"):
        for padding in ("zeros", "border", "reflection"):
            for align in (0, 1):
                given = f'mode="{mode}", padding_mode="{padding}", align_corners={align}'
                cases.append(
                    Case(
                        f"{mode}, {padding}, align_corners {align}",
                        f"GridSample<{given}>(x, r)",
                        (2, 2, 4, 5),
                        {"r": _grid(2, 3, 2, 2, scale=1.6)},
                        batch_free=False,
                        opset=20,
                        reference=False,
                    )
                )
                if mode != "nearest":
                    cases.append(
                        Case(
                            f"grid on path, {mode}, {padding}, align_corners {align}",
                            f"GridSample<{given}>(z, x)",
                            (2, 3, 2, 2),
                            opset=20,
                            reference=False,
                            beside={"z": (2, 2, 4, 5)},
                        )
                    )
    return [
        *cases,
        Case("grid on path, nearest", 'r = Tanh(x)  s = GridSample<mode="nearest">(z, r)'
             "  p = ReduceMean(r, a)  y = Mul(s, p)", (2, 3, 2, 2), {"a": ints(1, 2, 3)},
             beside={"z": (2, 2, 4, 5)}, opset=20, reference=False),
        Case("both on path", "q = Transpose<perm=[0, 2, 3, 1]>(x)  y = GridSample(x, q)",
             (2, 2, 4, 5), opset=20, reference=False),
        Case("a volume", "GridSample(x, r)", (2, 2, 3, 2, 4), {"r": _grid(2, 2, 3, 1, 3)},
             batch_free=False, opset=20, reference=False),
        Case("of free size", 'GridSample<padding_mode="border">(x, z)', (2, 2, 4, 5),
             beside={"z": (2, 3, 2, 2)}, free=(2, 3), opset=20, reference=False),
        Case("free number of places", "GridSample(z, x)", (2, 3, 2, 2), free=(1,),
             beside={"z": (2, 2, 4, 5)}, opset=20, reference=False),
    ]  # fmt: skip


SAMPLING = {
    "GridSample": _grid_samples(),
    "DeformConv": [
        Case("plain", "DeformConv(x, w, z)", (2, 2, 4, 5), {"w": (3, 2, 2, 2)},
             beside={"z": (2, 8, 3, 4)}, opset=19, reference=False),
        Case("strides, pads, dilations",
             "DeformConv<strides=[2, 1], pads=[1, 2, 0, 1], dilations=[1, 2]>(x, w, z, b)",
             (2, 2, 5, 5), {"w": (3, 2, 2, 2), "b": (3,)}, beside={"z": (2, 8, 3, 6)}, opset=19,
             reference=False),
        Case("groups, offset groups, a mask",
             "DeformConv<group=2, offset_group=2>(x, w, z, b, m)", (2, 4, 4, 4),
             {"w": (6, 2, 2, 2), "b": (6,)}, beside={"z": (2, 16, 3, 3), "m": (2, 8, 3, 3)},
             opset=19, reference=False),
        Case("offsets on path", "DeformConv(z, w, x)", (2, 8, 3, 4), {"w": (3, 2, 2, 2)},
             beside={"z": (2, 2, 4, 5)}, opset=19, reference=False),
        Case("offsets on path, offset groups and a mask",
             "DeformConv<offset_group=2>(z, w, x, , m)", (2, 16, 3, 3), {"w": (3, 4, 2, 2)},
             beside={"z": (2, 4, 4, 4), "m": (2, 8, 3, 3)}, opset=19, reference=False),
        Case("mask on path", "DeformConv(z, w, o, , x)", (2, 4, 3, 4), {"w": (3, 2, 2, 2)},
             beside={"z": (2, 2, 4, 5), "o": (2, 8, 3, 4)}, opset=19, reference=False),
        Case("all on path",
             "c = Slice(x, s, e, a)  t = Concat<axis=1>(c, c, c, c)  o = Mul(t, v)"
             "  h = Concat<axis=1>(c, c)  m = Sigmoid(h)  y = DeformConv(x, w, o, , m)",
             (2, 2, 4, 5), {"w": (3, 2, 2, 2), "v": (8, 1, 1), "s": ints(0, 0), "e": ints(3, 4),
                            "a": ints(2, 3)}, opset=19, reference=False),
    ],
    "RoiAlign": [
        Case("of a batch", "RoiAlign<output_height=2, output_width=3, sampling_ratio=2>(x, r, i)",
             (2, 2, 5, 6), {"i": ints(0, 1, 0), "r": np.array(
                 [[0, 0, 3, 4], [1, 2, 5, 4], [0.3, 0.4, 2, 2]], np.float32)}, batch_free=False,
             reference=False),
        Case("as many points as the region has",
             'RoiAlign<output_height=2, output_width=2, coordinate_transformation_mode='
             '"output_half_pixel", spatial_scale=0.5>(x, r, i)', (1, 2, 5, 6),
             {"r": np.array([[0, 0, 9, 8], [1, 2, 10, 4]], np.float32), "i": ints(0, 0)},
             batch_free=False, reference=False),
        Case("of free size", "RoiAlign<output_height=2, output_width=2>(x, r, i)", (2, 2, 5, 6),
             {"r": np.array([[0, 0, 3, 4], [1, 2, 4, 4]], np.float32), "i": ints(1, 0)},
             free=(2, 3), batch_free=False, reference=False),
        Case("regions on path count for nothing",
             "s = ReduceMax(x, a)  q = Reshape(s, b)  t = Mul(q, o)  r = Add(t, c)"
             "  y = RoiAlign<output_height=1, output_width=1>(x, r, i)", (1, 1, 2, 2),
             {"a": ints(0, 1, 2, 3), "b": ints(1, 1), "o": np.zeros((1, 4), np.float32),
              "c": np.array([[0, 0, 1, 1]], np.float32), "i": ints(0)}, reference=False,
             batch_free=False),
    ],
    "AffineGrid": [
        Case("an image", "AffineGrid(x, s)", (2, 2, 3), {"s": ints(2, 1, 3, 4)}, opset=20,
             reference=False,
             batch_free=False),
        Case("corners aligned", "AffineGrid<align_corners=1>(x, s)", (2, 2, 3),
             {"s": ints(2, 1, 3, 4)}, opset=20, reference=False, batch_free=False),
        Case("a volume", "AffineGrid(x, s)", (2, 3, 4), {"s": ints(2, 1, 3, 4, 2)}, opset=20,
             reference=False,
             batch_free=False),
        Case("a spatial transformer",
             "r = Reshape(x, t)  n = Shape<end=1>(x)  s = Concat<axis=0>(n, c)"
             "  y = AffineGrid(r, s)", (2, 6), {"t": ints(0, 2, 3), "c": ints(2, 3, 3)}, opset=20,
             reference=False),
    ],
}  # fmt: skip

# --- Attention ------------------------------------------------------------------------------------

TOKENS = (2, 3, 4)  # images, tokens, width


def _attention(
    name: str, body: str, constants: dict[str, Content] | None = None, **more: Any
) -> Case:
    """An Attention on the tokens x, with two heads; z are other tokens."""
    body = body.replace("HEADS", "q_num_heads=2, kv_num_heads=2")
    return Case(name, body, TOKENS, constants or {}, opset=23, **more)


HEADS_APART = "r = Reshape(x, s)  q = Transpose<perm=[0, 2, 1, 3]>(r)  "
BY_HEAD = {"s": ints(0, 0, 2, 2)}
OTHERS = {"z": TOKENS}

ATTENTION = {
    "Attention": [
        _attention("of itself", "Attention<HEADS>(x, x, x)"),
        _attention("queries", "Attention<HEADS>(x, z, z)", beside=OTHERS),
        _attention("keys", "Attention<HEADS>(z, x, z)", beside=OTHERS),
        _attention("values", "Attention<HEADS>(z, z, x)", beside=OTHERS),
        _attention("a scale", "Attention<HEADS, scale=0.7>(x, x, z)", beside=OTHERS),
        _attention("keys of another length", "Attention<HEADS>(x, z, z)", beside={"z": (2, 5, 4)}),
        _attention("wider values", "Attention<HEADS>(x, x, z)", beside={"z": (2, 3, 6)}),
        _attention("capped", "Attention<HEADS, softcap=0.8>(x, x, x)"),
        _attention("causal", "Attention<HEADS, is_causal=1>(x, x, x)"),
        _attention("causal, capped", "Attention<HEADS, is_causal=1, softcap=0.8>(x, x, x)"),
        _attention("a bias that is known", "Attention<HEADS>(x, x, x, m)", {"m": (2, 3, 3)}),
        _attention("a mask that is known", "Attention<HEADS>(x, x, x, m)", {"m": np.array(
            [[True, False, True], [False, False, False], [True, True, False]])}),
        _attention("a mask with an empty row", "Attention<HEADS>(x, x, x, m)", {"m": np.array(
            [[0, -np.inf, 1], [-np.inf, -np.inf, -np.inf], [-np.inf, 2, 0]], np.float32)}),
        _attention("a bias found at run time", "Attention<HEADS>(x, x, x, z)",
                   beside={"z": (2, 1, 3, 3)}),
        _attention("a bias on path",
                   "t = Transpose<perm=[0, 2, 1]>(x)  s = Tanh(t)  m = MatMul(z, s)  "
                   "b = Unsqueeze(m, one)"
                   "  y = Attention<HEADS>(z, z, z, b)", {"one": ints(1)}, beside=OTHERS),
        _attention("heads that share keys",
                   "k, v = Split<axis=2, num_outputs=2>(x)"
                   "  y = Attention<q_num_heads=4, kv_num_heads=2>(z, k, v)",
                   beside={"z": (2, 5, 4)}),
        _attention("all heads share keys, causal",
                   "k = Slice(x, o, e, a)"
                   "  y = Attention<q_num_heads=4, kv_num_heads=1, is_causal=1>(x, k, k)",
                   {"o": ints(1), "e": ints(2), "a": ints(2)}),
        _attention("heads apart", HEADS_APART + "y = Attention(q, q, q)", BY_HEAD),
        _attention("heads apart that share keys",
                   HEADS_APART + "k = Slice(q, o, e, o)  y = Attention<is_causal=1>(q, k, k)",
                   BY_HEAD | {"o": ints(1), "e": ints(2)}),
        _attention("after the past", HEADS_APART + "y, a, b = Attention(q, q, q, , p, p)",
                   BY_HEAD | {"p": (2, 2, 5, 2)}, batch_free=False),
        _attention("the past itself",
                   HEADS_APART + "y, a, b = Attention<is_causal=1>(q, q, q, , q, q)", BY_HEAD),
        _attention("keys handed on",
                   HEADS_APART + "w, a, b = Attention(q, q, q, , q, q)  y = Mul(a, b)", BY_HEAD),
        _attention("keys handed on alone, of the queries",
                   HEADS_APART + "w, a, b = Attention(q, p, p, , p, p)  s0 = Add(w, w)"
                   "  t = Slice(a, o, e, axis)  y = Add(t, s0)",
                   BY_HEAD | {"p": (2, 2, 3, 2), "o": ints(0), "e": ints(3), "axis": ints(2)},
                   batch_free=False),
        *(
            _attention(f"scores handed on, mode {mode}",
                       f"w, a, b, y = Attention<HEADS, {cap}qk_matmul_output_mode={mode}>"
                       "(x, x, x, m)", {"m": (3, 3)})
            # onnx's evaluator gives capped scores in mode 0, too
            for mode, cap in enumerate(["", *["softcap=0.9, "] * 3])
        ),
        _attention("of free length", "Attention<HEADS>(x, x, x)", free=(1,)),
        _attention("of free length, shared keys, causal",
                   "k = Slice(x, o, e, a)"
                   "  y = Attention<q_num_heads=2, kv_num_heads=1, is_causal=1>(x, k, k)",
                   {"o": ints(1), "e": ints(3), "a": ints(2)}, free=(1,)),
    ],
    "RotaryEmbedding": [
        Case("heads side by side", "RotaryEmbedding<num_heads=2>(x, c, s)", (2, 3, 8),
             {"c": (2, 3, 2), "s": (2, 3, 2)}, batch_free=False, opset=23),
        Case("interleaved", "RotaryEmbedding<num_heads=2, interleaved=1>(x, c, s)", (2, 3, 8),
             {"c": (2, 3, 2), "s": (2, 3, 2)}, batch_free=False, opset=23),
        Case("by positions", "RotaryEmbedding(x, c, s, p)", (2, 2, 3, 4),
             {"c": (5, 2), "s": (5, 2), "p": np.array([[0, 1, 4], [2, 2, 3]])}, batch_free=False,
             opset=23),
        Case("a part of each head",
             "RotaryEmbedding<rotary_embedding_dim=4, interleaved=1>(x, c, s, p)", (2, 2, 3, 6),
             {"c": (5, 2), "s": (5, 2), "p": np.array([[0, 1, 4], [2, 2, 3]])}, batch_free=False,
             opset=23),
        Case("a part of each head, halves",
             "RotaryEmbedding<rotary_embedding_dim=4, num_heads=2>(x, c, s, p)", (2, 3, 12),
             {"c": (5, 2), "s": (5, 2), "p": np.array([[0, 1, 4], [2, 2, 3]])}, batch_free=False,
             opset=23),
    ],
}  # fmt: skip

# --- Entries by position ----------------------------------------------------------------------

LAST, FIRST = 2**63 - 1, -(2**63)  # as far as it goes


def _reduced(op: str, head: str, constants: dict[str, Content]) -> list[Case]:
    """Scatters with a reduction; one place gets two updates, one none."""
    attributes = head.removeprefix(op).strip("<>")
    attributes = f"{attributes}, " if attributes else ""
    made = [
        Case(
            f"{reduction}",
            f't = Tanh(x)  y = {op}<{attributes}reduction="{reduction}">(x, i, t)',
            (3, 3),
            constants,
            batch_free=False,
        )
        for reduction in ("mul", "max", "min")
    ]
    tie = {"i": np.zeros((1, 1), np.int64), "c": np.ones((1, 1), np.float32)}
    made += [
        Case(
            "ties share",
            f'y = {op}<{attributes}reduction="max">(x, i, c)',
            (1, 1),
            tie,
            batch_free=False,
            at=[1],
            kink=[0.5],
        ),
        Case(
            "a factor 0",
            f'y = {op}<{attributes}reduction="mul">(c, i, x)',
            (1, 1),
            tie,
            batch_free=False,
            at=[0],
            kink=[1],
        ),
    ]
    return made  # fmt: skip


INDEXING = {
    "Slice": [
        Case("one axis", "Slice(x, s, e, a)", IMAGE, {"s": ints(1), "e": ints(3), "a": ints(1)}),
        Case("axes left out", "Slice(x, s, e)", (2, 5), {"s": ints(0, 1), "e": ints(LAST, 4)}),
        Case("several axes", "Slice(x, s, e, a)", IMAGE,
             {"s": ints(1, 0), "e": ints(5, 3), "a": ints(-1, 2)}),
        Case("counted from the end", "Slice(x, s, e, a)", IMAGE,
             {"s": ints(-3), "e": ints(-1), "a": ints(2)}),
        Case("clipped", "Slice(x, s, e, a)", IMAGE,
             {"s": ints(-100), "e": ints(100), "a": ints(2)}),
        Case("everything", "Slice(x, s, e, a)", IMAGE,
             {"s": ints(0), "e": ints(LAST), "a": ints(2)}),
        Case("every second", "Slice(x, s, e, a, t)", IMAGE,
             {"s": ints(1, 0), "e": ints(LAST, LAST), "a": ints(2, 3), "t": ints(2, 3)}),
        Case("reversed", "Slice(x, s, e, a, t)", IMAGE,
             {"s": ints(-1), "e": ints(FIRST), "a": ints(3), "t": ints(-1)}),
        Case("backwards by two", "Slice(x, s, e, a, t)", IMAGE,
             {"s": ints(4), "e": ints(0), "a": ints(2), "t": ints(-2)}),
        Case("from where is found at run time",
             "i = Cast<to=7>(z)  k = ReduceMax<keepdims=0>(i)  s = Reshape(k, one)  "
             "y = Slice(x, s, e, a)", IMAGE, {"one": ints(1), "e": ints(LAST), "a": ints(2)},
             beside={"z": (2, 2)}, reference=False),
        Case("backwards from where is found at run time",
             "i = Cast<to=7>(z)  k = ReduceMax<keepdims=0>(i)  s = Reshape(k, one)  "
             "y = Slice(x, s, e, a, t)", IMAGE,
             {"one": ints(1), "e": ints(FIRST), "a": ints(-1), "t": ints(-1)}, free=(2, 3),
             beside={"z": (2, 2)}, reference=False),
        Case("the middle third, by sizes",
             "h = Shape<start=1, end=2>(x)  s = Div(h, three)  e = Sub(h, s)  "
             "y = Slice(x, s, e, one)", (2, 6, 4), {"three": ints(3), "one": ints(1)}),
        Case("one entry", "Slice(x, s, e, a)", (2, 7), {"s": ints(2), "e": ints(3), "a": ints(1)}),
        Case("images", "Slice(x, s, e, a)", (3, 4), {"s": ints(1), "e": ints(3), "a": ints(0)},
             batch_free=False),
        Case("averaged tokens", "t = Slice(x, s, e, a)  y = ReduceMean<keepdims=0>(t, a)",
             (2, 5, 3), {"s": ints(1), "e": ints(LAST), "a": ints(1)}),
        Case("beside a free axis", "Slice(x, s, e, a)", IMAGE,
             {"s": ints(1), "e": ints(3), "a": ints(1)}, free=(2, 3)),
        Case("the whole of a free axis", "Slice(x, s, e, a)", IMAGE,
             {"s": ints(0, 1), "e": ints(LAST, 3), "a": ints(2, 1)}, free=(2, 3)),
        Case("a free axis without its border", "Slice(x, s, e, a)", IMAGE,
             {"s": ints(1, 2), "e": ints(-1, LAST), "a": ints(2, 3)}, free=(2, 3)),
        Case("every second of a free axis", "Slice(x, s, e, a, t)", IMAGE,
             {"s": ints(1, -1), "e": ints(LAST, FIRST), "a": ints(2, 3), "t": ints(2, -2)},
             free=(2, 3)),
    ],
    "Gather": [
        Case("one entry", "Gather<axis=1>(x, i)", (2, 5, 3), {"i": np.array(0)}),
        Case("one counted from the end", "Gather<axis=-1>(x, i)", IMAGE, {"i": np.array(-2)}),
        Case("one of vectors", "Gather<axis=1>(x, i)", (2, 5), {"i": np.array(3)}),
        Case("one image", "Gather<axis=0>(x, i)", (3, 4, 2), {"i": np.array(1)},
             batch_free=False),
        Case("a row", "Gather<axis=1>(x, i)", (2, 5, 3), {"i": ints(1, 2, 3)}),
        Case("permuted", "Gather<axis=1>(x, i)", (2, 5, 3), {"i": ints(4, 0, -2)}),
        Case("twice the same", "Gather<axis=2>(x, i)", IMAGE, {"i": ints(0, 0, 1, 5, -1)}),
        Case("all, doubled", "Gather<axis=2>(x, i)", (2, 3, 2), {"i": ints(0, 0, 1, 1)}),
        Case("twice the same, last axis", "Gather<axis=-1>(x, i)", IMAGE, {"i": ints(3, 3)}),
        Case("images", "Gather<axis=0>(x, i)", (3, 4), {"i": ints(2, 2, 0)}, batch_free=False),
        Case("a matrix of indices", "Gather<axis=1>(x, i)", (2, 5, 3),
             {"i": np.array([[0, 1, 4], [4, -5, 2]])}),
        Case("a matrix of indices, last axis", "Gather<axis=-1>(x, i)", (2, 5),
             {"i": np.array([[0, 1], [4, 2]])}),
        Case("beside a free axis", "Gather<axis=1>(x, i)", IMAGE, {"i": np.array([[2], [0]])},
             free=(2, 3)),
        Case("one beside a free axis", "Gather<axis=1>(x, i)", IMAGE, {"i": np.array(2)},
             free=(2, 3)),
        Case("along a free axis", "Gather<axis=2>(x, i)", IMAGE, {"i": np.array([[2, 0], [-1, 0]])},
             free=(2,)),
        Case("one along a free axis", "Gather<axis=-1>(x, i)", IMAGE, {"i": np.array(-1)},
             free=(3,)),
        Case("indices found at run time", "i = Cast<to=7>(z)  y = Gather<axis=1>(x, i)", (2, 5, 3),
             beside={"z": (2, 3)}, batch_free=False),
        Case("int32 found at run time", "i = Cast<to=6>(z)  y = Gather<axis=2>(x, i)", IMAGE,
             beside={"z": (2,)}, batch_free=False),
        Case("class token, then the head",
             "t = Gather<axis=1>(x, i)  y = MatMul(t, w)", (2, 5, 3),
             {"i": np.array(0), "w": (3, 4)}),
    ],
    "GatherElements": [
        Case("plain", "GatherElements<axis=1>(x, i)", (2, 4, 2),
             {"i": np.array([[[0, 3], [1, 1]], [[-1, 0], [2, 2]]])}, batch_free=False),
        Case("the same entry again", "GatherElements<axis=-1>(x, i)", (2, 3),
             {"i": np.array([[1, 1, 1], [0, -1, 2]])}, batch_free=False),
        Case("indices found at run time", "i = Cast<to=7>(z)  y = GatherElements<axis=1>(x, i)",
             (2, 4, 2), beside={"z": (2, 3, 2)}),
        Case("fewer entries, counted from the end", "GatherElements<axis=-1>(x, i)", (2, 3, 4),
             {"i": np.array([[[1], [0], [-1]], [[3], [2], [2]]])}, batch_free=False),
        Case("images", "GatherElements(x, i)", (2, 3), {"i": np.array([[1, 0, 1]])},
             batch_free=False, reference=True),
    ],
    "GatherND": [
        Case("behind the images", "t = Transpose<perm=[1, 2, 0]>(x)  y = GatherND(t, i)",
             (2, 3, 4), {"i": np.array([[0, 1], [2, -1], [0, 1]])}),
        Case("rows", "t = Transpose<perm=[1, 0, 2]>(x)  y = GatherND(t, i)", (2, 3, 4),
             {"i": np.array([[[2], [0]], [[1], [1]]])}),
        Case("rows beside a free axis", "t = Transpose<perm=[1, 0, 2]>(x)  y = GatherND(t, i)",
             (2, 3, 4), {"i": np.array([[2], [0]])}, free=(2,)),
        Case("one entry", "t = Transpose<perm=[1, 0]>(x)  y = GatherND(t, i)", (2, 3),
             {"i": ints(1)}),
        Case("in each image, found at run time",
             "j = Cast<to=7>(z)  i = Unsqueeze(j, last)  y = GatherND<batch_dims=1>(x, i)",
             (2, 3, 4), {"last": ints(-1)}, beside={"z": (2, 5)}),
        Case("pairs in each image, found at run time",
             "i = Cast<to=7>(z)  y = GatherND<batch_dims=1>(x, i)", (2, 3, 4),
             beside={"z": (2, 3, 2)}, free=(1,)),
        Case("of a batch of batches",
             "i = Cast<to=7>(z)  y = GatherND<batch_dims=2>(x, i)", (2, 3, 4, 2),
             beside={"z": (2, 3, 2, 1)}),
        Case("behind the images, found at run time",
             "t = Transpose<perm=[1, 2, 0]>(x)  i = Cast<to=7>(z)  y = GatherND(t, i)", (2, 3, 4),
             beside={"z": (2, 2)}, batch_free=False),
        Case("in each image", "GatherND<batch_dims=1>(x, i)", (2, 3, 4),
             {"i": np.array([[[0], [2]], [[1], [1]]])}, batch_free=False),
    ],
    "ScatterND": [
        Case("added, one place twice",
             't = Sigmoid(x)  y = ScatterND<reduction="add">(x, i, t)', (2, 3),
             {"i": np.array([[1], [1]])}, batch_free=False),
        Case("into data", "t = Transpose<perm=[1, 0, 2]>(x)  y = ScatterND(t, i, v)", (2, 3, 4),
             {"i": np.array([[2], [0]]), "v": (2, 2, 4)}, batch_free=False),
        Case("of updates", "t = Transpose<perm=[1, 0]>(x)  y = ScatterND(d, i, t)", (2, 3),
             {"i": np.array([[2], [0], [-2]]), "d": (5, 2)}, batch_free=False),
        *_reduced("ScatterND", "ScatterND", {"i": np.array([[1], [0], [1]])}),
        Case("into data, found at run time",
             "t = Transpose<perm=[1, 0, 2]>(x)  i = Cast<to=7>(z)  y = ScatterND(t, i, v)",
             (2, 3, 4), {"v": (2, 2, 4)}, beside={"z": (2, 1)}, batch_free=False),
        Case("added to rows, found at run time",
             't = Transpose<perm=[1, 0]>(x)  s = Tanh(z)  i = Cast<to=7>(w)'
             '  y = ScatterND<reduction="add">(t, i, s)', (2, 3), beside={"z": (2, 2), "w": (2, 1)},
             free=(1,), batch_free=False),
        Case("updates of rows, found at run time",
             'i = Cast<to=7>(w)  y = ScatterND<reduction="add">(d, i, x)', (2, 3),
             {"d": (4, 3)}, beside={"w": (2, 1)}, batch_free=False),
        Case("both", "t = Sigmoid(x)  y = ScatterND(x, i, t)", (2, 3),
             {"i": np.array([[[0, 2], [0, 1], [1, 1]], [[1, 0], [0, 0], [1, 2]]])},
             batch_free=False),
    ],
    "ScatterElements": [
        Case("added, one place twice",
             't = Sigmoid(x)  y = ScatterElements<axis=1, reduction="add">(x, i, t)', (2, 3),
             {"i": np.array([[1, 1, 0], [2, 2, 2]])}, batch_free=False),
        Case("into data", "ScatterElements<axis=1>(x, i, v)", (2, 3),
             {"i": np.array([[1], [-1]]), "v": (2, 1)}, batch_free=False),
        Case("of updates", "ScatterElements<axis=1>(d, i, x)", (2, 3),
             {"i": np.array([[1, 0, 4], [-1, 2, 3]]), "d": (2, 5)}, batch_free=False),
        *_reduced("ScatterElements", "ScatterElements<axis=0>", {"i": np.array(
            [[1, 0, 1], [0, 1, 0], [0, 0, 2]])}),
        Case("found at run time", "i = Cast<to=7>(z)  t = Sigmoid(x)"
             '  y = ScatterElements<axis=1, reduction="add">(x, i, t)', (2, 3),
             beside={"z": (2, 3)}),
        Case("both", "t = Sigmoid(x)  y = ScatterElements(x, i, t)", (2, 3),
             {"i": np.array([[1, 0, 1], [0, 1, 0]])}, batch_free=False),
    ],
    "Trilu": [
        Case("upper", "Trilu(x)", (2, 4, 5)),
        Case("lower", "Trilu<upper=0>(x)", IMAGE),
        Case("shifted", "Trilu(x, k)", (2, 4, 5), {"k": np.array(-1)}),
        Case("of free size", "Trilu<upper=0>(x, k)", IMAGE, {"k": np.array(1)}, free=(2, 3)),
    ],
}  # fmt: skip

# --- Fourier transforms ---------------------------------------------------------------------------

SPECTRAL = {
    "DFT": [
        Case("of real numbers", "DFT(x, , a)", (2, 5, 3, 1), {"a": np.array(1)}, opset=20),
        Case("of complex numbers", "DFT(x)", (2, 3, 4, 2), opset=20),
        Case("half of it", "DFT<onesided=1>(x)", (2, 3, 5, 1), opset=20),
        Case("cut", "DFT<onesided=1>(x, n)", (2, 3, 6, 1), {"n": np.array(4)}, opset=20),
        Case("filled up", "DFT(x, n)", (2, 3, 4, 2), {"n": np.array(7)}, opset=20),
        Case("inverse", "DFT<inverse=1>(x, , a)", (2, 4, 3, 2), {"a": np.array(-3)}, opset=20),
        Case("inverse of half", "DFT<inverse=1, onesided=1>(x)", (2, 3, 4, 2), opset=20),
        Case("inverse of half, odd", "DFT<inverse=1, onesided=1>(x, n)", (2, 3, 3, 2),
             {"n": np.array(5)}, opset=20),
        Case("axis by attribute", "DFT<axis=2>(x)", (2, 3, 4, 1)),
        Case("beside a free axis", "DFT<axis=1>(x)", (2, 4, 3, 1), free=(2,)),
        Case("a filter", "f = DFT<onesided=1>(x)  p = Mul(f, w)  y = DFT<inverse=1, onesided=1>(p)",
             (2, 2, 4, 1), {"w": (3, 2)}, opset=20),
    ],
}  # fmt: skip

# --- Selected at run time -------------------------------------------------------------------------

SELECTION = {
    "TopK": [
        Case("largest", "y, i = TopK(x, k)", (2, 3, 5), {"k": ints(2)}),
        Case("smallest along an axis", "y, i = TopK<axis=1, largest=0>(x, k)", (2, 5, 3),
             {"k": ints(3)}),
        Case("of free size", "y, i = TopK<axis=-2>(x, k)", (2, 5, 3), {"k": ints(2)}, free=(1,)),
        Case("all, sorted", "v, i = TopK(x, k)  y = Mul(v, c)", (2, 4), {"k": ints(4), "c": (4,)}),
        Case("the first of equals", "y, i = TopK(x, k)", (1, 3), {"k": ints(1)}, at=[1, 2, 2],
             kink=[0, 1, 0]),
    ],
    "Compress": [
        Case("along an axis", "Compress<axis=1>(x, c)", (2, 4, 3),
             {"c": np.array([True, False, True, True])}),
        Case("a short condition", "Compress<axis=-1>(x, c)", (2, 4),
             {"c": np.array([False, True])}),
        Case("images", "Compress<axis=0>(x, c)", (3, 4), {"c": np.array([True, False, True])},
             batch_free=False),
        Case("of everything", "Compress(x, c)", (2, 3), {"c": np.array([True, False, True, True])},
             batch_free=False),
        Case("all but one, found at run time", "f = ReduceMax<keepdims=0>(z, a)"
             "  i = ArgMax(f)  e = Equal(i, o)  c = Not(e)  y = Compress<axis=2>(x, c)", (2, 3, 4),
             {"a": ints(0), "o": ints(0, 1, 2, 3)}, beside={"z": (2, 4)}),
    ],
    "ReverseSequence": [
        Case("images first", "ReverseSequence<time_axis=1, batch_axis=0>(x, n)", (3, 4, 2),
             {"n": ints(1, 3, 4)}, batch_free=False),
        Case("time first", "ReverseSequence(x, n)", (4, 3), {"n": ints(1, 3, 4)},
             batch_free=False),
    ],
    "MaxUnpool": [
        Case("of fixed positions", "MaxUnpool<kernel_shape=[2, 2], strides=[2, 2]>(x, i)",
             (1, 1, 2, 2), {"i": np.array([[[[1, 2], [8, 15]]]])}, batch_free=False),
    ],
    "OneHot": [
        Case("values on path", "m = ReduceMean<keepdims=0>(x, a)  y = OneHot(i, d, m)", (3, 2),
             {"a": ints(0), "i": ints(0, 2, 1, 7), "d": np.array(4)}, batch_free=False),
        Case("indices on path", "t = Abs(x)  r = Round(t)  o = OneHot<axis=0>(r, d, v)"
             "  y = ReduceSum<keepdims=0>(o, a)",
             (2, 3), {"a": ints(0), "v": (2,), "d": scalar(4)}, batch_free=False),
    ],
    "TensorScatter": [
        Case("cache", "TensorScatter(x, c)", (2, 4, 3), {"c": (2, 2, 3)}, batch_free=False,
             opset=24),
        Case("update", 'TensorScatter<mode="circular", axis=1>(c, x, n)', (2, 2, 3),
             {"c": (2, 4, 3), "n": ints(3, 1)}, batch_free=False, opset=24),
        Case("both", "t = Slice(x, o, e, a)  y = TensorScatter(x, t, n)", (2, 2, 4, 3),
             {"o": ints(0), "e": ints(2), "a": ints(2), "n": ints(1, 2)}, batch_free=False,
             opset=24),
    ],
}  # fmt: skip

# --- Mixing along an axis ---------------------------------------------------------------------


def resized(name: str, scales: str, attributes: str, **more: Any) -> Case:
    """A Resize by scales for rows and columns."""
    factors = np.array([1, 1, *map(float, scales.split())], np.float32)
    constants = {"r": np.zeros(0, np.float32), "s": factors}
    return Case(name, f"Resize<{attributes}>(x, r, s)", more.pop("x", IMAGE), constants, **more)


RESIZING = {
    "Pad": [
        Case("every axis", "Pad(x, pads)", IMAGE, {"pads": ints(0, 0, 1, 2, 0, 1, 0, 1)}),
        Case("given axes", "Pad(x, pads, , axes)", IMAGE,
             {"pads": ints(1, 0, 2, 3), "axes": ints(-1, 2)}),
        Case("a value", "Pad(x, pads, value)", IMAGE,
             {"pads": ints(0, 0, 1, 1, 0, 0, 1, 1), "value": scalar(3)}),
        Case("negative", "Pad(x, pads)", IMAGE, {"pads": ints(0, 0, -1, 0, 0, 0, 0, -2)}),
        Case("both signs", "Pad(x, pads, , axes)", IMAGE,
             {"pads": ints(-1, 2), "axes": ints(2)}),
        Case("found at run time",
             "h = Shape<start=2, end=3>(x)  w = Shape<start=3>(x)  d = Sub(h, w)  "
             "pads = Concat<axis=0>(one, d)  y = Pad(x, pads, , a)", IMAGE,
             {"one": ints(2), "a": ints(3)}, free=(2, 3), reference=False),
        Case("value on path", "m = ReduceMean<keepdims=0>(x)  y = Pad(x, pads, m)", IMAGE,
             {"pads": ints(0, 0, 1, 2, 0, 1, 0, -1)}, reference=False),
        Case("of free size", "Pad(x, pads)", IMAGE, {"pads": ints(0, 0, 1, 0, 0, 0, 2, -1)},
             free=(2, 3)),
        Case("reflected", 'Pad<mode="reflect">(x, pads)', IMAGE,
             {"pads": ints(0, 0, 2, 1, 0, 0, 0, 3)}),
        Case("reflected, given axes", 'Pad<mode="reflect">(x, pads, , axes)', IMAGE,
             {"pads": ints(1, 2, 3, 0), "axes": ints(-1, 2)}),
        Case("edge", 'Pad<mode="edge">(x, pads)', IMAGE, {"pads": ints(0, 0, 2, 1, 0, 1, 0, 3)}),
        Case("edge of vectors", 'Pad<mode="edge">(x, pads)', (2, 3), {"pads": ints(0, 2, 0, 1)}),
        Case("wrapped", 'Pad<mode="wrap">(x, pads)', IMAGE, {"pads": ints(0, 0, 2, 1, 0, 1, 0, 3)},
             opset=19),
        Case("reflected beside a free axis", 'Pad<mode="reflect">(x, pads)', IMAGE,
             {"pads": ints(0, 1, 0, 0, 0, 2, 0, 0)}, free=(2, 3)),
        Case("images reflected", 'Pad<mode="reflect">(x, pads)', (3, 4), {"pads": ints(1, 0, 1, 0)},
             batch_free=False),
    ],
    "Resize": [
        resized("nearest, doubled", "2 2", 'mode="nearest"', x=(2, 2, 3, 4)),
        resized("nearest, floored", "2 3",
                'coordinate_transformation_mode="asymmetric", nearest_mode="floor"',
                x=(2, 2, 3, 4)),
        resized("nearest, rounded", "1.5 0.7", 'nearest_mode="round_prefer_ceil"'),
        resized("nearest, doubled, of free size", "2 2",
                'coordinate_transformation_mode="asymmetric", nearest_mode="floor"', free=(2, 3)),
        resized("nearest, one axis of free size", "2 1", 'mode="nearest"', free=(2, 3)),
        resized("nearest, one axis", "1 2", 'mode="nearest"', free=(2,)),
        resized("linear", "2 2", 'mode="linear"'),
        resized("linear, smaller", "0.5 0.7", 'mode="linear"'),
        resized("linear, corners aligned", "2 0.6",
                'mode="linear", coordinate_transformation_mode="align_corners"'),
        resized("linear, asymmetric", "2 1.5",
                'mode="linear", coordinate_transformation_mode="asymmetric"'),
        resized("linear, pytorch_half_pixel", "0.5 1.5",
                'mode="linear", coordinate_transformation_mode="pytorch_half_pixel"'),
        resized("linear, half_pixel_symmetric", "1.3 1.7",
                'mode="linear", coordinate_transformation_mode="half_pixel_symmetric"', opset=19),
        resized("linear, antialiased", "0.5 0.7", 'mode="linear", antialias=1'),
        resized("cubic", "2 1.5", 'mode="cubic"'),
        resized("cubic, smaller", "0.6 0.5", 'mode="cubic", cubic_coeff_a=-0.5'),
        resized("cubic, outside excluded", "2 1.5", 'mode="cubic", exclude_outside=1'),
        resized("cubic, antialiased", "0.5 0.6", 'mode="cubic", antialias=1'),
        resized("linear, one axis", "1 2", 'mode="linear"', free=(2,)),
        Case("nearest, to sizes that are no multiple", 'Resize<mode="nearest">(x, , , s)', IMAGE,
             {"s": ints(2, 3, 13, 12)}, batch_free=False),
        Case("nearest, to the double", 'Resize<mode="nearest">(x, , , s)', (2, 2, 3, 4),
             {"s": ints(2, 2, 6, 8)}, batch_free=False),
        Case("to sizes", 'Resize<mode="linear">(x, , , s)', IMAGE, {"s": ints(2, 3, 9, 4)},
             batch_free=False),
        Case("to sizes of given axes", 'Resize<mode="cubic", axes=[3, 2]>(x, , , s)', IMAGE,
             {"s": ints(9, 4)}),
        Case("not larger than", 'Resize<mode="linear", axes=[2, 3], '
             'keep_aspect_ratio_policy="not_larger">(x, , , s)', (2, 3, 6, 4), {"s": ints(9, 9)}),
        Case("not larger than, rounded", 'Resize<mode="linear", axes=[2, 3], '
             'keep_aspect_ratio_policy="not_larger">(x, , , s)', IMAGE, {"s": ints(9, 9)}),
        Case("not smaller than, rounded", 'Resize<axes=[3, 2], '
             'keep_aspect_ratio_policy="not_smaller">(x, , , s)', IMAGE, {"s": ints(8, 11)}),
        Case("not smaller than", 'Resize<mode="linear", axes=[2, 3], '
             'keep_aspect_ratio_policy="not_smaller">(x, , , s)', (2, 3, 6, 4), {"s": ints(9, 8)}),
        Case("a crop", 'Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize">'
             "(x, r, , s)", IMAGE,
             {"r": np.array([0, 0, 0.2, 0.1, 1, 1, 0.8, 1], np.float32), "s": ints(2, 3, 4, 6)},
             batch_free=False),
        Case("a crop beyond the border",
             'Resize<mode="linear", extrapolation_value=7.0, '
             'coordinate_transformation_mode="tf_crop_and_resize">(x, r, , s)', IMAGE,
             {"r": np.array([0, 0, -0.2, 0.1, 1, 1, 0.8, 1.4], np.float32),
              "s": ints(2, 3, 4, 6)}, batch_free=False),
        Case("then averaged", 't = Resize<mode="linear">(x, , s)  y = GlobalAveragePool(t)', IMAGE,
             {"s": np.array([1, 1, 2, 1.5], np.float32)}),
        resized("linear, of free size", "2 2", 'mode="linear"', free=(2, 3)),
        resized("cubic, smaller, of free size", "0.6 1.5", 'mode="cubic"', free=(2, 3)),
        resized("linear, corners aligned, one axis free", "1.5 2",
                'mode="linear", coordinate_transformation_mode="align_corners"', free=(3,)),
        Case("to the size of another", "h = Shape<start=2>(z)  n = Shape<end=2>(x)"
             '  s = Concat<axis=0>(n, h)  y = Resize<mode="linear">(x, , , s)', IMAGE,
             beside={"z": (2, 1, 7, 9)}, free=(2, 3)),
        Case("of three axes", 'Resize<mode="linear">(x, , s)', (2, 1, 2, 3, 2),
             {"s": np.array([1, 1, 2, 1.5, 2], np.float32)}),
    ],
    "CenterCropPad": [
        Case("cropped", "CenterCropPad<axes=[2, 3]>(x, s)", IMAGE, {"s": ints(3, 2)}),
        Case("padded", "CenterCropPad<axes=[2, -1]>(x, s)", IMAGE, {"s": ints(9, 8)}),
        Case("both", "CenterCropPad<axes=[3, 2]>(x, s)", IMAGE, {"s": ints(8, 3)}),
        Case("every axis", "CenterCropPad(x, s)", (2, 3, 4), {"s": ints(1, 5, 4)},
             batch_free=False),
        Case("of free size", "CenterCropPad<axes=[2, 3]>(x, s)", IMAGE, {"s": ints(4, 7)},
             free=(2, 3)),
    ],
    "CumSum": [
        Case("plain", "CumSum(x, a)", IMAGE, {"a": np.array(2)}),
        Case("exclusive", "CumSum<exclusive=1>(x, a)", IMAGE, {"a": np.array(-1)}),
        Case("reversed", "CumSum<reverse=1>(x, a)", (2, 5), {"a": np.array(1)}),
        Case("both", "CumSum<reverse=1, exclusive=1>(x, a)", IMAGE, {"a": np.array(1)},
             free=(2, 3)),
    ],
}  # fmt: skip

VJP_CASES: dict[str, list[Case]] = {
    **POINTWISE,
    **TRIGONOMETRY,
    **STEPS,
    **REDUCTIONS,
    **LINEAR,
    **NORMALIZATION,
    **QUANTIZATION,
    **POOLING,
    **SHAPING,
    **SAMPLING,
    **ATTENTION,
    **INDEXING,
    **SELECTION,
    **SPECTRAL,
    **RESIZING,
}
