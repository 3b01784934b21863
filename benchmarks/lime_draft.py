"""How fast LIME comes near its answer: sampling designs and an int8 draft, against lime itself.

    python benchmarks/lime_draft.py [--pictures astronaut,chelsea,coffee] [--samples 1024]
        [--seeds 4] [--converged 16384] [--rounds 3] [--deadline 0.15] [--plot docs/lime_error.png]

The bundled EfficientNet-Lite0; its int8 copy is calibrated on crops of scikit-image's pictures. The
reference answer is a long run of the float model over the same superpixels (foldover, another
seed), kept in --cache. For logit and probability of the predicted class it prints

- forwards a second of both models, in turns;
- the error of the coefficients, relative in their length, over the number of forwards: iid,
  foldover, and foldover with regression adjustment (the default) on the float model, the default on
  the draft; mean of the seeds;
- lime itself with its default of 1,000 samples, the same session and superpixels: its error, its
  time, and the time of ours until the error is as small: `Model.lime` with the number of samples
  at which the curve of errors crosses lime's;
- with a deadline: how many of the three strongest superpixels are those of the reference answer,
  for quickshift's superpixels and for a coarse grid's, which cost no time.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from classifiers import BUNDLED
from int8_maps import crops
from numpy.typing import NDArray
from skimage import data

import exporters
import xai_onnx
from xai_onnx import render
from xai_onnx.cli.output import progress, table
from xai_onnx.cli.sides import options
from xai_onnx.errors import LimeWarning
from xai_onnx.lime import sampling
from xai_onnx.lime.estimate import Scored, estimate
from xai_onnx.lime.perturb import Composer, baseline
from xai_onnx.lime.score_scale import choose
from xai_onnx.measure import environment, rotate
from xai_onnx.model import Model
from xai_onnx.preprocess import Prepared, prepare

PICTURES = ("astronaut", "chelsea", "coffee")
RECIPE = "lite"
SCORES = ("logit", "probability")
REFERENCE_SEED = 4_000_000_000
CALIBRATION = 32  # crops
IID, FOLDOVER, ADJUSTED, DRAFT = "iid", "foldover", "adjusted", "adjusted, int8 draft"
SIDES = (IID, FOLDOVER, ADJUSTED, DRAFT)
GRID = "grid,rows=4,columns=4"
WANTED = {  # lime's time over ours, at lime's error
    ("logit", ADJUSTED): 5.0,
    ("probability", ADJUSTED): 2.5,
    ("logit", DRAFT): 10.0,
    ("probability", DRAFT): 5.0,
}
BATCH = 8
SHARES = (1, 2, 4, 6, 8, 12, 16, 24, 32)  # of the samples, in 32nds: where errors are taken
COLORS = {
    IID: (120, 120, 120),
    FOLDOVER: (31, 119, 180),
    ADJUSTED: (20, 140, 60),
    DRAFT: (214, 90, 30),
}

Floats = NDArray[np.float64]
Masks = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Models:
    """The bundled classifier, and its int8 copy."""

    plain: Model
    draft: Model

    @classmethod
    def made(cls, folder: Path) -> Models:
        """Both, opened; the copy is written to `folder`."""
        plain = xai_onnx.load(BUNDLED, preprocess=RECIPE, session_options=options(0))
        assert plain.preprocess is not None
        generator = np.random.default_rng(0)
        seen = [prepare(crop, plain.preprocess).tensor for crop in crops(CALIBRATION, generator)]
        path = folder / "int8.onnx"
        exporters.export_int8(BUNDLED, path, np.stack(seen), preprocess=RECIPE)
        return cls(plain, xai_onnx.load(path, session_options=options(0)))


class Subject:
    """One picture with its superpixels, and scores of any masks on it."""

    def __init__(self, models: Models, name: str, segments: str = "quickshift") -> None:
        """Segment the picture of scikit-image called `name`, and classify it."""
        recipe = models.plain.preprocess
        assert recipe is not None
        self.name, self.models, self.method = name, models, segments
        self.pixels: NDArray[np.uint8] = getattr(data, name)()
        self.prepared: Prepared = prepare(self.pixels, recipe)
        tensor = self.prepared.tensor
        once = {"segments": segments, "num_samples": 1, "batch_size": 1}
        self.segments = models.plain.lime(self.pixels, **once).segments
        fill = baseline(tensor, self.segments, "mean", recipe=recipe, channels_last=False)
        self._composer = Composer(tensor, fill, self.segments, channels_last=False)
        self.d = self._composer.d
        itself = self.scores(models.plain, np.ones((1, self.d), np.uint8))
        self.target = int(itself[0].argmax())
        dtype = models.plain.forwards().dtype
        self._scales = [choose(score, None, itself[0], dtype, name) for score in SCORES]
        self._origin = self._explained(itself)[0]

    def scores(self, model: Model, masks: Masks) -> NDArray[np.float32]:
        """Scores [n, N] of the pictures perturbed with `masks`."""
        forwards = model.forwards()
        buffer = forwards.buffer(BATCH, self.prepared.tensor.shape)
        rows = []
        for start in range(0, len(masks), BATCH):
            batch = np.ascontiguousarray(masks[start : start + BATCH])
            self._composer.compose(batch, buffer)
            rows.append(forwards(buffer, len(batch)))
        return np.concatenate(rows)

    def scored(self, model: Model, design: str, count: int, seed: int) -> list[Scored]:
        """Masks of a design by block, with logit and probability."""
        blocks = sampling.SAMPLING_DESIGNS[design](self.d, count, seed, sampling.WIDTH)
        return [
            Scored(b.masks, b.weights, self._explained(self.scores(model, b.masks)), self._origin)
            for b in blocks
        ]

    def _explained(self, rows: NDArray[np.float32]) -> Floats:
        return np.stack([scale.of(rows)[:, self.target] for scale in self._scales], axis=1)

    def reference(self, samples: int, cache: Path) -> Floats:
        """The converged answer, [2, d], out of `cache` where it is known."""
        content = self.segments.tobytes() + self.pixels.tobytes()
        key = hashlib.sha256(content).hexdigest()[:16]
        path = cache / f"{self.name}-{samples}-{key}.npy"
        if not path.exists():
            cache.mkdir(parents=True, exist_ok=True)
            many = self.scored(self.models.plain, "foldover", samples, REFERENCE_SEED)
            np.save(path, estimate(many, False, sampling.WIDTH).fit.coefficients)
        stored: Floats = np.load(path)
        return stored

    def by_lime(self, score: int, seed: int) -> tuple[Floats, float]:
        """lime's coefficients of the target, [d], and the seconds that it took."""
        from lime import lime_image

        lime_image.tqdm = iter  # no progress bar
        forwards, recipe = self.models.plain.forwards(), self.models.plain.preprocess
        assert recipe is not None
        scale, mean, std = (np.float32(v) for v in (recipe.scale, recipe.mean, recipe.std))

        def predict(pictures: NDArray[np.uint8]) -> Floats:
            tensor = (pictures.astype(np.float32) * scale - mean) / std
            tensor = np.ascontiguousarray(tensor.transpose(0, 3, 1, 2))
            return self._scales[score].of(forwards(tensor, len(tensor)))

        start = time.perf_counter()
        explainer = lime_image.LimeImageExplainer(random_state=seed)
        found = explainer.explain_instance(
            self.prepared.seen, predict, labels=(self.target,), top_labels=None
        )
        seconds = time.perf_counter() - start
        if not np.array_equal(found.segments, self.segments):
            raise SystemExit(f"{self.name}: lime's superpixels are others than ours")
        coefficients = np.zeros(self.d)
        for superpixel, value in found.local_exp[self.target]:
            coefficients[superpixel] = value
        return coefficients, seconds

    def by_us(self, score: int, side: str, samples: int) -> float:
        """Seconds of `Model.lime` with so many samples, superpixels included."""
        start = time.perf_counter()
        self.models.plain.lime(
            self.pixels,
            self.target,
            num_samples=samples,
            score=SCORES[score],
            draft_model=self.models.draft if side == DRAFT else None,
        )
        return time.perf_counter() - start


