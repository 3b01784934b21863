"""The directional derivative test of one gradient of a small model: <v, J^T u> = <J v, u>.

J^T u comes from the gradient rules, in the model's own float type, in ONNX Runtime. J v are central
differences in float64 of the first evaluator that is fit for it: onnx's reference evaluator with
`exporters.float64_ops`, or ONNX Runtime. Fit is one that gives what ONNX Runtime gives, and whose
differences do not change with the step: one that works in float32 inside, or is taken at a kink,
fails there. Where none is fit at the point given, the test moves a little aside.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from exporters import graph
from exporters.builder import Ops
from exporters.canonical import canonicalise
from exporters.cotangent import Cotangent, dense
from exporters.float64_ops import OPERATORS
from exporters.gradient import vjp, without_rule
from xai_onnx.errors import ModelFileError, UnsupportedOperatorError, reason

Array = NDArray[Any]
Function = Callable[[Array], Array]
Evaluator = Callable[[dict[str, Array]], list[Array]]

STEPS = (1e-6, 1e-8)  # the second where the function bends too much for the first
STEADY = 1e-4  # how far differences with steps of one order may disagree, relative
AGREES = 1e-3  # between evaluators, the suite's own tolerance
# Differences in float64 err by less than 1e-8; what is left is the rounding of the gradient's own
# arithmetic, a few dozen operations.
TOLERANCE = {"float64": 1e-7, "float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}
FLOATS = tuple(TOLERANCE)
K = 2


@dataclass(frozen=True)
class Verdict:
    """What became of a test, and why.

    "passed"; "moved": passed aside of the point; "float64": passed in float64, too much is lost in
    the model's own type; "refused": no rule for this form; "excluded": can't be tested; "failed".
    """

    kind: str
    why: str = ""


class ExcludedError(Exception):
    """The test can't be made; the message says why."""


def check(proto: onnx.ModelProto, feed: Mapping[str, Array], wrt: str, of: str) -> Verdict:
    """Test the gradient of output `of` with respect to input `wrt`.

    Args:
        proto: a model whose initializers may hold further values.
        feed: its inputs.
        wrt: name of a float input.
        of: name of a float output.
    """
    try:
        return _Test(proto, feed, wrt, of).verdict()
    except ExcludedError as error:
        return Verdict("excluded", str(error))
    except UnsupportedOperatorError as error:
        return Verdict("refused", _form(str(error)))
    except WrongError as error:
        why = str(error)
    if feed[wrt].dtype == np.float64:
        return Verdict("failed", why)
    try:
        _Test(in_float64(proto), {n: _wide(a) for n, a in feed.items()}, wrt, of).verdict()
    except (ExcludedError, WrongError) as error:
        return Verdict("failed", f"{why}; in float64: {error}")
    return Verdict("float64", why)


class WrongError(Exception):
    """The gradient is wrong; the message says how."""


