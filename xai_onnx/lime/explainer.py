"""LIME on any ONNX classifier: one picture, its superpixels, many forwards, one matrix of sums.

Picture and fill are preprocessed once, then composed at the model's resolution, batch after batch
into one buffer. The masks are decided by seed and design alone; batch size and threads have no say.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx.errors import InputShapeError, LimeWarning
from xai_onnx.lime import doubts, draft, one_pass, sampling, superpixels
from xai_onnx.lime.explanation import LimeExplanation
from xai_onnx.lime.forwards import BatchSize, Clock, Forwards
from xai_onnx.lime.perturb import Composer, baseline
from xai_onnx.lime.score_scale import ScoreScale
from xai_onnx.lime.settings import Settings, segmenter
from xai_onnx.recipe import Preprocess

if TYPE_CHECKING:
    from xai_onnx.preprocess import Prepared

USUAL_SEGMENTS = "quickshift"

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Picture:
    """What is explained.

    Attributes:
        tensor: as the model takes it, [C, H, W] or [H, W, C].
        prepared: the picture behind it; ``None`` for a ready tensor.
        recipe: that made the tensor; ``None`` where unknown.
    """

    tensor: NDArray[Any]
    prepared: Prepared | None
    recipe: Preprocess | None


@dataclass(frozen=True, eq=False)
class Wanted:
    """What is explained of it.

    Attributes:
        fields: of the `ClassScore` of each of L classes.
        scale: on which they are explained.
    """

    fields: Sequence[dict[str, Any]]
    scale: ScoreScale

    def targets(self, rows: NDArray[np.float32]) -> Floats:
        """From scores [n, N] to what is explained, [n, L]."""
        return self.scale.of(rows)[:, [field["target"] for field in self.fields]]


def explain(
    model: Forwards,
    draft_model: Forwards | None,
    picture: Picture,
    wanted: Callable[[NDArray[np.float32]], Wanted],
    settings: Settings,
    batch_size: BatchSize,
    progress: one_pass.Progress,
) -> list[LimeExplanation]:
    """Explain classes of one picture.

    Args:
        model: the model.
        draft_model: another that runs the perturbed pictures in its place.
        picture: the picture.
        wanted: from its scores, [N], to what is explained.
        settings: how.
        batch_size: of the perturbed forwards; learns while they run.
        progress: called with the forwards done, and how many there are at most.

    Returns:
        One explanation for each class.

    Raises:
        XaiOnnxError: one of its leaves.
    """
    clock = Clock(settings.deadline)
    channels_last = model.image.layout == "NHWC"
    segments = segmented(picture, settings, channels_last)
    layout: dict[str, Any] = {"channels_last": channels_last}
    fill = baseline(picture.tensor, segments, settings.fill, recipe=picture.recipe, **layout)
    composer = Composer(picture.tensor, fill, segments, **layout)
    design = settings.design(composer.d)

    alone = model.buffer(1, picture.tensor.shape)
    alone[0] = picture.tensor
    row = model(alone, 1)
    asked = wanted(row[0])
    (origin,) = asked.targets(row)

    runner, agreements = model, None
    if draft_model is not None:
        runner = draft_model
        first = next(one_pass.masks(composer.d, settings)).masks
        agreements = draft.compare(
            model, draft_model, composer, first, asked.targets, len(origin), clock
        )
    blocks = one_pass.run(
        runner, composer, settings, asked.targets, origin, batch_size, clock, progress
    )
    found = one_pass.answer(blocks, settings)
    fitted, errors, total = found.fit, found.errors, found.gram
    if design == "full" and total.rows == sampling.count(design, composer.d, 0):
        errors = np.zeros_like(fitted.coefficients)  # nothing was left to chance

    seen, explanations = picture.prepared, []
    for k, field in enumerate(asked.fields):
        coefficients, error = fitted.coefficients[k], None if errors is None else errors[k]
        noise = doubts.noise(coefficients, error)
        agreement = None if agreements is None else agreements[k]
        explanations.append(
            LimeExplanation(
                **field,
                scale=asked.scale.name,
                value=float(origin[k]),
                segments=segments,
                coefficients=coefficients,
                standard_errors=error,
                intercept=float(fitted.intercept[k]),
                fidelity=float(fitted.r2[k]),
                noise=noise,
                forwards=total.rows,
                effective_sample_size=total.effective_rows,
                sampling=design,
                adjusted=found.adjusted,
                seed=settings.seed,
                batch_size=batch_size.size,
                seconds=clock.seconds,
                draft=agreement,
                warnings=tuple(doubts.of(coefficients, noise, agreement)),
                image=None if seen is None else seen.image,
                box=None if seen is None else seen.box,
            )
        )
    announce(explanations, model.name)
    return explanations


def announce(explanations: Sequence[LimeExplanation], model: str) -> None:
    """Warn of what speaks against trusting the explanations of the model of this name."""
    for explanation in explanations:
        for doubt in explanation.warnings:
            message = f"{model}: LIME of {explanation.title}: {doubt}"
            warnings.warn(message, LimeWarning, stacklevel=4)


def segmented(picture: Picture, settings: Settings, channels_last: bool) -> NDArray[np.int32]:
    """Superpixels at the model's resolution, numbered 0..d-1."""
    asked = USUAL_SEGMENTS if settings.segments is None else settings.segments
    if isinstance(asked, str):
        name, parameters = segmenter(asked)
        return superpixels.segment(_pixels(picture, channels_last), name, **parameters)
    size = picture.tensor.shape[:2] if channels_last else picture.tensor.shape[1:]
    labels = np.asarray(asked)
    if labels.shape != size and picture.prepared is not None:
        labels = _as_seen(labels, picture.prepared, size)
    if labels.shape != size:
        raise InputShapeError(
            f"segments of shape {list(labels.shape)} are neither of the size that the model sees, "
            f"{list(size)}, nor of the picture's"
        )
    return superpixels.numbered(labels)


def _as_seen(labels: NDArray[Any], seen: Prepared, size: tuple[int, ...]) -> NDArray[Any]:
    """Labels of the whole picture, cut and resized (nearest) to what the model sees of it."""
    if labels.shape != seen.image.shape[:2]:
        return labels
    left, top, right, bottom = seen.box
    places = [
        np.clip((start + (np.arange(n) + 0.5) * (stop - start) / n).astype(int), 0, most - 1)
        for start, stop, n, most in zip(
            (top, left), (bottom, right), size, labels.shape, strict=True
        )
    ]
    return labels[np.ix_(*places)]


def _pixels(picture: Picture, channels_last: bool) -> NDArray[np.uint8]:
    """What is segmented, uint8 RGB [H, W, 3]: what the model sees, before it is normalised.

    Of a ready tensor that is its values stretched to 0..255; of one, four or more channels their
    mean, as grey.
    """
    if picture.prepared is not None:
        seen = picture.prepared.seen
        return seen if seen.shape[2] == 3 else np.repeat(seen, 3, axis=2)
    values = picture.tensor if channels_last else np.moveaxis(picture.tensor, 0, -1)
    values = values.astype(np.float64)
    if values.shape[2] != 3:
        values = np.repeat(values.mean(2, keepdims=True), 3, axis=2)
    span = np.ptp(values)
    stretched: NDArray[np.uint8] = np.rint(
        (values - values.min()) * (255 / span if span else 0)
    ).astype(np.uint8)
    return stretched
