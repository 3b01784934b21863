"""How many forwards an answer takes: sampling designs of LIME on functions whose answer is known.

    python benchmarks/lime_designs.py [--samples 128,256,512,1024] [--seeds 40] [--truth 1000000]

Functions of 60 superpixels stand for classifiers of different kinds. The error is relative, in the
coefficients' length, to the limit of very many masks; the mean over seeds is printed for each
design, with the standard error that the jackknife gives over the true one: the distance to what the
ridge penalty leaves of the limit, for shrinkage is no matter of chance; where regression adjustment
takes part, from four blocks on, nothing is shrunk. No classifier is run, so that nothing depends on
the machine.

The sigmoid is 0.95 for the picture and 0.12 where half of it is covered. The centred one is 0.5
there and antisymmetric: it has no interactions of even order, from which foldover frees the
coefficients, but only odd ones, which it doubles in variance. That is the worst case, 1.41.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx.cli.output import progress, table
from xai_onnx.lime import sampling
from xai_onnx.lime.estimate import Scored, estimate
from xai_onnx.lime.surrogate import ALPHA, Gram, fit
from xai_onnx.measure import environment

D = 60
ADJUSTED = "adjusted"  # foldover with regression adjustment, the default
DESIGNS = ("iid", "glime", "foldover", ADJUSTED)
RATIO_LIMIT = 0.85  # foldover / iid, of the sigmoid at N = 512
CALIBRATED = (0.8, 1.25)  # estimated / true error of foldover, where there are blocks enough
BLOCKS_ENOUGH = 8

Function = Callable[[NDArray[np.uint8]], NDArray[np.float64]]


def functions() -> dict[str, Function]:
    """Functions from masks [n, D] to scores [n]; slopes and groups are drawn once."""
    rng = np.random.default_rng(2026)
    slopes = rng.standard_normal(D)
    evidence = slopes / np.linalg.norm(slopes) * 4
    evidence += (10 - evidence.sum()) / D  # logit -2 with half of it on, 3 for the picture
    pairs = [rng.choice(D, 2, replace=False) for _ in range(20)]
    strengths = 0.5 * rng.standard_normal(20)
    ands = [rng.choice(D, 3, replace=False) for _ in range(4)]
    ors = [rng.choice(D, 3, replace=False) for _ in range(4)]

    def linear(masks: NDArray[np.uint8]) -> NDArray[np.float64]:
        products = [masks[:, i] * masks[:, j] for i, j in pairs]
        return masks @ slopes + np.array(products).T @ strengths

    def sigmoid(masks: NDArray[np.uint8], steepness: float, middle: float) -> Any:
        return 1 / (1 + np.exp(-steepness * ((masks - 0.5) @ evidence - middle)))

    return {
        "linear and pairs": linear,
        "sigmoid": lambda masks: sigmoid(masks, 1, 2),
        "and, or": lambda masks: (
            sum(masks[:, group].all(1).astype(float) for group in ands)
            - sum(masks[:, group].any(1).astype(float) for group in ors)
        ),
        "sharp": lambda masks: sigmoid(masks, 20, 2),
        "centred sigmoid": lambda masks: sigmoid(masks, 1, 0),
    }


def answer(
    function: Function, design: str, samples: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Coefficients and their standard errors, of one class."""
    drawn = sampling.masks(D, samples, seed, sampling="foldover" if design == ADJUSTED else design)
    blocks = [
        Scored(block.masks, block.weights, function(block.masks)[:, None], np.zeros(1))
        for block in drawn
    ]
    found = estimate(blocks, design == ADJUSTED, sampling.WIDTH)
    return found.fit.coefficients[0], None if found.errors is None else found.errors[0]


def limit(function: Function, samples: int) -> Gram:
    """The sums of very many masks."""
    gram = Gram(D, 1, np.zeros(1))
    for block in sampling.masks(D, samples, sampling.LARGEST_SEED):
        gram.add(block.masks, block.weights, function(block.masks)[:, None])
    return gram


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", default="128,256,512,1024")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--truth", type=int, default=1_000_000)
    arguments = parser.parse_args(argv)
    counts = [int(count) for count in arguments.samples.split(",")]

    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    print(f"{D} superpixels, kernel width {sampling.WIDTH}, {arguments.seeds} seeds", flush=True)
    verdicts: list[str] = []
    with progress(len(functions()) * len(counts) * len(DESIGNS), "run") as bar:
        for name, function in functions().items():
            many = limit(function, arguments.truth)
            truth = fit(many).coefficients[0]
            rows = [[name, *DESIGNS, "of iid", "of iid", "estimated / true error"]]
            for samples in counts:
                shrunk = fit(many, ALPHA * arguments.truth / samples).coefficients[0]
                found = {}
                for design in DESIGNS:
                    seeds = range(arguments.seeds)
                    runs = [answer(function, design, samples, seed) for seed in seeds]
                    enough = samples >= sampling.FEWEST_BLOCKS * sampling.block_size(D)
                    chance = truth if design == ADJUSTED and enough else shrunk
                    found[design] = figures(runs, truth, chance)
                    bar.update()
                rows.append(row(samples, found))
                verdicts += judged(name, samples, found)
            print("\n".join(["", *table(rows)]), flush=True)
    print("\n".join(["", *verdicts]))


Figures = tuple[float, float | None]  # relative error; estimated / true, where estimated


def figures(
    runs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64] | None]],
    truth: NDArray[np.float64],
    middle: NDArray[np.float64],
) -> Figures:
    """Of all seeds: the mean relative error, and the jackknife's over the true one (both rms)."""
    error = float(np.mean([np.linalg.norm(beta - truth) for beta, _ in runs]))
    error /= float(np.linalg.norm(truth))
    missed = [beta - middle for beta, _ in runs]
    if runs[0][1] is None:
        return error, None
    estimated = np.mean([np.square(errors).sum() for _, errors in runs if errors is not None])
    return error, float(np.sqrt(estimated / np.mean([m @ m for m in missed])))


def row(samples: int, found: dict[str, Figures]) -> list[str]:
    calibration = [
        "-" if found[design][1] is None else f"{design} {found[design][1]:.2f}"
        for design in ("iid", "foldover", ADJUSTED)
    ]
    errors = [f"{found[design][0]:.3f}" for design in DESIGNS]
    ratios = [f"{found[d][0] / found['iid'][0]:.2f}" for d in ("foldover", ADJUSTED)]
    return [f"  N = {samples}", *errors, *ratios, ", ".join(calibration)]


def judged(name: str, samples: int, found: dict[str, Figures]) -> Iterator[str]:
    """Verdicts on what is promised."""
    if (name, samples) == ("sigmoid", 512):
        ratio = found["foldover"][0] / found["iid"][0]
        verdict = "within" if ratio <= RATIO_LIMIT else "BEYOND"
        yield f"{verdict} {RATIO_LIMIT}: foldover / iid, {name}, N = {samples}: {ratio:.3f}"
    for design in ("foldover", ADJUSTED):
        calibration = found[design][1]
        if calibration is None or samples < BLOCKS_ENOUGH * sampling.block_size(D):
            continue
        low, high = CALIBRATED
        verdict = "within" if low <= calibration <= high else "BEYOND"
        yield (
            f"{verdict} {low}-{high}: estimated / true error, {design}, {name}, N = {samples}: "
            f"{calibration:.3f}"
        )


if __name__ == "__main__":
    main()
