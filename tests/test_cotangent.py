"""Cotangents as they are stored: the facts about them stay true, and nothing is spelled out early.

Oracle: NumPy on the cotangent spelled out.
"""

import numpy as np
import onnx_ir as ir
import pytest
from emitted import content, evaluate, placeholder

from exporters import cotangent
from exporters.builder import Ops
from exporters.cotangent import Cotangent, OneHot
from exporters.probe import BATCH, FREE

rng = np.random.default_rng(0)
K, B = 2, 3
INDEX = rng.integers(0, 5, (K, B))


class Value:
    """A differentiated value of shape [B, 5, 4] with cotangents of it, and what to feed."""

    def __init__(self, shape=(BATCH, 5, 4), dtype=ir.DataType.FLOAT):
        self.op, self.shape = Ops(set()), shape
        self.like = placeholder("like", [None] * len(shape), dtype)
        sizes = {BATCH: B, FREE: 4}
        self.sizes = tuple(sizes.get(size, size) for size in shape)
        self.feed = {self.like: np.zeros(self.sizes)}
        self.index = placeholder("index", ["K", "B"], ir.DataType.INT64)
        self.feed[self.index] = INDEX

    def cotangent(self, name, *, constant=(), one_hot=None):
        """A cotangent and what it is when spelled out."""
        small = {*constant, one_hot}
        axes = range(-len(self.sizes), 0)
        stored = [1 if axis in small else n for axis, n in zip(axes, self.sizes, strict=True)]
        value = placeholder(name, [None] * (len(stored) + 1), self.like.dtype)
        array = rng.standard_normal((K, *stored))
        self.feed[value] = array
        full = np.broadcast_to(array, (K, *self.sizes))
        hot = None
        if one_hot is not None:
            hot = OneHot(one_hot, self.index, self.op.transpose(self.index, [1, 0]))
            full = np.where(self.mask(one_hot), full, 0)
        return Cotangent(value, self.shape, frozenset(constant), hot), full

    def mask(self, axis):
        places = np.arange(self.sizes[axis]).reshape(-1, *[1] * (-axis - 1))
        return places == INDEX.reshape(K, B, *[1] * (len(self.sizes) - 1))

    def dense(self, g, like=None):
        """What g comes to in NumPy."""
        full = cotangent.dense(self.op, g, like or self.like)
        assert (full.constant, full.one_hot) == (frozenset(), None)
        return evaluate(self.op, full.value, self.feed)


def close(got, expected):
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


FACTS = [
    {},
    {"constant": [-1]},
    {"constant": [-2, -1]},
    {"one_hot": -2},
    {"one_hot": -1},
    {"one_hot": -2, "constant": [-1]},
]


@pytest.mark.parametrize("facts", FACTS, ids=str)
@pytest.mark.parametrize("shape", [(BATCH, 5, 4), (BATCH, 5, FREE), (3, 5, 4)], ids=str)
def test_dense(facts, shape):
    value = Value(shape)
    if facts.get("one_hot") == -1:
        value.feed[value.index] = np.minimum(INDEX, 3)
        value.mask = lambda axis: np.arange(4) == np.minimum(INDEX, 3)[..., None, None]
    g, full = value.cotangent("g", **facts)
    close(value.dense(g), full)


@pytest.mark.parametrize("dtype", [ir.DataType.DOUBLE, ir.DataType.FLOAT16])
def test_one_hot_is_spelled_out_in_every_float_type(dtype):
    value = Value(dtype=dtype)
    g, full = value.cotangent("g", one_hot=-2)
    got = value.dense(g)
    assert got.dtype == dtype.numpy()
    np.testing.assert_allclose(got, full, rtol=1e-3)


def test_dense_of_a_full_cotangent_emits_nothing():
    value = Value()
    g, _ = value.cotangent("g")
    assert cotangent.dense(value.op, g, value.like).value is g.value
    assert value.op.nodes == []


def test_an_axis_of_size_one_is_not_expanded():
    value = Value((BATCH, 5, 1))
    g, _ = value.cotangent("g", constant=[-1])
    assert cotangent.dense(value.op, g, value.like).value is g.value


@pytest.mark.parametrize("left", FACTS[:4], ids=str)
@pytest.mark.parametrize("right", FACTS[:4], ids=str)
def test_add(left, right):
    value = Value()
    pairs = [value.cotangent(name, **facts) for name, facts in (("a", left), ("b", right))]
    total = cotangent.add(value.op, [g for g, _ in pairs], value.like)
    close(value.dense(total), sum(full for _, full in pairs))
    if "one_hot" not in left | right:
        assert total.constant == set(left.get("constant", [])) & set(right.get("constant", []))


