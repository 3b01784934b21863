"""Forward + gradient + CAM: build the explanation graph into a copy of the model.

The classifier is read and understood in `exporters.classifier`; here the class scores are
differentiated, the CAM and the saliency map appended, and the manifest stamped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from exporters import saliency
from exporters.builder import Ops
from exporters.cams import CAM_METHODS
from exporters.classifier import Classifier
from exporters.cotangent import Cotangent, OneHot, dense
from exporters.gradient import vjp
from exporters.image_input import ImageInput
from exporters.probe import Shapes
from exporters.score import Score
from exporters.source import ModelLike
from exporters.target_layer import TargetLayer
from xai_onnx.errors import ManifestError, MethodError, TargetError, reason
from xai_onnx.manifest import METADATA_KEY, Manifest
from xai_onnx.recipe import Preprocess
from xai_onnx.version import __version__

TARGETS = ("class_index", "predicted")


def build(
    model: ModelLike,
    *,
    target_layer: str | None = None,
    method: str = "gradcam",
    score_at: str = "logits",
    targets: str = "class_index",
    top_k: int = 1,
    preprocess: Preprocess | str | None = None,
    labels: Sequence[str] | str | os.PathLike[str] | None = None,
    with_saliency_map: bool = True,
) -> tuple[ir.Model, Manifest]:
    """Build the explained model in memory; the arguments are those of `export_gradcam`."""
    if method not in CAM_METHODS:
        raise MethodError(f"method {method!r} is none of {', '.join(CAM_METHODS)}")
    if targets not in TARGETS:
        raise TargetError(f"targets {targets!r} is none of {', '.join(TARGETS)}")
    classifier = Classifier(model, score_at=score_at)
    layer = classifier.target_layer(target_layer)
    scored = classifier.score
    if not 1 <= top_k <= scored.num_classes:
        raise TargetError(f"top_k={top_k}: the model has {scored.num_classes} classes")
    names = read_labels(labels, scored.num_classes)
    image = classifier.image
    if preprocess is not None:
        preprocess = image.fitting(preprocess)

    main = classifier.model.graph
    op = Ops({str(v.name) for v in _all_values(main)} | {str(node.name) for node in main})
    class_index, chosen = _targets(op, classifier, targets, top_k)
    g = class_gradient(op, classifier, layer, chosen)
    cam = CAM_METHODS[method](op, layer.value, layer.shape, g)
    if layer.value.dtype != ir.DataType.FLOAT:
        cam = op.Cast(cam, to=int(ir.DataType.FLOAT))
    height_axis = 2 if image.layout == "NCHW" else 1
    source_name = str(layer.value.name)
    outputs = {"cam": cam}
    if with_saliency_map:
        outputs["saliency_map"] = saliency.saliency_map(
            op,
            cam,
            layer.shape[2:],
            (image.height or "free", image.width or "free"),
            image.value,
            spatial=(height_axis, height_axis + 1),
        )
    activations = _finish(op, classifier, layer, class_index, top_k, outputs)
    manifest = Manifest(
        method=method,
        target_layer=source_name,
        score=str(scored.value.name),
        score_output=str(scored.output.name),
        output_activation=scored.activation,
        targets=targets,
        top_k=top_k if targets == "predicted" else None,
        input=str(image.value.name),
        class_index=None if class_index is None else str(class_index.name),
        activations=activations,
        cam=str(outputs["cam"].name),
        saliency_map=str(outputs["saliency_map"].name) if with_saliency_map else None,
        num_classes=scored.num_classes,
        labels=names,
        preprocess=preprocess,
        source_sha256=classifier.source.sha256,
        exporter_version=__version__,
    )
    classifier.model.metadata_props[METADATA_KEY] = manifest.to_json()
    return classifier.model, manifest


def class_gradient(
    op: Ops, classifier: Classifier, layer: TargetLayer, chosen: ir.Value
) -> Cotangent:
    """The gradient, at the layer, of the scores of the classes `chosen`, int64 [B, K]."""
    seed = _seed(op, classifier.score, chosen, classifier.shapes)
    g = vjp(op, classifier.model, layer.value, classifier.score.value, seed, classifier.shapes)
    return g if g.one_hot is None else dense(op, g, layer.value)


def read_labels(
    labels: Sequence[str] | str | os.PathLike[str] | None, num_classes: int
) -> tuple[str, ...]:
    """Class names from a list, or from a file: a JSON list, or one name a line.

    Raises:
        ManifestError: unreadable, or not one name for each of the model's classes.
    """
    if labels is None:
        return ()
    where = "labels"
    if isinstance(labels, str | os.PathLike):
        where = str(labels)
        try:
            text = Path(labels).read_text(encoding="utf-8-sig")
            labels = json.loads(text) if text.lstrip()[:1] in "[{" else text.splitlines()
        except (OSError, ValueError, RecursionError) as error:
            raise ManifestError(
                f"{where}: can't be read as class names: {reason(error)}; give a JSON list, or one "
                "name a line"
            ) from error
    if not isinstance(labels, Sequence) or not all(isinstance(label, str) for label in labels):
        raise ManifestError(f"{where}: must be a list of class names")
    if len(labels) != num_classes:
        raise ManifestError(f"{where}: has {len(labels)} names, the model {num_classes} classes")
    return tuple(labels)


def _targets(
    op: Ops, classifier: Classifier, targets: str, top_k: int
) -> tuple[ir.Value | None, ir.Value]:
    """The `class_index` input, if there is to be one, and the classes to explain, [B, K]."""
    scored = classifier.score
    scores, rank = scored.output, len(classifier.shapes[scored.output])
    others = [axis for axis in range(1, rank) if axis - rank != scored.output_axis]
    if targets == "predicted":
        flat = op.squeeze(scores, others)  # [B, N]
        _, best = op.TopK(flat, op.constant([top_k]), axis=-1, _outputs=2)
        return None, best
    class_index = ir.Value(
        name=op.unique("class_index"),
        shape=ir.Shape([_batch(classifier.image), "K"]),
        type=ir.TensorType(ir.DataType.INT64),
    )
    predicted = op.ArgMax(scores, axis=scored.output_axis, keepdims=1)
    predicted = op.squeeze(predicted, others)
    negative = op.Less(class_index, op.constant(0))
    return class_index, op.Where(negative, predicted, class_index)


def _seed(op: Ops, scored: Score, chosen: ir.Value, shapes: Shapes) -> Cotangent:
    """The derivative of the chosen class's score by all scores: one where the class stands."""
    shape = shapes[scored.value]
    assert scored.value.dtype is not None
    seed = op.constant(np.ones([1] * (len(shape) + 1)), scored.value.dtype)
    index = op.transpose(chosen, [1, 0])
    return Cotangent(seed, shape, frozenset(), OneHot(scored.axis, index, chosen))


