"""Emit ONNX nodes: ``op.Relu(x)``. What would do nothing is not emitted.

Arrays and numbers given as inputs become initializers, stored once each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

PREFIX = "xai_onnx"


class Ops:
    """Records nodes and initializers of the explanation, named ``xai_onnx/...``.

    ``op.Conv(x, w, strides=[1, 1])`` emits a node and returns its output; a tuple comes back where
    ``_outputs=n`` asks for several.
    """

    def __init__(self, taken: set[str]) -> None:
        """`taken` holds the names that the model already uses."""
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self._taken = taken
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self._emitted: dict[tuple[Any, ...], ir.Value] = {}
        self._inserted: dict[ir.Value, tuple[ir.Value, tuple[int, ...]]] = {}

    def needed_for(self, values: Iterable[ir.Value]) -> tuple[list[ir.Node], list[ir.Value]]:
        """The recorded nodes and initializers that `values` depend on, in order."""
        wanted = set(values)
        nodes = []
        for node in reversed(self.nodes):
            if not wanted.isdisjoint(node.outputs):
                nodes.append(node)
                wanted.update(value for value in node.inputs if value is not None)
        return nodes[::-1], [value for value in self.initializers if value in wanted]

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

        Behind an Unsqueeze the product goes before it, so that a Squeeze that follows meets it.
        """
        if is_ones(factor):
            return x
        inserted = self._inserted.get(x)
        if inserted is not None:
            return self.unsqueeze(self.scale(inserted[0], factor), inserted[1])
        if x in self.initializers and factor in self.initializers:
            return self.constant(_array(x) * _array(factor), _dtype(x))
        return self.Mul(x, factor)  # type: ignore[no-any-return]

    def times(self, g: ir.Value, x: ir.Value) -> ir.Value:
        """g times x of the same rank; a g that is a single one is left out."""
        return x if is_ones(g) else self.Mul(g, x)

    def transpose(self, x: ir.Value, perm: Sequence[int]) -> ir.Value:
        """Permute axes; the identity is left out."""
        if list(perm) == list(range(len(perm))):
            return x
        return self.Transpose(x, perm=list(perm))  # type: ignore[no-any-return]

    def unsqueeze(self, x: ir.Value, axes: Sequence[int]) -> ir.Value:
        """Insert axes of size 1; inserting none is left out."""
        if not axes:
            return x
        if x in self.initializers:
            return self.constant(np.expand_dims(_array(x), tuple(axes)), _dtype(x))
        value: ir.Value = self.Unsqueeze(x, self.constant(list(axes)))
        self._inserted[value] = (x, tuple(axes))
        return value

    def squeeze(self, x: ir.Value, axes: Sequence[int]) -> ir.Value:
        """Remove axes of size 1; removing none, or those just inserted, is left out."""
        if not axes:
            return x
        inserted = self._inserted.get(x)
        if inserted is not None and inserted[1] == tuple(axes):
            return inserted[0]
        if x in self.initializers:
            return self.constant(np.squeeze(_array(x), tuple(axes)), _dtype(x))
        return self.Squeeze(x, self.constant(list(axes)))  # type: ignore[no-any-return]

    def _node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, Any],
    ) -> Any:
        count = attributes.pop("_outputs", 1)
        given = list(inputs)
        key = (op_type, tuple(map(id, given)), repr(sorted(attributes.items())))
        if count == 1 and key in self._emitted:
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


def _array(value: ir.Value) -> NDArray[Any]:
    assert value.const_value is not None
    return value.const_value.numpy()


def _dtype(value: ir.Value) -> ir.DataType:
    assert value.dtype is not None
    return value.dtype
