"""A copy of the model to which an explanation is being added, and its manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from exporters.builder import Ops
from exporters.classifier import Classifier
from exporters.cotangent import Cotangent, is_zero
from exporters.gradient import vjp
from exporters.graph import names
from exporters.probe import Dim
from exporters.seed import Targets, always_one, seed, targets
from xai_onnx.errors import TargetLayerError
from xai_onnx.manifest import METADATA_KEY, Manifest
from xai_onnx.version import __version__


@dataclass(frozen=True)
class Output:
    """A value that becomes an output: its sizes behind the batch, names for those that are free."""

    value: ir.Value
    sizes: tuple[int | str, ...]
    dtype: ir.DataType = ir.DataType.FLOAT


class Draft:
    """A classifier that is being explained: nodes are emitted through `op`, then put in."""

    def __init__(self, classifier: Classifier, kind: str, top_k: int) -> None:
        """`kind` and `top_k` say what the file explains (`exporters.seed`)."""
        self.classifier = classifier
        self.op = Ops(names(classifier.model.graph), single=always_one(kind, top_k))
        self.score_output = classifier.score.output
        self._score_name = str(classifier.score.value.name)
        self.targets: Targets = targets(
            self.op, classifier.image, classifier.score, classifier.shapes, kind, top_k
        )

    @property
    def image_size(self) -> tuple[Dim, Dim]:
        """H, W of the image."""
        image = self.classifier.image
        return image.height or "free", image.width or "free"

    def gradients(self, values: Sequence[ir.Value]) -> list[Cotangent]:
        """The gradient, at each of `values`, of what the file explains.

        Raises:
            TargetLayerError: it is zero whatever the picture.
            UnsupportedOperatorError: an operator on the way has no rule.
        """
        found = self.classifier
        start = seed(self.op, found.score, self.targets, found.shapes)
        gradients = vjp(self.op, found.model, values, found.score.value, start, found.shapes)
        for value, g in zip(values, gradients, strict=True):
            if is_zero(g):
                raise TargetLayerError(
                    f"the score {found.score.value.name!r} doesn't change with {value.name!r}: "
                    "every way between them leads through a step (Round, Sign, Hardmax, ...), "
                    "whose derivative is 0; choose a later target layer"
                )
        return gradients

    def finish(
        self,
        outputs: Mapping[str, Output],
        inputs: Iterable[ir.Value] = (),
        op: Ops | None = None,
    ) -> dict[str, str]:
        """Put what was emitted into the graph; returns the real name of each output.

        Args:
            outputs: by the name that the contract gives them; a name that the model uses already
                gets a suffix, a value that is an output already keeps its own.
            inputs: what the file takes besides the model's inputs and the targets.
            op: what emitted the graph's nodes, if it isn't `self.op`.
        """
        main = self.classifier.model.graph
        if not self.score_output.is_graph_output():
            dtype = self.score_output.dtype or ir.DataType.FLOAT
            scores = Output(self.score_output, (self.classifier.score.num_classes,), dtype)
            outputs = {"scores": scores, **outputs}
        wanted = [*main.outputs, *(item.value for item in outputs.values())]
        nodes, initializers = (op or self.op).needed_for(wanted)
        for initializer in initializers:
            main.register_initializer(initializer)
        main.extend(nodes)
        asked = [self.targets.input] if self.targets.input is not None else []
        main.inputs.extend([*asked, *inputs])
        batch = self.classifier.image.batch_dim
        written = {}
        for name, item in outputs.items():
            if not item.value.is_graph_output():
                item.value.name = self.op.unique(name)
                item.value.dtype = item.dtype
                item.value.shape = ir.Shape([batch, *item.sizes])
                main.outputs.append(item.value)
            written[name] = str(item.value.name)
        return written

    def manifest(self, inputs: Mapping[str, ir.Value] = {}, **explanation: Any) -> Manifest:
        """The manifest, put into the model.

        Args:
            inputs: what the explanation takes, by role.
            explanation: the fields that are its own; a CAM has no attribution, and an attribution
                no layers.
        """
        more: dict[str, Any] = {
            "cam": None,
            "attribution": None,
            "extra_inputs": self._extra_inputs(inputs),
            "target_layers": (),
            "target_modules": (),
            "activations": (),
            **explanation,
        }
        found, wanted = self.classifier, self.targets
        scored, asked = found.score, None if wanted.input is None else str(wanted.input.name)
        manifest = Manifest(
            score_at=scored.at,
            score=self._score_name,
            score_output=str(self.score_output.name),
            output_activation=scored.activation,
            targets=wanted.kind,
            top_k=int(wanted.k) if wanted.kind == "predicted" else None,
            input=str(found.image.value.name),
            class_index=asked if wanted.kind in ("class_index", "one_class") else None,
            cotangent=asked if wanted.kind == "cotangent" else None,
            num_classes=scored.num_classes,
            source_sha256=found.source.sha256,
            exporter_version=__version__,
            **more,
        )
        found.model.metadata_props[METADATA_KEY] = manifest.to_json()
        return manifest

    def _extra_inputs(self, inputs: Mapping[str, ir.Value]) -> dict[str, str]:
        """The inputs beside the image: those of the model by their own name, others by role."""
        roles = {value: role for role, value in self.classifier.score.inputs.items()}
        beside = self.classifier.image.beside
        own = {roles.get(value, str(value.name)): str(value.name) for value in beside}
        return own | {role: str(value.name) for role, value in inputs.items()}


def named(sizes: Sequence[Dim], letters: str) -> tuple[int | str, ...]:
    """Sizes as they are declared: a free one by its letter."""
    both = zip(sizes, letters, strict=True)
    return tuple(size if isinstance(size, int) else letter for size, letter in both)
