"""One pass over the masks: compose a batch, classify it, add its scores to the sums."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from xai_onnx.lime import sampling
from xai_onnx.lime.forwards import SIZES, BatchSize, Clock, Forwards
from xai_onnx.lime.perturb import Composer
from xai_onnx.lime.sampling import FEWEST_BLOCKS
from xai_onnx.lime.settings import Settings
from xai_onnx.lime.surrogate import Gram, fit, jackknife

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
) -> list[Gram]:
    """Classify the perturbed pictures until all masks are done, or `settings` say stop.

    Args:
        forwards: the model.
        composer: of the picture.
        settings: which masks, and when to stop.
        targets: from scores [n, N] to what is explained, [n, L].
        origin: of the sums, [L].
        batch_size: learns while the pass goes on.
        clock: started with the call.
        progress: called after each batch with the forwards done, and how many there are at most.

    Returns:
        The sums of each block; the last block may have been cut short by the deadline, but one
        picture is always run.
    """
    most = sampling.count(settings.design(composer.d), composer.d, settings.samples(composer.d))
    buffer = forwards.buffer(max(SIZES[-1], batch_size.size), composer.shape)
    blocks: list[Gram] = []
    done = 0
    for block in masks(composer.d, settings):
        gram = Gram(composer.d, len(origin), origin)
        start = 0
        while start < len(block.masks):
            room = _room(clock, batch_size.seconds)
            size = min(batch_size.size, len(buffer), len(block.masks) - start, room)
            if size < 1:
                return [*blocks, gram] if gram.rows else blocks
            rows = slice(start, start + size)
            before = time.perf_counter()
            composer.compose(block.masks[rows], buffer)
            scores = forwards(buffer, size)
            batch_size.observe(size, time.perf_counter() - before)
            gram.add(block.masks[rows], block.weights[rows], targets(scores))
            start += size
            done += size
            progress(done, most)
        blocks.append(gram)
        if settings.tol is not None and _settled(blocks, settings.tol):
            break
    return blocks


def _room(clock: Clock, seconds: float) -> int:
    """How many pictures of `seconds` each fit before the deadline; one where none was timed yet."""
    if clock.left == math.inf:
        return sys.maxsize
    return int(clock.left / seconds) if seconds else 1


def masks(d: int, settings: Settings) -> sampling.Blocks:
    """The blocks of masks that `settings` ask for."""
    return sampling.masks(
        d,
        settings.samples(d),
        settings.seed,
        sampling=settings.sampling,
        width=settings.kernel_width,
    )


def _settled(blocks: list[Gram], tol: float) -> bool:
    """Whether of each class the largest error is within `tol` of the largest coefficient."""
    if len(blocks) < FEWEST_BLOCKS:
        return False
    errors = jackknife(blocks)
    assert errors is not None
    largest = np.abs(fit(sum(blocks[1:], blocks[0])).coefficients).max(1)
    return bool((errors.max(1) <= tol * largest).all())