class _Test:
    def __init__(
        self, proto: onnx.ModelProto, feed: Mapping[str, Array], wrt: str, of: str
    ) -> None:
        self.wrt, self.of, self.feed = wrt, of, dict(feed)
        self.rng = np.random.default_rng(zlib.crc32(f"{proto.graph.name} {wrt} {of}".encode()))
        try:
            self.model = canonicalise(ir.serde.deserialize_model(proto), proto.graph.name)
        except ModelFileError as error:
            raise ExcludedError(f"onnx can't convert it: {str(error)[:80]}") from error
        self.plain = ir.serde.serialize_model(self.model)
        self.values = _values(self.model)

    def verdict(self) -> Verdict:
        x, y = self.values[self.wrt], self.values[self.of]
        if not graph.path(x, y):
            raise ExcludedError("no path of floats from input to output")
        missing = without_rule(self.model, x, y)
        if missing:
            return Verdict("refused", f"no rule for {missing[0].op_type}")
        if self.feed[self.wrt].size == 0:
            raise ExcludedError("the input has no element")
        self.shapes = self._measured()
        self._differentiate(x, y)
        if self._passes(self.feed[self.wrt]):
            return Verdict("passed")
        self._passes(self._aside(), moved=True)
        return Verdict("moved")

    def _measured(self) -> dict[ir.Value, tuple[int, ...]]:
        """The shape of every value that ONNX Runtime gives as a tensor."""
        every = onnx.ModelProto()
        every.CopyFrom(self.plain)
        names = [
            n for n in self.values if n not in self.feed and n not in self.model.graph.initializers
        ]
        del every.graph.output[:]
        every.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        results = _run(_session(every, optimise=False), self.feed)
        arrays = dict(zip(names, results, strict=True)) | self.feed
        return {self.values[n]: a.shape for n, a in arrays.items() if isinstance(a, np.ndarray)}

    def _differentiate(self, x: ir.Value, y: ir.Value) -> None:
        """Append J^T u to the model: input `u`, output `gradient`."""
        op = Ops(set(self.values))
        assert y.dtype is not None
        self.shape = self.shapes[y]
        u = ir.Value(name="xai/u", shape=ir.Shape(["K", *self.shape]), type=ir.TensorType(y.dtype))
        (g,) = vjp(op, self.model, [x], y, Cotangent(u, self.shape), self.shapes)
        value = dense(op, g, x).value
        main = self.model.graph
        nodes, initializers = op.needed_for([value])
        for initializer in initializers:
            main.register_initializer(initializer)
        main.extend(nodes)
        main.inputs.append(u)
        named = ir.Node("", "Identity", [value])
        named.outputs[0].name, named.outputs[0].dtype = "xai/gradient", x.dtype
        main.append(named)
        main.outputs[:] = [y, named.outputs[0]]
        try:
            self.session = _session(ir.serde.serialize_model(self.model))
        except ExcludedError as error:  # the model itself does load
            raise WrongError(f"with the gradient {error}") from error
        self.float = y.dtype.numpy()

    def _passes(self, x: Array, moved: bool = False) -> bool:
        """Whether all is as it should be at `x`; False if no evaluator is fit there."""
        u = self.rng.standard_normal((K, *self.shape)).astype(self.float)
        feed = {**self.feed, self.wrt: x}
        forward, gradient = self._gradient(feed, u)
        none = self._gradient(feed, u[:0])[1]
        if none.shape != (0, *x.shape) or gradient.shape != (K, *x.shape):
            raise WrongError(f"gradient of shape {gradient.shape}, {none.shape} at K = 0")
        # What is masked is -inf, or the lowest number that there is.
        finite = np.abs(forward.astype(np.float64)) < np.finfo(forward.dtype).max / 2
        if not finite.all():
            if not moved:
                return False
            if not finite.any():
                raise ExcludedError("the output isn't finite, here and near")
            u = np.where(finite, u, 0).astype(self.float)
            gradient = self._gradient(feed, u)[1]
        v = self.rng.standard_normal(x.shape)
        derivative = self._derivative(feed, v, forward, finite, moved)
        if derivative is None:
            return False
        along = gradient.astype(np.float64) * v
        if not np.isfinite(along).all():
            if not finite.all():
                raise ExcludedError("the output isn't finite, here and near")
            raise WrongError("the gradient isn't finite")
        terms = u.astype(np.float64) * derivative
        error = np.abs(along.reshape(K, -1).sum(1) - terms.reshape(K, -1).sum(1))
        scale = sum(np.sqrt((item**2).reshape(K, -1).sum(1)) for item in (along, terms))
        tolerance = max(TOLERANCE[x.dtype.name], TOLERANCE[np.dtype(self.float).name])
        # A gradient that is zero comes out as the rounding of numbers that cancel.
        unit = np.linalg.norm(u) * np.linalg.norm(np.where(finite, forward, 0)) * np.linalg.norm(v)
        rounding = 10 * np.finfo(self.float).eps * unit / (np.linalg.norm(x) + 1)
        if (error > tolerance * scale + rounding).any():
            raise WrongError(f"relative error {(error / scale).max():.1e}")
        return True

    def _gradient(self, feed: Mapping[str, Array], u: Array) -> list[Array]:
        """Output and gradient."""
        try:
            return _run(self.session, {**feed, "xai/u": u})
        except ExcludedError as error:
            _run(_session(self.plain), feed)  # the model itself may not run there
            raise WrongError(f"with the gradient {error}") from error

    def _derivative(
        self, feed: dict[str, Array], v: Array, forward: Array, finite: Array, moved: bool
    ) -> Array | None:
        """J v by the first evaluator that is fit; ``None`` if none is, and it wasn't moved yet."""
        why = []
        for name, make in EVALUATORS.items():
            try:
                function = self._function(make, feed)
                for step in STEPS:
                    x = feed[self.wrt].astype(np.float64)
                    derivative = _difference(function, x, step, v, forward, finite)
                    # What works in float32 inside doesn't notice the small step.
                    if derivative is not None and (step == STEPS[0] or derivative.any()):
                        return derivative
                why.append(f"{name} isn't")
            except Exception as error:  # whatever an evaluator raises
                why.append(f"{name}: {reason(error)[:90]}")
        if moved:
            raise ExcludedError("no evaluator is fit: " + "; ".join(why))
        return None

    def _aside(self) -> Array:
        """A point near the input's."""
        x = self.feed[self.wrt].astype(np.float64)
        shift = self.rng.uniform(-0.03, 0.03, x.shape) * np.maximum(np.abs(x), 1)
        return np.asarray(x + shift, self.feed[self.wrt].dtype)

    def _function(
        self, make: Callable[[onnx.ModelProto], Evaluator], feed: dict[str, Array]
    ) -> Function:
        """The output as a function of the input, in float64."""
        twin = in_float64(self.plain)
        index = [output.name for output in twin.graph.output].index(self.of)
        double = onnx.TensorProto.DOUBLE
        kinds = {item.name: item.type.tensor_type.elem_type for item in twin.graph.input}
        wide = {n: _wide(array) if kinds[n] == double else array for n, array in feed.items()}
        run = make(twin)
        return lambda x: np.asarray(run({**wide, self.wrt: x})[index], np.float64)


