"""Solve linear equations in the graph, several at once."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporters.builder import PREFIX, Ops

_DOUBLE = ir.DataType.DOUBLE
_END = np.iinfo(np.int64).max


def solve(op: Ops, matrices: ir.Value, right: ir.Value, size: int, opset: int) -> ir.Value:
    """The solutions of ``matrices @ solutions = right``, float64, for positive definite matrices.

    Gauss-Jordan elimination, a column a turn of a Loop, without pivoting, which positive definite
    matrices don't need (Golub and Van Loan 2013, section 4.2): [A | R] becomes [I | A^-1 R]. Where
    a row is zero but for its diagonal, the solution is exactly zero.

    Args:
        op: records the nodes.
        matrices: [G, D, D].
        right: [G, D, K].
        size: D.
        opset: of the graph.
    """
    inner = op.beside()
    turn, going, before = (
        ir.Value(
            name=inner.unique(f"{PREFIX}/{name}"), shape=ir.Shape(shape), type=ir.TensorType(dtype)
        )
        for name, dtype, shape in (
            ("column", ir.DataType.INT64, ()),
            ("going", ir.DataType.BOOL, ()),
            ("matrices", _DOUBLE, (None, size, None)),
        )
    )
    row = inner.Gather(before, turn, axis=1)  # [G, D + K]
    column = inner.Gather(before, turn, axis=2)  # [G, D]
    pivot = inner.Gather(row, turn, axis=1)  # [G]
    scaled = inner.unsqueeze(inner.Div(row, inner.unsqueeze(pivot, [1])), [1])
    unit = inner.Gather(inner.constant(np.eye(size), _DOUBLE), turn, axis=0)
    others = inner.unsqueeze(inner.Sub(column, unit), [2])
    results = [inner.Identity(going), inner.Sub(before, inner.Mul(others, scaled))]
    nodes, constants = inner.needed_for(results)
    body = ir.Graph(
        [turn, going, before],
        results,
        nodes=nodes,
        initializers=constants,
        opset_imports={"": opset},
        name="one_column",
    )
    both = op.Concat(matrices, right, axis=2)
    after = op.Loop(op.constant(size), None, both, body=body)
    return op.Slice(after, op.constant([size]), op.constant([_END]), op.constant([2]))  # type: ignore[no-any-return]
