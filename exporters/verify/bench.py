"""An explained file and the model that it was made from, opened, on one random batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters import source
from exporters.classifier import Classifier
from exporters.draft import Draft
from exporters.ort import open_file, open_model, run
from exporters.quantized import as_float, quantisation
from exporters.target_layer import TargetLayer
from xai_onnx.errors import ManifestError, MethodError, ModelFileError, XaiOnnxError
from xai_onnx.manifest import Manifest

BATCH = 3
HALF = 2 * float(np.finfo(np.float16).eps)  # two units in the last place of a float16 model

Array = NDArray[Any]


class Bench:
    """Both models, opened, and what they say of one random batch."""

    def __init__(self, explained: Path, original: Path) -> None:
        proto = source.parse(explained)
        metadata = {entry.key: entry.value for entry in proto.metadata_props}
        manifest = Manifest.from_metadata(metadata, str(explained))
        if manifest is None:
            raise ManifestError(f"{explained}: holds no manifest; it is no explained model")
        inputs, outputs = proto.graph.input, [value.name for value in proto.graph.output]
        manifest.check_names([value.name for value in inputs], outputs, str(explained))
        if manifest.prototypes is not None:
            raise MethodError(
                f"{explained}: explains by prototypes, and verify checks maps; that its evidence "
                "adds up to the score is checked whenever it explains"
            )
        self.manifest, self.name = manifest, str(explained)
        self.plain, self.layers = _understood(original, manifest, outputs, self.name)
        self.names = [str(value.name) for value in self.plain.outputs]
        self.pictures = self.plain.image.feed(BATCH, (224, 224))
        self.image: Array = self.pictures[manifest.input]
        self.extra = {
            role: _extra(role, self.image)
            for role, name in manifest.extra_inputs.items()
            if name not in self.pictures
        }
        self.targets = [layer.value for layer in self.layers] or [self.plain.image.value]
        batch = len(self.image)
        k = 1 if manifest.targets == "one_class" else 2
        self.classes = np.random.default_rng(1).integers(0, manifest.num_classes, (batch, k))
        self.classes[:, 0] = -1
        self.same_source = self.plain.source.sha256 == manifest.source_sha256
        self.rounds = any(quantisation(v) for node in self.plain.model.graph for v in node.outputs)
        self._paths = explained, original
        self._session = open_file(explained, optimise=True)
        self._original = open_file(original, optimise=True)
        self.original_outputs = self.run_original(self.names)

    def run_original(
        self, names: Sequence[str], rows: slice = slice(None), session: Any = None
    ) -> list[Array]:
        """Outputs of the original, for the pictures `rows`."""
        known = self._rows(rows)
        feed = {str(value.name): known[str(value.name)] for value in self.plain.inputs}
        return run(session or self._original, names, feed, str(self._paths[1]))

    def unfused(self) -> tuple[list[Array], list[Array]]:
        """The original outputs of both models where ONNX Runtime fuses nothing."""
        explained, original = (open_file(path, optimise=False) for path in self._paths)
        plain = self.run_original(self.names, session=original)
        return self.run(self.names, session=explained), plain

    def _rows(self, rows: slice) -> dict[str, Array]:
        """What both models take, for the pictures `rows`."""
        return {
            name: array[rows] if len(array) == len(self.image) else array
            for name, array in self.pictures.items()
        }

    def run(
        self, names: Sequence[str], rows: slice = slice(None), session: Any = None
    ) -> list[Array]:
        """Outputs of the explained file, as users run it, for the pictures `rows`."""
        feed = self._rows(rows)
        feed |= {self.manifest.extra_inputs[role]: array for role, array in self.extra.items()}
        if self.manifest.class_index is not None:
            feed[self.manifest.class_index] = self.classes[rows]
        if self.manifest.cotangent is not None:
            feed[self.manifest.cotangent] = self.weights[rows].astype(np.float32)
        return run(session or self._session, names, feed, self.name)

    def tolerance(self, usual: float) -> float:
        """The usual tolerance, float32's, or that of a model that computes in float16."""
        half = self.targets[0].dtype == ir.DataType.FLOAT16
        return HALF if half else usual

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """What is explained as weights of the scores, [B, K, N]."""
        manifest = self.manifest
        if manifest.cotangent is not None:
            shape = (len(self.classes), 2, manifest.num_classes)
            return np.random.default_rng(3).standard_normal(shape)
        (scores,) = self.run([manifest.score_output])
        scores = scores.reshape(len(self.classes), -1)
        chosen = np.where(self.classes < 0, scores.argmax(1)[:, None], self.classes)
        if manifest.top_k is not None:
            chosen = np.argsort(-scores, axis=1, kind="stable")[:, : manifest.top_k]
        return np.eye(manifest.num_classes)[chosen]

    @property
    def size(self) -> tuple[int, ...]:
        """H, W of the pictures."""
        first = 2 if self.plain.image.layout == "NCHW" else 1
        return self.image.shape[first : first + 2]

    def channel_axis(self, index: int) -> int:
        """The channels' axis in the raw value of target `index`."""
        layout = self.layers[index].map.layout if self.layers else self.plain.image.layout
        return 1 if layout in ("NCHW", "NCL") else -1

    @cached_property
    def raw(self) -> list[Array]:
        """The target layers' values as the network has them, as floats, or the image."""
        if not self.layers:
            return [self.image]
        return self._gradient_session(self.image)[len(self.targets) :]

    @cached_property
    def gradients(self) -> list[Array]:
        """The gradient of what is explained at each target, [K, *raw], by the rules."""
        got = self._gradient_session(self.image)
        shape = (self.weights.shape[1],)
        both = zip(got, self.raw, strict=False)
        return [np.broadcast_to(g, (*shape, *raw.shape)) for g, raw in both]

    def gradient_at(self, image: Array) -> Array:
        """The gradient at another image, [K, *image], of an attribution."""
        g = self._gradient_session(image.astype(self.image.dtype))[0]
        return np.broadcast_to(g, (self.weights.shape[1], *image.shape)).astype(np.float64)

    @cached_property
    def _gradient_session(self) -> Callable[[Array], list[Array]]:
        draft = Draft(self.plain, "cotangent", 1)
        found = [g.value for g in draft.gradients(self.targets)]
        found += [as_float(draft.op, layer.value) for layer in self.layers]
        main = self.plain.model.graph
        nodes, initializers = draft.op.needed_for(found)
        before = list(main.outputs)
        for initializer in initializers:
            main.register_initializer(initializer)
        main.extend(nodes)
        assert draft.targets.input is not None
        main.inputs.append(draft.targets.input)
        main.outputs.clear()
        main.outputs.extend(found)
        session = open_model(self.plain.model, self.name)
        main.outputs.clear()
        main.outputs.extend(before)
        main.inputs.pop()
        main.remove(nodes[::-1])
        for initializer in initializers:
            del main.initializers[str(initializer.name)]
        draft.op.discard()
        dtype = draft.targets.input.dtype
        assert dtype is not None
        asked, weights = str(draft.targets.input.name), self.weights.astype(dtype.numpy())
        names = [str(value.name) for value in found]

        def at(image: Array) -> list[Array]:
            feed = {**self.pictures, self.manifest.input: image, asked: weights}
            return run(session, names, feed, self.name)

        return at


