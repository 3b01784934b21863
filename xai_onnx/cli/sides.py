"""What `bench` compares: the plain model, a twin of it, and the explained one with K = 1 and 0."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xai_onnx.batch import ImageInput
from xai_onnx.measure import Latency, rotate
from xai_onnx.session import Session, runtime

SIDES = ("plain", "twin", "explained", "explained, K = 0")
FREE_SIZE = 224  # for models that leave height and width free
MOST_CALLS = 200


class Sides:
    """Four sessions' worth of calls on the same random tensor."""

    def __init__(self, model: str, providers: Sequence[str] | None, threads: int) -> None:
        """Open `model`, a plain classifier, and its explained form, made in memory."""
        import exporters

        explained = exporters.explained_bytes(model)
        self._plain, self._twin, self._explained = (
            Session(source, providers, options(threads)) for source in (model, model, explained)
        )
        manifest = self._explained.manifest
        assert manifest is not None
        self._manifest = manifest
        self._image = ImageInput.of(self._plain.inputs[manifest.input], model)

    def batch(self, asked: int) -> int:
        """The batch size that is run: a model of fixed batch has its own."""
        return self._image.batch or asked

    def calls(self, batch: int) -> dict[str, Callable[[], object]]:
        """What is timed, by side."""
        manifest, image = self._manifest, self._image
        height, width = image.height or FREE_SIZE, image.width or FREE_SIZE
        shape = [batch, image.channels or 3, height, width]
        if image.layout == "NHWC":
            shape = [batch, height, width, image.channels or 3]
        tensor = np.random.default_rng(0).random(shape, np.float32).astype(image.dtype)
        feed: dict[str, Any] = {manifest.input: tensor}
        one, none = ({**feed, str(manifest.class_index): _rows(batch, k)} for k in (1, 0))
        maps = [manifest.score_output, manifest.map, str(manifest.saliency_map)]
        scores = [manifest.score_output]
        plain, twin, explained = self._plain, self._twin, self._explained
        return {
            "plain": lambda: plain.run(scores, feed),
            "twin": lambda: twin.run(scores, feed),
            "explained": lambda: explained.run(maps, one),
            "explained, K = 0": lambda: explained.run(scores, none),
        }

    def measure(
        self, batch: int, rounds: int, seconds: float, progress: Callable[[], object]
    ) -> dict[str, Latency]:
        """Time all sides in `rounds` blocks of about `seconds` each."""
        calls = self.calls(batch)
        for _ in range(3):
            calls["plain"]()
        start = time.perf_counter()
        calls["plain"]()
        once = time.perf_counter() - start
        count = min(max(int(seconds / once), 1), MOST_CALLS)
        return rotate(calls, rounds=rounds, calls=count, progress=progress)


def options(threads: int) -> Any:
    """Session options under which an idle session leaves the cores to the others."""
    options = runtime().SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _rows(batch: int, k: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.full((batch, k), -1, np.int64)
