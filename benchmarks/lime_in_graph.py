"""What LIME inside the file costs and gives: against its forwards alone, and against the host path.

    python benchmarks/lime_in_graph.py [MODEL.onnx ...] [--samples 1024] [--batch 8] [--rounds 7]

Without MODEL: the bundled EfficientNet-Lite0. Sides take turns in one process: as many forwards of
the plain model alone, in the same batches, twice (the ratio of the twins is the noise floor); one
run of the file, picture and superpixels in, coefficients and errors out; and all of `Model.lime`
with the same superpixels, on the plain model. Before that the file's answer is compared with the
one that the host makes of the same masks.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from classifiers import BUNDLED
from numpy.typing import NDArray

import exporters
import xai_onnx
from xai_onnx.cli.lime_sides import PICTURE
from xai_onnx.cli.output import progress, table
from xai_onnx.cli.sides import options
from xai_onnx.errors import LimeWarning
from xai_onnx.lime import file_masks, sampling
from xai_onnx.lime.explanation import LimeExplanation
from xai_onnx.lime.perturb import Composer, baseline
from xai_onnx.lime.surrogate import Gram, fit
from xai_onnx.measure import Latency, environment, rotate
from xai_onnx.preprocess import prepare

LIMIT = 1.05
LARGEST_DIFFERENCE = 1e-4  # of the largest coefficient
ALONE, TWIN, FILE, HOST = "forwards alone", "twin", "one run of the file", "Model.lime"
HEAD = ["median ms", "/ forwards alone", "quartiles"]


class Sides:
    """The plain model, and the file made of it, on one picture."""

    def __init__(self, model: Path, folder: Path, recipe: str, samples: int, batch: int) -> None:
        """Export `model` into `folder`, and open both."""
        path = folder / "lime.onnx"
        exporters.export_lime(model, path, num_samples=samples, batch_size=batch, preprocess=recipe)
        self.samples, self.batch = samples, batch
        self.grown = path.stat().st_size / model.stat().st_size - 1
        self._file = xai_onnx.load(path, session_options=options(0))
        self._plain = xai_onnx.load(model, preprocess=recipe, session_options=options(0))
        assert self._plain.preprocess is not None
        self._tensor = prepare(str(PICTURE), self._plain.preprocess).tensor
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LimeWarning)
            self.segments = self.host(segments=None).segments

    def calls(self) -> dict[str, Callable[[], object]]:
        """What is timed, by side."""
        return {ALONE: self.alone, TWIN: self.alone, FILE: self.file, HOST: self.host}

    def alone(self) -> None:
        """The same batches; the last is filled up, as in the file."""
        forwards = self._plain.forwards()
        buffer = forwards.buffer(self.batch, self._tensor.shape)
        buffer[:] = self._tensor
        for _ in range(-(-(self.samples + 1) // self.batch)):
            forwards(buffer, self.batch)

    def file(self) -> LimeExplanation:
        """From the picture's file and its superpixels to coefficients and errors."""
        found: LimeExplanation = self._file.lime(PICTURE, segments=self.segments)
        return found

    def host(self, **segments: Any) -> LimeExplanation:
        """The same on the host, in the same batches."""
        found: LimeExplanation = self._plain.lime(
            PICTURE,
            num_samples=self.samples,
            batch_size=self.batch,
            adjustment=False,  # as in the file
            **{"segments": getattr(self, "segments", None), **segments},
        )
        return found

    def difference(self) -> float:
        """Largest difference between the file's coefficients and the host's of the same masks.

        Relative to the largest coefficient.
        """
        found = self.file()
        forwards = self._plain.forwards()
        layout = {"channels_last": forwards.image.layout == "NHWC"}
        fill = baseline(
            self._tensor, self.segments, "mean", recipe=self._plain.preprocess, **layout
        )
        composer = Composer(self._tensor, fill, self.segments, **layout)
        buffer = forwards.buffer(self.batch, self._tensor.shape)
        table = sampling.proximity(composer.d)
        gram = Gram(composer.d, 1, np.array([found.value]))
        lime = self._file.manifest.lime
        drawn = file_masks.blocks(lime.max_segments, lime.num_samples, lime.seed)
        # The picture itself is the first row of the file's first batch.
        rows = np.concatenate([block.masks for block in drawn])[:, : composer.d]
        itself = np.ones((1, composer.d), np.uint8)
        for batch in batches(np.concatenate([itself, np.ascontiguousarray(rows)]), self.batch):
            composer.compose(batch, buffer)
            scores = forwards(buffer, len(batch))[:, [found.target]].astype(np.float64)
            first = 0 if gram.rows else 1
            gram.add(batch[first:], table[batch[first:].sum(1)], scores[first:])
        expected = fit(gram).coefficients[0]
        return float(np.abs(found.coefficients - expected).max() / np.abs(expected).max())


def batches(rows: NDArray[np.uint8], size: int) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(rows), size):
        yield np.ascontiguousarray(rows[start : start + size])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    parser.add_argument("--preprocess", default="lite", help="of every MODEL (lite)")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args(argv)

    print(", ".join(f"{key} {value}" for key, value in environment().items()), flush=True)
    verdicts = []
    warnings.simplefilter("ignore", LimeWarning)
    models = arguments.models or [BUNDLED]
    with progress(4 * len(models) * arguments.rounds, "block") as bar:
        for model in models:
            with tempfile.TemporaryDirectory() as folder:
                sides = Sides(
                    model,
                    Path(folder),
                    arguments.preprocess,
                    arguments.samples,
                    arguments.batch,
                )
                difference = sides.difference()
                timed = rotate(
                    sides.calls(), rounds=arguments.rounds, calls=1, warmup=0, progress=bar.update
                )
            title = (
                f"{model.stem}, N = {arguments.samples} and the picture, batch {arguments.batch}, "
                f"{sides.segments.max() + 1} superpixels, file {sides.grown:+.2%}"
            )
            print("\n".join(["", title, *rows(timed)]), flush=True)
            verdicts += judged(model.stem, timed, difference)
    print("\n".join(["", *verdicts]))


def rows(timed: dict[str, Latency]) -> list[str]:
    listed = [["", *HEAD]]
    for side, latency in timed.items():
        middle, low, high = latency.ratio(timed[ALONE])
        listed.append(
            [f"  {side}", f"{latency.median:.0f}", f"{middle:.3f}", f"{low:.3f}-{high:.3f}"]
        )
    return table(listed)


def judged(model: str, timed: dict[str, Latency], difference: float) -> Iterator[str]:
    """Whether the file is within its limits, the noise floor allowed for."""
    noise = abs(timed[TWIN].ratio(timed[ALONE])[0] - 1)
    middle, _, _ = timed[FILE].ratio(timed[ALONE])
    verdict = "within" if middle <= LIMIT + noise else "BEYOND"
    yield f"{verdict} {LIMIT} + noise {noise:.3f}: {model}, file / forwards alone: {middle:.3f}"
    verdict = "within" if difference <= LARGEST_DIFFERENCE else "BEYOND"
    yield f"{verdict} {LARGEST_DIFFERENCE}: {model}, file and host differ by {difference:.1e}"


if __name__ == "__main__":
    main()
