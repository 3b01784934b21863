"""Forwards of one model on many perturbed pictures: batches, and how large they should be."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx import scores
from xai_onnx.batch import ImageInput
from xai_onnx.session import Session

SIZES = (1, 2, 4, 8, 16, 32)
HOPELESS = 1.15  # a size so much slower an image than the best: larger ones aren't tried
TURNS = 3  # of the sizes that are not


class Forwards:
    """One model as a function from pictures to scores.

    Attributes:
        image: the input.
        name: of the model, in messages.
        dtype: ONNX Runtime's name for the scores' type.
        count: pictures classified so far; padding isn't counted.
    """

    def __init__(
        self,
        session: Session,
        image: ImageInput,
        score_output: str,
        besides: Callable[[NDArray[Any]], dict[str, NDArray[Any]]],
    ) -> None:
        """Take an open model.

        Args:
            session: the model.
            image: its image input.
            score_output: the output that is read.
            besides: what else the model is fed with a batch, by input name.
        """
        self.image, self.name, self.count = image, session.name, 0
        self.dtype: str = session.outputs[score_output].type
        self._session, self._output, self._besides = session, score_output, besides

    def buffer(self, size: int, shape: tuple[int, ...]) -> NDArray[Any]:
        """Room for a batch of `size` pictures of `shape`, or for the model's own fixed batch."""
        return np.zeros((self.image.batch or size, *shape), self.image.dtype)

    def __call__(self, buffer: NDArray[Any], size: int) -> NDArray[np.float32]:
        """Scores of the first `size` pictures in `buffer`, [size, N].

        The whole buffer is run where the model has a fixed batch.

        Raises:
            NonFiniteError: NaN or infinity among the scores.
            InputShapeError: ONNX Runtime refuses the pictures.
        """
        batch = buffer if self.image.batch is not None else buffer[:size]
        feed = {self.image.name: batch, **self._besides(batch)}
        (raw,) = self._session.run([self._output], feed)
        self.count += size
        return scores.checked(raw[:size], self.name)


class BatchSize:
    """Which batch is the fastest, found out while the work goes on.

    Each size is run twice, the first time to let ONNX Runtime plan its memory; then those that are
    near the fastest take turns, for one run tells little on a busy machine. Every picture that is
    classified on the way is one that was wanted anyway.

    Attributes:
        seconds: an image took in the last run; 0 before the first.
    """

    def __init__(self, known: int | None = None) -> None:
        """Start with the smallest size, or stay with one that is `known`."""
        self.seconds = 0.0
        self._plan = [] if known else [SIZES[0]] * 2
        self._final = known
        self._turns = False
        self._times: dict[int, list[float]] = {}

    @property
    def size(self) -> int:
        """To be used next."""
        return self._final or self._plan[0]

    @property
    def settled(self) -> bool:
        """Whether that is final."""
        return self._final is not None

    def observe(self, size: int, seconds: float) -> None:
        """Take note that a batch of `size` took `seconds`."""
        self.seconds = seconds / size
        if self.settled or size != self.size:
            return
        self._times.setdefault(size, []).append(self.seconds)
        del self._plan[0]
        if not self._plan:
            self._go_on(size)

    def _go_on(self, last: int) -> None:
        """What to try behind the `last` size of the plan, or settle."""
        times = {size: float(np.median(seen[1:])) for size, seen in self._times.items()}
        fastest = min(times, key=lambda size: times[size])
        near = [size for size in times if times[size] <= HOPELESS * times[fastest]]
        if not self._turns and last in near and last != SIZES[-1]:
            self._plan = [SIZES[SIZES.index(last) + 1]] * 2
        elif not self._turns and len(near) > 1:
            self._turns, self._plan = True, near * TURNS
        else:
            self._final = fastest


class Clock:
    """Time since a call began, and whether there is enough left."""

    def __init__(self, deadline: float | None) -> None:
        """Start; `deadline` is in seconds, ``None`` for none."""
        self._start, self._deadline = time.perf_counter(), deadline

    @property
    def seconds(self) -> float:
        """Gone so far."""
        return time.perf_counter() - self._start

    @property
    def left(self) -> float:
        """Seconds to the deadline, infinite without one."""
        return float("inf") if self._deadline is None else self._deadline - self.seconds
