"""What `bench --method lime` compares: the whole of LIME, and its forwards alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xai_onnx.cli.sides import FREE_SIZE, options
from xai_onnx.errors import LimeWarning
from xai_onnx.lime.forwards import SIZES
from xai_onnx.measure import rotate
from xai_onnx.model import Model
from xai_onnx.session import Session

PICTURE = Path(__file__).parent.parent / "assets" / "coffee.jpg"
SIDES = ("forwards alone", "lime")
TRIED = 24  # pictures in the timed block of a batch size
TRIALS = 5  # blocks of each


class LimeSides:
    """Two ways to classify the same number of pictures with one session.

    Attributes:
        model: the classifier.
        batch: the fastest batch of its forwards, or its fixed one.
    """

    def __init__(
        self, model: str | Path, providers: Sequence[str] | None, threads: int, samples: int
    ) -> None:
        """Open `model`, a plain or explained classifier, for `samples` perturbed pictures."""
        self.session = Session(model, providers, options(threads))
        opened = Model(self.session)
        if opened.preprocess is None:
            opened = Model(self.session, _any_recipe(opened))
        self.model, self._samples = opened, samples
        self._forwards = opened.forwards()
        image = self._forwards.image
        sizes = [image.channels or 3, image.height or FREE_SIZE, image.width or FREE_SIZE]
        if image.layout == "NHWC":
            sizes = [*sizes[1:], sizes[0]]
        self._buffer = self._forwards.buffer(SIZES[-1], tuple(sizes))
        values = np.random.default_rng(0).random(self._buffer.shape, np.float32)
        self._buffer[:] = values.astype(image.dtype)
        self.batch = image.batch or self._fastest()

    def calls(self) -> dict[str, Callable[[], object]]:
        """What is timed, by side."""
        return {"forwards alone": self.forwards_alone, "lime": self.lime}

    def forwards_alone(self) -> None:
        """The same number of pictures, in the fastest batch, no picture composed."""
        for start in range(0, self._samples + 1, self.batch):  # and the picture itself
            self._forwards(self._buffer, min(self.batch, self._samples + 1 - start))

    def lime(self) -> Any:
        """From the picture's file to coefficients with errors."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LimeWarning)  # of a random network's answer
            return self.model.lime(PICTURE, num_samples=self._samples, batch_size=self.batch)

    def _fastest(self) -> int:
        def run(size: int) -> Callable[[], object]:
            def block() -> None:
                for _ in range(-(-TRIED // size)):
                    self._forwards(self._buffer, size)

            return block

        timed = rotate({str(size): run(size) for size in SIZES}, rounds=TRIALS, calls=1)
        per_image = {s: timed[str(s)].median / (-(-TRIED // s) * s) for s in SIZES}
        return min(per_image, key=lambda size: per_image[size])


def _any_recipe(model: Model) -> str:
    """Some preprocessing that fits: the time doesn't depend on its numbers."""
    image = model.forwards().image
    recipe = "raw" if image.dtype.kind == "u" else "unit"
    if image.channels == 1:
        recipe += ",color=GRAY,mean=0,std=1"
    return recipe if image.height and image.width else f"{recipe},size={FREE_SIZE}"
