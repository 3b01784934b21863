"""Values read between the positions of an image: GridSample, DeformConv, RoiAlign, AffineGrid.

A value at coordinates u is a sum over the taps around it, v = sum_t w_t(u) X[i_t], so dX sums
g w_t at i_t, and du = sum_t g w_t'(u) X[i_t]. Where the taps change (at whole coordinates, at the
border) there is no derivative; the one to the right is taken, as in torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import onnx_ir as ir

from exporters.cotangent import ZERO, Cotangent, Zero
from exporters.probe import Dim
from exporters.vjp_rules.along_axis import reshaped_to, size_list, vector
from exporters.vjp_rules.indexing import summed_at
from exporters.vjp_rules.registry import Site, vjp
from exporters.vjp_rules.windows import window_of

_CUBIC = -0.75


@dataclass(frozen=True)
class _Tap:
    """One of the positions along an axis that a value is made of, for coordinates [N, P].

    Attributes:
        index: int64, within the image.
        weight: w, 0 where the position lies outside and counts for nothing.
        slope: its derivative by the coordinate; ``None`` if it is 0.
    """

    index: ir.Value
    weight: ir.Value
    slope: ir.Value | None


class _Samples:
    """An image [N, C, ...] read at P places each."""

    def __init__(self, site: Site, image: ir.Value, axes: Sequence[Sequence[_Tap]]) -> None:
        """`axes` holds the taps along each axis behind N and C."""
        op = site.op
        self._site, self._image = site, image
        sizes = op.Shape(image, start=2)
        self._sizes = [op.Gather(sizes, op.constant([axis])) for axis in range(len(axes))]
        combinations = list(product(*axes))
        positions = [self._position([tap.index for tap in taps]) for taps in combinations]
        self._positions = op.Concat(*(op.unsqueeze(p, [2]) for p in positions), axis=2)
        weights = [_product(site, [tap.weight for tap in taps]) for taps in combinations]
        self._weights = self._stacked(weights)  # [N, P, T]
        self._slopes = [
            None
            if combinations[0][axis].slope is None
            else self._stacked(
                [
                    _product(site, [t.slope if a == axis else t.weight for a, t in enumerate(taps)])
                    for taps in combinations
                ]
            )
            for axis in range(len(axes))
        ]

    def by_image(self, g: ir.Value) -> ir.Value:
        """The gradient of the image, [K, N, C, ...], of one for the values, [K, N, P, C]."""
        op = self._site.op
        spread = op.Mul(op.unsqueeze(g, [3]), op.unsqueeze(self._weights, [3]))
        in_front = op.transpose(spread, [1, 2, 3, 0, 4])  # [N, P, T, K, C]
        positions = op.Reshape(self._positions, op.constant([-1]))
        rows = op.Concat(op.Shape(positions), op.Shape(in_front, start=3), axis=0)
        count = op.Mul(op.Shape(self._image, start=0, end=1), self._count())
        summed = summed_at(self._site, op.Reshape(in_front, rows, allowzero=1), positions, count)
        whole = op.Concat(
            op.Shape(self._image, start=0, end=1), *self._sizes, op.Shape(summed, start=1), axis=0
        )
        rank = len(self._sizes)
        return op.transpose(
            op.Reshape(summed, whole, allowzero=1), [rank + 1, 0, rank + 2, *range(1, rank + 1)]
        )

    def by_coordinates(self, g: ir.Value) -> list[ir.Value | None]:
        """The gradient of the coordinates along each axis, [K, N, P]; ``None`` for 0."""
        op = self._site.op
        if all(slope is None for slope in self._slopes):
            return [None for _ in self._slopes]
        read = op.transpose(self._read(), [0, 1, 3, 2])  # [N, P, C, T]
        along = op.squeeze(op.MatMul(op.unsqueeze(g, [3]), read), [3])  # [K, N, P, T]
        last = op.constant([-1])
        return [
            None if slope is None else op.ReduceSum(op.Mul(along, slope), last, keepdims=0)
            for slope in self._slopes
        ]

    def values(self) -> ir.Value:
        """The values themselves, [N, P, C]."""
        op = self._site.op
        weighted = op.MatMul(op.unsqueeze(self._weights, [2]), self._read())
        return op.squeeze(weighted, [2])

    def _read(self) -> ir.Value:
        """The image at the taps, [N, P, T, C]."""
        op, rank = self._site.op, len(self._sizes)
        channels = op.Shape(self._image, start=1, end=2)
        last = op.transpose(self._image, [0, *range(2, rank + 2), 1])
        rows = op.Reshape(last, op.Concat(op.constant([-1]), channels, axis=0))
        return op.Gather(rows, self._positions, axis=0)  # type: ignore[no-any-return]

    def _position(self, indices: Sequence[ir.Value]) -> ir.Value:
        """Indices along the axes as positions in N and these axes, taken as one."""
        op = self._site.op
        images = op.Range(
            op.constant(0), op.Squeeze(op.Shape(self._image, start=0, end=1)), op.constant(1)
        )
        position = op.unsqueeze(images, [1])
        for index, size in zip(indices, self._sizes, strict=True):
            position = op.Add(op.Mul(position, size), index)
        return position

    def _count(self) -> ir.Value:
        """Number of the image's positions."""
        count: ir.Value = self._sizes[0]
        for size in self._sizes[1:]:
            count = self._site.op.Mul(count, size)
        return count

    def _stacked(self, parts: Sequence[ir.Value]) -> ir.Value:
        op = self._site.op
        return op.Concat(*(op.unsqueeze(part, [2]) for part in parts), axis=2)  # type: ignore[no-any-return]


