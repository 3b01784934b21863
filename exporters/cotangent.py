"""Cotangents of the reverse walk, stored as small as they are.

The cotangent of a value of shape S, for K classes an image, is a tensor of shape [K, *S]: K leads,
so that residuals of shape S broadcast against it as they are, and no residual is ever repeated K
times. Two facts are tracked instead of being spelled out in memory:

- ``constant``: axes along which the cotangent doesn't vary; they are stored with size 1. The
  gradient of a global average pooling is constant over height and width.
- ``one_hot``: an axis along which only one entry, chosen at run time, is not zero; it is stored
  with size 1 as well. The cotangent of the scores is one-hot along the classes, and stays so
  through pooling and activations until a weight turns the class into a row of it.

So the gradient of a pooled head is one row of its weight matrix, which is all that is computed.
Axes are counted from the end: -1 is the last, whatever leads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from exporters.builder import Ops
from exporters.probe import BATCH, FREE, Shape


@dataclass(frozen=True)
class OneHot:
    """`axis` holds one entry that isn't zero: at `index`, int64 [K, B] (`by_image`: [B, K])."""

    axis: int
    index: ir.Value
    by_image: ir.Value


@dataclass(frozen=True)
class Cotangent:
    """The derivative of the chosen scores with respect to a value of shape `shape`.

    `value` has shape [K, *shape], but size 1 along `constant` axes and along the one-hot axis.
    """

    value: ir.Value
    shape: Shape
    constant: frozenset[int] = field(default_factory=frozenset)
    one_hot: OneHot | None = None

    @property
    def rank(self) -> int:
        """Number of axes of the differentiated value, K not counted."""
        return len(self.shape)

    def with_value(self, value: ir.Value) -> Cotangent:
        """The same facts about another tensor."""
        return replace(self, value=value)


class Zero:
    """What a rule returns for an input without influence: nothing flows there, nothing is emitted.

    The derivative of a step (Round, Sign) is zero wherever there is one, and taken for zero at the
    steps, as torch does.
    """


ZERO = Zero()


def zero(op: Ops, start: Cotangent, shape: Shape, dtype: ir.DataType) -> Cotangent:
    """The cotangent of a value that nothing of `start` flows to."""
    leading = start.value if start.one_hot is None else start.one_hot.index
    sizes = op.Concat(op.Shape(leading, start=0, end=1), op.constant([1] * len(shape)), axis=0)
    every = frozenset(range(-len(shape), 0))
    return Cotangent(op.Expand(op.constant(0.0, dtype), sizes), shape, every)


def is_zero(g: Cotangent) -> bool:
    """Whether g was made by `zero`."""
    node = g.value.producer()
    if node is None or node.op_type != "Expand" or len(g.constant) < g.rank:
        return False
    number = node.inputs[0]
    known = None if number is None else number.const_value
    return known is not None and not known.numpy().any()


def axes_of_size_one(shape: Shape, rank: int) -> frozenset[int]:
    """Axes, out of `rank`, along which a tensor of `shape` is broadcast or has size 1."""
    return frozenset(axis for axis in range(-rank, 0) if axis < -len(shape) or shape[axis] == 1)


def dimension(op: Ops, like: ir.Value, shape: Shape, axis: int, dtype: ir.DataType) -> ir.Value:
    """The size of `like` along `axis` (negative) as a scalar of `dtype`."""
    size = shape[axis]
    if isinstance(size, int):
        return op.constant(size, dtype)
    scalar = op.Squeeze(op.Shape(like, start=axis, **({} if axis == -1 else {"end": axis + 1})))
    return op.Cast(scalar, to=int(dtype))  # type: ignore[no-any-return]


def sizes(op: Ops, like: ir.Value, shape: Shape) -> ir.Value:
    """The shape of `like` as an int64 vector, constant where it's known."""
    if all(isinstance(size, int) for size in shape):
        return op.constant(list(shape))
    return op.Shape(like)  # type: ignore[no-any-return]


def with_k(op: Ops, g: Cotangent, like: ir.Value, shape: Shape) -> ir.Value:
    """The vector [K, *shape], to reshape `g` to; 0 stands for "as in g".

    Never -1: at K = 0 there would be nothing to infer it from.
    """
    if all(isinstance(size, int) for size in shape):
        return op.constant([0, *shape])
    keeps_batch = g.shape[:1] == shape[:1] == (BATCH,)
    if keeps_batch and all(isinstance(size, int) for size in shape[1:]):
        return op.constant([0, 0, *shape[1:]])
    return op.Concat(op.constant([0]), op.Shape(like), axis=0)  # type: ignore[no-any-return]


