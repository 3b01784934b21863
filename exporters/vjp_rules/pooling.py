"""Pooling over windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters import ort
from exporters.cotangent import Cotangent, k_into_batch, k_out_of_batch, sizes
from exporters.vjp_rules.reduction import spread_mean
from exporters.vjp_rules.registry import Site, vjp
from exporters.vjp_rules.windows import Window, ones, scatter_windows, window_of


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
    g = site.dense(g)
    merged = k_into_batch(op, g, site.output)
    merged = op.Mul(merged, _one_over_count(site, window, padded))
    single = _to_one_channel(site, merged, site.output)
    spread = scatter_windows(site, single, ones(site, window.kernel), window, 1)
    return [k_out_of_batch(op, spread, g, shape, x)]


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
    count, k = op.Size(positions), op.Shape(g.value, start=0, end=1)
    one = op.constant([1])
    flat = op.Concat(k, op.Reshape(count, one), axis=0)
    positions = op.Expand(
        op.Reshape(positions, op.Concat(one, op.Reshape(count, one), axis=0)), flat
    )
    zeros = op.Expand(site.scalar(0.0), op.Concat(k, op.Reshape(op.Size(x), one), axis=0))
    spread = op.ScatterElements(
        zeros, positions, op.Reshape(g.value, flat), axis=1, reduction="add"
    )
    whole = op.Concat(k, sizes(op, x, shape), axis=0)
    return [Cotangent(op.Reshape(spread, whole), shape)]


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
    entries = _entries_inside(window, image, averages.shape[2:])
    assert site.output.dtype is not None
    return site.op.constant(averages / entries, site.output.dtype)


def _pool_ones(site: Site, image: list[int]) -> NDArray[Any]:
    """What ONNX Runtime's AveragePool makes of an image of ones, [1, 1, ...]."""
    shape = [1, 1, *image]
    x = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.Node("", "AveragePool", [x], attributes=list(site.node.attributes.values()))
    node.outputs[0].name, node.outputs[0].dtype = "y", ir.DataType.FLOAT
    assert site.node.graph is not None
    opset = {"": site.node.graph.opset_imports[""]}
    graph = ir.Graph([x], [node.outputs[0]], nodes=[node], opset_imports=opset, name="count")
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