def _product(site: Site, factors: Sequence[ir.Value | None]) -> ir.Value:
    first, *rest = factors
    assert first is not None
    for factor in rest:
        first = site.op.Mul(first, factor)
    return first


def _taps(site: Site, u: ir.Value, size: ir.Value, mode: str, padding: _Padding) -> list[_Tap]:
    """The taps at coordinates u [N, P] along an axis of `size`, a float."""
    op = site.op
    slope = None
    if mode != "cubic":
        u, slope = padding.moved(u, size)
    if mode == "nearest":
        return [padding.tap(op.Round(u), size, None, None)]
    first = op.Floor(u)
    t = op.Sub(u, first)
    made = _cubic(site, t) if mode == "cubic" else _linear(site, t)
    return [
        padding.tap(
            op.Add(first, site.scalar(offset)) if offset else first,
            size,
            weight,
            by_u if slope is None else op.Mul(by_u, slope),
        )
        for offset, weight, by_u in made
    ]


def _linear(site: Site, t: ir.Value) -> list[tuple[int, ir.Value, ir.Value]]:
    """Offset, weight and its derivative of each tap: 1 - t and t."""
    op = site.op
    rising = op.Expand(site.scalar(1.0), op.Shape(t))
    return [(0, op.Sub(site.scalar(1.0), t), op.Neg(rising)), (1, t, rising)]


def _cubic(site: Site, t: ir.Value) -> list[tuple[int, ir.Value, ir.Value]]:
    """The same for Keys's kernel: near (a + 2) t^3 - (a + 3) t^2 + 1, far a (t - 1)^2 t of 1 - t.

    With s = 1 - t the taps at offsets 2 and 1 are those at -1 and 0.
    """
    op, scalar, a = site.op, site.scalar, _CUBIC

    def near(t: ir.Value) -> tuple[ir.Value, ir.Value]:
        square = op.Mul(t, t)
        rest = op.Sub(op.Mul(t, scalar(a + 2)), scalar(a + 3))
        slope = op.Sub(op.Mul(square, scalar(3 * (a + 2))), op.Mul(t, scalar(2 * (a + 3))))
        return op.Add(op.Mul(rest, square), scalar(1.0)), slope

    def far(t: ir.Value) -> tuple[ir.Value, ir.Value]:  # at t + 1: a ((t + 1)^3 - 5 ... - 4)
        s = op.Sub(scalar(1.0), t)
        weight = op.Mul(op.Mul(op.Mul(s, s), t), scalar(a))
        slope = op.Mul(op.Mul(s, op.Sub(scalar(1.0), op.Mul(t, scalar(3.0)))), scalar(a))
        return weight, slope

    s = op.Sub(scalar(1.0), t)
    (w_0, d_0), (w_1, d_1), (w_far, d_far), (w_2, d_2) = near(t), near(s), far(t), far(s)
    return [(-1, w_far, d_far), (0, w_0, d_0), (1, w_1, op.Neg(d_1)), (2, w_2, op.Neg(d_2))]


