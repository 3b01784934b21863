"""Random small classifiers out of the operators that have a gradient rule: `classifiers()`.

A `Draft` grows node by node. Each node runs at once, in ONNX Runtime, at every setting of batch and
image size that the model leaves free: so a value's shape is what it is, a size that changes is
free, and what comes out infinite, huge or without entries is left alone (`Unfit`). How an operator
can be used is said in `random_uses.USES`, one function for each use.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import hypothesis.strategies as st
import numpy as np
import onnx
import onnxruntime
from hypothesis import assume, reject
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state

from exporters.probe import BATCH, FREE, Dim

T = TypeVar("T")
Given = Any  # a Value, an array that becomes a constant, or None

# From what canonical.py lifts to, to the newest of ONNX Runtime 1.32; Swish works in one of them.
OPSETS = (18, 19, 20, 21, 22, 23, 24, 24, 24, 25, 26)
LARGEST = 4000  # entries of a value
HUGE = 1e3  # beyond it float32 leaves too few digits behind the point

TYPES = (*[TensorProto.FLOAT] * 8, TensorProto.FLOAT16, TensorProto.DOUBLE)


class Unfit(Exception):  # noqa: N818 (not an error: the draft goes on without)
    """Nothing in the draft can be used in this way."""


@dataclass(frozen=True)
class Value:
    """A value of the draft, and what it is at each setting."""

    name: str
    arrays: tuple[NDArray[Any], ...]
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    def sizes(self, *axes: int) -> list[int]:
        """The sizes of these axes, of all without any, which must not be free."""
        wanted = [self.shape[axis] for axis in axes or range(self.rank)]
        if not all(isinstance(size, int) for size in wanted):
            raise Unfit
        return [int(size) for size in wanted]

    def known(self) -> list[int]:
        """The axes whose size isn't free."""
        return [axis for axis, size in enumerate(self.shape) if isinstance(size, int)]


@dataclass(frozen=True)
class Drawn:
    """A random classifier, and how to try it.

    Attributes:
        model: it.
        operators: those that were drawn, in order.
        batches: batch sizes that it takes.
        size: height and width of its image.
        layer: which of the values on the way is differentiated by; 0 is the image.
        seed: of the image and of the directions.
    """

    model: onnx.ModelProto
    operators: tuple[str, ...]
    batches: tuple[int, ...]
    size: tuple[int, int]
    layer: int
    seed: int

    def __repr__(self) -> str:
        text = onnx.printer.to_text(self.model)
        return f"Drawn(layer={self.layer}, seed={self.seed}, {text})"


