"""One pass over the masks: compose a batch, classify it, keep its scores."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from xai_onnx.lime import sampling
from xai_onnx.lime.estimate import PAIRED, Estimate, Scored, estimate
from xai_onnx.lime.forwards import SIZES, BatchSize, Clock, Forwards
from xai_onnx.lime.perturb import Composer
from xai_onnx.lime.sampling import FEWEST_BLOCKS
from xai_onnx.lime.settings import Settings

CHECK_AGAIN = 1.125  # times the forwards of the last time, where `tol` says when to stop
ESTIMATING = 1e-4  # seconds for each forward that the estimate behind the last one may take

Floats = NDArray[np.float64]
Progress = Callable[[int, int], object]


def run(
    forwards: Forwards,
    composer: Composer,
    settings: Settings,
    targets: Callable[[NDArray[np.float32]], Floats],
    origin: Floats,
    batch_size: BatchSize,
    clock: Clock,
    progress: Progress,
) -> list[Scored]:
    """Classify the perturbed pictures until all masks are done, or `settings` say stop.

    Args:
        forwards: the model.
        composer: of the picture.
        settings: which masks, and when to stop.
        targets: from scores [n, N] to what is explained, [n, L].
        origin: of the scores, for the sums, [L].
        batch_size: learns while the pass goes on.
        clock: started with the call.
        progress: called after each batch with the forwards done, and how many there are at most.

    Returns:
        The scores by block; the last may have been cut short by the deadline, but one picture is
        always run.
    """
    most = sampling.count(settings.design(composer.d), composer.d, settings.samples(composer.d))
    buffer = forwards.buffer(max(SIZES[-1], batch_size.size), composer.shape)
    blocks: list[Scored] = []
    done, checked = 0, 0
    for block in masks(composer.d, settings):
        found: list[Floats] = []
        start = 0
        while start < len(block.masks):
            room = _room(clock, batch_size.seconds, done)
            size = min(batch_size.size, len(buffer), len(block.masks) - start, room)
            if size < 1:
                break
            rows = slice(start, start + size)
            before = time.perf_counter()
            composer.compose(block.masks[rows], buffer)
            scores = forwards(buffer, size)
            batch_size.observe(size, time.perf_counter() - before)
            found.append(targets(scores))
            start += size
            done += size
            progress(done, most)
        if start:
            scored = block.masks[:start], block.weights[:start], np.concatenate(found)
            blocks.append(Scored(*scored, origin))
        if start < len(block.masks):
            break
        if settings.tol is not None and done >= CHECK_AGAIN * checked:
            checked = done
            if _settled(blocks, settings, settings.tol):
                break
    return blocks


def _room(clock: Clock, seconds: float, done: int) -> int:
    """How many pictures of `seconds` each fit before the deadline; one where none was timed yet."""
    if clock.left == math.inf:
        return sys.maxsize
    return int((clock.left - ESTIMATING * done) / seconds) if seconds else 1


def masks(d: int, settings: Settings) -> sampling.Blocks:
    """The blocks of masks that `settings` ask for."""
    return sampling.masks(
        d,
        settings.samples(d),
        settings.seed,
        sampling=settings.sampling,
        width=settings.kernel_width,
    )


def answer(blocks: Sequence[Scored], settings: Settings) -> Estimate:
    """What the scores come to."""
    paired = settings.design(blocks[0].masks.shape[1]) == PAIRED
    return estimate(blocks, settings.adjustment and paired, settings.kernel_width)


def _settled(blocks: Sequence[Scored], settings: Settings, tol: float) -> bool:
    """Whether of each class the largest error is within `tol` of the largest coefficient."""
    if len(blocks) < FEWEST_BLOCKS:
        return False
    found = answer(blocks, settings)
    assert found.errors is not None
    largest = np.abs(found.fit.coefficients).max(1)
    return bool((found.errors.max(1) <= tol * largest).all())