@dataclass(frozen=True)
class _Padding:
    """What lies outside the image: "zeros", its "border", or its "reflection"."""

    site: Site
    kind: str
    align_corners: bool = False

    def moved(self, u: ir.Value, size: ir.Value) -> tuple[ir.Value, ir.Value | None]:
        """Coordinates brought into the image, and the derivative of that, ``None`` if it is 1."""
        op, dtype = self.site.op, self.site.output.dtype
        assert dtype is not None
        zero, last = self.site.scalar(0.0), op.Sub(size, self.site.scalar(1.0))
        if self.kind == "zeros":
            return u, None
        if self.kind == "border":
            inside = op.And(op.Greater(u, zero), op.Less(u, last))
            return op.Min(op.Max(u, zero), last), op.Cast(inside, to=int(dtype))
        return self._reflected(u, size)

    def _reflected(self, u: ir.Value, size: ir.Value) -> tuple[ir.Value, ir.Value]:
        op, scalar = self.site.op, self.site.scalar
        low = scalar(0.0 if self.align_corners else -0.5)
        width = op.Sub(size, scalar(1.0)) if self.align_corners else size
        width = op.Max(width, scalar(1e-6))  # a single position
        from_low = op.Sub(u, low)
        twice = op.Mul(width, scalar(2.0))
        rest = op.Mod(op.Abs(from_low), twice, fmod=1)
        back = op.Greater(rest, width)
        place = op.Add(op.Where(back, op.Sub(twice, rest), rest), low)
        sign = op.Sign(from_low)
        return place, op.Where(back, op.Neg(sign), sign)

    def tap(
        self, index: ir.Value, size: ir.Value, weight: ir.Value | None, slope: ir.Value | None
    ) -> _Tap:
        """The tap at a whole `index`, which may lie outside."""
        op, dtype = self.site.op, self.site.output.dtype
        assert dtype is not None
        zero, last = self.site.scalar(0.0), op.Sub(size, self.site.scalar(1.0))
        if self.kind == "reflection":
            index, _ = self._reflected(index, size)
        held = op.Cast(op.Min(op.Max(index, zero), last), to=int(ir.DataType.INT64))
        if self.kind == "zeros":
            inside = op.And(op.GreaterOrEqual(index, zero), op.LessOrEqual(index, last))
            counts = op.Cast(inside, to=int(dtype))
            weight = counts if weight is None else op.Mul(weight, counts)
            slope = None if slope is None else op.Mul(slope, counts)
        elif weight is None:
            weight = op.Expand(self.site.scalar(1.0), op.Shape(index))
        return _Tap(held, weight, slope)


@vjp("GridSample")
def grid_sample(site: Site, g: Cotangent) -> list[Cotangent | Zero | None]:
    """y = X at the places that the grid names, in [-1, 1] along each axis, x first; see above.

    The gradient of the grid is that of the coordinates times half the image's size.
    """
    op, x, grid = site.op, site.input(0), site.input(1)
    rank = len(site.shape(x)) - 2
    mode = site.attribute("mode", "linear").removeprefix("bi")
    align = bool(site.attribute("align_corners", 0))
    padding = _Padding(site, site.attribute("padding_mode", "zeros"), align)
    flat = op.Reshape(grid, op.constant([0, -1, rank]))  # [N, P, rank]
    sizes = [_float_size(site, x, axis + 2) for axis in range(rank)]
    factors, axes = [], []
    for axis, size in enumerate(sizes):
        part = op.Gather(flat, op.constant(rank - 1 - axis), axis=2)
        one, half = site.scalar(1.0), site.scalar(0.5)
        factor = op.Mul(op.Sub(size, one) if align else size, half)
        u = op.Mul(op.Add(part, one), factor)
        axes.append(_taps(site, u if align else op.Sub(u, half), size, mode, padding))
        factors.append(factor)
    samples = _Samples(site, x, axes)
    n, channels, *places = size_list(op, site.output, g.shape)
    points = _points(site, places)
    value = op.transpose(reshaped_to(op, g.value, [n, channels, points]), [0, 1, 3, 2])
    gradients: list[Cotangent | Zero | None] = [None, None]
    if site.on(0):
        gradients[0] = Cotangent(samples.by_image(value), site.shape(x))
    if site.on(1):
        gradients[1] = _of_grid(site, samples.by_coordinates(value), factors)
    return gradients


