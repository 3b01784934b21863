"""The target layer: the activations whose map is wanted, by name or found on the graph alone.

The rule for finding it:

1. The spine: float values that every path from the image to the score crosses.
2. Without maps of class scores: values from which the score is reached without crossing a weighted
   Conv, Gemm or MatMul (SqueezeNet classifies by a convolution and averages its maps).
3. Of these, feature maps [B, C, h, w] with C > 1 and h*w > 1; maps [B, h, w, C] are recognised by
   the image's proportions, and left out.
4. The last one, with at least half of the weighted operators upstream of it; otherwise the choice
   is refused, and the candidates are listed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from exporters import graph
from exporters.gradient import without_rule
from exporters.image_input import ImageInput
from exporters.probe import Shape, Shapes
from exporters.score import Score
from xai_onnx.errors import TargetLayerError

WEIGHTED = frozenset({"Conv", "Gemm", "MatMul", "Einsum", "ConvTranspose"})


@dataclass(frozen=True)
class TargetLayer:
    """A value that can be explained: [B, C, h, w], and the first missing rule behind it, if any."""

    value: ir.Value
    shape: Shape
    missing: ir.Node | None

    @property
    def text(self) -> str:
        """Name and shape for messages."""
        return f"{self.value.name!r} [{', '.join(str(size) for size in self.shape)}]"


def candidates(
    model: ir.Model, image: ImageInput, score: Score, shapes: Shapes
) -> list[TargetLayer]:
    """Every feature map that could be the target layer, in the order of the graph."""
    weighted_after = _reached_through_weights(model, image.value, score.value)
    found = []
    for value in graph.spine(image.value, score.value, model.graph):
        shape = shapes[value]
        usual = is_feature_map(shape, image)
        if value is not image.value and value in weighted_after and usual:
            missing = without_rule(model, value, score.value)
            found.append(TargetLayer(value, shape, missing[-1] if missing else None))
    return found


def find(model: ir.Model, image: ImageInput, score: Score, shapes: Shapes) -> TargetLayer:
    """Choose the target layer by the rule above.

    Raises:
        TargetLayerError: nothing fits, or the choice would lie too early in the network.
    """
    found = candidates(model, image, score, shapes)
    if not found:
        raise TargetLayerError(
            "found no feature map [B, C, h, w] that every path to the score crosses; "
            "name a layer with --target-layer (see xai-onnx inspect)"
        )
    chosen = found[-1]  # where it can't be differentiated, nor can the ones before it
    if _share_upstream(model, image.value, score.value, chosen.value) < 0.5:
        listed = ", ".join(candidate.text for candidate in found[-5:])
        raise TargetLayerError(
            f"the last feature map, {chosen.text}, has less than half of the network before "
            f"it; name a layer with --target-layer, e.g. one of {listed}"
        )
    return chosen


def by_name(
    model: ir.Model, name: str, image: ImageInput, score: Score, shapes: Shapes
) -> TargetLayer:
    """The target layer called `name`: an ONNX value, or a node, whose first output is taken.

    Raises:
        TargetLayerError: there is none of that name, or it isn't a feature map before the score.
    """
    named = {str(value.name): value for node in model.graph for value in node.outputs}
    nodes = {str(node.name): node.outputs[0] for node in model.graph if node.outputs}
    value = named.get(name) or nodes.get(name)
    if value is None:
        raise TargetLayerError(
            f"there is no layer {name!r}; {_nearest(name, [*named, *nodes])}see xai-onnx inspect"
        )
    shape = shapes.get(value)
    if shape is None or score.value not in graph.descendants(value) or value is score.value:
        raise TargetLayerError(
            f"target layer {name!r} does not lie between image and score {score.value.name!r}; "
            "see xai-onnx inspect for the layers that do"
        )
    if not is_feature_map(shape, image):
        listed = ", ".join(str(size) for size in shape)
        raise TargetLayerError(
            f"target layer {name!r} has shape [{listed}]; it must be a feature map [B, C, h, w] "
            "with more than one position; see xai-onnx inspect"
        )
    missing = without_rule(model, value, score.value)
    return TargetLayer(value, shape, missing[-1] if missing else None)


def is_feature_map(shape: Shape, image: ImageInput) -> bool:
    """Whether the shape is [B, C, h, w], with channels and positions.

    [B, h, w, C] has four axes too: it is what the shape is taken for if its axes 1 and 2 have the
    image's proportions and its last two have not.
    """
    if len(shape) != 4 or not isinstance(shape[1], int) or shape[1] == 1:
        return False
    height, width = shape[2:]
    if not isinstance(height, int) or not isinstance(width, int):
        return not isinstance(height, int) and not isinstance(width, int)
    if height * width == 1:
        return False
    return _proportional(height, width, image) or not _proportional(shape[1], height, image)


def _proportional(height: int, width: int, image: ImageInput) -> bool:
    """Whether a map has the image's proportions, but for one position or a tenth.

    Strides and borders round; an image of free size is taken for a square.
    """
    full = (image.height or 1, image.width or 1)
    stride = math.sqrt(full[0] * full[1] / (height * width))
    both = zip((height, width), full, strict=True)
    return all(abs(small - large / stride) <= max(1, small / 10) for small, large in both)


def _reached_through_weights(model: ir.Model, image: ir.Value, score: ir.Value) -> set[ir.Value]:
    """The values from which the score is reached through a weighted operator only."""
    on_path = graph.path(image, score)
    free = {score}  # reaches the score without crossing a weight
    for node in reversed(list(model.graph)):
        if node.op_type not in WEIGHTED and any(value in free for value in node.outputs):
            free.update(value for value in node.inputs if value is not None and value in on_path)
    return on_path - free


def _share_upstream(model: ir.Model, image: ir.Value, score: ir.Value, target: ir.Value) -> float:
    """Of the weighted operators between image and score, the share before the target."""
    on_path = graph.path(image, score)
    weighted = [n for n in model.graph if n.op_type in WEIGHTED and n.outputs[0] in on_path]
    before = graph.ancestors(target)
    return sum(n.outputs[0] in before for n in weighted) / len(weighted) if weighted else 0.0


def _nearest(name: str, names: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, names, n=3)
    return f"did you mean {', '.join(map(repr, close))}? " if close else ""