def test_one_hot_along_the_same_axis_stays_so_when_added():
    value = Value()
    (a, full_a), (b, full_b), (c, full_c) = (value.cotangent(n, one_hot=-2) for n in "abc")
    total = cotangent.add(value.op, [a, b, c], value.like)
    assert total.one_hot == a.one_hot
    close(value.dense(total), full_a + full_b + full_c)


def test_one_hot_along_different_axes_is_spelled_out_when_added():
    value = Value((BATCH, 5, 5))
    (a, full_a), (b, full_b) = (
        value.cotangent(n, one_hot=axis) for n, axis in (("a", -1), ("b", -2))
    )
    total = cotangent.add(value.op, [a, b], value.like)
    assert total.one_hot is None
    close(value.dense(total), full_a + full_b)


def test_one_term_is_its_own_sum():
    value = Value()
    g, _ = value.cotangent("g", one_hot=-2)
    assert cotangent.add(value.op, [g], value.like) is g


@pytest.mark.parametrize("facts", [*FACTS[:4], FACTS[5]], ids=str)
@pytest.mark.parametrize("axes", [[-1], [-2], [-2, -1], [-3], [-3, -2, -1]], ids=str)
@pytest.mark.parametrize("shape", [(BATCH, 5, 4), (BATCH, 5, FREE)], ids=str)
def test_total(facts, axes, shape):
    value = Value(shape)
    g, full = value.cotangent("g", **facts)
    total = cotangent.total(value.op, g, axes, value.like)
    assert total.shape == tuple(
        1 if axis in axes else n for axis, n in zip((-3, -2, -1), shape, strict=True)
    )
    summed = placeholder("summed", [None] * 3)
    value.feed[summed] = np.zeros((full.sum(tuple(axes), keepdims=True)).shape[1:])
    close(value.dense(total, summed), full.sum(tuple(axes), keepdims=True))


def test_the_sum_over_an_axis_of_size_one_emits_nothing():
    value = Value((BATCH, 1, 5))
    g, _ = value.cotangent("g", constant=[-2])
    assert cotangent.total(value.op, g, [-2], value.like) == g
    assert value.op.nodes == []


def test_the_sum_of_a_bare_one_over_its_classes_has_one_row_for_each_image():
    """The index told K and B; the value must when it is gone, whatever it was multiplied by."""
    value = Value((BATCH, 5))
    one = value.op.constant([[[1.0]]], ir.DataType.FLOAT)
    hot = OneHot(-1, value.index, value.op.transpose(value.index, [1, 0]))
    factor = value.op.constant([[[3.0]]], ir.DataType.FLOAT)
    seeds = [Cotangent(v, value.shape, one_hot=hot) for v in (one, value.op.Mul(one, factor))]
    totals = [cotangent.total(value.op, g, [-1], value.like).value for g in seeds]
    ones, threes = evaluate(value.op, totals, value.feed)
    close(ones, np.full((K, B, 1), 1))
    close(threes, np.full((K, B, 1), 3))


@pytest.mark.parametrize("facts", [*FACTS[:4], FACTS[5]], ids=str)
@pytest.mark.parametrize(
    "read", [(BATCH, 5, 4), (BATCH, 1, 4), (BATCH, 1, 1), (5, 1), (4,), ()], ids=str
)
def test_unbroadcast(facts, read):
    value = Value()
    g, full = value.cotangent("g", **facts)
    got = cotangent.unbroadcast(value.op, g, read, value.like)
    sizes = tuple(B if size == BATCH else size for size in read)
    leading = full.sum(tuple(range(1, 1 + 3 - len(read))))
    stretched = tuple(
        axis for axis in range(-len(read), 0) if sizes[axis] == 1 != value.sizes[axis]
    )
    assert got.shape == read
    source = placeholder("source", [None] * len(read))
    value.feed[source] = np.zeros(sizes)
    close(value.dense(got, source), leading.sum(stretched, keepdims=True))


