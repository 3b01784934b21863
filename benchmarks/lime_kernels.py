"""LIME's kernels against lime 0.2.0.1, scikit-image and a plain copy, in one process.

    python benchmarks/lime_kernels.py [--rounds 15] [--size 224] [--samples 1000]

First what must be equal: superpixels, masks, fills and composed pictures to the bit, coefficients
within 1e-12, forward selection feature for feature. Then times, sides taking turns, each with its
bound: composing against a copy of as many bytes and against lime's, the fit of 5 labels against
lime's, quickshift against scikit-image's. Exits with 1 if a line says DIFFERENT or BEYOND.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata

import lime.lime_image
import numpy as np
from PIL import Image
from skimage import data, segmentation

from xai_onnx.cli.output import progress, table
from xai_onnx.lime import compat
from xai_onnx.lime.compat.neighborhood import distances
from xai_onnx.lime.compat.regression import Surrogate
from xai_onnx.lime.kernels import jit
from xai_onnx.lime.perturb import Composer, baseline
from xai_onnx.lime.superpixels import quickshift
from xai_onnx.measure import Latency, Side, environment, rotate

PHOTOS = ("astronaut", "coffee", "chelsea")
LIMES_QUICKSHIFT = {"kernel_size": 4, "max_dist": 200, "ratio": 0.2}
BATCHES = (1, 2, 4, 8, 16, 32)
LABELS = 5
CLOSE = 1e-12
LIME_MASKS = 100  # in one timed call of lime's composing
HEAD = ["", "median ms", "quartiles", "samples", "ratio", "quartiles", "bound", ""]

Photo = np.ndarray


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--samples", type=int, default=1000)
    arguments = parser.parse_args(argv)
    lime.lime_image.tqdm = lambda rows: rows  # its bar has a cost, and standard error is ours

    print(", ".join(f"{key} {value}" for key, value in _environment().items()), flush=True)
    print(f"kernels compiled or loaded in {sum(jit.warmup().values()):.1f} s", flush=True)
    photos = {name: photo(name, arguments.size) for name in PHOTOS}
    lines = [line for name, image in photos.items() for line in equalities(name, image)]
    lines += [line for d in (33, 60) for line in fit_equalities(arguments.samples, d)]
    print("\n".join(lines), flush=True)

    image, rounds = photos["astronaut"], arguments.rounds
    groups = [
        [lambda batch=batch: composing_and_a_copy(image, batch, rounds) for batch in BATCHES],
        [lambda: composing_and_limes(image, rounds)],
        [lambda d=d: fit_and_limes(arguments.samples, d, rounds) for d in (33, 60, 100, 200)],
        [lambda n=n: quickshift_and_scikit_images(n, photos[n], rounds) for n in PHOTOS],
    ]
    with progress(sum(map(len, groups)), "row") as bar:
        for group in groups:
            rows = [HEAD]
            for job in group:
                rows += job()
                bar.update()
            lines += table(rows)
            print("\n".join(["", *table(rows)]), flush=True)
    return int(any("DIFFERENT" in line or "BEYOND" in line for line in lines))


def photo(name: str, size: int) -> Photo:
    """A free photo of scikit-image's, uint8 RGB, squashed to a square."""
    return np.asarray(Image.fromarray(getattr(data, name)()).resize((size, size)))


def classifier(pictures: Photo) -> Photo:
    """Eight classes by the brightness of eight bands of rows: nearly free."""
    bands = np.array_split(pictures.mean((2, 3), dtype=np.float32), 8, axis=1)
    logits = np.stack([band.mean(1) for band in bands], axis=1) / (1e-9 + np.abs(pictures).max())
    odds = np.exp(logits)
    return (odds / odds.sum(1, keepdims=True)).astype(np.float32)


