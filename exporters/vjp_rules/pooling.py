"""Pooling over windows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters import ort
from exporters.cotangent import Cotangent, k_into_batch, k_out_of_batch, sizes
from exporters.vjp_rules.along_axis import summed_up
from exporters.vjp_rules.reduction import spread_mean
from exporters.vjp_rules.registry import Site, vjp
from exporters.vjp_rules.transposed_conv import ones, scatter_windows
from exporters.vjp_rules.windows import Window, window_of


@vjp("AveragePool", sparse=True)
def average_pool(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = mean of x over a window; dx = sum of g / n over the windows that hold the position.

    n, the divisor, differs from window to window where the window reaches into the padding.
    """
    op, x = site.op, site.input(0)
    shape = site.shape(x)
    window = window_of(site, site.attribute("kernel_shape", ()))
    padded = any(window.begin) or any(window.end)
    if not padded and window.kernel == shape[2:]:
        return [spread_mean(site, g)]
    share = _one_over_count(site, window, padded)
    if _holds_all(site, window):
        everywhere = frozenset(range(2 - g.rank, 0))
        if g.one_hot is not None and g.one_hot.axis in everywhere:  # of size 1 here, but not in x
            g = site.dense(g)
        g = g.with_value(op.scale(g.value, share))
        return [replace(g, shape=shape, constant=g.constant | everywhere)]
    g = site.dense(g)
    merged = op.Mul(k_into_batch(op, g, site.output), share)
    if _tiles(site, window):
        factors = op.constant([1, 1, *window.kernel], ir.DataType.FLOAT)
        spread = op.Resize(
            merged, None, factors, coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        )
    else:
        spread = _summed(site, merged, window)
    return [k_out_of_batch(op, spread, g, shape, x)]


def _summed(site: Site, merged: ir.Value, window: Window) -> ir.Value:
    """For each position of each channel the sum over the windows that hold it."""
    channels = site.shape(site.input(0))[1]
    if site.op.single and isinstance(channels, int):
        return scatter_windows(site, merged, ones(site, channels, window), window, channels)
    one_channel = _to_one_channel(site, merged, site.output)
    return scatter_windows(site, one_channel, ones(site, 1, window), window, 1)