class Draft:
    """A model that grows."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self._draw = draw
        self.opset = self.choose(OPSETS)
        self.free_batch, free_size = self.chance(2, 3), self.chance(1, 6)
        self.size = (self.number(4, 7), self.number(4, 7))
        height, width = self.size
        b = 2 if self.free_batch else self.number(1, 3)
        settings = [(b, height, width)]
        if self.free_batch:
            settings.append((b + 1, height, width))
        if free_size:
            settings += [(b, height + 3, width + 2), (b, height + 6, width + 5)]
        self._batches = [setting[0] for setting in settings]
        self.rng = np.random.default_rng(self.number(0, 2**16))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.values: list[Value] = []
        channels = self.choose([3, 1, 4])
        arrays = [self.rng.standard_normal((n, channels, h, w)) for n, h, w in settings]
        self.image = self._add("image", [array.astype(np.float32) for array in arrays])

    # --- What is drawn ------------------------------------------------------------------------

    def number(self, low: int, high: int) -> int:
        return int(self._draw(st.integers(low, high)))

    def chance(self, hits: int, of: int) -> bool:
        return self.number(1, of) > of - hits  # shrinks to "no"

    def choose(self, options: Sequence[T]) -> T:
        if not options:
            raise Unfit
        return options[self._draw(st.sampled_from(range(len(options))))]

    def some(self, *ranks: int, where: Callable[[Value], bool] = lambda value: True) -> Value:
        """A value of one of these ranks (of any, without), the latest ones first.

        Where there is none, the image is brought to one of them.
        """
        fit = [v for v in self.values[::-1] if (not ranks or v.rank in ranks) and where(v)]
        if not fit and not set(ranks).isdisjoint((2, 3, 5)):
            made = self._of_rank(self.choose([rank for rank in ranks if rank in (2, 3, 5)]))
            fit = [made] if where(made) else []
        return self.choose(fit)

    def _of_rank(self, rank: int) -> Value:
        """The image as a vector, as tokens, or as a volume."""
        (channels,) = self.image.sizes(1)
        if rank == 2:
            return self.node(
                "Flatten", self.node(self.choose(["GlobalAveragePool", "Sin"]), self.image)
            )
        if rank == 5:
            return self.node("Unsqueeze", self.image, np.array([self.number(2, 4)]))
        flat = self.node("Reshape", self.image, np.array([0, channels, -1]))
        return self.node("Transpose", flat, perm=[0, 2, 1]) if self.chance(1, 2) else flat

    def axis(self, x: Value, *, known: bool = True) -> int:
        """An axis that isn't the batch, where that is free, nor stands first; `known`: its size."""
        first = 1 if self.free_batch else 0
        sizes = list(enumerate(x.shape))[first:]
        return self.choose([a for a, n in sizes if n != BATCH and (not known or n != FREE)])

    def signed(self, axis: int, rank: int) -> int:
        """The axis, counted from the start or from the end."""
        return axis - rank if self.chance(1, 3) else axis

    def weights(self, *shape: int, fan_in: int = 1) -> NDArray[np.float32]:
        """Random numbers that keep the size of what they are summed up with."""
        content = self.rng.standard_normal(shape) / np.sqrt(fan_in)
        return np.asarray(content, np.float32)

    # --- What grows ---------------------------------------------------------------------------

    def node(self, op_type: str, *inputs: Given, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; its output, or a list of several."""
        operands = [self._operand(given) for given in inputs]
        index = len(self.nodes)
        made = [f"v{index}" if outputs == 1 else f"v{index}_{i}" for i in range(outputs)]
        names = [name for name, _ in operands]
        attributes = {name: given for name, given in attributes.items() if given is not None}
        proto = helper.make_node(op_type, names, made, name=f"n{index}", **attributes)
        results = self._run(proto, [operand for operand in operands if operand[0]])
        arrays = [array for result in results for array in result]
        if any(not 0 < array.size <= LARGEST * 4 for array in arrays):
            raise Unfit
        if any(not np.all(np.abs(a) < HUGE) for a in arrays if a.dtype.kind == "f"):
            raise Unfit
        self.nodes.append(proto)
        values = [self._add(name, result) for name, result in zip(made, results, strict=True)]
        return values[0] if outputs == 1 else values

    def constant(self, content: NDArray[Any]) -> str:
        """Its name, as an initializer or a node."""
        name = f"c{len(self.constants)}"
        self.constants[name] = content
        return name

    def between(self, x: Value, low: float, high: float) -> Value:
        """x, bent smoothly into a range."""
        bent = self.node("Sigmoid", x)
        scaled = self.node("Mul", bent, np.float32(high - low))
        return self.node("Add", scaled, np.float32(low))  # type: ignore[no-any-return]

    def _operand(self, given: Given) -> tuple[str, tuple[NDArray[Any], ...]]:
        if given is None:
            return "", ()
        if isinstance(given, Value):
            return given.name, given.arrays
        content = np.asarray(given)
        return self.constant(content), (content,) * len(self._batches)

    def _run(
        self, node: onnx.NodeProto, operands: list[tuple[str, tuple[NDArray[Any], ...]]]
    ) -> list[list[NDArray[Any]]]:
        """Each output at each setting."""
        fixed = {name: a[0] for name, a in operands if name in self.constants}
        fed = {name: arrays for name, arrays in operands if name not in self.constants}
        inputs = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(arrays[0].dtype), [None] * arrays[0].ndim
            )
            for name, arrays in fed.items()
        ]
        graph = helper.make_graph(
            [node],
            "one",
            inputs,
            [onnx.ValueInfoProto(name=name) for name in node.output],
            [numpy_helper.from_array(array, name) for name, array in fixed.items()],
        )
        model = _finished(graph, self.opset)
        session = _session(model.SerializeToString())
        try:
            runs = [
                session.run(None, {name: arrays[i] for name, arrays in fed.items()})
                for i in range(len(self._batches))
            ]
        except onnxruntime_pybind11_state.Fail as error:
            if "broadcast an axis" in str(error):  # each fits the first operand, not each other
                raise Unfit from error
            raise
        return [list(arrays) for arrays in zip(*runs, strict=True)]

    def _add(self, name: str, arrays: list[NDArray[Any]]) -> Value:
        shape = tuple(self._dim(sizes) for sizes in zip(*(a.shape for a in arrays), strict=True))
        value = Value(name, tuple(arrays), shape)
        if arrays[0].dtype == np.float32:
            self.values.append(value)
        return value

    def _dim(self, sizes: tuple[int, ...]) -> Dim:
        if len(set(sizes)) == 1:
            return sizes[0]
        return BATCH if list(sizes) == self._batches else FREE

    # --- The head -----------------------------------------------------------------------------

    def scores(self) -> Value:
        """Class scores, [B, N], of what nobody reads, most of it at least."""
        read = {name for node in self.nodes for name in node.input}
        loose = [value for value in self.values if value.name not in read] or [self.values[-1]]
        classes = self.number(2, 4)
        heads = []
        for value in loose[-4:]:
            try:
                heads.append(self._head(value, classes))
            except Unfit:
                continue
        if not heads:
            heads = [self._head(self.image, classes)]
        total = heads[0]
        for head in heads[1:]:
            total = self.node("Add", total, head)
        ending = self.choose([None, None, None, "Softmax", "LogSoftmax", "Sigmoid", "Tanh"])
        return total if ending is None else self.node(ending, total)

    def _head(self, x: Value, classes: int) -> Value:
        x = self._batch_first(x)
        free = [axis for axis in range(1, x.rank) if not isinstance(x.shape[axis], int)]
        if x.rank > 2 and (len(free) == x.rank - 2 > 0 or self.chance(1, 3)):
            pool = self.choose(["GlobalAveragePool", "ReduceMean", "GlobalMaxPool"])
            axes = np.arange(2, x.rank)
            x = self.node(pool, x, axes) if pool == "ReduceMean" else self.node(pool, x)
        elif free:
            x = self.node("ReduceMean", x, np.array(free), keepdims=0)
        if x.rank != 2:
            x = self.node("Flatten", x) if x.rank else self.node("Reshape", x, np.array([1, 1]))
        (width,) = x.sizes(1)
        if width > 300:
            raise Unfit
        if width == classes and self.chance(1, 3):
            return x
        if self.chance(1, 3):
            return self.node("MatMul", x, self.weights(width, classes, fan_in=width))  # type: ignore[no-any-return]
        weight = self.weights(classes, width, fan_in=width)
        return self.node("Gemm", x, weight, self.weights(classes), transB=1)  # type: ignore[no-any-return]

    def _batch_first(self, x: Value) -> Value:
        if not self.free_batch:
            batch = self._batches[0]
            if x.rank and x.shape[0] == batch:
                return x
            count = int(np.prod(x.sizes())) if x.rank else 1
            if count % batch:
                raise Unfit
            return self.node("Reshape", x, np.array([batch, count // batch]))  # type: ignore[no-any-return]
        if BATCH not in x.shape:
            raise Unfit
        place = x.shape.index(BATCH)
        if place == 0:
            return x
        rest = [axis for axis in range(x.rank) if axis != place]
        return self.node("Transpose", x, perm=[place, *rest])  # type: ignore[no-any-return]

    def finished(self, operators: Sequence[str]) -> Drawn:
        """The whole model, with its head."""
        output = self.scores()
        symbols = iter(["height", "width"])
        names = {BATCH: "batch"}
        dims = [
            names.get(d) or next(symbols) if isinstance(d, str) else d for d in self.image.shape
        ]
        nodes, initializers = list(self.nodes), {}
        for name, content in self.constants.items():
            if self.chance(1, 8):  # a node, as some exporters have them
                tensor = numpy_helper.from_array(content, f"{name}_content")
                nodes.insert(0, helper.make_node("Constant", [], [name], value=tensor))
            else:
                initializers[name] = content
        batch = "batch" if self.free_batch else dims[0]
        graph = helper.make_graph(
            nodes,
            "random",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, dims)],
            [
                helper.make_tensor_value_info(
                    output.name, TensorProto.FLOAT, [batch, *output.sizes(1)]
                )
            ],
            [numpy_helper.from_array(content, name) for name, content in initializers.items()],
        )
        model = _finished(graph, self.opset)
        dtype = self.choose(TYPES)
        if dtype != TensorProto.FLOAT:
            model = in_type(model, dtype)
        try:
            onnx.checker.check_model(model, full_check=True)
            onnxruntime.InferenceSession(model.SerializeToString(), _options(optimise=True))
        except Exception as error:
            # The checker takes MeanVarianceNormalization in single precision only. Or ONNX Runtime
            # ran each node, but refuses the whole, so that no user has it: it has no kernel for
            # the type; it reckons with a window too many of a pooling in ceil_mode, as onnx's
            # inference does before opset 19; or its optimiser fails (QDQ by constant nodes).
            raise Unfit from error
        return Drawn(
            model,
            tuple(operators),
            (1, 2, 3) if self.free_batch else (int(self.image.shape[0]),),
            self.size,
            self.number(0, 11) if self.chance(1, 3) else 0,
            self.number(0, 2**16),
        )


@st.composite
def classifiers(
    draw: Any, uses: dict[str, list[Callable[[Draft], Value]]], wanted: str, steps: int = 6
) -> Drawn:
    """Random classifiers out of `uses`, of up to `steps` operators, `wanted` among them."""
    draft = Draft(draw)
    operators: list[str] = []
    if draft.chance(1, 2) and "Conv" in uses:
        with contextlib.suppress(Unfit):
            uses["Conv"][0](draft)
    before = draft.number(0, steps - 1)
    for index in range(draft.number(before + 1, steps)):
        late = index >= before and wanted not in operators
        op_type = wanted if late else draft.choose(sorted(uses))
        try:
            draft.choose(uses[op_type])(draft)
        except Unfit:
            continue
        operators.append(op_type)
    assume(wanted in operators)
    try:
        return draft.finished(operators)
    except Unfit:
        reject()


def in_type(model: onnx.ModelProto, dtype: int) -> onnx.ModelProto:
    """The same model in another float type than float32."""
    single, graph = TensorProto.FLOAT, model.graph
    kept = {name for node in graph.node if node.op_type == "Resize" for name in node.input[1:]}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant":
                tensors[node.output[0]] = attribute.t
            if node.op_type == "Cast" and attribute.i == single:
                attribute.i = dtype
    for name, tensor in tensors.items():
        if tensor.data_type == single and name not in kept:
            array = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(dtype))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = dtype
    return model


def _finished(graph: onnx.GraphProto, opset: int) -> onnx.ModelProto:
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


@functools.lru_cache(maxsize=512)
def _session(model: bytes) -> Any:
    return onnxruntime.InferenceSession(model, _options(optimise=False))


def _options(*, optimise: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options
