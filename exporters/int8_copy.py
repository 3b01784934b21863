"""A copy of a classifier in int8, for many forwards where few digits do: a draft for LIME.

onnxruntime.quantization's static QDQ form, with a scale for each output channel of the weights.
LIME shows the copy pictures of which parts are covered, so it is calibrated on such, too: on the
pictures given, and on each of them with cells of a square grid filled with their mean.

What lies behind the score (a softmax) stays in float: 256 steps between 0 and 1 are too few for
probabilities near either. So do the first convolutions, whose few channels differ most in range;
what is lost there is lost in every pixel.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from exporters import graph, ort, without_map
from exporters.classifier import Classifier
from exporters.labels import Labels, read_labels
from exporters.source import ModelLike
from xai_onnx.errors import DependencyError, InputShapeError, ModelFileError, reason
from xai_onnx.manifest import METADATA_KEY, Manifest
from xai_onnx.recipe import Preprocess

FLOAT_LAYERS = 5
CELLS = 7  # along each side of the grid
VARIANTS = 6  # of each picture, for the calibration; as many others for the comparison

FILES = ("plain", "prepared", "int8")

Tensors = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """How the scores of the copy agree with the model's.

    Attributes:
        pictures: that were given.
        forwards: pictures that were compared: those given, and perturbed ones of each.
        top1: share of them of which both predict the same class.
        correlation: of all logits, less their mean in each picture.
        of_explained: of the logit of a picture's predicted class over the pictures made of it,
            which is what LIME fits; the median of the pictures.
    """

    pictures: int
    forwards: int
    top1: float
    correlation: float
    of_explained: float


def build(
    model: ModelLike,
    pictures: Tensors,
    *,
    score_at: str = "logits",
    input_name: str | None = None,
    preprocess: Preprocess | str | None = None,
    labels: Labels = None,
    float_layers: int = FLOAT_LAYERS,
) -> tuple[ir.Model, Manifest, Agreement]:
    """Make the copy in memory; the arguments are those of `export_int8`."""
    classifier = Classifier(model, score_at=score_at, input_name=input_name)
    image, name = classifier.image, classifier.name
    _check(classifier, pictures, float_layers)
    class_names = read_labels(labels, classifier.score.num_classes)
    if preprocess is not None:
        preprocess = image.fitting(preprocess)
    generator = np.random.default_rng(0)
    seen, compared = (
        np.concatenate([_variants(picture, image.layout, generator) for picture in pictures])
        for _ in range(2)
    )
    copy = _quantised(classifier, seen, float_layers)
    sides = [ort.open_model(side, name, optimise=True) for side in (classifier.model, copy)]
    logits = [_logits(classifier, session, compared) for session in sides]
    manifest = without_map.manifest(
        classifier, method="int8", preprocess=preprocess, labels=class_names
    )
    copy.metadata_props[METADATA_KEY] = manifest.to_json()
    return copy, manifest, _agreement(len(pictures), *logits)


def _check(classifier: Classifier, pictures: Tensors, float_layers: int) -> None:
    image, x = classifier.image, classifier.image.value
    if float_layers < 0:
        raise InputShapeError(f"float_layers={float_layers}: must be 0 or more")
    if image.beside:
        raise InputShapeError(
            f"{classifier.name}: takes {', '.join(repr(str(v.name)) for v in image.beside)} "
            "besides the picture; an int8 copy is made of models that take pictures only"
        )
    if x.dtype != ir.DataType.FLOAT:
        raise InputShapeError(
            f"{classifier.name}: its input {x.name!r} is {x.dtype}; an int8 copy is made of a "
            "model with a float32 input"
        )
    sizes = [image.channels, image.height, image.width]
    if image.layout == "NHWC":
        sizes = [*sizes[1:], sizes[0]]
    fits = pictures.ndim == 4 and all(
        want in (None, got) for want, got in zip(sizes, pictures.shape[1:], strict=True)
    )
    if not fits or not len(pictures) or pictures.dtype != np.float32:
        wanted = ", ".join(str(size or "any") for size in ("n", *sizes))
        raise InputShapeError(
            f"{classifier.name}: is calibrated on float32 tensors of shape [{wanted}], one picture "
            f"or more, not on {pictures.dtype} {list(pictures.shape)}"
        )


def _variants(picture: Tensors, layout: str, generator: np.random.Generator) -> Tensors:
    """The picture, then `VARIANTS` of it with cells of a grid replaced by their mean."""
    planes = picture if layout == "NCHW" else np.moveaxis(picture, -1, 0)
    height, width = planes.shape[1:]
    rows, columns = (np.arange(size) * CELLS // size for size in (height, width))
    cells = CELLS * rows[:, None] + columns
    filled = planes.copy()
    for cell in np.unique(cells):
        where = cells == cell
        filled[:, where] = planes[:, where].mean(1, keepdims=True)
    made = [planes]
    for _ in range(VARIANTS):
        share = generator.random()
        shown = generator.random(CELLS * CELLS) < share
        made.append(np.where(shown[cells], planes, filled))
    stacked = np.stack(made)
    return stacked if layout == "NCHW" else np.moveaxis(stacked, 1, -1)


def _quantised(classifier: Classifier, pictures: Tensors, float_layers: int) -> ir.Model:
    """The model in QDQ form, but for so many convolutions at its beginning."""
    try:
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise DependencyError(
            f"onnxruntime.quantization can't be imported: {reason(error)}; install all of "
            "onnxruntime and onnx"
        ) from error
    if not ort.fits_one_file(classifier.model):
        raise ModelFileError(f"{classifier.name}: has more than 2 GB and can't be quantised here")
    behind = graph.descendants(classifier.score.value) - {classifier.score.value}
    image = classifier.image
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, copied = (Path(folder) / f"{n}.onnx" for n in FILES)
        ir.save(classifier.model, plain)
        try:
            quant_pre_process(plain, prepared, skip_symbolic_shape=True)
            made = {value.name for value in behind}
            nodes = onnx.load(prepared).graph.node
            early = [node.name for node in nodes if node.op_type == "Conv"][:float_layers]
            late = [node.name for node in nodes if made & set(node.output)]
            quantization.quantize_static(
                prepared,
                copied,
                _feeds(quantization, str(image.value.name), pictures, image.batch or 1),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=early + late,
            )
        except Exception as error:  # onnxruntime.quantization's have no common base but this
            raise ModelFileError(
                f"{classifier.name}: onnxruntime.quantization can't quantise it: {reason(error)}"
            ) from error
        return ir.serde.deserialize_model(onnx.load(copied))


def _feeds(quantization: Any, name: str, pictures: Tensors, batch: int) -> Any:
    """What the calibration reads, batch by batch."""

    class Feeds(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest = iter([{name: rows} for rows in _batches(pictures, batch)])

        def get_next(self) -> dict[str, Tensors] | None:
            return next(self._rest, None)

    return Feeds()


def _batches(pictures: Tensors, batch: int) -> Iterator[Tensors]:
    """Batches of the model's size; the last is filled up with the last picture."""
    for start in range(0, len(pictures), batch):
        rows = pictures[start : start + batch]
        yield np.concatenate([rows, *[rows[-1:]] * (batch - len(rows))])


