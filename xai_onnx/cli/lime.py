"""LIME in ``xai-onnx explain``: its options, its model, its line of text."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from xai_onnx.cli.output import progress
from xai_onnx.errors import LimeWarning, MethodError

if TYPE_CHECKING:
    from xai_onnx.lime.explanation import LimeExplanation
    from xai_onnx.model import Model
    from xai_onnx.session import Session

OPTIONS = ("samples", "segments", "tol", "deadline", "seed", "draft")
NAMED = 3  # coefficients in the line of text


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a command the options of LIME."""
    group = parser.add_argument_group("with --method lime")
    group.add_argument("--samples", type=int, metavar="N", help="perturbed pictures, at most")
    group.add_argument(
        "--segments",
        metavar="METHOD",
        help="superpixels: quickshift (default), slic, felzenszwalb, grid; parameters behind it, "
        "as in slic,n_segments=100",
    )
    group.add_argument(
        "--tol", type=float, metavar="T", help="stop when errors are T of the largest coefficient"
    )
    group.add_argument("--deadline", type=float, metavar="S", help="stop after S seconds a picture")
    group.add_argument("--seed", type=int, metavar="N", help="of the masks (default: 0)")
    group.add_argument(
        "--draft", metavar="MODEL", help="an .onnx file that runs the perturbed pictures instead"
    )


def refuse_options(arguments: argparse.Namespace) -> None:
    """Refuse the options of LIME where another method is used.

    Raises:
        MethodError: there is one.
    """
    given = [option for option in OPTIONS if getattr(arguments, option) is not None]
    if given:
        raise MethodError(f"--{given[0]} is for LIME; say --method lime, or leave it out")


def open_model(session: Session, arguments: argparse.Namespace) -> Model:
    """The model, as it is: LIME needs no gradient.

    Raises:
        MethodError: options that only a gradient needs, or labels of an explained file.
    """
    from exporters.labels import read_labels
    from xai_onnx.model import Model

    unused = ["target_layer", "input"] + ["labels"] * (session.manifest is not None)
    for option in unused:
        if getattr(arguments, option) is not None:
            raise MethodError(
                f"{arguments.model}: --{option.replace('_', '-')} says nothing to LIME here; leave "
                "it out"
            )
    return Model(session, arguments.preprocess, read_labels(arguments.labels, None))


def explain(
    model: Model,
    image: str,
    target: Sequence[int | str] | None,
    arguments: argparse.Namespace,
    inputs: Mapping[str, ArrayLike],
) -> list[LimeExplanation]:
    """Explain one picture under a progress bar; doubts go to standard error, a line each."""
    with progress(0, "forward") as bar, warnings.catch_warnings():
        warnings.simplefilter("ignore", LimeWarning)

        def step(done: int, most: int) -> None:
            bar.total = most
            bar.update(done - bar.n)

        found: list[LimeExplanation] = model.lime(
            image,
            [-1] if target is None else list(target),
            num_samples=arguments.samples,
            segments=arguments.segments,
            tol=arguments.tol,
            deadline=arguments.deadline,
            seed=arguments.seed or 0,
            score=arguments.score or "logit",
            draft_model=arguments.draft,
            inputs=inputs,
            progress=step,
        )
    for explanation in found:
        for doubt in explanation.warnings:
            print(f"{image}: {explanation.title}: {doubt}", file=sys.stderr)
    return found


def text(explanation: LimeExplanation) -> str:
    """The largest coefficients in words."""
    likely = "" if explanation.probability is None else f", {explanation.probability:.1%}"
    errors = explanation.standard_errors
    largest = []
    for j in explanation.ranked[:NAMED]:
        error = "" if errors is None else f" ± {errors[j]:.2g}"
        largest.append(f"{explanation.coefficients[j]:+.3g}{error}")
    draft, by = explanation.draft, ""
    if draft is not None and draft.largest_deviation is not None:
        by = f", draft within {draft.largest_deviation:.2g} of {draft.samples} pictures"
        if draft.correlation is not None:
            by += f", correlation {draft.correlation:.3f}"
    return (
        f"{explanation.title}{likely}, score {explanation.score:.4g}, largest of "
        f"{len(explanation.coefficients)} superpixels {', '.join(largest)} ({explanation.scale}), "
        f"fidelity {explanation.fidelity:.2f}, {explanation.forwards} forwards{by}"
    )
