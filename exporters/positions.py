"""Whether the tokens of a network stand for places of the image: [B, n, C] and [B, C, n].

A latent array that attends to the image (Perceiver) has the shape of a token map, too, if n happens
to be a grid; but its rows are no places. Those of a token map come from the image by a path on
which rows stay rows: it never enters an attention as what is attended to.
"""

from __future__ import annotations

import onnx_ir as ir

from exporters.quantized import carries, operator
from exporters.subgraphs import reads


def are_places(tokens: ir.Value, image: ir.Value) -> bool:
    """Whether such a path leads from the image to the tokens."""
    seen: set[ir.Value] = set()
    waiting = [tokens]
    while waiting:
        value = waiting.pop()
        if value is image:
            return True
        producer = value.producer()
        if value in seen or producer is None:
            continue
        seen.add(value)
        waiting += [given for given in _row_givers(producer) if carries(given)]
    return False


def _row_givers(node: ir.Node) -> list[ir.Value]:
    """The operands whose rows are the rows of the result.

    Of a product that is the left one; but a matrix of weights at the left mixes the channels of
    [B, C, n], whose places come from the right one.
    """
    inputs = reads(node)
    if operator(node) not in ("MatMul", "Attention"):
        return inputs
    left = inputs[0]
    weights = left.const_value is not None and left.shape is not None and len(left.shape) == 2
    return inputs[1:] if weights else inputs[:1]
