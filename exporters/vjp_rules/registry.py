"""What a rule sees (`Site`), and the table that it stands in (`VJP_RULES`)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters import graph
from exporters.builder import Ops
from exporters.cotangent import Cotangent, Zero, axes_of_size_one, dense, without_k
from exporters.probe import BATCH, Shape, Shapes
from exporters.quantized import as_float
from xai_onnx.errors import UnsupportedOperatorError

Cotangents = Sequence[Cotangent | None]
Gradients = Sequence[Cotangent | Zero | None]
RuleFunction = Callable[["Site", Cotangent], Gradients]
OutputsRuleFunction = Callable[["Site", Cotangents], Gradients]


@dataclass(frozen=True)
class Rule:
    """A gradient rule.

    Attributes:
        function: takes the cotangents of all outputs, ``None`` for those nobody reads.
        sparse: takes them as they are stored; other rules get dense ones.
        every_output: whether outputs behind the first may lie on the path.
    """

    function: OutputsRuleFunction
    sparse: bool
    every_output: bool


VJP_RULES: dict[str, Rule] = {}


def vjp(*op_types: str, sparse: bool = False) -> Callable[[RuleFunction], RuleFunction]:
    """Enter a rule for `op_types` into `VJP_RULES`; a second rule for one is an error."""

    def enter(function: RuleFunction) -> RuleFunction:
        def of_first(site: Site, cotangents: Cotangents) -> Gradients:
            first = cotangents[0]
            assert first is not None
            return function(site, first)

        _enter(op_types, Rule(of_first, sparse, every_output=False))
        return function

    return enter


def vjp_of_outputs(
    *op_types: str, sparse: bool = False
) -> Callable[[OutputsRuleFunction], OutputsRuleFunction]:
    """As `vjp`, for operators with several outputs: the rule takes a cotangent for each of them."""

    def enter(function: OutputsRuleFunction) -> OutputsRuleFunction:
        _enter(op_types, Rule(function, sparse, every_output=True))
        return function

    return enter


def _enter(op_types: Sequence[str], rule: Rule) -> None:
    for op_type in op_types:
        if op_type in VJP_RULES:
            raise ValueError(f"two gradient rules for {op_type!r}")
        VJP_RULES[op_type] = rule


@dataclass(frozen=True)
class Site:
    """One node of the walk, and all that its rule may ask about it."""

    node: ir.Node
    op: Ops
    shapes: Shapes
    on_path: set[ir.Value]
    end: ir.Value  # where the walk began: the score
    stands_for: ir.Node | None = None  # where `node` was emitted for one of the model's own

    def input(self, index: int) -> ir.Value:
        """Input `index`, which must be there."""
        value = self.node.inputs[index]
        assert value is not None
        return value

    @property
    def output(self) -> ir.Value:
        """The node's first output."""
        return self.node.outputs[0]

    def has(self, index: int) -> bool:
        """Whether input `index` is there and not left out."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def on(self, index: int) -> bool:
        """Whether the gradient flows on to input `index`."""
        inputs = self.node.inputs
        return index < len(inputs) and inputs[index] in self.on_path

    def shape(self, value: ir.Value) -> Shape:
        """The value's shape, as measured."""
        if value in self.shapes:
            return self.shapes[value]
        if value.shape is not None and value.shape.is_static():
            return tuple(int(size) for size in value.shape.numpy())
        array = graph.constant(value)
        if array is not None:
            return tuple(array.shape)
        assert value.shape is not None
        return tuple(d if isinstance(d, int) else "free" for d in value.shape.dims)

    def attribute(self, name: str, default: Any) -> Any:
        """The node's attribute `name`."""
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def given(self, index: int) -> NDArray[Any] | None:
        """The content of input `index` known at build time; ``None`` where it is left out.

        Raises:
            UnsupportedOperatorError: it is there but only known at run time.
        """
        if not self.has(index):
            return None
        content = self.known(index)
        if content is None:
            raise self.unsupported(f"with input {index} computed at run time")
        return content

    def known(self, index: int) -> NDArray[Any] | None:
        """The content of input `index` if it is known at build time, else ``None``.

        Known is also what is computed from sizes, unless it changes with those that are free.
        """
        value = self.node.inputs[index]
        content = graph.constant(value)
        if content is not None:
            return content
        first, second = (
            graph.constant(value, self._sizes(*free)) for free in ((2, 61, 1), (3, 83, 3))
        )
        same = first is not None and second is not None and np.array_equal(first, second)
        return first if same else None

    def _sizes(self, batch: int, free: int, step: int) -> dict[ir.Value, tuple[int, ...]]:
        """The measured shapes that the model asks for, with numbers for sizes that are free.

        No two free sizes get the same number, nor in two calls the same difference: none may be
        taken to depend on another.
        """
        numbers = itertools.count(free, step)
        return {
            value: tuple(
                size if isinstance(size, int) else batch if size == BATCH else next(numbers)
                for size in shape
            )
            for value, shape in self.shapes.items()
            if any(use.node.op_type in ("Shape", "Size") for use in value.uses())
        }

    @property
    def opset(self) -> int:
        """The model's version of the default domain."""
        main = (self.stands_for or self.node).graph
        assert main is not None
        return main.opset_imports[""]

    def scalar(self, content: float) -> ir.Value:
        """A constant of the output's float type."""
        assert self.output.dtype is not None
        return self.op.constant(content, self.output.dtype)

    def unsupported(self, form: str) -> UnsupportedOperatorError:
        """The error for a form of the operator that its rule doesn't cover."""
        node = self.stands_for or self.node
        return UnsupportedOperatorError(
            f"the gradient rule for {node.op_type!r} (node {node.name!r}) doesn't cover "
            f"it {form}; choose a later target layer, or see exporters/vjp_rules"
        )

    def dense(self, g: Cotangent) -> Cotangent:
        """The output's cotangent with every axis at its full size."""
        return dense(self.op, g, as_float(self.op, self.output))

    def pointwise(
        self, g: Cotangent, function: Callable[..., ir.Value], *residuals: ir.Value
    ) -> Cotangent:
        """The cotangent ``function(g, *residuals)`` of an operator that works element by element.

        Residuals broadcast against the operator's output. Where the cotangent is one-hot, they are
        first reduced to the entry that counts, so that the function works on a fraction of them.
        """
        chosen: list[tuple[ir.Value, Shape]] = []
        for residual in residuals:
            shape = self.shape(residual)
            if g.one_hot is None or g.one_hot.axis in axes_of_size_one(shape, g.rank):
                chosen.append((residual, shape))
                continue
            picked = self._pick(g, residual, shape)
            if picked is None:
                return self.pointwise(self.dense(g), function, *residuals)
            chosen.append((picked, tuple(1 if a == g.one_hot.axis else n for a, n in _axes(shape))))
        constant = g.constant
        for _, shape in chosen:
            constant &= axes_of_size_one(shape, g.rank)
        if g.one_hot is None:
            value = without_k(self.op, function, g.value, *residuals)
        else:
            value = function(g.value, *(residual for residual, _ in chosen))
        return Cotangent(value, g.shape, constant, g.one_hot)

    def _pick(self, g: Cotangent, residual: ir.Value, shape: Shape) -> ir.Value | None:
        """The residual at the one-hot index, [K, B, ...]; ``None`` where that's not possible."""
        assert g.one_hot is not None
        op, axis, rank = self.op, g.one_hot.axis, len(shape)
        if shape[0] == BATCH and rank == g.rank:
            front = [0, rank + axis, *(a for a in range(1, rank) if a != rank + axis)]
            by_class = op.transpose(residual, front)
            indices = op.unsqueeze(g.one_hot.by_image, [-1])
            picked = op.GatherND(by_class, indices, batch_dims=1)  # [B, K, ...]
            picked = op.transpose(picked, [1, 0, *range(2, rank)])
            return op.unsqueeze(picked, [g.rank + axis + 1])
        if all(isinstance(size, int) for size in shape) and (rank < g.rank or shape[0] == 1):
            front = [rank + axis, *(a for a in range(rank) if a != rank + axis)]
            picked = op.Gather(op.transpose(residual, front), g.one_hot.index, axis=0)
            rest = [1 if a == axis else n for a, n in _axes(shape)][-(g.rank - 1) :]
            padding = [1] * (g.rank - 1 - len(rest))
            return op.Reshape(picked, op.constant([0, 0, *padding, *rest]))  # type: ignore[no-any-return]
        return None


def _axes(shape: Shape) -> list[tuple[int, Any]]:
    return list(zip(range(-len(shape), 0), shape, strict=True))


def as_array(value: NDArray[np.generic] | None, default: Sequence[int]) -> list[int]:
    """Axes or sizes given as an input, as a list."""
    return list(default) if value is None else [int(x) for x in value.reshape(-1)]


def masked(site: Site, condition: ir.Value, g: ir.Value) -> ir.Value:
    """g where the condition holds, else 0."""
    return site.op.Where(condition, g, site.scalar(0.0))  # type: ignore[no-any-return]
