"""Forward + gradient + CAM: build the explanation graph into a copy of the model.

The classifier is read and understood in `exporters.classifier`; here the gradient of its scores
becomes a CAM at each target layer, and the CAM a saliency map. Several layers are fused: the mean
of their saliency maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from exporters import module_path, saliency
from exporters.cams import CAM_METHODS
from exporters.classifier import Classifier
from exporters.cotangent import Cotangent
from exporters.draft import Draft, Output, named
from exporters.feature_map import FeatureMap
from exporters.labels import Labels, read_labels
from exporters.source import ModelLike
from xai_onnx.errors import MethodError
from xai_onnx.manifest import Manifest
from xai_onnx.recipe import Preprocess


def build(
    model: ModelLike,
    *,
    target_layer: str | Sequence[str] | None = None,
    method: str = "gradcam",
    score_at: str = "logits",
    input_name: str | None = None,
    targets: str = "class_index",
    top_k: int = 1,
    preprocess: Preprocess | str | None = None,
    labels: Labels = None,
    with_saliency_map: bool = True,
) -> tuple[ir.Model, Manifest]:
    """Build the explained model in memory; the arguments are those of `export_gradcam`."""
    if method not in CAM_METHODS:
        raise MethodError(f"method {method!r} is none of {', '.join(CAM_METHODS)}")
    classifier = Classifier(model, score_at=score_at, input_name=input_name)
    draft = Draft(classifier, targets, top_k)
    maps = [layer.map for layer in classifier.target_layers(target_layer)]
    names = read_labels(labels, classifier.score.num_classes)
    if preprocess is not None:
        preprocess = classifier.image.fitting(preprocess)
    sources = tuple(str(found.value.name) for found in maps)
    modules = tuple(module_path.of(found.value) or "" for found in maps)

    op = draft.op
    activations = [found.activations(op) for found in maps]
    gradients = [
        found.gradient(op, g)
        for found, g in zip(maps, draft.gradients([found.value for found in maps]), strict=True)
    ]
    cams = [_cam(draft, method, *parts) for parts in zip(activations, maps, gradients, strict=True)]
    cam, size = cams[0], (maps[0].height, maps[0].width)
    if len(cams) > 1:
        both = zip(cams, maps, strict=True)
        scaled = [_saliency_map(draft, cam, (m.height, m.width)) for cam, m in both]
        cam, size = op.Mean(*scaled), draft.image_size
    letters = "hw" if len(cams) == 1 else "HW"
    outputs = {
        f"activations_{index + 1}" if index else "activations": Output(
            value, named(found.shape[1:], "Chw"), value.dtype or ir.DataType.FLOAT
        )
        for index, (value, found) in enumerate(zip(activations, maps, strict=True))
    }
    layers = list(outputs)
    outputs["cam"] = Output(cam, (draft.targets.k, *named(size, letters)))
    if with_saliency_map:
        sizes = (draft.targets.k, *named(draft.image_size, "HW"))
        fused = len(cams) > 1  # at the image's size already
        large = saliency.scaled(op, cam) if fused else _saliency_map(draft, cam, size)
        outputs["saliency_map"] = Output(large, sizes)
    written = draft.finish(outputs)
    manifest = draft.manifest(
        method=method,
        target_layers=sources,
        target_modules=modules,
        activations=tuple(written[name] for name in layers),
        cam=written["cam"],
        saliency_map=written.get("saliency_map"),
        labels=names,
        preprocess=preprocess,
    )
    return classifier.model, manifest


def _cam(
    draft: Draft, method: str, activations: ir.Value, found: FeatureMap, g: Cotangent
) -> ir.Value:
    """The map of one layer, float32 [B, K, h, w]."""
    cam = CAM_METHODS[method](draft.op, activations, found.shape, g)
    if activations.dtype == ir.DataType.FLOAT:
        return cam
    return draft.op.Cast(cam, to=int(ir.DataType.FLOAT))  # type: ignore[no-any-return]


def _saliency_map(draft: Draft, cam: ir.Value, size: tuple[int | str, int | str]) -> ir.Value:
    image = draft.classifier.image
    axis = 2 if image.layout == "NCHW" else 1
    return saliency.saliency_map(
        draft.op, cam, size, draft.image_size, image.value, spatial=(axis, axis + 1)
    )