def _by_onnx(twin: onnx.ModelProto) -> Evaluator:
    evaluator = ReferenceEvaluator(twin, new_ops=list(OPERATORS))
    return lambda feed: evaluator.run(None, feed)


def _by_runtime(twin: onnx.ModelProto) -> Evaluator:
    session = _session(twin)
    return lambda feed: session.run(None, feed)


EVALUATORS = {"onnx's evaluator": _by_onnx, "ONNX Runtime in float64": _by_runtime}


def _difference(
    function: Function, x: Array, step: float, v: Array, forward: Array, finite: Array
) -> Array | None:
    """The derivative of `function` at x along v, where `finite`; ``None`` if it isn't fit."""
    here = np.where(finite, function(x), 0)
    expected = np.where(finite, forward.astype(np.float64), 0)
    if here.shape != expected.shape or not np.allclose(here, expected, AGREES, AGREES):
        return None
    ahead, behind, far = (
        np.where(finite, (function(x + s * v) - here) / s, 0) for s in (step, -step, 7 * step)
    )
    derivative: Array = (ahead + behind) / 2
    scale = np.abs(derivative).max(initial=0) + 1e-6
    apart = [np.abs(other - derivative).max(initial=0) for other in (ahead, behind, far)]
    return derivative if max(apart) <= STEADY * scale else None


def _wide(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.name in FLOATS else array


def in_float64(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model in float64 throughout."""
    twin = onnx.ModelProto()
    twin.CopyFrom(proto)
    del twin.graph.value_info[:]
    _widen(twin.graph)
    return twin


_SINGLE = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
}


def _widen(body: onnx.GraphProto) -> None:
    single = {n.input[2] for n in body.node if n.op_type == "Resize" and len(n.input) > 2}
    for value in (*body.input, *body.output):
        if value.type.tensor_type.elem_type in _SINGLE and value.name not in single:
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for tensor in body.initializer:
        if tensor.name not in single:
            _widen_tensor(tensor)
    for node in body.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "softmax_precision") and attribute.i in _SINGLE:
                attribute.i = onnx.TensorProto.DOUBLE
            elif attribute.type == onnx.AttributeProto.TENSOR:
                _widen_tensor(attribute.t)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                _widen(attribute.g)
        if node.op_type == "Constant" and node.attribute[0].name in ("value_float", "value_floats"):
            (given,) = node.attribute
            numbers = given.f if given.name == "value_float" else list(given.floats)
            tensor = onnx.numpy_helper.from_array(np.array(numbers, np.float64))
            given.CopyFrom(onnx.helper.make_attribute("value", tensor))


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _SINGLE:
        array = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def _values(model: ir.Model) -> dict[str, ir.Value]:
    named = [*model.graph.inputs, *model.graph.initializers.values()]
    named += [value for node in model.graph for value in node.outputs if value.name]
    return {str(value.name): value for value in named}


def _session(proto: onnx.ModelProto, optimise: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions have no common base but this
        raise ExcludedError(f"ONNX Runtime can't load it: {reason(error)[:90]}") from error


def _run(session: onnxruntime.InferenceSession, feed: Mapping[str, Array]) -> list[Any]:
    names = {item.name for item in session.get_inputs()}
    given = {name: np.asarray(array) for name, array in feed.items() if name in names}
    try:
        return list(session.run(None, given))
    except Exception as error:  # as above
        raise ExcludedError(f"ONNX Runtime can't run it: {reason(error)[:90]}") from error


def _form(message: str) -> str:
    """What a refusal says about the form of the operator."""
    return message.partition("doesn't cover it ")[2].partition(";")[0] or message
