"""Every gradient rule, against finite differences of the operator itself.

The first oracle is <v, J^T u> = <J v, u>: J^T u comes from the rules, in float32, in ONNX Runtime
as users run it; J v from central differences of onnx's reference evaluator, in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from emitted import append, content, parsed, placeholder, session, values
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnxruntime import InferenceSession
from vjp_cases import DOUBLE, FLOAT, VJP_CASES, Case

from exporters import graph
from exporters.builder import Ops
from exporters.cotangent import Cotangent, OneHot, dense
from exporters.float64_ops import OPERATORS
from exporters.gradient import vjp, without_rule
from exporters.probe import BATCH, FREE, Shape, Shapes
from exporters.vjp_rules import VJP_RULES
from exporters.vjp_rules.registry import vjp as vjp_rule
from xai_onnx.errors import TargetLayerError, UnsupportedOperatorError

# Central differences in float64 err by step^2 and by 1e-16 / step, so by less than 1e-9; what is
# left are the roundings of a few dozen float32 operations, 6e-8 each.
STEP, TOLERANCE = 1e-6, 2e-6
# Both sides of the comparison of a rule with itself are float32.
SAME = 1e-6

CASES = [
    pytest.param(case, id=f"{op}: {case.name}") for op, cases in VJP_CASES.items() for case in cases
]
SMOOTH = [param for param in CASES if param.values[0].kink is None]
KINKS = [param for param in CASES if param.values[0].kink is not None]


@dataclass(frozen=True)
class Seed:
    """A cotangent of y as it is stored: facts about it, and `ones` where it is a bare constant."""

    name: str
    one_hot: int | None = None
    constant: frozenset[int] = frozenset()
    ones: bool = False

    def stored(self, shape: tuple[int, ...]) -> list[int]:
        """The sizes of what is stored for a value of `shape`."""
        if self.ones:
            return [1] * len(shape)
        small = self.constant | {self.one_hot}
        return [1 if axis in small else n for axis, n in zip(axes(shape), shape, strict=True)]


def axes(shape: Shape) -> range:
    return range(-len(shape), 0)


def seeds(rank: int) -> Iterator[Seed]:
    """One-hot and constant cotangents of a value with `rank` axes; the batch is never one-hot."""
    for axis in range(-rank, 0):
        yield Seed(f"constant along {axis}", constant=frozenset({axis}))
    yield Seed("constant", constant=frozenset(range(-rank, 0)))
    for axis in range(1 - rank, 0):
        others = frozenset(range(1 - rank, 0)) - {axis}
        yield Seed(f"one-hot along {axis}", axis)
        yield Seed(f"one-hot along {axis}, else constant", axis, others)
        yield Seed(f"one-hot along {axis}, one", axis, others, ones=True)


class Bench:
    """A case's model; the gradients of y by x for several cotangents of y are appended to it."""

    def __init__(self, case: Case, *, static: bool = False, single: bool = False) -> None:
        self.case, self.static = case, static
        self.rng = np.random.default_rng(0)
        self.constants = {
            name: self.rng.standard_normal(given).astype(np.float32)
            if isinstance(given, tuple)
            else given
            for name, given in case.constants.items()
        }
        given = [*case.beside.items(), ("x", case.x)]
        inputs = ", ".join(f"float[{self._dims(name, shape)}] {name}" for name, shape in given)
        text = f"({inputs}) => (y) {{ {case.nodes} }}"
        self.model = parsed(text, opset=case.opset, **self.constants)
        self.plain = ir.serde.serialize_model(self.model)
        self.values = values(self.model)
        self.forward64 = in_float64(self.plain, case.reference)
        self.shapes = self._measured()
        self.op = Ops(set(self.values), single=single)
        self._outputs: dict[str, ir.Value] = {}

    def _dims(self, name: str, shape: tuple[int, ...]) -> str:
        if self.static:
            return ", ".join(map(str, shape))
        batch = [f"B{name}", *shape[1:]] if self.case.batch_free else [*shape]
        return ", ".join(
            f"free{axis}" if name == "x" and axis in self.case.free else str(size)
            for axis, size in enumerate(batch)
        )

    def feed(self, batch: int | None = None, more: int = 0) -> dict[str, NDArray[np.float64]]:
        """Inputs; `batch` images and `more` entries along free axes, where the case allows it."""
        case = self.case
        if batch is None or self.static or not case.batch_free:
            batch = case.x[0]
        shape = [batch, *case.x[1:]]
        for axis in () if self.static else case.free:
            shape[axis] += more
        made = {n: self.rng.standard_normal((batch, *s[1:])) for n, s in case.beside.items()}
        if case.at is not None and (batch, *case.x[1:]) == case.x:
            return {**made, "x": np.array(case.at, np.float64).reshape(case.x)}
        random = self.rng.standard_normal(shape)
        # the points of the differences are those of float32, so that both sides start from one
        return {
            n: a.astype(np.float32).astype(np.float64) for n, a in (made | {"x": random}).items()
        }

    def _measured(self) -> Shapes:
        """Shapes as `exporters.probe` notes them: of the values that depend on the inputs."""
        inputs = [*self.case.beside, "x"]
        reached = set().union(*(graph.descendants(self.values[name]) for name in inputs))
        names = [name for name, value in self.values.items() if value in reached]
        runs = [self._sizes(names, batch, more) for batch, more in ((2, 0), (3, 0), (2, 3))]

        def dim(seen: tuple[int, ...]) -> int | str:
            if len(set(seen)) == 1:
                return seen[0]
            return BATCH if seen == (2, 3, 2) else FREE

        return {
            self.values[name]: tuple(dim(seen) for seen in zip(*shapes, strict=True))
            for name, shapes in zip(names, zip(*runs, strict=True), strict=True)
        }

    def _sizes(self, names: list[str], batch: int, more: int) -> list[tuple[int, ...]]:
        feed = self.feed(batch, more)
        every = onnx.ModelProto()
        every.CopyFrom(self.plain)
        del every.graph.output[:]
        every.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in feed)
        single = {name: array.astype(np.float32) for name, array in feed.items()}
        results = session(ir.serde.deserialize_model(every)).run(None, single)
        found = single | dict(zip([n for n in names if n not in feed], results, strict=True))
        return [tuple(int(size) for size in found[name].shape) for name in names]

    def differentiate(self, name: str, cotangent: Cotangent) -> Cotangent:
        """Append the gradient; the run gives it as `name`, spelled out."""
        x, y = self.values["x"], self.values["y"]
        (gradient,) = vjp(self.op, self.model, [x], y, cotangent, self.shapes)
        assert gradient.shape == self.shapes[x]
        self._outputs[name] = dense(self.op, gradient, x).value
        return gradient

    def dense_cotangent(self) -> Cotangent:
        shape = self.shapes[self.values["y"]]
        u = placeholder("u", ["Ku", *self._symbols(shape)])
        self.model.graph.inputs.append(u)
        return Cotangent(u, shape)

    def stored_cotangent(self, name: str, seed: Seed) -> Cotangent:
        """The cotangent that `seed` describes: fed as `name`, its index as `name`_index."""
        shape = self.shapes[self.values["y"]]
        if seed.ones:
            value = self.op.constant(np.ones([1] * (len(shape) + 1)), ir.DataType.FLOAT)
        else:
            value = placeholder(name, ["K", *[None] * len(shape)])
            self.model.graph.inputs.append(value)
        one_hot = None
        if seed.one_hot is not None:
            index = placeholder(f"{name}_index", ["K", self._symbols(shape)[0]], ir.DataType.INT64)
            self.model.graph.inputs.append(index)
            one_hot = OneHot(seed.one_hot, index, self.op.transpose(index, [1, 0]))
        return Cotangent(value, shape, seed.constant, one_hot)

    def _symbols(self, shape: Shape) -> list[int | str]:
        return [n if isinstance(n, int) else f"y{axis}" for axis, n in enumerate(shape)]

    def finish(self) -> None:
        y, x = (len(self.shapes[self.values[name]]) for name in "yx")
        rank = {"forward": y, **dict.fromkeys(self._outputs, x + 1)}
        append(self.op, self.model, {"forward": self.values["y"], **self._outputs}, rank)
        onnx.checker.check_model(ir.serde.serialize_model(self.model), full_check=True)
        self.session = session(self.model)

    def run(self, feed: dict[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        feed = {n: a if a.dtype == np.int64 else a.astype(np.float32) for n, a in feed.items()}
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(None, feed), strict=True))


