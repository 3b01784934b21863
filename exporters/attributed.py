"""Forward + gradient to the image: build an attribution into a copy of the model.

Where the gradient is averaged over several pictures, the model and its gradient become the body of
a Loop, weights included (in the outer graph ONNX Runtime would not prepare them for its kernels).
Its first turn is on the image itself and gives the original outputs and the predicted class; the
others add up the gradient. So no more than one batch is ever in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from exporters import saliency
from exporters.attributions import ATTRIBUTION_METHODS, AveragedAttribution
from exporters.builder import Ops
from exporters.classifier import Classifier
from exporters.cotangent import dense
from exporters.draft import Draft, Output, named
from exporters.labels import Labels, read_labels
from exporters.seed import always_one
from exporters.source import ModelLike
from xai_onnx.errors import InputShapeError, MethodError
from xai_onnx.manifest import Manifest
from xai_onnx.recipe import Preprocess


def build(
    model: ModelLike,
    *,
    method: str = "saliency",
    score_at: str = "logits",
    input_name: str | None = None,
    targets: str = "class_index",
    top_k: int = 1,
    preprocess: Preprocess | str | None = None,
    labels: Labels = None,
    with_saliency_map: bool = True,
) -> tuple[ir.Model, Manifest]:
    """Build the explained model in memory; the arguments are those of `export_attribution`."""
    if method not in ATTRIBUTION_METHODS:
        raise MethodError(f"method {method!r} is none of {', '.join(ATTRIBUTION_METHODS)}")
    classifier = Classifier(model, score_at=score_at, input_name=input_name)
    image = classifier.image
    x = image.value
    assert x.dtype is not None
    if not x.dtype.is_floating_point():
        raise InputShapeError(
            f"{classifier.name}: its input {x.name!r} is {x.dtype}, which has no gradient; export "
            "the model with a float input, or explain it by export gradcam"
        )
    names = read_labels(labels, classifier.score.num_classes)
    if preprocess is not None:
        preprocess = image.fitting(preprocess)
    draft, chosen = Draft(classifier, targets, top_k), ATTRIBUTION_METHODS[method]
    inputs = chosen.inputs(draft.op, image)
    if isinstance(chosen, AveragedAttribution):
        g, op = _averaged(draft, chosen, inputs)
    else:
        op = draft.op
        g = dense(op, draft.gradients([x])[0], x).value
    attribution = chosen.attribution(op, x, g, inputs)
    if always_one(targets, top_k):
        attribution = op.unsqueeze(op.squeeze(attribution, [0]), [1])
    else:
        attribution = op.transpose(attribution, [1, 0, 2, 3, 4])
    if x.dtype != ir.DataType.FLOAT:
        attribution = op.Cast(attribution, to=int(ir.DataType.FLOAT))
    k = draft.targets.k
    sizes = (image.channels, *named(draft.image_size, "HW"))
    if image.layout == "NHWC":
        sizes = (*sizes[1:], sizes[0])
    outputs = {"attribution": Output(attribution, (k, *sizes))}
    if with_saliency_map:
        axis = op.constant([2 if image.layout == "NCHW" else 4])
        bright = op.ReduceSum(op.Abs(attribution), axis, keepdims=0)
        outputs["saliency_map"] = Output(
            saliency.scaled(op, bright), (k, *named(draft.image_size, "HW"))
        )
    written = draft.finish(outputs, inputs.values(), op)
    manifest = draft.manifest(
        inputs,
        method=method,
        attribution=written["attribution"],
        saliency_map=written.get("saliency_map"),
        labels=names,
        preprocess=preprocess,
    )
    return classifier.model, manifest


def _averaged(
    draft: Draft, method: AveragedAttribution, inputs: Mapping[str, ir.Value]
) -> tuple[ir.Value, Ops]:
    """The mean gradient, [K, *x], as a value of the graph around the Loop, and what emits there."""
    classifier, inner, x = draft.classifier, draft.op, draft.classifier.image.value
    main, outer, dtype = classifier.model.graph, draft.op.beside(), x.dtype
    assert dtype is not None
    turn = _value(inner, "turn", ir.DataType.INT64, [])
    going = _value(inner, "going", ir.DataType.BOOL, [])
    total = _value(inner, "total", dtype, [None] * 5)
    carried = [total]
    first = inner.Equal(turn, inner.constant(0))
    wanted, held = draft.targets, None
    if wanted.chosen is not None:
        # The class is that of the image, not that of the picture which this turn is on.
        before = _value(inner, "chosen", ir.DataType.INT64, [None, None])
        held = inner.Where(first, wanted.chosen, before)
        draft.targets = replace(wanted, chosen=held)
        carried.append(before)
    g = dense(inner, draft.gradients([x])[0], x).value
    counted = inner.Where(first, inner.constant(0.0, dtype), g)
    results = [inner.Identity(going), inner.Add(total, counted)]
    if held is not None:
        results.append(held)
    originals = list(main.outputs)
    scans = list(originals)
    if not classifier.score.output.is_graph_output():
        scans.append(classifier.score.output)

    count = method.count(outer, inputs)
    pictures = inner.beside()
    other = method.picture(pictures, x, turn, count, method.ready(outer, inputs))
    seen: ir.Value = pictures.Where(pictures.Equal(turn, pictures.constant(0)), x, other)

    nodes, initializers = inner.needed_for(results)
    own = list(main)
    for node in (*own, *nodes):
        for index, value in enumerate(node.inputs):
            if value is x:
                node.replace_input_with(index, seen)
    main.remove(own)
    weights = list(main.initializers.values())
    main.initializers.clear()
    main.outputs.clear()
    before_nodes, before_constants = pictures.needed_for([seen])
    body = ir.Graph(
        [turn, going, *carried],
        [*results, *scans],
        nodes=[*before_nodes, *own, *nodes],
        initializers=[*weights, *initializers, *before_constants],
        opset_imports=main.opset_imports,
        name="one_picture",
    )
    turns = outer.Squeeze(outer.Add(count, outer.constant([1])))
    starts = [outer.Expand(outer.constant(0.0, dtype), _gradient_shape(draft, outer))]
    if held is not None:
        asked = wanted.input
        if asked is None:
            asked = outer.Expand(outer.constant(0), _chosen_shape(draft, outer))
        starts.append(asked)
    looped = outer.Loop(turns, None, *starts, body=body, _outputs=len(starts) + len(scans))
    for scan, stacked in zip(scans, looped[len(starts) :], strict=True):
        plain = outer.Gather(stacked, outer.constant(0), axis=0)
        plain.name, plain.dtype, plain.shape = scan.name, scan.dtype, scan.shape
        scan.name = inner.unique(f"xai_onnx/{scan.name}")
        if scan in originals:
            main.outputs.append(plain)
        if scan is draft.score_output:
            draft.score_output = plain
    pictures_seen = outer.Cast(outer.Max(count, outer.constant([1])), to=int(dtype))
    return outer.Div(looped[0], pictures_seen), outer


def _value(op: Ops, name: str, dtype: ir.DataType, sizes: list[int | None]) -> ir.Value:
    return ir.Value(
        name=op.unique(f"xai_onnx/{name}"), shape=ir.Shape(sizes), type=ir.TensorType(dtype)
    )


def _gradient_shape(draft: Draft, op: Ops) -> ir.Value:
    """[K, *x]."""
    image = op.Shape(draft.classifier.image.value)
    if draft.targets.input is None:
        return op.Concat(op.constant([draft.targets.k]), image, axis=0)  # type: ignore[no-any-return]
    return op.Concat(op.Shape(draft.targets.input, start=1, end=2), image, axis=0)  # type: ignore[no-any-return]


def _chosen_shape(draft: Draft, op: Ops) -> ir.Value:
    """[B, K], where the file chooses the classes."""
    batch = op.Shape(draft.classifier.image.value, start=0, end=1)
    return op.Concat(batch, op.constant([draft.targets.k]), axis=0)  # type: ignore[no-any-return]
