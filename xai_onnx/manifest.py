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
from xai_onnx.recipe import Preprocess

METADATA_KEY = "xai_onnx"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What an explained model says of itself.

    Attributes:
        method: CAM variant, e.g. ``"gradcam"``.
        target_layer: ONNX value whose activations are explained, [B, C, h, w].
        score: ONNX value that was differentiated, [B, N].
        score_output: model output, [B, N], in which the classes are read and ranked.
        output_activation: the function, ``"softmax"``, ``"log_softmax"`` or ``"sigmoid"``, that
            ends in `score_output`; ``None`` where the model ends in logits.
        targets: ``"class_index"`` (the classes are an input) or ``"predicted"`` (the file explains
            the `top_k` highest scores).
        top_k: classes an image explained by a file with ``targets="predicted"``; else ``None``.
        input: the image input, [B, 3, H, W] or [B, H, W, 3].
        class_index: the int64 [B, K] input; ``None`` with ``targets="predicted"``.
        activations, cam, saliency_map: names of the outputs; `saliency_map` is ``None`` in a file
            exported without it.
        num_classes: N.
        labels: N class names, or empty where none are known.
        preprocess: how a picture becomes the input tensor; ``None`` where unknown.
        source_sha256: hash of the original model file's bytes.
        exporter_version: version of the exporter that wrote the file.
    """

    method: str
    target_layer: str
    score: str
    score_output: str
    output_activation: str | None
    targets: str
    top_k: int | None
    input: str
    class_index: str | None
    activations: str
    cam: str
    saliency_map: str | None
    num_classes: int
    labels: tuple[str, ...]
    preprocess: Preprocess | None
    source_sha256: str
    exporter_version: str

    def to_json(self) -> str:
        """The manifest as one line of JSON, the value of `METADATA_KEY`."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, ensure_ascii=False)

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
        expected = {field.name for field in fields(cls)}
        if set(data) != expected:
            raise ManifestError(
                f"{where}: the manifest's fields differ from schema {version}: "
                f"{sorted(set(data) ^ expected)}; export the model again"
            )
        recipe, labels = data.pop("preprocess"), data.pop("labels")
        types = get_type_hints(cls)
        wrong = [name for name, value in data.items() if not isinstance(value, types[name])]
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            wrong.append("labels")
        if wrong:
            raise ManifestError(
                f"{where}: the manifest's {', '.join(wrong)} are not of the type that schema "
                f"{version} says; export the model again"
            )
        if len(labels) not in (0, data["num_classes"]):
            raise ManifestError(
                f"{where}: the manifest has {len(labels)} labels for {data['num_classes']} "
                "classes; export the model again"
            )
        predicted = data["targets"] == "predicted"
        if data["num_classes"] < 1 or (data["class_index"] is None, data["top_k"] is not None) != (
            predicted,
            predicted,
        ):
            raise ManifestError(
                f"{where}: the manifest's num_classes, targets, class_index and top_k contradict "
                "each other; export the model again"
            )
        preprocess = None if recipe is None else Preprocess.from_dict(recipe, where)
        return cls(preprocess=preprocess, labels=tuple(labels), **data)

    def check_names(self, inputs: Collection[str], outputs: Collection[str], where: str) -> None:
        """Check that the model has the inputs and outputs that the manifest names.

        Raises:
            ManifestError: it hasn't.
        """
        named = {
            "input": [(self.input, inputs), (self.class_index, inputs)],
            "output": [
                (name, outputs)
                for name in (self.score_output, self.activations, self.cam, self.saliency_map)
            ],
        }
        for kind, pairs in named.items():
            for name, present in pairs:
                if name is not None and name not in present:
                    raise ManifestError(
                        f"{where}: the manifest names the {kind} {name!r}, which the file doesn't "
                        "have; export the model again"
                    )