def in_float64(model: onnx.ModelProto, reference: bool) -> ReferenceEvaluator | InferenceSession:
    """The same model in float64 throughout."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    del twin.graph.value_info[:]
    for value in (*twin.graph.input, *twin.graph.output):
        value.type.tensor_type.elem_type = DOUBLE
    for tensor in twin.graph.initializer:
        if tensor.data_type == FLOAT:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for node in twin.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == FLOAT:
                attribute.i = DOUBLE
    if reference:
        return ReferenceEvaluator(twin, new_ops=list(OPERATORS))
    return session(ir.serde.deserialize_model(twin))


def largest(array: NDArray[np.floating]) -> float:
    return float(np.abs(array).max(initial=0))


def test_every_rule_has_cases_and_every_case_its_rule():
    assert set(VJP_CASES) == set(VJP_RULES)
    for op, cases in VJP_CASES.items():
        assert len({case.name for case in cases}) == len(cases) > 0
        for case in cases:
            assert op in [
                n.op_type for n in parsed(f"(float[N] x) => (y) {{ {case.nodes} }}").graph
            ]


FORMS = pytest.mark.parametrize(
    "form",
    [{}, {"static": True}, {"single": True}],
    ids=["free batch", "fixed batch", "one class an image"],
)


@FORMS
@pytest.mark.parametrize("case", SMOOTH)
def test_gradient_against_finite_differences(case, form):
    bench = Bench(case, **form)
    bench.differentiate("gradient", bench.dense_cotangent())
    bench.finish()
    for k, batch, more in ((3, case.x[0], 0), (0, case.x[0], 0), (1, 1, 2), (2, 4, 1)):
        k = 1 if "single" in form else k
        feed = bench.feed(batch, more)
        (y,) = bench.forward64.run(None, feed)
        u = bench.rng.standard_normal((k, *y.shape))
        results = bench.run({**feed, "u": u})
        np.testing.assert_allclose(results["forward"], y, rtol=1e-5, atol=1e-5)
        gradient = results["gradient"]
        assert gradient.shape == (k, *feed["x"].shape)
        for _ in range(2):
            v = bench.rng.standard_normal(feed["x"].shape)
            ahead, behind = (
                bench.forward64.run(None, feed | {"x": feed["x"] + sign * STEP * v})[0]
                for sign in (1, -1)
            )
            along = gradient * v
            rest = tuple(range(1, along.ndim))
            expected = (u * (ahead - behind) / (2 * STEP)).sum(tuple(range(1, u.ndim)))
            scale = np.sqrt((along**2).sum(rest)) + 1e-3
            assert largest((along.sum(rest) - expected) / scale) <= TOLERANCE


@FORMS
@pytest.mark.parametrize("case", KINKS)
def test_gradient_at_a_kink_is_what_the_rule_says(case, form):
    bench = Bench(case, **form)
    bench.differentiate("gradient", bench.dense_cotangent())
    bench.finish()
    feed = bench.feed()
    (y,) = bench.forward64.run(None, feed)
    gradient = bench.run({**feed, "u": np.ones((1, *y.shape))})["gradient"]
    np.testing.assert_array_equal(gradient.reshape(-1), np.array(case.kink, np.float32))


@FORMS
@pytest.mark.parametrize("case", SMOOTH)
def test_cotangents_stored_small_give_what_full_ones_give(case, form):
    bench, whole = Bench(case, **form), Bench(case, static="static" in form)
    shape = bench.shapes[bench.values["y"]]
    whole.differentiate("full", whole.dense_cotangent())
    whole.finish()
    named = {f"seed{i}": seed for i, seed in enumerate(seeds(len(shape)))}
    for name, seed in named.items():
        bench.differentiate(f"{name}_gradient", bench.stored_cotangent(name, seed))
    bench.finish()
    for k, batch in ((2, case.x[0]), (0, 1), (3, 3)):
        k = 1 if "single" in form else k
        inputs = bench.feed(batch)
        feed = dict(inputs)
        sizes = np.shape(bench.forward64.run(None, inputs)[0])
        full = []
        for name, seed in named.items():
            stored = bench.rng.standard_normal((k, *seed.stored(sizes)))
            if seed.ones:
                stored = np.ones_like(stored)
            else:
                feed[name] = stored
            u = np.broadcast_to(stored, (k, *sizes))
            if seed.one_hot is not None:
                count = sizes[seed.one_hot]
                feed[f"{name}_index"] = bench.rng.integers(0, count, (k, sizes[0]))
                chosen = feed[f"{name}_index"].reshape(k, sizes[0], *[1] * (len(sizes) - 1))
                along = np.arange(count).reshape(-1, *[1] * (-seed.one_hot - 1))
                u = np.where(along == chosen, u, 0)
            full.append(u)
        expected_all = whole.run({**inputs, "u": np.concatenate(full)})["full"]
        results = bench.run(feed)
        for position, (name, seed) in enumerate(named.items()):
            expected = expected_all[position * k : (position + 1) * k]
            got = results[f"{name}_gradient"]
            assert got.shape == expected.shape, seed.name
            assert largest(got - expected) <= SAME * max(largest(expected), 1), seed.name


def noted_shapes(model: ir.Model) -> Shapes:
    """Shapes as the model notes them: B is the batch, any other symbol a free size."""

    def dim(size: int | ir.SymbolicDim) -> int | str:
        return size if isinstance(size, int) else BATCH if size.value == "B" else FREE

    shaped = [value for value in values(model).values() if value.shape is not None]
    return {value: tuple(map(dim, value.shape)) for value in shaped}


def gradient_of(text: str, **initializers: NDArray[np.generic]) -> Cotangent:
    """The gradient of `y` by `x`, emitted but not run."""
    model = parsed(text, **initializers)
    known, shapes = values(model), noted_shapes(model)
    op = Ops(set(known))
    g = Cotangent(placeholder("u", [None]), shapes[known["y"]])
    (gradient,) = vjp(op, model, [known["x"]], known["y"], g, shapes)
    return gradient


WEIGHT = np.ones((4, 3, 3, 3), np.float32)
VECTOR = np.ones(3, np.float32)
BATCH_NORM = {"mean": VECTOR, "scale": VECTOR, "bias": VECTOR, "variance": VECTOR}
FREE_IMAGE = "(float[B,3,h,w] x) => (float[B,c,i,j] y)"

REFUSED = {
    "RoiAlign: max": (
        '(float[B,3,4,4] x) => (y) { y = RoiAlign<mode="max">(x, r, i) }',
        {"r": np.array([[0, 0, 1, 1]], np.float32), "i": np.array([0])},
        "with mode='max'",
    ),
    "DeformConv: weights on path": (
        "(float[1,3,2,2] x) => (float[1,1,3,3] y) { y = DeformConv(z, x, o) }",
        {"z": np.zeros((1, 3, 4, 4), np.float32), "o": np.zeros((1, 8, 3, 3), np.float32)},
        "with weights that depend on the image",
    ),
    "DeformConv: of free size": (
        "(float[B,3,h,w] x, float[B,8,i,j] o) => (float[B,4,i,j] y) { y = DeformConv(x, w, o) }",
        {"w": WEIGHT[..., :2, :2]},
        "with an image size that is only known at run time",
    ),
    "AffineGrid: of free size": (
        "(float[B,2,3] x, int64[4] s) => (float[B,i,j,2] y) { y = AffineGrid(x, s) }",
        {},
        "with an image size that is only known at run time",
    ),
    "Attention: free number of heads": (
        "(float[B,h,4,2] x) => (float[B,h,4,2] y) { y = Attention(x, x, x) }",
        {},
        "with a number of heads that is only known at run time",
    ),
    "RotaryEmbedding: free size": (
        "(float[B,h,4,2] x) => (float[B,h,4,2] y) { y = RotaryEmbedding(x, c, c) }",
        {"c": np.zeros((1, 4, 1), np.float32)},
        "with a size of the heads that is only known at run time",
    ),
    "Slice: axes at run time": (
        "(float[B,4] x, int64[1] a) => (float[B,i] y) { y = Slice(x, s, s, a) }",
        {"s": np.array([1])},
        "with input 3 computed at run time",
    ),
    "Conv: weights on path": (
        "(float[1,3,5,5] z, float[4,3,3,3] x) => (y) { y = Conv(z, x) }",
        {},
        "with weights that depend on the image",
    ),
    "Conv: bias on path": (
        "(float[1,3,5,5] z, float[4] x) => (y) { y = Conv(z, w, x) }",
        {"w": WEIGHT},
        "with weights that depend on the image",
    ),
    "Conv: kernel of free size": (
        "(float[4,3,k,k] z, float[B,3,5,5] x) => (float[B,4,i,j] y) { y = Conv(x, z) }",
        {},
        "with a kernel size that is only known at run time",
    ),
    "Conv: SAME of free size": (
        FREE_IMAGE + ' { y = Conv<auto_pad="SAME_UPPER">(x, w) }',
        {"w": WEIGHT},
        "with auto_pad='SAME_UPPER' and an image size that is free",
    ),
    "BatchNormalization: training": (
        "(float[B,3,2,2] x) => (y) "
        "{ y, m, v = BatchNormalization<training_mode=1>(x, scale, bias, mean, variance) }",
        BATCH_NORM,
        "in training mode",
    ),
    "BatchNormalization: scale on path": (
        "(float[B,3,2,2] z, float[3] x) => (y) "
        "{ y = BatchNormalization(z, x, bias, mean, variance) }",
        BATCH_NORM,
        "with input 1 on the way to the target layer",
    ),
    "BatchNormalization: bias on path": (
        "(float[B,3,2,2] z, float[3] x) => (y) "
        "{ y = BatchNormalization(z, scale, x, mean, variance) }",
        BATCH_NORM,
        "with input 2 on the way to the target layer",
    ),
    "Einsum: diagonal": (
        '(float[B,3,3] x) => (float[B,3] y) { y = Einsum<equation="bii->bi">(x) }',
        {},
        "with a diagonal",
    ),
    "Einsum: stretched": (
        '(float[B,1] x, float[B,3] z) => (float[B,3] y) { y = Einsum<equation="bi,bi->bi">(x, z) }',
        {},
        "with an axis that is stretched",
    ),
    "ConvTranspose: weights on path": (
        "(float[1,3,5,5] z, float[3,4,3,3] x) => (float[1,4,7,7] y) { y = ConvTranspose(z, x) }",
        {},
        "with weights that depend on the image",
    ),
    "ConvTranspose: kernel of free size": (
        "(float[3,4,k,k] z, float[B,3,5,5] x) => (float[B,4,i,j] y) { y = ConvTranspose(x, z) }",
        {},
        "with a kernel size that is only known at run time",
    ),
    "ConvTranspose: SAME of free size": (
        FREE_IMAGE + ' { y = ConvTranspose<auto_pad="SAME_UPPER">(x, w) }',
        {"w": WEIGHT[:3]},
        "with output_shape or auto_pad and an image size that is free",
    ),
    "DequantizeLinear: other scales along an axis": (
        "(float[B,3] x) => (y) { q = QuantizeLinear(x, s)  y = DequantizeLinear(q, t) }",
        {"s": VECTOR, "t": VECTOR * 2},
        "with other scales along an axis than those it was quantised by",
    ),
    "GroupNormalization: as before opset 21": (
        "(float[B,4,2] x) => (float[B,4,2] y) { y = GroupNormalization<num_groups=2>(x, s, s) }",
        {"s": VECTOR[:2]},
        "with a scale for each group, as before opset 21",
    ),
    "LRN: channels of free size": (
        "(float[B,c,2,2] x) => (float[B,c,2,2] y) { y = LRN<size=3>(x) }",
        {},
        "with channels whose number is only known at run time",
    ),
    "AveragePool: padding of free size": (
        FREE_IMAGE + " { y = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(x) }",
        {},
        "with padding and an image size that is free",
    ),
    "AveragePool: ceil_mode of free size": (
        FREE_IMAGE + " { y = AveragePool<kernel_shape=[3, 3], ceil_mode=1>(x) }",
        {},
        "with padding and an image size that is free",
    ),
    "ReduceSum: axes at run time": (
        "(float[B,3] x, int64[1] axes) => (float[B,1] y) { y = ReduceSum(x, axes) }",
        {},
        "with input 1 computed at run time",
    ),
    "Pad: reflect of free size": (
        '(float[B,3,h] x) => (float[B,3,i] y) { y = Pad<mode="reflect">(x, pads) }',
        {"pads": np.array([0, 0, 1, 0, 0, 1])},
        "with mode='reflect' and a size that is only known at run time",
    ),
    "DepthToSpace: free channels": (
        "(float[B,c,3,3] x) => (float[B,d,6,6] y) { y = DepthToSpace<blocksize=2>(x) }",
        {},
        "with a number of channels that is only known at run time",
    ),
    "SpaceToDepth: free channels": (
        "(float[B,c,6,6] x) => (float[B,d,3,3] y) { y = SpaceToDepth<blocksize=2>(x) }",
        {},
        "with a number of channels that is only known at run time",
    ),
    "Resize: kept ratio of free size": (
        "(float[B,3,h,w] x) => (float[B,3,i,j] y) "
        '{ y = Resize<axes=[2, 3], keep_aspect_ratio_policy="not_larger">(x, , , s) }',
        {"s": np.array([9, 9])},
        "with keep_aspect_ratio_policy and a size that is free",
    ),
}


@pytest.mark.parametrize(("text", "initializers", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused_forms_say_which_and_what_to_do(text, initializers, reason):
    op_type = parsed(text).graph[-1].op_type
    with pytest.raises(UnsupportedOperatorError) as caught:
        gradient_of(text, **initializers)
    assert str(caught.value) == (
        f"the gradient rule for {op_type!r} (node '') doesn't cover it {reason}; "
        "choose a later target layer, or see exporters/vjp_rules"
    )


def test_an_operator_without_rule_is_named():
    text = "(float[B,3] x) => (y) { t = Relu(x)  d = Det(t)  n = Bernoulli(t)  y = Relu(n) }"
    with pytest.raises(
        UnsupportedOperatorError, match=r"no gradient rule for 'Bernoulli' .*'x'.*'y'"
    ):
        gradient_of(text)


NOT_DIFFERENTIATED = {
    "LSTM": "y = LSTM<hidden_size=3>(x, w, r)",
    "GRU": "y = GRU<hidden_size=3>(x, w, r)",
    "RNN": "y = RNN<hidden_size=3>(x, w, r)",
    "Loop": "y = Loop<body=b (int64 i, bool c, float[1,2,3] h) => (bool d, float[1,2,3] o)"
    " { d = Identity(c)  o = Tanh(h) }>(n, c, x)",
    "Scan": "y = Scan<num_scan_inputs=1, body=b (float[2,3] h) => (float[2,3] o)"
    " { o = Tanh(h) }>(x)",
    "If": "y = If<then_branch=t () => (float[1,2,3] o) { o = Tanh(x) },"
    " else_branch=e () => (float[1,2,3] q) { q = Relu(x) }>(c)",
    "SequenceAt": "s = SequenceConstruct(x, x)  y = SequenceAt(s, n)",
    "ConcatFromSequence": "s = SplitToSequence<axis=0>(x)  y = ConcatFromSequence<axis=0>(s)",
    "OptionalGetElement": "s = Optional(x)  y = OptionalGetElement(s)",
}


@pytest.mark.parametrize("op_type", NOT_DIFFERENTIATED)
def test_recurrence_control_flow_and_sequences_are_refused_with_the_place(op_type):
    text = f"(float[1,2,3] z) => (y) {{ x = Neg(z)  {NOT_DIFFERENTIATED[op_type]} }}"
    gates = {"LSTM": 12, "GRU": 9}.get(op_type, 3)
    weight = np.ones((1, gates, 3), np.float32)
    constants = {"w": weight, "r": weight, "n": np.array(1), "c": np.array(True)}
    model = parsed(text, **constants)
    model.graph[-1].name = "the node"
    known = values(model)
    g = Cotangent(placeholder("u", [None] * 4), (1, 2, 3))
    message = (
        f"no gradient rule for '{op_type}' .node 'the node'., which lies between target layer 'z' "
        "and score 'y'; choose a later target layer"
    )
    with pytest.raises(UnsupportedOperatorError, match=message):
        vjp(Ops(set(known)), model, [known["z"]], known["y"], g, {})


def test_without_rule_lists_the_last_first_and_only_what_lies_between():
    model = parsed(
        "(float[B,3] x) => (y, z) "
        "{ s = Bernoulli(x)  t = Relu(s)  e = RandomNormalLike(t)  c = Bernoulli(w)"
        "  n = Bernoulli(e)  y = Mul(n, c)  z = RandomUniformLike(e) }",
        w=VECTOR,
    )
    known = values(model)
    missing = without_rule(model, known["t"], known["y"])
    assert [node.op_type for node in missing] == ["Bernoulli", "RandomNormalLike"]
    assert without_rule(model, known["n"], known["y"]) == []


def test_operators_of_other_domains_have_no_rule():
    model = parsed("(float[B,3] x) => (y) { y = Relu(x) }")
    model.graph[0].domain = "com.example"
    known = values(model)
    assert without_rule(model, known["x"], known["y"]) == [model.graph[0]]


def test_second_outputs_have_no_rule():
    model = parsed(
        "(float[B,3,2,2] x) => (m) "
        "{ y, m, v = BatchNormalization<training_mode=1>(x, scale, bias, mean, variance) }",
        **BATCH_NORM,
    )
    known = values(model)
    assert without_rule(model, known["x"], known["m"]) == [model.graph[0]]


def test_one_output_of_several_can_be_the_layer():
    model = parsed(
        "(float[B,4] z) => (y) { x, b = Split<axis=1, num_outputs=2>(z)  y = Mul(x, b) }"
    )
    known = values(model)
    op = Ops(set(known))
    shapes = {known[name]: (BATCH, 2) for name in "xby"} | {known["z"]: (BATCH, 4)}
    g = Cotangent(placeholder("u", [None] * 3), (BATCH, 2))
    vjp(op, model, [known["x"]], known["y"], g, shapes)
    assert [(node.op_type, node.inputs[1]) for node in op.nodes] == [("Mul", known["b"])]
    assert without_rule(model, known["z"], known["y"]) == []


def test_no_path_to_the_score():
    with pytest.raises(TargetLayerError, match="'x' does not reach the score 'y'"):
        gradient_of("(float[B,3] x, float[B,3] z) => (y) { s = Tan(x)  y = Relu(z) }")


def test_what_leads_elsewhere_or_comes_from_elsewhere_gets_no_node():
    model = parsed(
        "(float[B,3] x, float[B,3] z) => (y, other) "
        "{ a = Sigmoid(x)  b = Sigmoid(z)  y = Mul(a, b)  other = Sigmoid(a) }"
    )
    known = values(model)
    op = Ops(set(known))
    g = Cotangent(placeholder("u", [None, None, 3]), (BATCH, 3))
    vjp(op, model, [known["x"]], known["y"], g, noted_shapes(model))
    assert [node.op_type for node in op.nodes] == ["Mul", "Sub", "Mul", "Mul"]


def test_the_gradient_of_a_pooled_head_is_one_row_of_its_weights():
    model = parsed(
        "(float[B,3,7,7] x) => (y) { p = GlobalAveragePool(x)  f = Flatten(p)"
        "  y = Gemm<transB=1>(f, w, b) }",
        w=np.ones((5, 3), np.float32),
        b=np.ones(5, np.float32),
    )
    known = values(model)
    op = Ops(set(known))
    index = placeholder("index", ["K", "B"], ir.DataType.INT64)
    one = op.constant([[[1.0]]], ir.DataType.FLOAT)
    seed = Cotangent(one, (BATCH, 5), one_hot=OneHot(-1, index, op.transpose(index, [1, 0])))
    (g,) = vjp(op, model, [known["x"]], known["y"], seed, noted_shapes(model))
    makers = {value.producer() for value in graph.ancestors(g.value)} - {None}
    assert sorted(node.op_type for node in makers) == ["Gather", "Mul", "Unsqueeze"]
    assert g.constant == {-2, -1}
    (factor,) = (node.inputs[1] for node in makers if node.op_type == "Mul")
    assert content(factor) == pytest.approx(1 / 49)


HALF = {
    "MaxPool": ("MaxPool<kernel_shape=[2]>(x)", [1, 3, 2, 0], [0, 2, 1, 0]),
    "GatherElements": ("GatherElements<axis=2>(x, i)", [1, 2, 3, 4], [0, 0, 0, 3]),
    "Compress": ("Compress<axis=2>(x, c)", [1, 2, 3, 4], [1, 0, 1, 1]),
}


@pytest.mark.parametrize(("body", "x", "gradient"), HALF.values(), ids=HALF)
def test_half_numbers_are_summed_up(body, x, gradient):
    """ONNX Runtime adds no half numbers at indices on the CPU."""
    model = parsed(
        f"(float16[1,1,4] x) => (float16[1,1,3] y) {{ y = {body} }}",
        i=np.array([[[3, 3, 3]]]),
        c=np.array([True, False, True, True]),
    )
    known = values(model)
    op = Ops(set(known))
    ones = op.constant(np.ones((1, 1, 1, 3)), ir.DataType.FLOAT16)
    start = Cotangent(ones, (1, 1, 3))
    (g,) = vjp(op, model, [known["x"]], known["y"], start, noted_shapes(model))
    append(op, model, {"gradient": g.value})
    (got,) = session(model).run(None, {"x": np.array(x, np.float16).reshape(1, 1, 4)})
    assert got.dtype == np.float16
    assert got.reshape(-1).tolist() == gradient


def test_a_second_rule_for_an_operator_is_an_error():
    with pytest.raises(ValueError, match="two gradient rules for 'Relu'"):
        vjp_rule("Relu")(lambda site, g: [g])
