"""Conv and ConvTranspose."""

from __future__ import annotations

from exporters.cotangent import Cotangent, k_into_batch, k_out_of_batch
from exporters.probe import Shape
from exporters.vjp_rules.registry import Site, vjp
from exporters.vjp_rules.transposed_conv import scatter_windows
from exporters.vjp_rules.windows import Window, window_of

_END = 2**62  # of a Slice that goes to the end


@vjp("Conv", sparse=True)
def conv(site: Site, g: Cotangent) -> list[Cotangent | None]:
    """Y = W * X + b, a correlation; dX = G convolved with W: ConvTranspose with the same weights.

    A one-hot G through a 1x1 convolution needs one row of W only.
    """
    op = site.op
    if site.on(1) or site.on(2):
        raise site.unsupported("with weights that depend on the image")
    x, weight = site.input(0), site.input(1)
    shape = site.shape(x)
    kernel = site.shape(weight)[2:]
    if not all(isinstance(size, int) for size in kernel):
        raise site.unsupported("with a kernel size that is only known at run time")
    window = window_of(site, [int(size) for size in kernel])
    groups = site.attribute("group", 1)
    pointwise = window == Window.unit(len(kernel)) and groups == 1
    if pointwise and g.one_hot is not None and g.one_hot.axis == 1 - g.rank:
        rows = op.gather_rows(weight, g.one_hot.index)  # [K, B, C, 1, 1]
        value = op.outer(rows, g.value)
        return [Cotangent(value, shape, g.constant - {1 - g.rank})]
    g = site.dense(g)
    merged = scatter_windows(site, k_into_batch(op, g, site.output), weight, window, groups)
    return [k_out_of_batch(op, merged, g, shape, x)]


@vjp("ConvTranspose")
def conv_transpose(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = W * x + b, the transposed correlation; dx = Conv of g with the same weights."""
    op = site.op
    if site.on(1) or site.on(2):
        raise site.unsupported("with weights that depend on the image")
    x, weight = site.input(0), site.input(1)
    shape, kernel = site.shape(x), site.shape(weight)[2:]
    if not all(isinstance(size, int) for size in kernel):
        raise site.unsupported("with a kernel size that is only known at run time")
    count = len(kernel)
    begin, end = _cropped(site, [int(size) for size in kernel], shape[2:], g.shape[2:])
    value = k_into_batch(op, g, site.output)
    if min(*begin, *end) < 0:  # the rule of a longer output: nothing reached what was added
        first = op.constant([max(-size, 0) for size in begin])
        last = op.constant([min(size, 0) or _END for size in end])
        value = op.Slice(value, first, last, op.constant(list(range(2, count + 2))))
    merged = op.Conv(
        value,
        weight,
        strides=list(site.attribute("strides", (1,) * count)),
        dilations=list(site.attribute("dilations", (1,) * count)),
        pads=[max(size, 0) for size in (*begin, *end)],
        group=site.attribute("group", 1),
    )
    return [k_out_of_batch(op, merged, g, shape, x)]


def _cropped(
    site: Site, kernel: list[int], inputs: Shape, outputs: Shape
) -> tuple[list[int], list[int]]:
    """What a ConvTranspose cuts off its full result, at the begin and at the end of each axis.

    That is `pads`, less `output_padding`; with `output_shape` or `auto_pad` it is what the full
    result has more than the output, in two halves.
    """
    count, mode = len(kernel), site.attribute("auto_pad", "NOTSET")
    if "output_shape" not in site.node.attributes and mode in ("NOTSET", "VALID"):
        pads = site.attribute("pads", (0,) * 2 * count) if mode == "NOTSET" else (0,) * 2 * count
        more = site.attribute("output_padding", (0,) * count)
        return list(pads[:count]), [p - m for p, m in zip(pads[count:], more, strict=True)]
    if not all(isinstance(size, int) for size in (*inputs, *outputs)):
        raise site.unsupported("with output_shape or auto_pad and an image size that is free")
    strides = site.attribute("strides", (1,) * count)
    dilations = site.attribute("dilations", (1,) * count)
    axes = zip(inputs, outputs, kernel, strides, dilations, strict=True)
    total = [(int(i) - 1) * s + (k - 1) * d + 1 - int(o) for i, o, k, s, d in axes]
    small, large = [size // 2 for size in total], [size - size // 2 for size in total]
    return (small, large) if mode == "SAME_UPPER" else (large, small)
