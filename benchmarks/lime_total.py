"""What LIME costs beyond its forwards: ours, and the original with preprocessing in NumPy.

    python benchmarks/lime_total.py [MODEL.onnx ...] [--samples 1000] [--rounds 7] [--without-lime]

Without MODEL: the bundled EfficientNet-Lite0 and a MobileNetV2 of random weights (needs torch and
transformers). Sides take turns in one process and one session: as many forwards alone, at their
best batch, twice (the ratio of the twins is the noise floor); all of `Model.lime`, from the
picture's file to coefficients with errors; and all of lime's `explain_instance` on the picture as
the model sees it, batches of 10, its predictor normalising in NumPy.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from classifiers import BUNDLED, mobilenet_v2
from numpy.typing import NDArray

from xai_onnx.cli.lime_sides import PICTURE, LimeSides
from xai_onnx.cli.output import progress, table
from xai_onnx.measure import Latency, environment, rotate
from xai_onnx.preprocess import prepare

LIMIT = 1.04
ALONE, TWIN, OURS, THEIRS = "forwards alone", "twin", "xai_onnx", "lime"
HEAD = ["median ms", "beyond the forwards, ms", "/ forwards alone", "quartiles"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--without-lime", action="store_true", help="leave the original out")
    arguments = parser.parse_args(argv)

    print(", ".join(f"{key} {value}" for key, value in environment().items()), flush=True)
    verdicts = []
    with tempfile.TemporaryDirectory() as folder:
        models = arguments.models or [BUNDLED, mobilenet_v2(Path(folder))]
        names = [ALONE, TWIN, OURS, *[THEIRS] * (not arguments.without_lime)]
        with progress(len(models) * len(names) * arguments.rounds, "block") as bar:
            for model in models:
                sides = LimeSides(model, None, arguments.threads, arguments.samples)
                calls = {ALONE: sides.forwards_alone, TWIN: sides.forwards_alone, OURS: sides.lime}
                if not arguments.without_lime:
                    calls[THEIRS] = original(sides, arguments.samples)
                sides.lime()  # kernels are read from disk, or compiled
                timed = rotate(
                    calls, rounds=arguments.rounds, calls=1, warmup=0, progress=bar.update
                )
                title = f"{model.stem}, N = {arguments.samples}, batch {sides.batch}"
                print("\n".join(["", *rows(title, timed)]), flush=True)
                verdicts += judged(title, timed)
    print("\n".join(["", *verdicts]))


def original(sides: LimeSides, samples: int) -> Callable[[], Any]:
    """lime's own explainer over the same session."""
    from lime import lime_image

    lime_image.tqdm = iter  # no progress bar
    recipe = sides.model.preprocess
    assert recipe is not None
    seen = prepare(str(PICTURE), recipe).seen
    forwards = sides.model.forwards()
    scale = np.float32(recipe.scale)
    mean, std = np.float32(recipe.mean), np.float32(recipe.std)

    def predict(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        tensor = (pictures.astype(np.float32) * scale - mean) / std
        if recipe.layout == "NCHW":
            tensor = tensor.transpose(0, 3, 1, 2)
        tensor = np.ascontiguousarray(tensor, forwards.image.dtype)
        return forwards(tensor, len(tensor))

    def explain() -> Any:
        explainer = lime_image.LimeImageExplainer(random_state=0)
        return explainer.explain_instance(seen, predict, num_samples=samples, batch_size=10)

    return explain


def rows(title: str, timed: dict[str, Latency]) -> list[str]:
    listed = [[title, *HEAD]]
    base = timed[ALONE]
    for side, latency in timed.items():
        middle, low, high = latency.ratio(base)
        beyond = (middle - 1) * base.median
        listed.append(
            [
                f"  {side}",
                f"{latency.median:.0f}",
                "" if side == ALONE else f"{beyond:.0f}",
                f"{middle:.3f}",
                f"{low:.3f}-{high:.3f}",
            ]
        )
    return table(listed)


def judged(title: str, timed: dict[str, Latency]) -> Iterator[str]:
    """Whether ours is within its limit, the noise floor allowed for."""
    noise = abs(timed[TWIN].ratio(timed[ALONE])[0] - 1)
    middle, _, _ = timed[OURS].ratio(timed[ALONE])
    verdict = "within" if middle <= LIMIT + noise else "BEYOND"
    yield f"{verdict} {LIMIT} + noise {noise:.3f}: {title}: {middle:.3f}"


if __name__ == "__main__":
    main()