def without_k(
    op: Ops, function: Callable[..., ir.Value], g: ir.Value, *others: ir.Value
) -> ir.Value:
    """function(g, *others) of what works element by element, K left out where it is always 1.

    Between two convolutions nothing then stands but what keeps ONNX Runtime's blocked layout.
    `others` have no K.
    """
    if not op.single:
        return function(g, *others)
    return op.unsqueeze(function(op.squeeze(g, [0]), *others), [0])


def k_into_batch(op: Ops, g: Cotangent, like: ir.Value) -> ir.Value:
    """A dense cotangent as [K*B, ...], for operators that take exactly one leading axis."""
    if op.single:
        return op.squeeze(g.value, [0])
    rest = g.shape[1:]
    if all(isinstance(size, int) for size in rest):
        target = op.constant([-1, *rest])
    else:
        target = op.Concat(op.constant([-1]), op.Shape(like, start=1), axis=0)
    return op.Reshape(g.value, target)  # type: ignore[no-any-return]


def k_out_of_batch(
    op: Ops, merged: ir.Value, g: Cotangent, shape: Shape, like: ir.Value
) -> Cotangent:
    """Undo `k_into_batch`: [K*B, ...] as the cotangent of the value `like` of `shape`."""
    if op.single:
        if like.shape is not None and all(isinstance(size, int) for size in shape[1:]):
            # Not inferred by all operators; ONNX Runtime must see that the batch is the image's.
            assert like.dtype is not None
            merged.shape, merged.dtype = ir.Shape([like.shape[0], *shape[1:]]), like.dtype
        return Cotangent(op.unsqueeze(merged, [0]), shape)
    k = op.Shape(g.value, start=0, end=1)
    return Cotangent(op.Reshape(merged, op.Concat(k, sizes(op, like, shape), axis=0)), shape)


def dense(op: Ops, g: Cotangent, like: ir.Value) -> Cotangent:
    """Spell the cotangent out: every axis at its full size. `like` is the differentiated value."""
    value = g.value
    if g.one_hot is not None:
        assert like.dtype is not None
        axis = g.one_hot.axis
        depth = dimension(op, like, g.shape, axis, ir.DataType.INT64)
        off_on = op.constant([0.0, 1.0], ir.DataType.FLOAT)  # ONNX Runtime has no other float
        rows = op.OneHot(g.one_hot.index, depth, off_on)  # [K, B, N]
        if like.dtype != ir.DataType.FLOAT:
            rows = op.Cast(rows, to=int(like.dtype))
        between = [a for a in range(-g.rank + 1, 0) if a != axis]
        rows = op.unsqueeze(rows, [a + g.rank + 1 for a in between])
        value = op.times(value, rows)
    missing = g.constant - ({g.one_hot.axis} if g.one_hot else set())
    missing = frozenset(axis for axis in missing if g.shape[axis] != 1)
    if missing:
        if all(isinstance(g.shape[axis], int) for axis in missing):
            target = op.constant([g.shape[a] if a in missing else 1 for a in range(-g.rank, 0)])
            value = without_k(op, lambda value: op.Expand(value, target), value)
        else:
            value = op.Expand(value, sizes(op, like, g.shape))
    return Cotangent(value, g.shape)


def add(op: Ops, terms: Sequence[Cotangent], like: ir.Value) -> Cotangent:
    """The sum of the cotangents of one value, one for each of its readers."""
    first, *rest = terms
    if not rest:
        return first
    if any(term.one_hot != first.one_hot for term in rest):
        terms = [_without_one_hot(op, term, like) for term in terms]
        first, *rest = terms
    total = first.value
    constant = first.constant
    for term in rest:
        other = op.squeeze(term.value, [0]) if op.single else term.value
        total = without_k(op, op.Add, total, other)
        constant &= term.constant
    return Cotangent(total, first.shape, constant, first.one_hot)


def _without_one_hot(op: Ops, g: Cotangent, like: ir.Value) -> Cotangent:
    return g if g.one_hot is None else dense(op, g, like)


def scaled(op: Ops, g: Cotangent, factor: ir.Value) -> Cotangent:
    """g times a scalar."""
    return g.with_value(op.scale(g.value, factor))


def total(op: Ops, g: Cotangent, axes: Iterable[int], like: ir.Value) -> Cotangent:
    """Sum over `axes` (negative), which stay with size 1. `like`: the differentiated value."""
    assert like.dtype is not None
    axes = frozenset(axes)
    if g.one_hot is not None and -g.rank in axes:  # its index is one for each image
        g = dense(op, g, like)
    summed = g
    for axis in sorted(axes & g.constant):
        if g.shape[axis] != 1:
            summed = scaled(op, summed, dimension(op, like, g.shape, axis, like.dtype))
    one_hot = g.one_hot
    stored = axes - g.constant
    value = summed.value
    if one_hot is not None and one_hot.axis in axes:
        stored -= {one_hot.axis}
        # The index told K and B; from here on the value must.
        ones = op.constant([1] * (g.rank - 1))
        value = op.Expand(value, op.Concat(op.Shape(one_hot.index), ones, axis=0))
        one_hot = None
    stored = frozenset(axis for axis in stored if g.shape[axis] != 1)
    if stored:
        value = _sum(op, value, sorted(stored), g.shape, like.dtype)
    shape = tuple(
        1 if axis in axes else size for axis, size in zip(range(-g.rank, 0), g.shape, strict=True)
    )
    return Cotangent(value, shape, g.constant | axes, one_hot)