def _logits(classifier: Classifier, session: Any, pictures: Tensors) -> Floats:
    """Logits [n, N], out of the scores: of a softmax they are known but for a constant."""
    score, image = classifier.score, classifier.image
    rows = []
    for batch in _batches(pictures, image.batch or 1):
        feed = {str(image.value.name): batch}
        (raw,) = ort.run(session, [str(score.output.name)], feed, classifier.name)
        rows.append(raw.reshape(len(batch), -1).astype(np.float64))
    found: Floats = np.concatenate(rows)[: len(pictures)]
    if score.activation in ("softmax", "sigmoid"):
        smallest = np.finfo(np.float32).tiny
        logs = np.log(np.maximum(found, smallest))
        rest = np.log(np.maximum(1 - found, smallest)) if score.activation == "sigmoid" else 0
        found = logs - rest
    return found


def _agreement(pictures: int, ours: Floats, copied: Floats) -> Agreement:
    centred = [side - side.mean(1, keepdims=True) for side in (ours, copied)]
    if ours.shape[1] == 1:
        centred = [ours, copied]
    families = zip(np.split(ours, pictures), np.split(copied, pictures), strict=True)
    return Agreement(
        pictures=pictures,
        forwards=len(ours),
        top1=float((ours.argmax(1) == copied.argmax(1)).mean()),
        correlation=_correlation(*(side.ravel() for side in centred)),
        of_explained=float(
            np.median([_correlation(a[:, (k := a[0].argmax())], b[:, k]) for a, b in families])
        ),
    )


def _correlation(a: Floats, b: Floats) -> float:
    """Pearson's; of a constant it is 1 if both are, else 0."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float(np.ptp(a) == np.ptp(b))
    return float(np.corrcoef(a, b)[0, 1])
