"""Emit ONNX nodes: ``op.Relu(x)``. What would do nothing is not emitted.

Arrays and numbers given as inputs become initializers, stored once each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from exporters.subgraphs import read_inside

PREFIX = "xai_onnx"


class Ops:
    """Records nodes and initializers of the explanation, named ``xai_onnx/...``.

    ``op.Conv(x, w, strides=[1, 1])`` emits a node and returns its output; a tuple comes back where
    ``_outputs=n`` asks for several.
    """

    def __init__(self, taken: set[str], *, single: bool = False) -> None:
        """Start with nothing emitted.

        Args:
            taken: the names that the model already uses.
            single: whether every image has exactly one class, K = 1, known at build time.
        """
        self.single = single
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self._taken = taken
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self._emitted: dict[tuple[Any, ...], ir.Value] = {}
        self._ours: set[ir.Node] = set()
        self._scaled: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        self._gathers: set[ir.Node] = set()
        self._outer: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def needed_for(self, values: Iterable[ir.Value]) -> tuple[list[ir.Node], list[ir.Value]]:
        """The recorded nodes and initializers that `values` depend on, in order."""
        wanted = set(values)
        nodes = []
        for node in reversed(self.nodes):
            if not wanted.isdisjoint(node.outputs):
                nodes.append(node)
                wanted.update(value for value in node.inputs if value is not None)
                wanted.update(read_inside(node))
        return nodes[::-1], [value for value in self.initializers if value in wanted]

    def beside(self) -> Ops:
        """A recorder of its own, for another graph, whose names don't clash with those of this."""
        return Ops(self._taken)

    def discard(self) -> None:
        """Forget all that was recorded, so that the model's values have their own readers only."""
        for node in self.nodes:
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)
        self.nodes.clear()

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if not op_type[0].isupper():
            raise AttributeError(op_type)

        def emit(*inputs: ir.Value | None, **attributes: Any) -> Any:
            return self._node(op_type, inputs, attributes)

        return emit

    def unique(self, name: str) -> str:
        """`name`, with a suffix if the model uses it already."""
        candidate, count = name, 1
        while candidate in self._taken:
            count += 1
            candidate = f"{name}_{count}"
        self._taken.add(candidate)
        return candidate

    def constant(self, content: ArrayLike, dtype: ir.DataType = ir.DataType.INT64) -> ir.Value:
        """An initializer, int64 unless said otherwise; equal ones are the same value."""
        array = np.asarray(content, dtype=dtype.numpy())
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self.unique(f"{PREFIX}/constant_{len(self._constants)}")
            tensor = ir.tensor(array, dtype=dtype, name=name)
            value = ir.Value(
                name=name,
                shape=ir.Shape(array.shape),
                type=ir.TensorType(dtype),
                const_value=tensor,
            )
            self._constants[key] = value
            self.initializers.append(value)
        return self._constants[key]

    def scale(self, x: ir.Value, factor: ir.Value) -> ir.Value:
        """x times a scalar; times one is left out, constants are multiplied here.

        Scaling waits: what only moves numbers (`transpose`, `unsqueeze`, `squeeze`) goes before it,
        so that such operators meet each other and cancel.
        """
        if is_ones(factor):
            return x
        if x in self.initializers and factor in self.initializers:
            return self.constant(_array(x) * _array(factor), _dtype(x))
        value: ir.Value = self.Mul(x, factor)
        self._scaled[value] = (x, factor)
        return value

    def times(self, g: ir.Value, x: ir.Value) -> ir.Value:
        """g times x of the same rank; a g that is a single one is left out."""
        return x if is_ones(g) else self.Mul(g, x)

    def scale_channels(self, x: ir.Value, factors: ir.Value) -> ir.Value:
        """x times a constant for each channel; of a masked Conv, the Conv is multiplied.

        ONNX Runtime makes such a product part of the weights.
        """
        node = self._producer(x)
        if node is not None and node.op_type == "Mul":
            convolved, mask = _given(node, 0), _given(node, 1)
            inner = self._producer(convolved)
            if inner is not None and inner.op_type == "Conv":
                return self.Mul(self.Mul(convolved, factors), mask)  # type: ignore[no-any-return]
        return self.Mul(x, factors)  # type: ignore[no-any-return]

    def outer(self, rows: ir.Value, maps: ir.Value) -> ir.Value:
        """Rows [K, B, C, 1, 1] times maps [K, B, 1, h, w], of which `mean` need not make use."""
        value = self.times(maps, rows)
        if value is not rows:
            self._outer[value] = (rows, maps)
        return value

    def mean(self, x: ir.Value, axes: Sequence[int]) -> ir.Value:
        """The mean over the last axes, which stay with size 1; of an `outer`, that of its maps."""
        if not axes:
            return x
        if x in self._outer:
            rows, maps = self._outer[x]
            return self.Mul(rows, self.mean(maps, axes))  # type: ignore[no-any-return]
        return self.ReduceMean(x, self.constant(list(axes)), keepdims=1)  # type: ignore[no-any-return]

    def transpose(self, x: ir.Value, perm: Sequence[int]) -> ir.Value:
        """Permute axes; two permutations become one, the identity is left out.

        Rows gathered by a matrix of indices, [n, m, ...] to [m, n, ...], are gathered by the
        transposed matrix instead.
        """
        if list(perm) == list(range(len(perm))):
            return x
        if x in self._scaled:
            inner, factor = self._scaled[x]
            return self.scale(self.transpose(inner, perm), factor)
        node = self._producer(x)
        if node is not None and node.op_type == "Transpose":
            before = node.attributes["perm"].as_ints()
            return self.transpose(_given(node, 0), [before[axis] for axis in perm])
        swaps_first_two = list(perm) == [1, 0, *range(2, len(perm))]
        if node is not None and node in self._gathers and swaps_first_two:
            indices = self.transpose(_given(node, 1), [1, 0])
            return self.gather_rows(_given(node, 0), indices)
        return self.Transpose(x, perm=list(perm))  # type: ignore[no-any-return]

    def gather_rows(self, x: ir.Value, indices: ir.Value) -> ir.Value:
        """The rows of x at `indices`, a matrix [n, m]: [n, m, ...]."""
        rows: ir.Value = self.Gather(x, indices, axis=0)
        node = rows.producer()
        assert node is not None
        self._gathers.add(node)
        return rows

    def unsqueeze(self, x: ir.Value, axes: Sequence[int]) -> ir.Value:
        """Insert axes of size 1; inserting none is left out."""
        if not axes:
            return x
        if x in self.initializers:
            return self.constant(np.expand_dims(_array(x), tuple(axes)), _dtype(x))
        if x in self._scaled:
            inner, factor = self._scaled[x]
            return self.scale(self.unsqueeze(inner, axes), factor)
        return self.Unsqueeze(x, self.constant(list(axes)))  # type: ignore[no-any-return]

    def squeeze(self, x: ir.Value, axes: Sequence[int]) -> ir.Value:
        """Remove axes of size 1; removing none, or those just inserted, is left out."""
        if not axes:
            return x
        if x in self.initializers:
            return self.constant(np.squeeze(_array(x), tuple(axes)), _dtype(x))
        if x in self._scaled:
            inner, factor = self._scaled[x]
            return self.scale(self.squeeze(inner, axes), factor)
        node = self._producer(x)
        inserted = node is not None and node.op_type == "Unsqueeze"
        if node is not None and inserted and node.inputs[1] is self.constant(list(axes)):
            return _given(node, 0)
        return self.Squeeze(x, self.constant(list(axes)))  # type: ignore[no-any-return]

    def _producer(self, x: ir.Value) -> ir.Node | None:
        """The node behind x if it was emitted here: those of the model are left alone."""
        node = x.producer()
        return node if node in self._ours else None

    def _node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, Any],
    ) -> Any:
        count = attributes.pop("_outputs", 1)
        given = list(inputs)
        key: tuple[Any, ...] = ()
        if count == 1:
            key = (op_type, tuple(map(id, given)), repr(sorted(attributes.items())))
            if key in self._emitted:
                return self._emitted[key]
        node = ir.Node(
            "",
            op_type,
            given,
            attributes=ir.convenience.convert_attributes(attributes),
            num_outputs=count,
            name=self.unique(f"{PREFIX}/{op_type}_{len(self.nodes)}"),
        )
        for index, output in enumerate(node.outputs):
            output.name = self.unique(f"{node.name}_output_{index}")
        self.nodes.append(node)
        self._ours.add(node)
        if count > 1:
            return tuple(node.outputs)
        self._emitted[key] = node.outputs[0]
        return node.outputs[0]


def is_ones(value: ir.Value) -> bool:
    """Whether this is an emitted constant of ones, of one element."""
    return (
        value.producer() is None
        and value.const_value is not None
        and value.const_value.size == 1
        and value.const_value.dtype.is_floating_point()
        and float(value.const_value.numpy().reshape(())) == 1.0
    )


def _given(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _array(value: ir.Value) -> NDArray[Any]:
    assert value.const_value is not None
    return value.const_value.numpy()


def _dtype(value: ir.Value) -> ir.DataType:
    assert value.dtype is not None
    return value.dtype