def error(found: Floats, reference: Floats) -> float:
    """Relative, in the length of the coefficients."""
    return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))


def curves(
    subject: Subject, reference: Floats, counts: Sequence[int], seeds: int
) -> dict[str, Floats]:
    """For each side the mean error over the seeds, [counts, 2]."""
    errors = {side: np.zeros((len(counts), len(SCORES))) for side in SIDES}
    plain, draft = subject.models.plain, subject.models.draft
    for seed in range(seeds):
        iid, foldover, drafted = (
            subject.scored(model, design, max(counts), seed)
            for model, design in ((plain, "iid"), (plain, "foldover"), (draft, "foldover"))
        )
        runs = {IID: iid, FOLDOVER: foldover, ADJUSTED: foldover, DRAFT: drafted}
        for side, blocks in runs.items():
            for i, count in enumerate(counts):
                adjusted = side in (ADJUSTED, DRAFT)
                found = estimate(first(blocks, count), adjusted, sampling.WIDTH).fit.coefficients
                errors[side][i] += [
                    error(found[k], reference[k]) / seeds for k in range(len(SCORES))
                ]
    return errors


def first(blocks: Sequence[Scored], count: int) -> list[Scored]:
    """The first `count` rows."""
    found = []
    for block in blocks:
        rows = slice(min(count, len(block.masks)))
        parts = block.masks[rows], block.weights[rows], block.targets[rows]
        if len(parts[0]):
            found.append(Scored(*parts, block.origin))
        count -= len(parts[0])
    return found


