"""The target layer: the activations whose map is wanted, by name or found on the graph alone.

The rule for finding it:

1. The spine: float values that every path from the image to the score crosses.
2. Without maps of class scores: values from which the score is reached without crossing a weighted
   Conv, Gemm or MatMul (SqueezeNet classifies by a convolution and averages its maps).
3. Of these, feature maps with channels and more than one position (`exporters.feature_map`), the
   tokens of which are places of the image (`exporters.positions`).
4. Without maps that are only another one averaged or resized (an adaptive pooling before the head).
5. The last one whose gradient isn't zero at more than a tenth of the positions, as a run on noise
   shows: behind the last attention only the class token counts.
6. Where the last blocks let the class token attend to the positions, and these change each by
   itself (class attention): the tokens as the first such block has them.
7. Else, of tokens with a class token, what a LayerNormalization makes of them: that is what the
   attention reads.
8. At least half of the weighted operators must lie upstream of it; otherwise the choice is refused,
   and the candidates are listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from exporters import feature_map, graph, module_path
from exporters.feature_map import FeatureMap
from exporters.gradient import without_rule
from exporters.image_input import ImageInput
from exporters.positions import are_places
from exporters.probe import Shape, Shapes
from exporters.quantized import operator
from exporters.reach import gathered, reached
from exporters.score import Score
from xai_onnx.errors import TargetLayerError

WEIGHTED = frozenset({"Conv", "Gemm", "MatMul", "Einsum", "ConvTranspose"})
ENOUGH = 0.1  # of the positions must have a gradient
_AT_ONCE = 8  # candidates that are probed in one run

# What a pooling or a resize is made of, however it was exported.
_AVERAGING = frozenset(
    {"AveragePool", "GlobalAveragePool", "Resize", "ReduceMean", "ReduceSum", "Mul", "Div", "Add"}
    | {"Sum", "Gather", "GatherND", "Slice", "Concat", "Reshape", "Squeeze", "Unsqueeze", "Where"}
    | {"Transpose", "Identity", "Cast", "Split", "Pad", "MatMul", "Einsum", "Expand"}
)


@dataclass(frozen=True)
class TargetLayer:
    """A feature map that can be explained, and the first missing rule behind it, if any."""

    map: FeatureMap
    missing: ir.Node | None

    @property
    def value(self) -> ir.Value:
        """The value as the network has it."""
        return self.map.value

    @property
    def shape(self) -> Shape:
        """What it is read as: [B, C, h, w]."""
        return self.map.shape


class Search:
    """The target layers of one model."""

    def __init__(self, model: ir.Model, image: ImageInput, score: Score, shapes: Shapes) -> None:
        self._model, self._image, self._score, self._shapes = model, image, score, shapes

    def candidates(self) -> list[TargetLayer]:
        """Every feature map that could be the target layer, in the order of the graph."""
        image, score = self._image.value, self._score.value
        places = {node: place for place, node in enumerate(self._model.graph)}
        missing = without_rule(self._model, image, score)[::-1]
        behind_weights = self._reached_through_weights()
        found: list[TargetLayer] = []
        for value in graph.spine(image, score, self._model.graph):
            producer = value.producer()
            if producer is None or value not in behind_weights:
                continue
            read = feature_map.read(value, self._shapes, self._image)
            if read is None or (found and self._averaged(found[-1].map, read)):
                continue
            if read.layout in ("NLC", "NCL") and not are_places(value, image):
                continue
            # All paths cross it, so what comes later in the graph lies behind it.
            later = [node for node in missing if places[node] > places[producer]]
            found.append(TargetLayer(read, later[0] if later else None))
        return found

    def find(self) -> TargetLayer:
        """Choose the target layer by the rule above.

        Raises:
            TargetLayerError: nothing fits, or the choice would lie too early in the network.
        """
        found = self.candidates()
        if not found:
            raise TargetLayerError(
                "found no feature map, [B, C, h, w], [B, h, w, C] or tokens [B, n, C], that every "
                "path to the score crosses; name a layer with --target-layer (see xai-onnx inspect)"
            )
        last = self._last_that_counts(found)
        chosen = self._before_class_attention(last, found)
        if self._share_upstream(chosen.value) < 0.5:
            listed = ", ".join(candidate.map.text for candidate in found[-5:])
            raise TargetLayerError(
                f"the last feature map, {chosen.map.text}, has less than half of the network "
                f"before it; name a layer with --target-layer, e.g. one of {listed}"
            )
        return self._normalised(chosen) if chosen is last else chosen

    def by_name(self, name: str) -> TargetLayer:
        """The target layer called `name`: an ONNX value, a node (its first output) or torch module.

        Raises:
            TargetLayerError: there is none of that name, or it isn't a feature map before the
                score.
        """
        main = self._model.graph
        named = {str(value.name): value for node in main for value in node.outputs}
        nodes = {str(node.name): node.outputs[0] for node in main if node.outputs}
        value = named.get(name) or nodes.get(name) or module_path.resolve(main, name)
        if value is None:
            raise TargetLayerError(
                f"there is no layer {name!r}; {_nearest(name, [*{**named, **nodes}])}see xai-onnx "
                "inspect"
            )
        shape, score = self._shapes.get(value), self._score.value
        if shape is None or score not in graph.descendants(value) or value is score:
            raise TargetLayerError(
                f"target layer {name!r} does not lie between image and score {score.name!r}; see "
                "xai-onnx inspect for the layers that do"
            )
        read = feature_map.read(value, self._shapes, self._image, asked_for=True)
        if read is None:
            listed = ", ".join(str(size) for size in shape)
            raise TargetLayerError(
                f"target layer {name!r} has shape [{listed}]; it must be a feature map, "
                "[B, C, h, w], [B, h, w, C] or tokens [B, n, C], with more than one position; see "
                "xai-onnx inspect"
            )
        missing = without_rule(self._model, value, score)
        return TargetLayer(read, missing[-1] if missing else None)

    def _last_that_counts(self, found: list[TargetLayer]) -> TargetLayer:
        """The last candidate whose gradient reaches enough positions.

        Where the last one can't be differentiated, nor can the ones before it.
        """
        waiting = [candidate for candidate in found if candidate.missing is None]
        if not waiting:
            return found[-1]
        while waiting:
            last = waiting[-_AT_ONCE:]
            maps = [candidate.map for candidate in last]
            shares = reached(self._model, self._image, self._score, self._shapes, maps)
            for candidate, share in reversed(list(zip(last, shares, strict=True))):
                if share > ENOUGH:
                    return candidate
            del waiting[-_AT_ONCE:]
        raise TargetLayerError(
            "the score's gradient is zero at nearly all positions of every feature map, on a "
            "random picture; name a layer with --target-layer (see xai-onnx inspect)"
        )

    def _before_class_attention(
        self, chosen: TargetLayer, found: Sequence[TargetLayer]
    ) -> TargetLayer:
        """The tokens before the class attention that made `chosen`; itself, if none did.

        The last candidate from which the class token has gathered lies before an attention. Unless
        a position depends on itself alone since then, it was one among the positions, too.
        """
        before = [
            candidate
            for candidate in found[: found.index(chosen)]
            if candidate.shape == chosen.shape and candidate.missing is None
        ]
        while chosen.map.extra and before:
            last = before[-_AT_ONCE:]
            del before[-_AT_ONCE:]
            maps = [candidate.map for candidate in last]
            seen = gathered(self._model, self._image, chosen.map, self._shapes, maps)
            single = 1.5 / (int(chosen.map.height) * int(chosen.map.width))
            for candidate, (by_class, by_position) in reversed(list(zip(last, seen, strict=True))):
                if by_class > ENOUGH:
                    if by_position > single:
                        return chosen
                    return self._before_class_attention(candidate, found)
        return chosen

    def _normalised(self, chosen: TargetLayer) -> TargetLayer:
        """Tokens with a class token: as the LayerNormalization before the attention gives them."""
        if not chosen.map.extra:
            return chosen
        for node, index in chosen.value.uses():
            if node.op_type == "LayerNormalization" and index == 0:
                read = feature_map.read(node.outputs[0], self._shapes, self._image)
                if read is not None and read.shape == chosen.shape:
                    return TargetLayer(read, chosen.missing)
        return chosen

    def _reached_through_weights(self) -> set[ir.Value]:
        """The values from which the score is reached through a weighted operator only."""
        on_path = graph.path(self._image.value, self._score.value)
        free = {self._score.value}  # reaches the score without crossing a weight
        for node in reversed(list(self._model.graph)):
            if operator(node) not in WEIGHTED and any(value in free for value in node.outputs):
                free.update(v for v in node.inputs if v is not None and v in on_path)
        return on_path - free

    def _averaged(self, before: FeatureMap, after: FeatureMap) -> bool:
        """Whether `after` is only `before` on another grid: averaged or resized, nothing learnt."""
        if (before.height, before.width) == (after.height, after.width):
            return False
        if before.channels != after.channels:
            return False
        between = graph.path(before.value, after.value) - {before.value}
        nodes = {value.producer() for value in between}
        return all(node is not None and _averages(node, between) for node in nodes)

    def _share_upstream(self, target: ir.Value) -> float:
        """Of the weighted operators between image and score, the share before the target."""
        on_path = graph.path(self._image.value, self._score.value)
        weighted = [
            n for n in self._model.graph if operator(n) in WEIGHTED and n.outputs[0] in on_path
        ]
        before = graph.ancestors(target)
        found = sum(n.outputs[0] in before for n in weighted)
        return found / len(weighted) if weighted else 0.0


def _averages(node: ir.Node, between: set[ir.Value]) -> bool:
    """Whether the node is a step of a pooling or a resize: its weights, if any, are no filters."""
    if node.op_type not in _AVERAGING:
        return False
    if node.op_type not in ("MatMul", "Einsum"):
        return True
    weights = [graph.constant(v) for v in node.inputs if v is not None and v not in between]
    return any(w is not None and w.ndim == 2 and (w.astype(float) >= 0).all() for w in weights)


def _nearest(name: str, names: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, names, n=3)
    return f"did you mean {', '.join(map(repr, close))}? " if close else ""