def equalities(name: str, image: Photo) -> Iterator[str]:
    """lime's explanation of a photo and ours, of all steps."""
    for kind, picture in (("uint8", image), ("float32", (image / 255).astype(np.float32))):
        shown: list[list[Photo]] = []
        found = []
        for explainers in (lime.lime_image, compat):
            seen: list[Photo] = []

            def remembering(pictures: Photo, seen: list[Photo] = seen) -> Photo:
                seen.append(pictures.copy())
                return classifier(pictures)

            explainer = explainers.LimeImageExplainer(random_state=0)
            quiet = {} if explainers is lime.lime_image else {"progress_bar": False}
            found.append(explainer.explain_instance(picture, remembering, num_samples=64, **quiet))
            shown.append(seen)
        theirs, ours = found
        where = f"{name}, {kind}"
        d = len(np.unique(theirs.segments))
        yield _equal(f"{where}: {d} superpixels", np.array_equal(theirs.segments, ours.segments))
        same = all(a.tobytes() == b.tobytes() for a, b in zip(*shown, strict=True))
        yield _equal(f"{where}: masks, fills, 64 composed pictures", same)
        worst, ordered = _differences(theirs, ours)
        yield _close(f"{where}: coefficients, intercepts, R², local prediction", worst, ordered)


def fit_equalities(samples: int, d: int) -> Iterator[str]:
    """The surrogate of the same scores, and forward selection, on drawn masks."""
    masks, scores = problem(samples, d)
    away = distances(masks, "cosine")
    for selection, count in (("highest_weights", d), ("forward_selection", 4)):
        base = lime.lime_image.LimeImageExplainer(feature_selection=selection).base
        explainer = compat.LimeImageExplainer(feature_selection=selection)
        surrogate = Surrogate(masks, explainer.kernel(away, explainer.kernel_width), scores)
        worst, ordered = 0.0, True
        for label in range(2):
            theirs = base.explain_instance_with_data(
                masks.astype(int), scores, away, label, count, feature_selection=selection
            )
            ours = surrogate.regress(label, count, selection, None)
            ordered &= [j for j, _ in theirs[1]] == [j for j, _ in ours.coefficients]
            pairs = zip(theirs[1], ours.coefficients, strict=True)
            worst = max(worst, *(abs(a - b) for (_, a), (_, b) in pairs))
            worst = max(worst, abs(theirs[0] - ours.intercept), abs(theirs[2] - ours.score))
        yield _close(f"fit, d = {d}, {selection}", worst, ordered)


