"""How a value of the network is read as a feature map [B, C, h, w].

| layout | shape | where |
|---|---|---|
| ``NCHW`` | [B, C, h, w] | convolutional networks |
| ``NHWC`` | [B, h, w, C] | Keras, tf2onnx, Swin |
| ``NLC``  | [B, k + h*w, C] | transformers; the first k tokens, at most 8, stand for no position |
| ``NCL``  | [B, C, h*w] | flattened maps |

Where a shape can be read in two ways, the operators around the value decide: a convolution has its
channels at axis 1, a matrix product and a LayerNormalization at the last one, and a pooling reduces
the positions. Where these say nothing, the image's proportions do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from exporters import graph, quantized
from exporters.builder import Ops
from exporters.cotangent import Cotangent, dense, reshaped, transposed
from exporters.image_input import ImageInput
from exporters.probe import BATCH, Dim, Shape, Shapes

MOST_EXTRA_TOKENS = 8
_FAR = 6  # operators that are followed to find out where the channels are
_END = 2**62  # of a Slice that goes to the end

_CHANNELS_FIRST = frozenset(
    {"Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "GroupNormalization"}
    | {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LRN"}
)
_CHANNELS_LAST = frozenset({"LayerNormalization", "RMSNormalization", "MatMul"})
_REDUCTIONS = frozenset({"ReduceMean", "ReduceSum", "ReduceMax"})


@dataclass(frozen=True)
class FeatureMap:
    """A value, read as [B, C, h, w].

    Attributes:
        value: the value as the network has it.
        layout: a key of the table above.
        batch, channels, height, width: what it is read as.
        extra: tokens in front that stand for no position.
    """

    value: ir.Value
    layout: str
    batch: Dim
    channels: Dim
    height: Dim
    width: Dim
    extra: int = 0

    @property
    def shape(self) -> Shape:
        """[B, C, h, w]."""
        return (self.batch, self.channels, self.height, self.width)

    @property
    def text(self) -> str:
        """Name and shape for messages."""
        listed = ", ".join(str(size) for size in self.shape)
        return f"{self.value.name!r} [{listed}]"

    def activations(self, op: Ops) -> ir.Value:
        """The value as floats [B, C, h, w]."""
        floats = quantized.activations(op, self.value)
        assert floats.dtype is not None
        viewed = self._viewed(op, floats)
        viewed.dtype = floats.dtype
        return viewed

    def _viewed(self, op: Ops, value: ir.Value) -> ir.Value:
        if self.layout == "NCHW":
            return value
        if self.layout == "NHWC":
            return op.transpose(value, [0, 3, 1, 2])
        flat = value
        if self.layout == "NLC":
            if self.extra:
                first, axis = op.constant([self.extra]), op.constant([1])
                flat = op.Slice(flat, first, op.constant([_END]), axis)
            flat = op.transpose(flat, [0, 2, 1])
        return op.Reshape(flat, op.constant([0, 0, self.height, self.width]))  # type: ignore[no-any-return]

    def gradient(self, op: Ops, g: Cotangent) -> Cotangent:
        """The cotangent of the value as that of `activations`: [K, B, C, h, w]."""
        # Tokens that differ are spelled out while the axes are still those of the value.
        if g.one_hot is not None or (self.layout == "NLC" and -2 not in g.constant):
            g = dense(op, g, quantized.as_float(op, self.value))
        if self.layout == "NCHW":
            return g
        if self.layout == "NHWC":
            return transposed(op, g, [0, 2, 3, 1])
        if self.layout == "NLC":
            if self.extra and -2 not in g.constant:
                first, axis = op.constant([self.extra]), op.constant([2])
                g = g.with_value(op.Slice(g.value, first, op.constant([_END]), axis))
            g = Cotangent(g.value, (*g.shape[:1], self._positions, *g.shape[2:]), g.constant)
            g = transposed(op, g, [0, 2, 1])
        if -1 in g.constant:
            axes = {-1: (-2, -1), -2: (-3,), -3: (-4,)}
            constant = frozenset(new for old in g.constant for new in axes[old])
            return Cotangent(op.unsqueeze(g.value, [4]), self.shape, constant)
        return reshaped(op, g, self.shape, self.value, self.value)

    @property
    def _positions(self) -> int:
        return int(self.height) * int(self.width)


def read(
    value: ir.Value, shapes: Shapes, image: ImageInput, *, asked_for: bool = False
) -> FeatureMap | None:
    """The value as a feature map with channels and more than one position, if it is one.

    A map of other proportions than the image's is one only if it is `asked_for`, unless the
    operators around it tell which axis has its channels; and even then if it is a strip with the
    channels last: so look the positions of one attention window, [B, 1, h*w, C].
    """
    shape = shapes.get(value, ())
    batch = BATCH if image.batch is None else image.batch
    if shape[:1] != (batch,):
        return None
    readings = list(_readings(value, shape, image))
    axis = channel_axis(value, shapes)
    decided = [found for found in readings if _axis(found.layout) == axis]
    if axis is None:
        decided = [found for found in readings if _fits(found.height, found.width, image)]
    elif axis == 3:
        decided = [
            found
            for found in decided
            if 1 not in (found.height, found.width) or _fits(found.height, found.width, image)
        ]
    if asked_for:
        decided = decided or readings
    return decided[0] if decided else None


def proportional(height: int, width: int, image: ImageInput) -> bool:
    """Whether a map has the image's proportions, but for one position or a tenth.

    Strides and borders round; an image of free size is taken for a square.
    """
    full = (image.height or 1, image.width or 1)
    stride = math.sqrt(full[0] * full[1] / (height * width))
    both = zip((height, width), full, strict=True)
    return all(abs(small - large / stride) <= max(1, small / 10) for small, large in both)


def channel_axis(value: ir.Value, shapes: Shapes) -> int | None:
    """The axis of the channels, by the operators around the value; ``None`` if they say nothing."""
    return _around(value, shapes, _FAR, set())


def _axis(layout: str) -> int:
    return 1 if layout in ("NCHW", "NCL") else {"NHWC": 3, "NLC": 2}[layout]


def _readings(value: ir.Value, shape: Shape, image: ImageInput) -> Iterator[FeatureMap]:
    """Every way to read the shape, the likeliest first."""
    if len(shape) == 4:
        batch, a, b, c = shape
        first = _is_map(a, b, c)
        last = _is_map(c, a, b)
        ordered = [(first, "NCHW", (a, b, c)), (last, "NHWC", (c, a, b))]
        if last and not _fits(b, c, image) and _fits(a, b, image):
            ordered.reverse()
        for fits, layout, (channels, height, width) in ordered:
            if fits:
                yield FeatureMap(value, layout, batch, channels, height, width)
    if len(shape) == 3 and image.height is not None and image.width is not None:
        batch, a, b = shape
        for layout, channels, length in (("NLC", b, a), ("NCL", a, b)):
            if not isinstance(length, int) or not isinstance(channels, int) or channels == 1:
                continue
            most = MOST_EXTRA_TOKENS if layout == "NLC" else 0
            for extra in range(most + 1):
                grid = _grid(length - extra, image)
                if grid is not None:
                    yield FeatureMap(value, layout, batch, channels, *grid, extra)
                    break


def _is_map(channels: Dim, height: Dim, width: Dim) -> bool:
    if not isinstance(channels, int) or channels == 1:
        return False
    if not isinstance(height, int) or not isinstance(width, int):
        return not isinstance(height, int) and not isinstance(width, int)
    return height * width > 1


def _fits(height: Dim, width: Dim, image: ImageInput) -> bool:
    if not isinstance(height, int) or not isinstance(width, int):
        return not isinstance(height, int) and not isinstance(width, int)
    return proportional(height, width, image)


def _grid(positions: int, image: ImageInput) -> tuple[int, int] | None:
    """h, w with h * w = positions, in the image's proportions."""
    assert image.height is not None
    assert image.width is not None
    if positions < 2:
        return None
    height = math.isqrt(round(positions * image.height / image.width))
    for h in (height, height + 1, max(height - 1, 1)):
        w, rest = divmod(positions, h)
        if not rest and h * image.width == w * image.height:
            return h, w
    for h in (height, height + 1, max(height - 1, 1)):
        w, rest = divmod(positions, h)
        if not rest and image.height != image.width and proportional(h, w, image):
            return h, w
    return None


