"""What an explanation costs: the explained file against the plain one, for several classifiers.

    python benchmarks/cost.py [MODEL.onnx ...] [--batch 1,8] [--rounds 40] [--seconds 0.1]

Without MODEL: the bundled EfficientNet-Lite0, and a ResNet-50 of random weights (needs torch and
transformers). Four sides take turns in one process: the plain model, a twin of it (its ratio to the
plain one is the noise floor), the explained file with K = 1 (scores, cam and saliency map fetched),
and with K = 0 (plain prediction through the explained file).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from classifiers import BUNDLED, resnet50

from xai_onnx.cli.output import progress, table
from xai_onnx.cli.sides import SIDES, Sides
from xai_onnx.measure import Latency, environment

LIMITS = {"explained": 1.05, "explained, K = 0": 1.01}
HEAD = ["median ms", "p95 ms", "/ plain", "quartiles", "samples"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.1)
    arguments = parser.parse_args(argv)
    batches = [int(batch) for batch in arguments.batch.split(",")]

    print(", ".join(f"{key} {value}" for key, value in environment().items()), flush=True)
    verdicts = []
    with tempfile.TemporaryDirectory() as folder:
        models = arguments.models or [BUNDLED, resnet50(Path(folder))]
        total = len(models) * len(batches) * len(SIDES) * arguments.rounds
        with progress(total, "block") as bar:
            for model in models:
                sides = Sides(str(model), None, arguments.threads)
                for batch in batches:
                    timed = sides.measure(batch, arguments.rounds, arguments.seconds, bar.update)
                    print("\n".join(["", *_rows(model.stem, batch, timed)]), flush=True)
                    verdicts += _verdicts(model.stem, batch, timed)
    print("\n".join(["", *verdicts]))


def _rows(model: str, batch: int, timed: dict[str, Latency]) -> list[str]:
    rows = [[f"{model}, batch {batch}", *HEAD]]
    for side, latency in timed.items():
        middle, low, high = latency.ratio(timed["plain"])
        rows.append(
            [
                f"  {side}",
                f"{latency.median:.2f}",
                f"{latency.percentile(95):.2f}",
                f"{middle:.3f}",
                f"{low:.3f}-{high:.3f}",
                str(len(latency.samples)),
            ]
        )
    return table(rows)


def _verdicts(model: str, batch: int, timed: dict[str, Latency]) -> Iterator[str]:
    """Where the cost is beyond its limit, the noise floor allowed for."""
    noise = abs(timed["twin"].ratio(timed["plain"])[0] - 1)
    for side, limit in LIMITS.items():
        middle, _, _ = timed[side].ratio(timed["plain"])
        verdict = "within" if middle <= limit + noise else "BEYOND"
        yield f"{verdict} {limit} + noise {noise:.3f}: {model}, batch {batch}, {side}: {middle:.3f}"


if __name__ == "__main__":
    main()
