"""Forward + LIME: build perturbation, classification and fit into a copy of the model.

| returns | the file takes | the file gives |
|---|---|---|
| ``coefficients`` | image, fill, segments, `class_index` | scores, and one surrogate a class |
| ``scores`` | image, fill, segments, masks | the scores of the perturbed pictures |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters import without_map
from exporters.builder import PREFIX, Ops
from exporters.draft import named
from exporters.graph import names
from exporters.labels import Labels, read_labels
from exporters.lime.perturbed import Perturbation, classify
from exporters.lime.scores import FittedScores
from exporters.lime.surrogate import Regression
from exporters.score import Score
from exporters.source import ModelLike
from xai_onnx.errors import InputShapeError, MethodError
from xai_onnx.lime import file_masks
from xai_onnx.lime_file import LimeFile
from xai_onnx.manifest import METADATA_KEY, Manifest
from xai_onnx.recipe import Preprocess

RETURNS = ("coefficients", "scores")


@dataclass(frozen=True)
class Fit:
    """How the surrogate in the file is fitted; the arguments of `export_lime`."""

    max_segments: int
    num_samples: int | None
    kernel_width: float
    alpha: float
    seed: int

    def blocks(self) -> list[NDArray[np.uint8]]:
        """The masks, by block of the design, each [n, D].

        Raises:
            SamplingError: nothing to draw, or a seed or a kernel out of range.
            MethodError: a ridge that isn't above 0.
        """
        if not 0 < self.alpha < math.inf:
            raise MethodError(
                f"alpha={self.alpha}: must be above 0; without the ridge a superpixel that isn't "
                "there would have no coefficient"
            )
        drawn = file_masks.blocks(self.max_segments, self.num_samples, self.seed, self.kernel_width)
        return [block.masks for block in drawn]


def build(
    model: ModelLike,
    *,
    fit: Fit | None,
    score_at: str = "logits",
    input_name: str | None = None,
    batch_size: int = 8,
    preprocess: Preprocess | str | None = None,
    labels: Labels = None,
) -> tuple[ir.Model, Manifest]:
    """Build the file in memory; `fit` is ``None`` for one that returns scores."""
    fitted = FittedScores(model, score_at, input_name)
    found = fitted.classifier
    image, score = found.image, found.score
    class_names = read_labels(labels, score.num_classes)
    if preprocess is not None:
        preprocess = image.fitting(preprocess)
    if batch_size < 1:
        raise InputShapeError(f"batch_size={batch_size}: a batch has at least one picture")
    main, x = found.model.graph, image.value
    assert x.shape is not None
    assert x.dtype is not None
    score_name = str(score.value.name)
    output_name = str(score.output.name) if score.output.is_graph_output() else "scores"
    outer = Ops(names(main))
    inner = outer.beside()
    scores, output = fitted.emit(inner)

    one_picture = ir.Shape([1, *list(x.shape)[1:]])
    fill = _input(outer, "fill", x.dtype, one_picture)
    size = ir.Shape(named((image.height or "free", image.width or "free"), "HW"))
    segments = _input(outer, "segments", ir.DataType.INT32, size)
    inputs = {"fill": fill, "segments": segments}
    blocks = [] if fit is None else fit.blocks()
    if fit is None:
        masks = inputs["masks"] = _input(outer, "masks", ir.DataType.BOOL, ir.Shape(["N", "D"]))
        wanted = [scores]
    else:
        itself = np.ones((1, fit.max_segments), np.uint8)
        masks = outer.constant(np.concatenate([itself, *blocks]), ir.DataType.BOOL)
        wanted = [scores] if output is scores else [scores, output]
    given = Perturbation(fill, segments, masks)
    batch_size = image.batch or batch_size
    rows = classify(found, outer, inner, given, wanted, batch_size)
    if fit is None:
        outputs = {"perturbed_scores": _typed(rows[0], ir.DataType.FLOAT, ["N", score.num_classes])}
    else:
        inputs["class_index"] = _input(outer, "class_index", ir.DataType.INT64, ir.Shape(["K"]))
        regression = Regression(
            outer,
            fit.max_segments,
            [len(block) for block in blocks],
            fit.kernel_width,
            fit.alpha,
            main.opset_imports[""],
        )
        outputs = _fitted(regression, given, inputs["class_index"], rows[0], rows[-1], score)
    for name, value in outputs.items():
        value.name = outer.unique(name)
    if fit is not None:
        score.output.name = inner.unique(f"{PREFIX}/{output_name}")
        outputs["scores"].name = output_name
    nodes, constants = outer.needed_for(outputs.values())
    for constant in constants:
        main.register_initializer(constant)
    main.extend(nodes)
    x.shape = one_picture
    main.inputs.extend(inputs.values())
    main.outputs.extend(outputs.values())
    written = {name: str(value.name) for name, value in {**inputs, **outputs}.items()}
    manifest = without_map.manifest(
        found,
        method="lime",
        preprocess=preprocess,
        labels=class_names,
        score_at=score_at,
        score=score_name,
        score_output=written["perturbed_scores" if fit is None else "scores"],
        output_activation=fitted.activation if fit is None else score.activation,
        targets="none" if fit is None else "class_index",
        class_index=written.get("class_index"),
        lime=LimeFile(
            returns="scores" if fit is None else "coefficients",
            fill=written["fill"],
            segments=written["segments"],
            masks=written.get("masks"),
            perturbed_scores=written.get("perturbed_scores"),
            coefficients=written.get("coefficients"),
            standard_errors=written.get("standard_errors"),
            intercept=written.get("intercept"),
            fidelity=written.get("fidelity"),
            value=written.get("value"),
            scale=fitted.scale,
            max_segments=0 if fit is None else fit.max_segments,
            num_samples=sum(map(len, blocks)),
            kernel_width=0.0 if fit is None else fit.kernel_width,
            alpha=0.0 if fit is None else fit.alpha,
            seed=0 if fit is None else fit.seed,
            batch_size=batch_size,
        ),
    )
    found.model.metadata_props[METADATA_KEY] = manifest.to_json()
    return found.model, manifest


def _fitted(
    regression: Regression,
    given: Perturbation,
    class_index: ir.Value,
    scores: ir.Value,
    output: ir.Value,
    score: Score,
) -> dict[str, ir.Value]:
    """The outputs of a file that fits; the first row of the masks is the picture itself."""
    op, columns = regression.op, regression.columns
    assert score.output.dtype is not None
    plain = _typed(_itself(op, output), score.output.dtype, [1, score.num_classes])
    predicted = op.ArgMax(plain, axis=1, keepdims=0)
    chosen = op.Where(op.Less(class_index, op.constant(0)), predicted, class_index)
    wanted = op.Gather(scores, chosen, axis=1)
    found = regression.fit(
        _others(op, given.masks), given.segments, _others(op, wanted), _itself(op, wanted)
    )
    outputs = {"scores": plain}
    single = ir.DataType.FLOAT
    outputs["coefficients"] = _typed(found.coefficients, single, ["K", columns])
    if found.standard_errors is not None:
        outputs["standard_errors"] = _typed(found.standard_errors, single, ["K", columns])
    outputs["intercept"] = _typed(found.intercept, single, ["K"])
    outputs["fidelity"] = _typed(found.fidelity, single, ["K"])
    outputs["value"] = _typed(found.value, single, ["K"])
    return outputs


def _itself(op: Ops, rows: ir.Value) -> ir.Value:
    """The first row."""
    axis = op.constant([0])
    return op.Slice(rows, axis, op.constant([1]), axis)  # type: ignore[no-any-return]


def _others(op: Ops, rows: ir.Value) -> ir.Value:
    """All rows but the first."""
    end = op.constant([np.iinfo(np.int64).max])
    return op.Slice(rows, op.constant([1]), end, op.constant([0]))  # type: ignore[no-any-return]


def _typed(value: ir.Value, dtype: ir.DataType, shape: list[int | str]) -> ir.Value:
    value.dtype, value.shape = dtype, ir.Shape(shape)
    return value


def _input(op: Ops, name: str, dtype: ir.DataType, shape: ir.Shape) -> ir.Value:
    return ir.Value(name=op.unique(name), shape=shape, type=ir.TensorType(dtype))