def _around(value: ir.Value, shapes: Shapes, far: int, seen: set[ir.Value]) -> int | None:
    """What producer and readers say, followed through operators that leave axes as they are."""
    if value in seen or far == 0 or len(shapes.get(value, ())) not in (3, 4):
        return None
    seen.add(value)
    rank = len(shapes[value])
    producer = value.producer()
    if producer is not None:
        known = _of_node(producer, rank)
        if known is not None:
            return known
    for node, index in value.uses():
        known = _of_node(node, rank) if index == 0 else None
        if known is None and node.op_type in _REDUCTIONS and index == 0:
            known = _of_reduction(node, rank)
        if known is not None:
            return known
    neighbours = [] if producer is None else [(producer, v) for v in producer.inputs[:1]]
    neighbours += [(node, output) for node, _ in value.uses() for output in node.outputs[:1]]
    for node, other in neighbours:
        if other is None:
            continue
        moved = _moved(node, value, other, shapes)
        if moved is None:
            continue
        axis = _around(other, shapes, far - 1, seen)
        if axis is not None and axis in moved:
            return moved[axis]
    return None


def _of_node(node: ir.Node, rank: int) -> int | None:
    """The channel axis of the first input and the output of an operator that knows its own."""
    operator = quantized.operator(node)
    if operator in _CHANNELS_FIRST:
        return 1
    if operator == "MatMul":
        if operator != node.op_type:
            return rank - 1
        weights = graph.constant(node.inputs[1])
        if weights is None or weights.ndim != 2 or (weights.astype(float) >= 0).all():
            return None  # without negative weights it averages positions, as a resize does
        return rank - 1
    if operator in _CHANNELS_LAST:
        axis = node.attributes.get("axis")
        last = axis is None or axis.as_int() in (-1, rank - 1)
        return rank - 1 if last else None
    return None