def _finish(
    op: Ops,
    classifier: Classifier,
    layer: TargetLayer,
    class_index: ir.Value | None,
    top_k: int,
    outputs: dict[str, ir.Value],
) -> str:
    """Put what was emitted into the graph, declare inputs and outputs; the activations' name."""
    main = classifier.model.graph
    nodes, initializers = op.needed_for(outputs.values())
    for initializer in initializers:
        main.register_initializer(initializer)
    main.extend(nodes)
    if class_index is not None:
        main.inputs.append(class_index)
    batch = _batch(classifier.image)
    if not layer.value.is_graph_output():
        layer.value.name = op.unique("activations")
        layer.value.shape = ir.Shape([batch, *_symbols(layer.shape[1:], "h w")])
        main.outputs.append(layer.value)
    image = classifier.image
    sizes = {
        "cam": _symbols(layer.shape[2:], "h w"),
        "saliency_map": [image.height or "H", image.width or "W"],
    }
    k = "K" if class_index is not None else top_k
    for name, value in outputs.items():
        value.name = op.unique(name)
        value.dtype = ir.DataType.FLOAT
        value.shape = ir.Shape([batch, k, *sizes[name]])
        main.outputs.append(value)
    return str(layer.value.name)


def _symbols(shape: Sequence[int | str], names: str) -> list[int | str]:
    letters = ["C", *names.split()][-len(shape) :]
    both = zip(shape, letters, strict=True)
    return [size if isinstance(size, int) else letter for size, letter in both]


def _batch(image: ImageInput) -> int | str:
    """The batch dimension as the model calls it."""
    assert image.value.shape is not None
    size = image.value.shape[0]
    return image.batch or (None if isinstance(size, int) else size.value) or "batch"


def _all_values(main: ir.Graph) -> list[ir.Value]:
    nodes = [value for node in main for value in node.outputs]
    return [*main.inputs, *main.initializers.values(), *nodes]
