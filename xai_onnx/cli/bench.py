"""``xai-onnx bench``: what explaining costs on this machine.

Of a file that explains itself: against the plain model. Of LIME: against its forwards alone.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import Any

from xai_onnx.cli.output import add_json, add_provider, progress, say, table
from xai_onnx.errors import InputShapeError


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser("bench", help="what explaining costs")
    parser.add_argument("model", metavar="MODEL", help="a plain classifier, .onnx")
    parser.add_argument(
        "--method",
        choices=("gradcam", "lime"),
        default="gradcam",
        help="gradcam: the explained file against the plain one; lime: the whole of LIME against "
        "its forwards alone",
    )
    parser.add_argument("--batch", default="1,8", metavar="N,...", help="batch sizes (1,8)")
    parser.add_argument(
        "--samples", type=int, default=1000, metavar="N", help="LIME's perturbed pictures (1000)"
    )
    parser.add_argument(
        "--threads", default="0", metavar="N,...", help="threads of one operator (0: all cores)"
    )
    parser.add_argument("--rounds", type=int, default=12, help="blocks for each side (12)")
    parser.add_argument(
        "--seconds", type=float, default=0.3, help="how long a block takes, about (0.3)"
    )
    add_provider(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure plain, its twin, explained and explained with K = 0, in blocks that take turns."""
    from xai_onnx import measure
    from xai_onnx.cli.sides import SIDES, Sides

    if arguments.method == "lime":
        return _run_lime(arguments)
    batches = _numbers(arguments.batch, "--batch")
    threads = _numbers(arguments.threads, "--threads", lowest=0)
    if arguments.rounds < 2 or not 0 < arguments.seconds < math.inf:
        raise InputShapeError("--rounds must be 2 or more, and --seconds above 0")
    results = []
    total = len(batches) * len(threads) * len(SIDES) * arguments.rounds
    with progress(total, "block") as bar:
        for count in threads:
            sides = Sides(arguments.model, arguments.provider, count)
            for batch in sorted({sides.batch(batch) for batch in batches}):
                timed = sides.measure(batch, arguments.rounds, arguments.seconds, bar.update)
                results.append({"batch": batch, "threads": count, "sides": _data(timed, batch)})
    data = {"model": arguments.model, "environment": measure.environment(), "results": results}
    say(arguments, data, _lines(data))
    return 0


def _run_lime(arguments: argparse.Namespace) -> int:
    """Measure LIME and its forwards alone, one call each in turn."""
    from xai_onnx import measure
    from xai_onnx.cli.lime_sides import SIDES, LimeSides

    threads = _numbers(arguments.threads, "--threads", lowest=0)
    if arguments.samples < 1 or arguments.rounds < 2:
        raise InputShapeError("--samples must be 1 or more, and --rounds 2 or more")
    results: list[dict[str, Any]] = []
    with progress(len(threads) * len(SIDES) * arguments.rounds, "block") as bar:
        for count in threads:
            sides = LimeSides(arguments.model, arguments.provider, count, arguments.samples)
            sides.lime()
            calls = {"rounds": arguments.rounds, "calls": 1, "warmup": 0}
            timed = measure.rotate(sides.calls(), **calls, progress=bar.update)
            results.append(
                {
                    "samples": arguments.samples,
                    "best_batch": sides.batch,
                    "threads": count,
                    "sides": _data(timed, arguments.samples, SIDES[0]),
                }
            )
    data = {"model": arguments.model, "environment": measure.environment(), "results": results}
    lines = [", ".join(f"{key} {value}" for key, value in measure.environment().items())]
    for result in results:
        threads_text = result["threads"] or "all"
        lines += [
            "",
            f"{arguments.model}, {arguments.samples} perturbed pictures, batch "
            f"{result['best_batch']}, threads {threads_text}",
            *table(_rows(result["sides"], "/ forwards")),
        ]
    say(arguments, data, lines)
    return 0


def _numbers(text: str, option: str, lowest: int = 1) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < lowest:
        raise InputShapeError(f"{option} {text!r}: must be whole numbers from {lowest} on, as 1,8")
    return numbers


def _data(timed: Mapping[str, Any], batch: int, base: str = "plain") -> dict[str, Any]:
    """Figures of each side; `base` is what the ratios are to."""
    data = {}
    for name, latency in timed.items():
        ratio, low, high = latency.ratio(timed[base])
        data[name] = {
            "median_ms": latency.median,
            "p50_ms": latency.percentile(50),
            "p95_ms": latency.percentile(95),
            "p99_ms": latency.percentile(99),
            "images_per_second": 1000 * batch / latency.median,
            "ratio": ratio,
            "ratio_quartiles": [low, high],
            "samples": len(latency.samples),
        }
    return data


def _lines(data: dict[str, Any]) -> list[str]:
    lines = [", ".join(f"{key} {value}" for key, value in data["environment"].items())]
    for result in data["results"]:
        threads = result["threads"] or "all"
        lines += ["", f"{data['model']}, batch {result['batch']}, threads {threads}"]
        lines += table(_rows(result["sides"], "/ plain"))
    return [*lines, "", "twin: a second session of the plain model, the noise floor of a ratio"]


def _rows(sides: Mapping[str, dict[str, Any]], ratio: str) -> list[list[str]]:
    """A table of sides, under its head."""
    rows = [["side", "p50 ms", "p95 ms", "p99 ms", "images/s", ratio, "quartiles", "samples"]]
    for name, side in sides.items():
        low, high = side["ratio_quartiles"]
        rows.append(
            [
                name,
                *(f"{side[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms")),
                f"{side['images_per_second']:.1f}",
                f"{side['ratio']:.3f}",
                f"{low:.3f}-{high:.3f}",
                str(side["samples"]),
            ]
        )
    return rows
