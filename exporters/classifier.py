"""A plain classifier, read and understood: what `inspect` shows and the export builds on."""

from __future__ import annotations

import onnx_ir as ir

from exporters import canonical, graph, image_input, score, source, target_layer
from exporters.gradient import without_rule
from exporters.image_input import ImageInput
from exporters.probe import Shapes, probe
from exporters.score import Score
from exporters.source import ModelLike, Source
from exporters.target_layer import TargetLayer
from xai_onnx.errors import ScoreError

SCORES = ("logits", "output")


class Classifier:
    """A classifier in canonical form, its image input, measured shapes and score."""

    def __init__(self, model: ModelLike, *, score_at: str = "logits") -> None:
        if score_at not in SCORES:
            raise ScoreError(f"score {score_at!r} is none of {', '.join(SCORES)}")
        self.source: Source = source.read(model)
        self.name = self.source.name
        self.opset = self.source.model.graph.opset_imports.get("", 1)
        self.model: ir.Model = canonical.canonicalise(self.source.model, self.name)
        self.image: ImageInput = image_input.find(self.model.graph, self.name)
        reached = graph.descendants(self.image.value)
        self.shapes: Shapes = probe(self.model, self.image, [*reached, *self.outputs], self.name)
        self.score: Score = score.find(self.outputs, self.shapes, score_at, self.name)

    @property
    def outputs(self) -> list[ir.Value]:
        """The model's own outputs."""
        return list(self.model.graph.outputs)

    def target_layer(self, name: str | None = None) -> TargetLayer:
        """The target layer called `name`, or the one that the rule finds."""
        if name is not None:
            return target_layer.by_name(self.model, name, self.image, self.score, self.shapes)
        return target_layer.find(self.model, self.image, self.score, self.shapes)

    def operators_without_rule(self) -> list[str]:
        """Types of the operators between image and score that can't be differentiated."""
        nodes = without_rule(self.model, self.image.value, self.score.value)
        return sorted({node.op_type for node in nodes})

    def candidates(self) -> list[TargetLayer]:
        """Every feature map that could be the target layer, in the order of the graph."""
        return target_layer.candidates(self.model, self.image, self.score, self.shapes)
