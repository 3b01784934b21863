"""The contract between exporters and run time: what an explained .onnx file says of itself.

The manifest is JSON under the key ``xai_onnx`` of the model's ``metadata_props``. This module is
standard library only, so that any program can read a manifest by copying nothing but this file.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_type_hints

from xai_onnx.errors import ManifestError
from xai_onnx.lime_file import LimeFile
from xai_onnx.prototypes import Prototypes
from xai_onnx.recipe import Preprocess

METADATA_KEY = "xai_onnx"
SCHEMA_VERSION = 1


# Fields that say what is special about a kind of file, and what they hold. Others lack them.
_OPTIONAL: dict[str, type[LimeFile] | type[Prototypes]] = {
    "lime": LimeFile,
    "prototypes": Prototypes,
}


@dataclass(frozen=True)
class Manifest:
    """What an explained model says of itself.

    Attributes:
        method: CAM variant or attribution, e.g. ``"gradcam"``, ``"integrated-gradients"``; or
            ``"protopnet"``.
        target_layers: ONNX values whose activations are explained; maps of several are fused.
            Empty for an attribution to the pixels.
        target_modules: the torch modules whose outputs they are, ``""`` where unknown.
        score_at: how the score was asked for, e.g. ``"logits"`` or ``"segmentation:out"``.
        score: ONNX value that was differentiated, [B, N].
        score_output: model output, [B, N], in which the classes are read and ranked.
        output_activation: the function, ``"softmax"``, ``"log_softmax"`` or ``"sigmoid"``, that
            ends in `score_output`; ``None`` where the model ends in logits; ``"none"`` where the
            scores are no logits (a sum over a mask, a similarity).
        targets: ``"class_index"`` (the classes are an input), ``"one_class"`` (one is),
            ``"predicted"`` (the file explains the `top_k` highest scores), ``"cotangent"``
            (weights of the scores are an input) or ``"none"`` (the file only classifies).
        top_k: classes an image explained by a file with ``targets="predicted"``; else ``None``.
        input: the image input, [B, 3, H, W] or [B, H, W, 3].
        class_index: the int64 [B, K] input, with ``targets="class_index"`` or ``"one_class"``; [K]
            of a LIME file, which takes one picture.
        cotangent: the float [B, K, N] input, with ``targets="cotangent"``.
        extra_inputs: what the file takes besides, role -> name of the input: inputs of the score
            and the attribution by their role (``"mask"``, ``"steps"``), of the model by their own
            name.
        activations: an output for each target layer, [B, C, h, w].
        cam: the output [B, K, h, w] of a CAM; else ``None``.
        attribution: the output [B, K, ...] of an attribution, in the image's layout; else ``None``.
        saliency_map: the output [B, K, H, W]; ``None`` in a file exported without it.
        num_classes: N.
        labels: N class names, or empty where none are known.
        preprocess: how a picture becomes the input tensor; ``None`` where unknown.
        source_sha256: hash of the original model file's bytes.
        exporter_version: version of the exporter that wrote the file.
        lime: of a file with LIME inside; else ``None``, and then absent from the JSON.
        prototypes: of a ProtoPNet, which explains by them instead of a map; else ``None``, and
            then absent from the JSON.
    """

    method: str
    target_layers: tuple[str, ...]
    target_modules: tuple[str, ...]
    score_at: str
    score: str
    score_output: str
    output_activation: str | None
    targets: str
    top_k: int | None
    input: str
    class_index: str | None
    cotangent: str | None
    extra_inputs: dict[str, str]
    activations: tuple[str, ...]
    cam: str | None
    attribution: str | None
    saliency_map: str | None
    num_classes: int
    labels: tuple[str, ...]
    preprocess: Preprocess | None
    source_sha256: str
    exporter_version: str
    lime: LimeFile | None = None
    prototypes: Prototypes | None = None

    def to_json(self) -> str:
        """The manifest as one line of JSON, the value of `METADATA_KEY`."""
        data = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        for name in _OPTIONAL:
            if data[name] is None:
                del data[name]
        return json.dumps(data, ensure_ascii=False)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], where: str) -> Manifest | None:
        """Read the manifest out of a model's metadata.

        Args:
            metadata: the model's ``metadata_props``.
            where: how error messages call the model, usually its path.

        Returns:
            The manifest, or ``None`` if the model has none: a plain classifier.

        Raises:
            ManifestError: malformed, or of a newer schema than this version can read.
            PreprocessError: the manifest's preprocessing is malformed.
        """
        text = metadata.get(METADATA_KEY)
        if text is None:
            return None
        try:
            data: dict[str, Any] = json.loads(text)
            version = data.pop("schema_version")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise ManifestError(
                f"{where}: the manifest under {METADATA_KEY!r} is not readable ({error}); "
                "export the model again"
            ) from error
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise ManifestError(
                f"{where}: its manifest has schema version {version}, this xai_onnx reads up to "
                f"{SCHEMA_VERSION}; upgrade xai-onnx"
            )
        optional = {name: data.pop(name, None) for name in _OPTIONAL}
        expected = {field.name for field in fields(cls)} - set(_OPTIONAL)
        if set(data) != expected:
            raise ManifestError(
                f"{where}: the manifest's fields differ from schema {version}: "
                f"{sorted(set(data) ^ expected)}; export the model again"
            )
        recipe = data.pop("preprocess")
        types = get_type_hints(cls)
        wrong = []
        for name, value in data.items():
            if types[name] == tuple[str, ...]:
                right = isinstance(value, list) and all(map(_is_text, value))
                data[name] = tuple(value) if right else None
            elif types[name] == dict[str, str]:
                right = isinstance(value, dict) and all(map(_is_text, value.values()))
            else:
                right = isinstance(value, types[name])
            wrong += [] if right else [name]
        if wrong:
            raise ManifestError(
                f"{where}: the manifest's {', '.join(wrong)} are not of the type that schema "
                f"{version} says; export the model again"
            )
        preprocess = None if recipe is None else Preprocess.from_dict(recipe, where)
        parts: dict[str, Any] = {
            name: part if part is None else _OPTIONAL[name].from_dict(part, where)
            for name, part in optional.items()
        }
        manifest = cls(preprocess=preprocess, **parts, **data)
        contradiction = manifest._contradiction()
        if contradiction:
            raise ManifestError(f"{where}: the manifest {contradiction}; export the model again")
        return manifest

    @property
    def map(self) -> str:
        """The output that a saliency map shows, `cam` or `attribution`; empty if there is none."""
        return self.cam or self.attribution or ""

    def _contradiction(self) -> str | None:
        """What is wrong between fields that are each of their type."""
        if len(self.labels) not in (0, self.num_classes):
            return f"has {len(self.labels)} labels for {self.num_classes} classes"
        kind = "class_index" if self.targets == "one_class" else self.targets
        asked = {
            "class_index": self.class_index is not None,
            "cotangent": self.cotangent is not None,
            "predicted": self.top_k is not None,
        }
        wanted = set() if kind == "none" else {kind}
        if self.num_classes < 1 or {name for name, has in asked.items() if has} != wanted:
            return "contradicts itself: num_classes, targets, class_index, cotangent and top_k"
        kinds = (self.cam, self.attribution, self.lime, self.prototypes)
        count = sum(found is not None for found in kinds)
        one_map = count == 1 or (count == 0 and self.targets == "none")
        layers = {len(self.target_layers), len(self.target_modules), len(self.activations)}
        if not one_map or len(layers) != 1 or (self.cam is None) != (not self.target_layers):
            return "contradicts itself: cam, attribution, target_layers and activations"
        return None

    def check_names(self, inputs: Collection[str], outputs: Collection[str], where: str) -> None:
        """Check that the model has the inputs and outputs that the manifest names.

        Raises:
            ManifestError: it hasn't.
        """
        named = {
            "input": [
                (name, inputs)
                for name in (
                    *(self.input, self.class_index, self.cotangent),
                    *self.extra_inputs.values(),
                    *(() if self.lime is None else self.lime.inputs),
                )
            ],
            "output": [
                (name, outputs)
                for name in (
                    *(self.score_output, *self.activations, self.map or None, self.saliency_map),
                    *(() if self.lime is None else self.lime.outputs),
                    *(() if self.prototypes is None else self.prototypes.outputs),
                )
            ],
        }
        for kind, pairs in named.items():
            for name, present in pairs:
                if name is not None and name not in present:
                    raise ManifestError(
                        f"{where}: the manifest names the {kind} {name!r}, which the file doesn't "
                        "have; export the model again"
                    )


def _is_text(value: object) -> bool:
    return isinstance(value, str)
