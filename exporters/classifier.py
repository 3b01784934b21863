"""A plain classifier, read and understood: what `inspect` shows and the export builds on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir
from onnx_ir.passes import common

from exporters import canonical, graph, image_input, score, source
from exporters.builder import Ops
from exporters.gradient import without_rule
from exporters.heads import SCORE_HEADS, Head
from exporters.image_input import ImageInput
from exporters.probe import Shapes, probe
from exporters.score import Score
from exporters.source import ModelLike, Source
from exporters.target_layer import Search, TargetLayer
from xai_onnx.errors import TargetLayerError


class Classifier:
    """A classifier in canonical form, its image input, measured shapes and score."""

    def __init__(
        self, model: ModelLike, *, score_at: str = "logits", input_name: str | None = None
    ) -> None:
        self.source: Source = source.read(model)
        self.name = self.source.name
        self.opset = self.source.model.graph.opset_imports.get("", 1)
        self.model: ir.Model = canonical.canonicalise(self.source.model, self.name)
        self.image: ImageInput = image_input.find(self.model.graph, self.name, input_name)
        self.inputs = list(self.model.graph.inputs)
        self.outputs = list(self.model.graph.outputs)
        self.shapes: Shapes = self._measured()
        kind, wanted = score.parse(score_at)
        if kind in SCORE_HEADS:
            self.score = self._with_head(SCORE_HEADS[kind], wanted, score_at)
        else:
            self.score = score.find(self.model.graph, self.shapes, score_at, self.name)
        self._search = Search(self.model, self.image, self.score, self.shapes)

    def target_layers(self, names: str | Sequence[str] | None = None) -> list[TargetLayer]:
        """The target layers called `names`, one or several, or the one that the rule finds."""
        if names is None:
            return [self._search.find()]
        listed = [names] if isinstance(names, str) else list(names)
        if not listed or len(set(listed)) < len(listed):
            raise TargetLayerError(
                f"target layers {listed}: name each layer once, and one at least"
            )
        return [self._search.by_name(name) for name in listed]

    def candidates(self) -> list[TargetLayer]:
        """Every feature map that could be the target layer, in the order of the graph."""
        return self._search.candidates()

    def _measured(self) -> Shapes:
        reached = graph.descendants(self.image.value)
        return probe(self.model, self.image, [*reached, *self.outputs], self.name)

    def _with_head(self, head: Head, wanted: str | None, score_at: str) -> Score:
        """The score that a head makes of an output; the model has it from here on."""
        main = self.model.graph
        value = score.pick(main, self.shapes, wanted, head.fits, head.reads, self.name)
        op = Ops(graph.names(main))
        scores, inputs = head.function(op, value, self.shapes[value], self.image)
        nodes, initializers = op.needed_for([scores])
        for initializer in initializers:
            main.register_initializer(initializer)
        main.extend(nodes)
        main.inputs.extend(inputs.values())
        common.ShapeInferencePass()(self.model)
        self.image = replace(self.image, beside=(*self.image.beside, *inputs.values()))
        self.shapes = self._measured()
        classes = self.shapes[scores][1]
        assert isinstance(classes, int)
        return Score(scores, -1, classes, scores, -1, "none", score_at, inputs)

    def operators_without_rule(self) -> list[str]:
        """Types of the operators between image and score that can't be differentiated."""
        nodes = without_rule(self.model, self.image.value, self.score.value)
        return sorted({node.op_type for node in nodes})