@vjp("MaxPool")
def max_pool(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = max of x over a window; dx = sum of g over the windows whose first maximum it is.

    Ties go to the first position in row-major order, as in torch. A second MaxPool, beside the
    model's own, gives the positions: asking the model's for them would change its kernel.
    """
    op, x = site.op, site.input(0)
    shape = site.shape(x)
    attributes = {
        name: site.node.attributes[name].value
        for name in ("kernel_shape", "strides", "pads", "dilations", "ceil_mode", "auto_pad")
        if name in site.node.attributes
    }
    _, positions = op.MaxPool(x, _outputs=2, storage_order=0, **attributes)  # in the flat x
    if op.single and _tiles(site, window_of(site, site.attribute("kernel_shape", ()))):
        window = {name: attributes[name] for name in ("kernel_shape", "strides")}
        spread = op.MaxUnpool(k_into_batch(op, g, site.output), positions, **window)
        return [k_out_of_batch(op, spread, g, shape, x)]
    count, k = op.Size(positions), op.Shape(g.value, start=0, end=1)
    one = op.constant([1])
    flat = op.Concat(k, op.Reshape(count, one), axis=0)
    positions = op.Expand(
        op.Reshape(positions, op.Concat(one, op.Reshape(count, one), axis=0)), flat
    )
    size = op.Concat(k, op.Reshape(op.Size(x), one), axis=0)
    spread = summed_up(site, size, positions, op.Reshape(g.value, flat), 1)
    whole = op.Concat(k, sizes(op, x, shape), axis=0)
    if op.single:
        image = op.Reshape(spread, sizes(op, x, shape))
        return [k_out_of_batch(op, image, g, shape, x)]
    return [Cotangent(op.Reshape(spread, whole), shape)]


@vjp("LpPool")
def lp_pool(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = (sum of |x|^p over a window)^(1/p); dx = sign(x) |x|^(p - 1) sum of g y^(1 - p).

    The sum goes over the windows that hold the position; those whose y is 0 give 0.
    """
    op, x, y = site.op, site.input(0), site.output
    shape = site.shape(x)
    p: int = site.attribute("p", 2)
    window = window_of(site, site.attribute("kernel_shape", ()))
    shared, slope = g, op.Sign(x)
    if p > 1:
        safe = op.Where(op.Equal(y, site.scalar(0.0)), site.scalar(1.0), y)
        below = safe if p == 2 else op.Pow(safe, site.scalar(p - 1.0))
        shared = g.with_value(op.Div(g.value, below))
        slope = x if p == 2 else op.Mul(slope, op.Pow(op.Abs(x), site.scalar(p - 1.0)))
    spread = _summed(site, k_into_batch(op, shared, y), window)
    dx = k_out_of_batch(op, spread, g, shape, x)
    return [dx.with_value(op.Mul(dx.value, slope))]


def _holds_all(site: Site, window: Window) -> bool:
    """Whether there is one window, and the whole image in it."""
    image, outputs = site.shape(site.input(0))[2:], site.shape(site.output)[2:]
    axes = zip(image, outputs, window.kernel, window.begin, window.dilations, strict=True)
    return all(isinstance(n, int) and o == d == 1 and k >= n + b for n, o, k, b, d in axes)


def _tiles(site: Site, window: Window) -> bool:
    """Whether the windows fill the image without rest or overlap, in two axes of known size."""
    image, outputs = site.shape(site.input(0))[2:], site.shape(site.output)[2:]
    sizes = zip(image, outputs, window.strides, strict=True)
    return (
        len(image) == 2
        and window.kernel == window.strides
        and window.dilations == (1, 1)
        and all(isinstance(n, int) and n == int(o) * s for n, o, s in sizes)
        and not any(window.begin)
    )


def _to_one_channel(site: Site, merged: ir.Value, like: ir.Value) -> ir.Value:
    """[N, C, ...] as [N*C, 1, ...]: every channel is pooled by itself."""
    spatial = site.shape(like)[2:]
    op = site.op
    if all(isinstance(size, int) for size in spatial):
        return op.Reshape(merged, op.constant([-1, 1, *spatial]))  # type: ignore[no-any-return]
    return op.Reshape(merged, op.Concat(op.constant([-1, 1]), op.Shape(like, start=2), axis=0))  # type: ignore[no-any-return]


def _one_over_count(site: Site, window: Window, padded: bool) -> ir.Value:
    """1 / n for every output position, or one number where it's the same everywhere.

    Read off the operator itself: pooling ones gives (entries inside the image) / n.
    """
    sizes = site.shape(site.input(0))[2:]
    if not padded and not site.attribute("ceil_mode", 0):
        return site.scalar(1.0 / float(np.prod(window.kernel)))
    if not all(isinstance(size, int) for size in sizes):
        raise site.unsupported("with padding and an image size that is free")
    image = [int(size) for size in sizes]
    averages = _pool_ones(site, image)
    shares = averages / _entries_inside(window, image, averages.shape[2:])
    assert site.output.dtype is not None
    return site.op.constant(shares.reshape(()) if shares.size == 1 else shares, site.output.dtype)


def _pool_ones(site: Site, image: list[int]) -> NDArray[Any]:
    """What ONNX Runtime's AveragePool makes of an image of ones, [1, 1, ...]."""
    shape = [1, 1, *image]
    x = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.Node("", "AveragePool", [x], attributes=list(site.node.attributes.values()))
    node.outputs[0].name, node.outputs[0].dtype = "y", ir.DataType.FLOAT
    graph = ir.Graph(
        [x], [node.outputs[0]], nodes=[node], opset_imports={"": site.opset}, name="count"
    )
    session = ort.open_model(ir.Model(graph, ir_version=10), "AveragePool")
    result: NDArray[Any] = session.run(None, {"x": np.ones(shape, np.float32)})[0]
    return result.astype(np.float64)


def _entries_inside(window: Window, image: list[int], outputs: tuple[int, ...]) -> NDArray[Any]:
    """How many of each window's entries lie in the image and not in the padding."""
    counts: NDArray[Any] = np.ones(())
    for axis, (size, length) in enumerate(zip(image, outputs, strict=True)):
        starts = np.arange(length) * window.strides[axis] - window.begin[axis]
        offsets = np.arange(window.kernel[axis]) * window.dilations[axis]
        places = starts[:, None] + offsets
        inside = ((places >= 0) & (places < size)).sum(1)
        counts = np.multiply.outer(counts, inside)
    return counts