def problem(samples: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks of fair coins, and scores of `LABELS` classes: sigmoids of sums, with noise."""
    rng = np.random.default_rng(d)
    masks = rng.integers(0, 2, (samples, d)).astype(np.uint8)
    masks[0] = 1
    logits = (masks - 0.5) @ rng.standard_normal((d, LABELS)) / np.sqrt(d)
    return masks, 1 / (1 + np.exp(-logits - 0.1 * rng.standard_normal(logits.shape)))


def composing_and_a_copy(image: Photo, batch: int, rounds: int) -> Iterator[list[str]]:
    """float32 NCHW into a buffer, against a copy of a batch into another."""
    tensor = np.ascontiguousarray(np.moveaxis(image, -1, 0) / 127.5 - 1, np.float32)
    segments = quickshift(image, **LIMES_QUICKSHIFT)
    composer = Composer(tensor, baseline(tensor, segments), segments)
    masks = np.random.default_rng(0).integers(0, 2, (batch, composer.d)).astype(np.uint8)
    out, copied, source = (composer.buffer(batch) for _ in range(3))
    source[:] = 1
    sides: dict[str, Side] = {
        f"composing, batch {batch}": lambda: composer.compose(masks, out),
        "a copy": lambda: np.copyto(copied, source),
    }
    timed = rotate(sides, rounds=rounds, calls=max(3, 160 // batch))
    yield from _rows(timed, "≤ 1.8", lambda ratio: ratio <= 1.8)


def composing_and_limes(image: Photo, rounds: int) -> Iterator[list[str]]:
    """uint8 NHWC, batches of 10: lime's masks in the picture and its copies, against ours."""
    segments = quickshift(image, **LIMES_QUICKSHIFT)
    fill = baseline(image, segments, channels_last=True)
    composer = Composer(image, fill, segments, channels_last=True)
    masks = np.random.default_rng(0).integers(0, 2, (LIME_MASKS, composer.d)).astype(np.uint8)
    out = composer.buffer(10)
    answer = np.zeros((10, 1))
    explainer = lime.lime_image.LimeImageExplainer(random_state=0)

    def ours() -> None:
        for start in range(0, LIME_MASKS, 10):
            composer.compose(masks[start : start + 10], out)

    sides: dict[str, Side] = {
        f"lime's composing of {LIME_MASKS}, d = {composer.d}": lambda: explainer.data_labels(
            image, fill, segments, lambda pictures: answer, LIME_MASKS
        ),
        "ours": ours,
    }
    timed = rotate(sides, rounds=min(rounds, 9), calls=3)
    yield from _rows(timed, "≥ 30", lambda ratio: ratio >= 30)


def fit_and_limes(samples: int, d: int, rounds: int) -> Iterator[list[str]]:
    """Selection by the largest coefficients, then the ridge regression, of `LABELS` labels."""
    masks, scores = problem(samples, d)
    away = distances(masks, "cosine")
    integers = masks.astype(int)
    base = lime.lime_image.LimeImageExplainer().base
    explainer = compat.LimeImageExplainer()

    def theirs() -> None:
        for label in range(LABELS):
            base.explain_instance_with_data(integers, scores, away, label, 100000)

    def ours() -> None:
        weights = explainer.kernel(away, explainer.kernel_width)
        surrogate = Surrogate(masks, weights, scores)
        for label in range(LABELS):
            surrogate.regress(label, 100000, "auto", None)

    timed = rotate({f"lime's fit, d = {d}": theirs, "ours": ours}, rounds=rounds, calls=3)
    least = 25 if d <= 100 else 10
    yield from _rows(timed, f"≥ {least}", lambda ratio: ratio >= least)


def quickshift_and_scikit_images(name: str, image: Photo, rounds: int) -> Iterator[list[str]]:
    """With lime's parameters."""
    sides: dict[str, Side] = {
        f"scikit-image's quickshift, {name}": lambda: segmentation.quickshift(
            image, **LIMES_QUICKSHIFT
        ),
        "ours": lambda: quickshift(image, **LIMES_QUICKSHIFT),
    }
    timed = rotate(sides, rounds=min(rounds, 9), calls=2)
    yield from _rows(timed, "≥ 3", lambda ratio: ratio >= 3)


def _rows(
    timed: dict[str, Latency], bound: str, within: Callable[[float], bool]
) -> Iterator[list[str]]:
    (first, one), (second, other) = timed.items()
    middle, low, high = one.ratio(other)
    verdict = "within" if within(middle) else "BEYOND"
    yield [first, *_times(one), f"{middle:.2f}", f"{low:.2f}-{high:.2f}", bound, verdict]
    yield [f"  {second}", *_times(other), "", "", "", ""]


def _times(latency: Latency) -> list[str]:
    quartiles = f"{latency.percentile(25):.3f}-{latency.percentile(75):.3f}"
    return [f"{latency.median:.3f}", quartiles, str(len(latency.samples))]


def _differences(theirs: object, ours: object) -> tuple[float, bool]:
    """The largest difference of two explanations' numbers, and whether features agree in order."""
    worst = max(abs(theirs.score - ours.score), abs(theirs.local_pred - ours.local_pred).max())
    ordered = list(theirs.local_exp) == list(ours.local_exp)
    for label, wanted in theirs.local_exp.items():
        found = ours.local_exp[label]
        ordered &= [j for j, _ in wanted] == [j for j, _ in found]
        worst = max(worst, abs(theirs.intercept[label] - ours.intercept[label]))
        worst = max(worst, *(abs(a - b) for (_, a), (_, b) in zip(wanted, found, strict=True)))
    return float(worst), ordered


def _equal(what: str, equal: bool) -> str:
    return f"{'bit-equal' if equal else 'DIFFERENT'}: {what}"


def _close(what: str, worst: float, ordered: bool) -> str:
    fine = ordered and worst <= CLOSE
    order = "in the same order" if ordered else "in another order"
    return f"{'equal' if fine else 'DIFFERENT'}: {what}: {worst:.1e} apart, {order}"


def _environment() -> dict[str, str]:
    versions = {name: metadata.version(name) for name in ("numba", "scikit-image", "lime")}
    return {**environment(), **versions, "scikit-learn": metadata.version("scikit-learn")}


if __name__ == "__main__":
    raise SystemExit(main())
