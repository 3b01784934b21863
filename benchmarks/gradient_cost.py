"""What gradients cost: to the image and to the layer of Grad-CAM, against the plain forward.

    python benchmarks/gradient_cost.py [NAME ...] [--batch 1,8] [--rounds 15] [--profile SIDE]

Five classifiers of random weights. Five sessions take turns in one process: the plain model, a twin
of it (its ratio to the plain one is the noise floor), the explained file with K = 1 and with K = 5
(scores and cam fetched), and a file that gives the scores and the whole gradient of one class score
by the image. A ratio is the time of one run, forward and gradient together, over that of the plain
forward: of the gradient to the image about 3 would be a backward pass twice as dear as the forward,
as where weights learn, and about 2 is the limit here. Limits hold at batch 8. Then the export of
ResNet-50 in a process without torch, and what it adds to the file.

--profile prints where the time of a side goes, by operator: the model's own nodes beside the
emitted ones. It counts what ONNX Runtime reports, so two sessions' worth of noise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import classifiers
import numpy as np
import onnxruntime
from emitted_gradient import with_image_gradient

import exporters
from exporters.builder import PREFIX
from xai_onnx.cli.output import progress, table
from xai_onnx.measure import Latency, environment, rotate

MODELS: dict[str, Callable[[Path], Path]] = {
    "resnet50": classifiers.resnet50,
    "densenet121": classifiers.densenet121,
    "vgg16": classifiers.vgg16,
    "mobilenet_v2": classifiers.mobilenet_v2,
    "efficientnet_b0": classifiers.efficientnet_b0,
}
SIDES = ("plain", "twin", "Grad-CAM, K = 1", "Grad-CAM, K = 5", "input gradient")
HEAD = ["median ms", "/ plain", "quartiles", "samples"]
LIMITED_BATCH = 8
EXPORT_LIMIT, GROWTH_LIMIT = 3.0, 0.01
EXPORT = """
import sys, time
start = time.perf_counter()
import exporters
ready = time.perf_counter()
exporters.export_gradcam(sys.argv[1], sys.argv[2])
print(ready - start, time.perf_counter() - ready, "torch" in sys.modules)
"""

Feed = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(MODELS), metavar="NAME")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--profile", choices=SIDES)
    arguments = parser.parse_args(argv)
    unknown = set(arguments.names) - set(MODELS)
    if unknown:
        parser.error(f"no model {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    batches = [int(batch) for batch in arguments.batch.split(",")]

    print(", ".join(f"{key} {value}" for key, value in environment().items()), flush=True)
    verdicts: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.names:
            path = MODELS[name](Path(folder))
            files = Files(path)
            if arguments.profile:
                for batch in batches:
                    print("\n".join(["", *_profile(name, batch, files, arguments.profile)]))
                continue
            with progress(len(batches) * len(SIDES) * arguments.rounds, "block") as bar:
                sessions = files.sessions()
                for batch in batches:
                    timed = rotate(
                        calls(sessions, batch),
                        rounds=arguments.rounds,
                        calls=1,
                        progress=bar.update,
                    )
                    print("\n".join(["", *_rows(name, batch, timed)]), flush=True)
                    if batch == LIMITED_BATCH:
                        verdicts += _verdicts(name, timed)
            if name == "resnet50":
                verdicts += _export(path)
            path.unlink()
    print("\n".join(["", *verdicts]))


class Files:
    """The plain model and what is made of it."""

    def __init__(self, path: Path) -> None:
        explained = path.with_name("explained.onnx")
        exporters.export_gradcam(path, explained, saliency_map=False)
        self.of: dict[str, Path | bytes] = dict.fromkeys(SIDES[:2], path)
        self.of |= dict.fromkeys(SIDES[2:4], explained)
        self.of[SIDES[4]] = with_image_gradient(path)

    def sessions(self) -> dict[str, onnxruntime.InferenceSession]:
        """A session for each side; K is a matter of what it is fed."""
        made = {side: _session(self.of[side]) for side in (*SIDES[:3], SIDES[4])}
        return {side: made.get(side, made[SIDES[2]]) for side in SIDES}


def _session(model: Path | bytes, profile: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _feed(session: onnxruntime.InferenceSession, side: str, batch: int) -> Feed:
    image, *rest = session.get_inputs()
    shape = (batch, *image.shape[1:])
    feed: Feed = {image.name: np.random.default_rng(0).random(shape, np.float32)}
    k = 5 if side.endswith("5") else 1
    classes = np.arange(batch * k).reshape(batch, k) % 5
    return feed | {given.name: classes for given in rest}


def calls(
    sessions: dict[str, onnxruntime.InferenceSession], batch: int
) -> dict[str, Callable[[], object]]:
    """What is timed, by side."""

    def call(side: str, session: onnxruntime.InferenceSession) -> Callable[[], object]:
        feed = _feed(session, side, batch)
        outputs = [output.name for output in session.get_outputs()]
        wanted = [name for name in outputs if name != "activations"]
        return lambda: session.run(wanted, feed)

    return {side: call(side, session) for side, session in sessions.items()}


def _rows(name: str, batch: int, timed: dict[str, Latency]) -> list[str]:
    rows = [[f"{name}, batch {batch}", *HEAD]]
    for side, latency in timed.items():
        middle, low, high = latency.ratio(timed["plain"])
        cells = [f"{latency.median:.1f}", f"{middle:.3f}", f"{low:.3f}-{high:.3f}"]
        rows.append([f"  {side}", *cells, str(len(latency.samples))])
    return table(rows)


def limits(name: str) -> dict[str, float]:
    """The highest ratio to the plain model, by side."""
    small = name in ("mobilenet_v2", "efficientnet_b0")
    one = 1.06 if name == "vgg16" else 1.03
    return dict(zip(SIDES[2:], (one, 1.08, 3.5 if small else 2.5), strict=True))


def _verdicts(name: str, timed: dict[str, Latency]) -> Iterator[str]:
    """Where a cost is beyond its limit, the noise floor allowed for."""
    noise = abs(timed["twin"].ratio(timed["plain"])[0] - 1)
    for side, limit in limits(name).items():
        middle, _, _ = timed[side].ratio(timed["plain"])
        verdict = "within" if middle <= limit * (1 + noise) else "BEYOND"
        yield f"{verdict} {limit} (noise {noise:.3f}): {name}, {side}: {middle:.3f}"


def _export(path: Path) -> Iterator[str]:
    """Export in a process of its own: time and growth of the file, against their limits."""
    explained = path.with_name("exported.onnx")
    command = [sys.executable, "-c", EXPORT, str(path), str(explained)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    start, seconds, torch = out.split()
    if torch == "True":
        raise RuntimeError("the export has imported torch")
    verdict = "within" if float(seconds) <= EXPORT_LIMIT else "BEYOND"
    yield (
        f"{verdict} {EXPORT_LIMIT} s: export of {path.stem} without torch: {float(seconds):.2f} s, "
        f"after {float(start):.2f} s of imports"
    )
    growth = explained.stat().st_size / path.stat().st_size - 1
    verdict = "within" if growth <= GROWTH_LIMIT else "BEYOND"
    yield f"{verdict} {GROWTH_LIMIT:.0%}: growth of the file of {path.stem}: {growth:.3%}"


def _profile(name: str, batch: int, files: Files, side: str) -> list[str]:
    """Milliseconds of a run by operator: of plain nodes, and of the side's own and emitted ones."""
    plain, _ = _by_operator(files.of["plain"], "plain", batch)
    own, emitted = _by_operator(files.of[side], side, batch)
    rows = [[f"{name}, batch {batch}, {side}", "plain", "own", "emitted"]]
    total = plain + own + emitted
    for operator, _ in total.most_common():
        cells = [f"{part[operator]:.2f}" for part in (plain, own, emitted)]
        rows.append([f"  {operator}", *cells])
    sums = [f"{part.total():.2f}" for part in (plain, own, emitted)]
    return table([*rows, ["  all", *sums]])


def _by_operator(
    model: Path | bytes, side: str, batch: int, runs: int = 3
) -> tuple[Counter[str], Counter[str]]:
    """Milliseconds of a run, by operator: of the model's own nodes, and of emitted ones."""
    with tempfile.TemporaryDirectory() as folder:
        session = _session(model, Path(folder) / "profile")
        call = calls({side: session}, batch)[side]
        for _ in range(runs + 1):
            call()
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    second = sorted(event["ts"] for event in events if event["name"] == "model_run")[1]
    own, emitted = Counter[str](), Counter[str]()
    for event in events:
        if event["name"].endswith("_kernel_time") and event["ts"] >= second:
            part = emitted if event["name"].startswith(PREFIX) else own
            part[event["args"]["op_name"]] += event["dur"] / 1000 / runs
    return own, emitted


if __name__ == "__main__":
    main()