def test_unbroadcast_of_what_was_not_stretched_emits_nothing():
    value = Value()
    g, _ = value.cotangent("g", one_hot=-2)
    before = len(value.op.nodes)
    assert cotangent.unbroadcast(value.op, g, value.shape, value.like) == g
    assert len(value.op.nodes) == before


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        ((BATCH, 5, 1, 1), (BATCH, 5), True),
        ((BATCH, 5), (BATCH, 1, 5, 1), True),
        ((BATCH, 5, FREE), (BATCH, 5, 1, FREE), True),
        ((BATCH, 5, 4), (BATCH, 20), False),
        ((BATCH, 5), (1, BATCH, 5), False),
        ((BATCH, 5, FREE, FREE), (BATCH, 5, FREE, FREE), False),
    ],
    ids=str,
)
def test_reshaped_keeps_facts_where_only_axes_of_size_one_come_or_go(old, new, kept):
    """`old` is the shape of y, `new` that of x."""
    value = Value(old)
    axis = 1 - len(old)
    g, full = value.cotangent("g", one_hot=axis)
    sizes = tuple({BATCH: B, FREE: 4}.get(size, size) for size in new)
    like = placeholder("x", [None] * len(new))
    value.feed[like] = np.zeros(sizes)
    got = cotangent.reshaped(value.op, g, new, like, value.like)
    assert got.shape == new
    assert (got.one_hot is not None) == kept
    if kept:
        assert new[got.one_hot.axis] == 5
        assert {a for a in range(-len(new), 0) if new[a] == 1} <= got.constant
    close(value.dense(got, like), full.reshape(K, *sizes))


def test_one_hot_along_an_axis_of_size_one_does_not_outlive_the_axis():
    value = Value((BATCH, 1, 5))
    value.feed[value.index] = np.zeros((K, B))
    g, _ = value.cotangent("g", one_hot=-2)
    like = placeholder("x", [None] * 2)
    value.feed[like] = np.zeros((B, 5))
    got = cotangent.reshaped(value.op, g, (BATCH, 5), like, value.like)
    assert got.one_hot is None
    close(value.dense(got, like), value.feed[g.value][:, :, 0])


@pytest.mark.parametrize("facts", [*FACTS[:4], FACTS[5]], ids=str)
def test_transposed_moves_facts_with_their_axes(facts):
    value = Value()  # y = transpose(x, (0, 2, 1))
    g, full = value.cotangent("g", **facts)
    got = cotangent.transposed(value.op, g, (0, 2, 1))
    moved = {-2: -1, -1: -2}
    assert got.shape == (BATCH, 4, 5)
    assert got.constant == {moved[axis] for axis in facts.get("constant", [])}
    assert (got.one_hot and got.one_hot.axis) == moved.get(facts.get("one_hot"))
    x = placeholder("x", [None] * 3)
    value.feed[x] = np.zeros((B, 4, 5))
    close(value.dense(got, x), full.transpose(0, 1, 3, 2))


@pytest.mark.parametrize("shape", [(BATCH, 5, 4), (3, 5, 4), (BATCH, FREE, 4)], ids=str)
@pytest.mark.parametrize("k", [0, 1, 3])
def test_k_goes_into_the_batch_and_comes_out_again(shape, k):
    op = Ops(set())
    y, g = placeholder("y", [None] * 3), placeholder("g", [None] * 4)
    array = rng.standard_normal((k, B, 5, 4))
    merged = cotangent.k_into_batch(op, Cotangent(g, shape), y)
    back = cotangent.k_out_of_batch(op, merged, Cotangent(g, shape), shape, y)
    feed = {g: array, y: np.zeros((B, 5, 4))}
    together, apart = evaluate(op, [merged, back.value], feed)
    close(together, array.reshape(-1, 5, 4))
    close(apart, array)


@pytest.mark.parametrize("axis", [-3, -2, -1])
@pytest.mark.parametrize("shape", [(BATCH, 5, 4), (3, FREE, FREE)], ids=str)
def test_dimension(shape, axis):
    op, like = Ops(set()), placeholder("like", [None] * 3)
    got = cotangent.dimension(op, like, shape, axis, ir.DataType.FLOAT)
    if isinstance(shape[axis], int):
        assert content(got) == (B, 5, 4)[axis]
        assert op.nodes == []
    else:
        assert evaluate(op, got, {like: np.zeros((B, 5, 4))}) == (B, 5, 4)[axis]


def test_axes_of_size_one():
    assert cotangent.axes_of_size_one((5, 1), 4) == {-4, -3, -1}
    assert cotangent.axes_of_size_one((BATCH, FREE), 2) == frozenset()


def test_scaling_by_one_is_left_out():
    value = Value()
    g, full = value.cotangent("g")
    one, two = (value.op.constant(n, ir.DataType.FLOAT) for n in (1, 2))
    assert cotangent.scaled(value.op, g, one) == g
    close(value.dense(cotangent.scaled(value.op, g, two)), 2 * full)
