"""Weighted sums: Gemm, MatMul, Einsum."""

from __future__ import annotations

from string import ascii_letters

import onnx_ir as ir

from exporters.cotangent import Cotangent
from exporters.vjp_rules.registry import Site, vjp


@vjp("Gemm", sparse=True)
def gemm(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """Y = alpha A' B' + beta C; dA' = alpha G B'^T, dB' = alpha A'^T G, dC = beta G.

    A' and B' are A and B, transposed where the attributes say so.

    With constant B and a one-hot G this is one row of B: nothing is multiplied.
    """
    op = site.op
    a, b = site.input(0), site.input(1)
    trans_a, trans_b = site.attribute("transA", 0), site.attribute("transB", 0)
    alpha, beta = site.attribute("alpha", 1.0), site.attribute("beta", 1.0)
    gradients: list[Cotangent | None] = [None, None, None]
    if site.on(2):
        gradients[2] = g.with_value(op.scale(g.value, site.scalar(beta)))
    if not site.on(0) and not site.on(1):
        return gradients
    g = g.with_value(op.scale(g.value, site.scalar(alpha)))
    if site.on(0) and not trans_a and _is_class_axis(g):
        rows = _row(site, g, b, class_axis=0 if trans_b else 1)
        gradients[0] = Cotangent(op.times(g.value, rows), site.shape(a))
        if not site.on(1):
            return gradients
    g = site.dense(g)
    if site.on(0) and gradients[0] is None:
        into = op.MatMul(g.value, b if trans_b else _transposed(site, b))
        gradients[0] = Cotangent(_transposed(site, into, 3) if trans_a else into, site.shape(a))
    if site.on(1):
        into = op.MatMul(a if trans_a else _transposed(site, a), g.value)
        gradients[1] = Cotangent(_transposed(site, into, 3) if trans_b else into, site.shape(b))
    return gradients


@vjp("MatMul", sparse=True)
def matmul(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """Y = A B over the last two axes; dA = G B^T, dB = A^T G, broadcast over the axes before.

    A vector is a row as A and a column as B.
    """
    op = site.op
    a, b = site.input(0), site.input(1)
    shape_a, shape_b = site.shape(a), site.shape(b)
    if _is_class_axis(g) and not site.on(1) and len(shape_a) == len(shape_b) == 2:
        return [Cotangent(op.times(g.value, _row(site, g, b, class_axis=1)), shape_a)]
    g = site.dense(g)
    row, column = len(shape_a) == 1, len(shape_b) == 1
    value = op.unsqueeze(g.value, [g.rank + 1]) if column else g.value
    value = op.unsqueeze(value, [g.rank + column]) if row else value
    a, b = op.unsqueeze(a, [0]) if row else a, op.unsqueeze(b, [1]) if column else b
    lead = g.shape[: g.rank - 2 + row + column]
    gradients: list[Cotangent | None] = [None, None]
    if site.on(0):
        into = op.MatMul(value, _transposed(site, b, max(len(shape_b), 2)))
        into = op.squeeze(into, [len(lead) + 1]) if row else into
        gradients[0] = Cotangent(into, (*lead, *shape_a[-2:]))
    if site.on(1):
        into = op.MatMul(_transposed(site, a, max(len(shape_a), 2)), value)
        into = op.squeeze(into, [len(lead) + 2]) if column else into
        gradients[1] = Cotangent(into, (*lead, *shape_b[-2:]))
    return gradients


@vjp("Einsum")
def einsum(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = sum of the products of the operands' entries; dx_i is the same sum with g in x_i's place.

    So is its equation: the letters of y and x_i change places, and K leads. What is summed in x_i
    alone is a letter that dx_i doesn't depend on.
    """
    terms, result, k = _letters(site, g)
    op, count = site.op, len(terms)
    operands = [site.input(index) for index in range(count)]
    sizes: dict[str, int | str] = {}
    for term, operand in zip(terms, operands, strict=True):
        for letter, size in zip(term, site.shape(operand), strict=True):
            if sizes.setdefault(letter, size) != size:
                raise site.unsupported("with an axis that is stretched")
        if len(set(term)) < len(term):
            raise site.unsupported("with a diagonal")
    gradients: list[Cotangent | None] = []
    for index, term in enumerate(terms):
        if not site.on(index):
            gradients.append(None)
            continue
        others = [other for place, other in enumerate(terms) if place != index]
        reached = set(result).union(*others)
        kept = "".join(letter for letter in term if letter in reached)
        equation = f"{','.join([k + result, *others])}->{k + kept}"
        rest = [operand for place, operand in enumerate(operands) if place != index]
        value = op.Einsum(g.value, *rest, equation=equation)
        alone = [axis for axis, letter in enumerate(term) if letter not in reached]
        value = op.unsqueeze(value, [axis + 1 for axis in alone])
        constant = frozenset(axis - len(term) for axis in alone)
        gradients.append(Cotangent(value, site.shape(operands[index]), constant))
    return gradients


def _letters(site: Site, g: Cotangent) -> tuple[list[str], str, str]:
    """The operands' letters and the result's, without "...", and one that is free."""
    equation: str = site.attribute("equation", "").replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if not arrow:  # letters that occur once, in alphabetical order
        letters = sorted(left.replace(",", "").replace(".", ""))
        result = "..." if "..." in left else ""
        result += "".join(letter for letter in letters if letters.count(letter) == 1)
    unused = [letter for letter in ascii_letters if letter not in equation]
    shared = g.rank - len(result.replace("...", ""))  # axes that "..." stands for
    for index, term in enumerate(terms):
        if "..." in term:
            rank = len(site.shape(site.input(index))) - len(term) + 3
            terms[index] = term.replace("...", "".join(unused[shared - rank : shared]))
    return terms, result.replace("...", "".join(unused[:shared])), unused[shared]


def _is_class_axis(g: Cotangent) -> bool:
    return g.one_hot is not None and g.one_hot.axis == -1 and g.rank == 2


def _row(site: Site, g: Cotangent, weight: ir.Value, class_axis: int) -> ir.Value:
    """The chosen class's weights, [K, B, C], out of a matrix with the classes at `class_axis`."""
    assert g.one_hot is not None
    if class_axis == 0:
        return site.op.gather_rows(weight, g.one_hot.index)
    columns = site.op.Gather(weight, g.one_hot.index, axis=1)  # [C, K, B]
    return site.op.transpose(columns, [1, 2, 0])


def _transposed(site: Site, matrix: ir.Value, rank: int = 2) -> ir.Value:
    return site.op.transpose(matrix, [*range(rank - 2), rank - 1, rank - 2])
