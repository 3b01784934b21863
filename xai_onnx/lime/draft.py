"""A draft model: a cheaper copy, of int8 say, that runs the perturbed forwards.

Its scores aren't the model's. How far they agree is measured on some of the perturbed pictures and
said in the result. ``xai-onnx export int8`` makes such a copy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from xai_onnx.errors import InputShapeError
from xai_onnx.lime.explanation import DraftAgreement
from xai_onnx.lime.forwards import Clock, Forwards
from xai_onnx.lime.perturb import Composer

SAMPLES = 32
FOR_CORRELATION = 3  # two points always lie on a line
SHARE = 0.1  # of the time that is left before a deadline

Floats = NDArray[np.float64]


def check(model: Forwards, draft: Forwards) -> None:
    """Check that `draft` takes what `model` takes.

    Raises:
        InputShapeError: it doesn't.
    """
    ours, theirs = model.image, draft.image
    sizes = zip(ours.shape[1:], theirs.shape[1:], strict=True)
    fits = all(None in pair or pair[0] == pair[1] for pair in sizes)
    if (ours.layout, ours.dtype) != (theirs.layout, theirs.dtype) or not fits:
        raise InputShapeError(
            f"{draft.name}: a draft model takes the same pictures as the model, {ours.dtype} "
            f"{list(ours.shape)}, not {theirs.dtype} {list(theirs.shape)}"
        )


def compare(
    model: Forwards,
    draft: Forwards,
    composer: Composer,
    masks: NDArray[np.uint8],
    targets: Callable[[NDArray[np.float32]], Floats],
    labels: int,
    clock: Clock,
) -> list[DraftAgreement]:
    """Let both models score the first of the perturbed pictures.

    Args:
        model, draft: the two.
        composer: of the picture.
        masks: of perturbed pictures, [n, d].
        targets: from scores [n, N] to what is explained, [n, L].
        labels: L.
        clock: with a deadline, a tenth of what is left of it is spent, or one picture; none where
            it has passed.

    Returns:
        The agreement for each of the L.

    Raises:
        InputShapeError: another number of classes.
    """
    found: list[tuple[Floats, Floats]] = []
    until = clock.left * (1 - SHARE)
    buffers = [side.buffer(1, composer.shape) for side in (model, draft)]
    for mask in masks[:SAMPLES]:
        if clock.left <= 0 or (found and clock.left < until):
            break
        scores = []
        for side, buffer in zip((model, draft), buffers, strict=True):
            composer.compose(mask[None], buffer)
            scores.append(side(buffer, 1))
        if scores[0].shape != scores[1].shape:
            raise InputShapeError(
                f"{draft.name}: a draft model has the model's classes, {scores[0].shape[1]}, not "
                f"{scores[1].shape[1]}"
            )
        found.append((targets(scores[0])[0], targets(scores[1])[0]))
    pairs = np.array(found).reshape(len(found), 2, labels)
    return [_agreement(draft.name, pairs[:, 0, k], pairs[:, 1, k]) for k in range(labels)]


def _agreement(name: str, ours: Floats, theirs: Floats) -> DraftAgreement:
    """Of one class's scores, [samples] each."""
    correlation = None
    if len(ours) >= FOR_CORRELATION and np.ptp(ours) > 0 and np.ptp(theirs) > 0:
        correlation = float(np.corrcoef(ours, theirs)[0, 1])
    deviation = float(np.abs(ours - theirs).max()) if len(ours) else None
    return DraftAgreement(name, len(ours), correlation, deviation)