def _of_grid(
    site: Site, coordinates: list[ir.Value | None], factors: list[ir.Value]
) -> Cotangent | Zero:
    op, grid = site.op, site.input(1)
    scaled = [
        op.unsqueeze(op.Mul(u, factor), [3])
        for u, factor in zip(coordinates, factors, strict=True)
        if u is not None
    ]
    if not scaled:
        return ZERO
    shape = site.shape(grid)
    value = op.Concat(*scaled[::-1], axis=3)
    return Cotangent(reshaped_to(op, value, size_list(op, grid, shape)), shape)


def _points(site: Site, sizes: Sequence[int | ir.Value]) -> int | ir.Value:
    """The product of sizes."""
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) == len(sizes):
        return int(np.prod(known))
    op = site.op
    return op.ReduceProd(vector(op, sizes), op.constant([0]))  # type: ignore[no-any-return]


def _float_size(site: Site, x: ir.Value, axis: int) -> ir.Value:
    """The size of x along `axis` as a float."""
    size: Dim = site.shape(x)[axis]
    if isinstance(size, int):
        return site.scalar(float(size))
    op, dtype = site.op, site.output.dtype
    assert dtype is not None
    return op.Cast(op.Squeeze(op.Shape(x, start=axis, end=axis + 1)), to=int(dtype))  # type: ignore[no-any-return]