def _sum(op: Ops, value: ir.Value, axes: list[int], shape: Shape, dtype: ir.DataType) -> ir.Value:
    """The sum of a stored value along axes, which stay.

    That over the positions of an image is a pooling, which ONNX Runtime does in its blocked layout.
    """
    height, width = shape[-2:] if len(shape) == 4 else (FREE, FREE)
    known = isinstance(height, int) and isinstance(width, int)
    if op.single and known and axes == [-2, -1] and dtype == ir.DataType.FLOAT:
        mean = without_k(op, op.GlobalAveragePool, value)
        return op.scale(mean, op.constant(int(height) * int(width), dtype))
    return op.ReduceSum(value, op.constant(axes), keepdims=1)  # type: ignore[no-any-return]


def unbroadcast(op: Ops, g: Cotangent, shape: Shape, like: ir.Value) -> Cotangent:
    """Undo broadcasting: sum over the axes that a reader had stretched.

    Args:
        op: where nodes are emitted.
        g: cotangent in the shape of the reader's output, the value `like`.
        shape: the shape of the value that was read.
        like: the reader's output.
    """
    stretched = [
        axis
        for axis in range(-g.rank, 0)
        if axis < -len(shape) or (shape[axis] == 1 and g.shape[axis] != 1)
    ]
    if stretched:
        g = total(op, g, stretched, like)
    surplus = g.rank - len(shape)
    if surplus:
        g = Cotangent(
            op.squeeze(g.value, list(range(1, surplus + 1))),
            shape,
            frozenset(axis for axis in g.constant if axis >= -len(shape)),
            g.one_hot,
        )
    return replace(g, shape=shape)


def reshaped(op: Ops, g: Cotangent, shape: Shape, like: ir.Value, source: ir.Value) -> Cotangent:
    """The cotangent of a value `like` of `shape` that was reshaped into the value `source` of g."""
    moved = _moved_axes(g.shape, shape)
    if moved is None:
        g = dense(op, g, source)
        return Cotangent(op.Reshape(g.value, with_k(op, g, like, shape)), shape)
    value = op.squeeze(g.value, [a + g.rank + 1 for a in range(-g.rank, 0) if a not in moved])
    kept = set(moved.values())
    inserted = [axis for axis in range(-len(shape), 0) if axis not in kept]
    value = op.unsqueeze(value, [axis + len(shape) + 1 for axis in inserted])
    one_hot = g.one_hot
    if one_hot is not None:
        # An axis of size 1 is one-hot in name only; and the index needs its images in front.
        if one_hot.axis not in moved or g.shape[0] != shape[0]:
            g = dense(op, g, source)
            return reshaped(op, g, shape, like, source)
        one_hot = replace(one_hot, axis=moved[one_hot.axis])
    constant = frozenset({moved[a] for a in g.constant if a in moved} | set(inserted))
    return Cotangent(value, shape, constant, one_hot)


def _moved_axes(old: Shape, new: Shape) -> dict[int, int] | None:
    """Where each axis goes if a reshape only inserts and removes axes of size 1, else ``None``."""
    old_axes = [axis for axis in range(-len(old), 0) if old[axis] != 1]
    new_axes = [axis for axis in range(-len(new), 0) if new[axis] != 1]
    same = [old[a] for a in old_axes] == [new[a] for a in new_axes]
    if not same or [old[a] for a in old_axes].count(FREE) > 1:
        return None
    return dict(zip(old_axes, new_axes, strict=True))


def transposed(op: Ops, g: Cotangent, perm: Sequence[int]) -> Cotangent:
    """The cotangent of a value whose transposition by `perm` has cotangent g."""
    rank = g.rank
    inverse = [int(axis) for axis in np.argsort(perm)]
    place = {axis - rank: perm[axis] - rank for axis in range(rank)}
    one_hot = g.one_hot and replace(g.one_hot, axis=place[g.one_hot.axis])
    return Cotangent(
        op.transpose(g.value, [0, *(axis + 1 for axis in inverse)]),
        tuple(g.shape[axis] for axis in inverse),
        frozenset(place[axis] for axis in g.constant),
        one_hot,
    )