def _understood(
    original: Path, manifest: Manifest, outputs: list[str], explained: str
) -> tuple[Classifier, list[TargetLayer]]:
    """The original, and in it the layers that the file explains."""
    try:
        plain = Classifier(original, score_at=manifest.score_at, input_name=manifest.input)
        layers = plain.target_layers(manifest.target_layers) if manifest.target_layers else []
        named = str(plain.score.value.name), str(plain.score.output.name)
    except ModelFileError:
        raise
    except XaiOnnxError as error:
        raise ModelFileError(
            f"{original}: {explained} was made from another model: {error}"
        ) from error
    lacking = {str(value.name) for value in plain.outputs} - set(outputs)
    if lacking or named[0] != manifest.score:
        raise ModelFileError(
            f"{original}: {explained} was made from another model, whose inputs, outputs and "
            f"layers have other names{': ' if lacking else ''}{', '.join(sorted(lacking))}"
        )
    return plain, layers


def _extra(role: str, image: Array) -> Array:
    """Content for an input of an attribution."""
    generator = np.random.default_rng(4)
    if role == "steps":
        return np.array([3])
    count = 2 if role == "noise" else 1
    draws: Array = 0.1 * generator.standard_normal((count, *image.shape[1:]))
    return draws.astype(image.dtype)