@vjp("DeformConv")
def deform_conv(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """y = W V + b, V = m X at each tap of the kernel, moved by its offset; see above.

    dV = W^T g, dm = dV X, summed over the channels of an offset group.
    """
    op, x, weight, offset = site.op, site.input(0), site.input(1), site.input(2)
    if site.on(1) or site.on(3):
        raise site.unsupported("with weights that depend on the image")
    kernel, outputs = site.shape(weight)[2:], g.shape[2:]
    channels = site.shape(x)[1]
    known = [int(n) for n in (channels, *kernel, *outputs) if isinstance(n, int)]
    if len(known) < 1 + 2 * len(kernel):
        raise site.unsupported("with an image size that is only known at run time")
    axes, groups = len(kernel), site.attribute("offset_group", 1)
    taps, points = (int(np.prod(known[1 + i * axes : 1 + (i + 1) * axes])) for i in (0, 1))
    n = size_list(op, x, site.shape(x))[0]
    rows = n * groups if isinstance(n, int) else op.Mul(n, op.constant(groups))
    apart = op.Reshape(offset, op.constant([-1, taps, axes, points]))
    padding = _Padding(site, "zeros")
    samples = _Samples(
        site,
        op.Reshape(x, vector(op, [rows, known[0] // groups, *size_list(op, x, site.shape(x))[2:]])),
        [
            _taps(
                site,
                op.Reshape(
                    op.Add(op.Gather(apart, op.constant(axis), axis=2), _corners(site, g, axis)),
                    op.constant([-1, taps * points]),
                ),
                _float_size(site, x, axis + 2),
                "linear",
                padding,
            )
            for axis in range(axes)
        ],
    )
    value = _columns(site, g, n, known[0], taps, points)  # [K, N, C, taps, P]
    value = reshaped_to(op, value, [n, groups, known[0] // groups, taps * points])
    value = op.transpose(value, [0, 1, 2, 4, 3])
    value = reshaped_to(op, value, [rows, taps * points, known[0] // groups])
    gradients: list[Cotangent | None] = [None] * 5
    if site.on(4):
        by_mask = op.ReduceSum(op.Mul(value, samples.values()), op.constant([-1]), keepdims=0)
        gradients[4] = _as_input(site, 4, by_mask)
    if len(site.node.inputs) > 4 and site.node.inputs[4] is not None:
        value = op.Mul(value, op.Reshape(site.input(4), op.constant([-1, taps * points, 1])))
    if site.on(0):
        gradients[0] = _as_input(site, 0, samples.by_image(value))
    if site.on(2):
        moved = [
            op.unsqueeze(reshaped_to(op, u, [rows, taps, points]), [3])
            for u in samples.by_coordinates(value)
            if u is not None
        ]
        gradients[2] = _as_input(site, 2, op.Concat(*moved, axis=3))
    return gradients


def _columns(
    site: Site, g: Cotangent, n: int | ir.Value, channels: int, taps: int, points: int
) -> ir.Value:
    """W^T g for each tap of the kernel: [K, N, C, taps, P]."""
    op, weight = site.op, site.input(1)
    groups = site.attribute("group", 1)
    outputs = site.shape(weight)[0]
    assert isinstance(outputs, int)
    rows = op.constant([groups, outputs // groups, channels // groups * taps])
    by_group = reshaped_to(op, g.value, [n, groups, outputs // groups, points])
    columns = op.MatMul(op.transpose(op.Reshape(weight, rows), [0, 2, 1]), by_group)
    return reshaped_to(op, columns, [n, channels, taps, points])


def _corners(site: Site, g: Cotangent, axis: int) -> ir.Value:
    """Where the kernel's taps lie along `axis` when nothing moves them, [taps, P]."""
    kernel = [int(size) for size in site.shape(site.input(1))[2:]]
    outputs = [int(size) for size in g.shape[2:]]
    window = window_of(site, kernel)
    taps = np.indices(kernel)[axis].reshape(-1, 1) * window.dilations[axis]
    windows = np.indices(outputs)[axis].reshape(-1) * window.strides[axis] - window.begin[axis]
    assert site.output.dtype is not None
    return site.op.constant(taps + windows, site.output.dtype)


def _as_input(site: Site, index: int, value: ir.Value) -> Cotangent:
    """A tensor [K, ...] as the cotangent of input `index`."""
    x = site.input(index)
    shape = site.shape(x)
    return Cotangent(reshaped_to(site.op, value, size_list(site.op, x, shape)), shape)


@vjp("RoiAlign")
def roi_align(site: Site, g: Cotangent) -> list[Cotangent | Zero]:
    """y_r = M_r X, the image that region r names, averaged around points; dX = sum_r M_r^T g_r.

    M is measured when it runs: the operator of an identity. Regions are taken as given: nothing
    flows to them (as torchvision).
    """
    op, x, regions, images = site.op, site.input(0), site.input(1), site.input(2)
    if site.attribute("mode", "avg") != "avg":
        raise site.unsupported("with mode='max'")
    shape = site.shape(x)
    n, channels, *sizes = size_list(op, x, shape)
    count = vector(op, [_points(site, sizes)])
    square = op.Expand(site.scalar(0.0), op.Concat(count, count, axis=0))
    identity = op.Reshape(op.EyeLike(square), vector(op, [1, count, *sizes]))
    settings = {name: item.value for name, item in site.node.attributes.items()}
    first = op.Expand(op.constant(0), op.Shape(images))
    read = op.transpose(op.RoiAlign(identity, regions, first, **settings), [0, 2, 3, 1])
    matrix = op.Reshape(read, op.Concat(op.constant([-1]), count, axis=0))  # [R P, positions]

    depth = op.Squeeze(op.Shape(x, start=0, end=1))
    of_image = op.OneHot(images, depth, op.constant([0.0, 1.0], ir.DataType.FLOAT))  # [R, N]
    assert site.output.dtype is not None
    of_image = op.Cast(of_image, to=int(site.output.dtype))
    mask = op.unsqueeze(op.transpose(of_image, [1, 0]), [1, 3, 4])  # [N, 1, R, 1, 1]
    by_channel = op.unsqueeze(op.transpose(g.value, [0, 2, 1, 3, 4]), [1])  # [K, 1, C, R, ...]
    number, _, *bins = size_list(op, site.output, g.shape)
    points = _points(site, [number, *bins])
    apart = reshaped_to(op, op.Mul(by_channel, mask), [n, channels, points])
    return [_as_input(site, 0, op.MatMul(apart, matrix)), ZERO]


@vjp("AffineGrid")
def affine_grid(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = B theta^T, B the places of a regular grid, each with a 1 behind; dtheta = g^T B."""
    op, theta = site.op, site.input(0)
    sizes = [int(size) for size in g.shape[1:-1] if isinstance(size, int)]
    if len(sizes) + 2 < g.rank:
        raise site.unsupported("with an image size that is only known at run time")
    ends = [1.0 if site.attribute("align_corners", 0) else 1 - 1 / size for size in sizes]
    lines = [np.linspace(-end, end, size) for end, size in zip(ends, sizes, strict=True)]
    places = np.stack([*np.meshgrid(*lines, indexing="ij")[::-1], np.ones(sizes)], axis=-1)
    assert site.output.dtype is not None
    base = op.constant(places.reshape(-1, len(sizes) + 1), site.output.dtype)
    n = size_list(op, site.output, g.shape)[0]
    flat = reshaped_to(op, g.value, [n, int(np.prod(sizes)), len(sizes)])
    return [Cotangent(op.MatMul(op.transpose(flat, [0, 1, 3, 2]), base), site.shape(theta))]