def _of_reduction(node: ir.Node, rank: int) -> int | None:
    """The axis that a pooling leaves; the mean over the last axis may be a normalisation's."""
    given = graph.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if given is None:
        return None
    reduced = {int(axis) % rank for axis in given.reshape(-1)}
    kept = set(range(1, rank)) - reduced
    if len(reduced) != rank - 2 or len(kept) != 1 or 0 in reduced:
        return None
    keepdims = node.attributes.get("keepdims")
    if reduced == {rank - 1} and (keepdims is None or keepdims.as_int()):
        return None
    return kept.pop()


def _moved(
    node: ir.Node, value: ir.Value, other: ir.Value, shapes: Shapes
) -> dict[int, int] | None:
    """Which axis of `other` is which of `value`, at the two ends of a node; ``None``: unknown."""
    here, there = shapes.get(value, ()), shapes.get(other, ())
    if node.op_type == "Transpose":
        perm = list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else None
        perm = perm or list(reversed(range(len(here))))
        if other in node.outputs:
            return dict(enumerate(perm))
        return {old: axis for axis, old in enumerate(perm)}
    if here == there:
        return {axis: axis for axis in range(len(here))}
    if node.op_type in ("Reshape", "Flatten") and {len(here), len(there)} == {3, 4}:
        if here[:2] == there[:2]:
            return {1: 1}
        if here[-1] == there[-1]:
            return {len(there) - 1: len(here) - 1}
    if node.op_type in ("Concat", "Slice") and len(here) == len(there):
        same = [axis for axis in range(len(here)) if here[axis] == there[axis]]
        return {axis: axis for axis in same}
    return None