def crossing(counts: Sequence[int], errors: Floats, wanted: float) -> int | None:
    """Forwards after which the error is `wanted`, between the points in a log-log plot.

    ``None`` where it never is; the smallest count where it always is.
    """
    below = np.flatnonzero(errors <= wanted)
    if not len(below):
        return None
    after = int(below[0])
    if after == 0:
        return counts[0]
    x, y = np.log(counts[after - 1 : after + 1]), np.log(errors[after - 1 : after + 1])
    share = (np.log(wanted) - y[0]) / (y[1] - y[0])
    return round(float(np.exp(x[0] + share * (x[1] - x[0]))))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", default=",".join(PICTURES))
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--converged", type=int, default=16384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--deadline", type=float, default=0.15)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "lime_draft")
    parser.add_argument("--plot", type=Path, default=Path("docs/lime_error.png"))
    arguments = parser.parse_args(argv)
    counts = [arguments.samples * share // 32 for share in SHARES]

    print(", ".join(f"{key} {value}" for key, value in environment().items()), flush=True)
    warnings.simplefilter("ignore", LimeWarning)
    names = arguments.pictures.split(",")
    every: list[dict[str, Floats]] = []
    verdicts: list[str] = []
    with tempfile.TemporaryDirectory() as folder, progress(3 * len(names), "step") as bar:
        models = Models.made(Path(folder))
        subjects = [Subject(models, name) for name in names]
        speeds = forwards_a_second(subjects[0], arguments.rounds)
        print("\n".join(["", *speed_lines(speeds)]), flush=True)
        ratios: dict[tuple[str, str], list[float]] = {}
        for subject in subjects:
            reference = subject.reference(arguments.converged, arguments.cache)
            bar.update()
            every.append(curves(subject, reference, counts, arguments.seeds))
            bar.update()
            print("\n".join(["", *error_lines(subject, counts, every[-1])]), flush=True)
            for key, ratio in against_lime(subject, reference, counts, every[-1], arguments):
                ratios.setdefault(key, []).append(ratio)
            bar.update()
        deadline_lines(models, names, arguments)
    for (score, side), wanted in WANTED.items():
        found = ratios.get((score, side), [])
        middle = float(np.median(found)) if found else float("nan")
        verdict = "within" if middle >= wanted else "BEYOND"
        verdicts.append(
            f"{verdict} {wanted}: lime's time / ours at lime's error, {score}, {side}: "
            f"{middle:.2f} (median of {len(found)} pictures)"
        )
    print("\n".join(["", *verdicts]))
    render.save(plot(counts, every, speeds), arguments.plot)


def forwards_a_second(subject: Subject, rounds: int) -> dict[str, float]:
    """Of composed pictures, float and int8 in turns."""
    masks = np.random.default_rng(0).integers(0, 2, (8 * BATCH, subject.d), np.uint8)
    calls: dict[str, Callable[[], object]] = {
        side: partial(subject.scores, model, masks)
        for side, model in ((FOLDOVER, subject.models.plain), (DRAFT, subject.models.draft))
    }
    timed = rotate(calls, rounds=max(rounds, 3), calls=1)
    found = {side: 1000 * len(masks) / latency.median for side, latency in timed.items()}
    return {side: found[DRAFT if side == DRAFT else FOLDOVER] for side in SIDES}


def speed_lines(speeds: dict[str, float]) -> list[str]:
    ratio = speeds[DRAFT] / speeds[FOLDOVER]
    return [
        f"forwards a second: float32 {speeds[FOLDOVER]:.0f}, int8 {speeds[DRAFT]:.0f}, "
        f"{ratio:.2f} times as many"
    ]


def error_lines(subject: Subject, counts: Sequence[int], found: dict[str, Floats]) -> list[str]:
    rows = [[f"{subject.name}, {subject.d} superpixels", *(f"N = {count}" for count in counts)]]
    for k, score in enumerate(SCORES):
        for side in SIDES:
            rows.append([f"  {score}, {side}", *(f"{e:.3f}" for e in found[side][:, k])])
    return table(rows)


def against_lime(
    subject: Subject,
    reference: Floats,
    counts: Sequence[int],
    found: dict[str, Floats],
    arguments: argparse.Namespace,
) -> list[tuple[tuple[str, str], float]]:
    """lime's time over ours until the error is lime's, by score and side; printed, too."""
    ratios = []
    for k, score in enumerate(SCORES):
        runs = [subject.by_lime(k, seed) for seed in range(arguments.rounds)]
        theirs = float(np.mean([error(coefficients, reference[k]) for coefficients, _ in runs]))
        lines = [f"  lime, {score}: error {theirs:.3f} in {np.median([s for _, s in runs]):.2f} s"]
        for side in (ADJUSTED, DRAFT):
            samples = crossing(counts, found[side][:, k], theirs)
            if samples is None:
                floor = found[side][-1, k]
                lines.append(f"    {side}: not within {counts[-1]} forwards, error {floor:.3f}")
                continue
            subject.by_us(k, side, samples)  # kernels and the batch size are found once
            ours, lime = [], []
            for seed in range(arguments.rounds):
                ours.append(subject.by_us(k, side, samples))
                lime.append(subject.by_lime(k, seed)[1])
            ratio = float(np.median(np.array(lime) / np.array(ours)))
            ratios.append(((score, side), ratio))
            lines.append(
                f"    {side}: {samples} forwards, {np.median(ours):.2f} s, {ratio:.2f} x as fast"
            )
        print("\n".join(lines), flush=True)
    return ratios


def deadline_lines(models: Models, names: Sequence[str], arguments: argparse.Namespace) -> None:
    """Print how often the strongest superpixels are those of the reference answer."""
    rows = [[f"deadline {arguments.deadline:g} s", "forwards", "of the top 3", "all 3", "seconds"]]
    for subject in [Subject(models, name, s) for s in ("quickshift", GRID) for name in names]:
        reference = subject.reference(arguments.converged, arguments.cache)[0]
        best = set(np.argsort(-np.abs(reference))[:3])
        for model, draft in (("float32", None), ("int8 draft", models.draft)):
            runs = []
            for seed in range(max(arguments.seeds, 4)):
                start = time.perf_counter()
                found = models.plain.lime(
                    subject.pixels,
                    subject.target,
                    segments=subject.method,
                    seed=seed,
                    deadline=arguments.deadline,
                    draft_model=draft,
                )
                seconds = time.perf_counter() - start
                runs.append((found.forwards, len(best & set(found.ranked[:3])), seconds))
            forwards, common, seconds = (np.array(part) for part in zip(*runs, strict=True))
            rows.append(
                [
                    f"  {subject.name}, {subject.d} of {subject.method.split(',')[0]}, {model}",
                    f"{np.median(forwards):.0f}",
                    f"{common.mean():.2f}",
                    f"{(common == 3).mean():.0%}",
                    f"{np.median(seconds):.3f}",
                ]
            )
    print("\n".join(["", *table(rows)]), flush=True)


def plot(
    counts: Sequence[int], every: Sequence[dict[str, Floats]], speeds: dict[str, float]
) -> NDArray[np.uint8]:
    """Error over the seconds of the forwards, a panel for each score, both axes logarithmic.

    The error is the geometric mean of the pictures'.
    """
    panels = []
    mean = {
        side: np.exp(np.mean([np.log(found[side]) for found in every], axis=0)) for side in SIDES
    }
    seconds = {side: np.array(counts) / speeds[side] for side in SIDES}
    x_range = np.log([min(s[0] for s in seconds.values()), max(s[-1] for s in seconds.values())])
    for k, score in enumerate(SCORES):
        values = np.concatenate([mean[side][:, k] for side in SIDES])
        y_range = np.log([values.min() / 1.15, values.max() * 1.15])
        panel = np.full((420, 560, 3), 255, np.uint8)
        draw = partial(_place, x_range=x_range, y_range=y_range)
        cv2.rectangle(panel, (70, 40), (540, 360), (200, 200, 200), 1)
        _write(panel, f"LIME, {score}: relative error over seconds", (70, 25))
        for tick in _ticks(np.exp(x_range)):
            x, _ = draw(np.log(tick), y_range[0])
            cv2.line(panel, (x, 360), (x, 365), (0, 0, 0), 1)
            _write(panel, f"{tick:g} s", (x - 14, 382))
        for tick in _ticks(np.exp(y_range)):
            _, y = draw(x_range[0], np.log(tick))
            cv2.line(panel, (65, y), (70, y), (0, 0, 0), 1)
            _write(panel, f"{tick:g}", (25, y + 4))
        for row, side in enumerate(SIDES):
            places = [
                draw(np.log(x), np.log(y))
                for x, y in zip(seconds[side], mean[side][:, k], strict=True)
            ]
            line = np.array(places, np.int32)
            cv2.polylines(panel, [line], False, COLORS[side], 2, cv2.LINE_AA)
            for place in places:
                cv2.circle(panel, place, 4, COLORS[side], -1, cv2.LINE_AA)
            _write(panel, side, (90, 280 + 20 * row), COLORS[side])
        panels.append(panel)
    return np.concatenate(panels, axis=1)


def _place(x: float, y: float, x_range: Floats, y_range: Floats) -> tuple[int, int]:
    """Pixel of a point of the plot."""
    across = (x - x_range[0]) / (x_range[1] - x_range[0])
    up = (y - y_range[0]) / (y_range[1] - y_range[0])
    return round(80 + 450 * across), round(350 - 300 * up)


def _ticks(ends: Floats) -> list[float]:
    """1, 2 and 5 times powers of ten between the ends."""
    candidates = [m * 10.0**e for e in range(-4, 5) for m in (1, 2, 5)]
    return [tick for tick in candidates if ends[0] <= tick <= ends[1]]


def _write(
    panel: NDArray[np.uint8],
    text: str,
    place: tuple[int, int],
    color: tuple[int, int, int] = (0, 0, 0),
) -> None:
    cv2.putText(panel, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, 1, cv2.LINE_AA)


if __name__ == "__main__":
    main()
