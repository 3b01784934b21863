"""The manifest of a file that has no saliency map inside."""

from __future__ import annotations

from typing import Any

from exporters.classifier import Classifier
from xai_onnx.manifest import Manifest
from xai_onnx.recipe import Preprocess
from xai_onnx.version import __version__


def manifest(
    classifier: Classifier,
    *,
    method: str,
    preprocess: Preprocess | None,
    labels: tuple[str, ...],
    **more: Any,
) -> Manifest:
    """What a file made of `classifier` says of itself; `more` are fields that differ."""
    score = classifier.score
    fields: dict[str, Any] = {
        "target_layers": (),
        "target_modules": (),
        "activations": (),
        "cam": None,
        "attribution": None,
        "saliency_map": None,
        "score_at": score.at,
        "score": str(score.value.name),
        "score_output": str(score.output.name),
        "output_activation": score.activation,
        "targets": "none",
        "top_k": None,
        "input": str(classifier.image.value.name),
        "class_index": None,
        "cotangent": None,
        "extra_inputs": {},
        "num_classes": score.num_classes,
        "source_sha256": classifier.source.sha256,
        "exporter_version": __version__,
        **more,
    }
    return Manifest(method=method, preprocess=preprocess, labels=labels, **fields)
