"""LIME of a file that has it inside: one run of the session gives everything but the superpixels.

Masks, kernel and ridge are the file's own (`xai_onnx.lime_file`); superpixels and fill are made
here, or given, as for any other model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx import scores
from xai_onnx.batch import ImageInput
from xai_onnx.errors import InputShapeError, MethodError, NonFiniteError
from xai_onnx.lime import doubts, file_masks, sampling
from xai_onnx.lime.explainer import Picture, announce, segmented
from xai_onnx.lime.explanation import LimeExplanation
from xai_onnx.lime.forwards import Clock
from xai_onnx.lime.perturb import baseline
from xai_onnx.lime.settings import Settings
from xai_onnx.lime_file import LimeFile
from xai_onnx.manifest import Manifest
from xai_onnx.session import Session


@dataclass(frozen=True, eq=False)
class File:
    """An open file with LIME inside."""

    session: Session
    manifest: Manifest
    image: ImageInput

    @property
    def lime(self) -> LimeFile:
        """The LIME part of its manifest."""
        assert self.manifest.lime is not None
        return self.manifest.lime


def explain(
    file: File, picture: Picture, classes: NDArray[np.int64], settings: Settings
) -> list[LimeExplanation]:
    """Explain classes of one picture.

    Args:
        file: which returns coefficients.
        picture: the picture.
        classes: [K], -1 for the predicted one.
        settings: superpixels and fill; the rest is checked against the file.

    Raises:
        MethodError: a setting that isn't the file's, or a file that returns scores.
        InputShapeError: more superpixels than the file has coefficients.
        NonFiniteError: NaN or infinity in the scores.
    """
    _check(file, settings)
    clock, lime, name = Clock(None), file.lime, file.session.name
    layout: dict[str, Any] = {"channels_last": file.image.layout == "NHWC"}
    segments = segmented(picture, settings, layout["channels_last"])
    d = int(segments.max()) + 1
    if d > lime.max_segments:
        raise InputShapeError(
            f"{name}: takes up to {lime.max_segments} superpixels, the picture has {d}; give "
            f"segments with fewer, or export the file with max_segments={d}"
        )
    fill = baseline(picture.tensor, segments, settings.fill, recipe=picture.recipe, **layout)
    feed = {
        file.manifest.input: picture.tensor[None],
        lime.fill: fill[None],
        lime.segments: segments.astype(np.int32),
        str(file.manifest.class_index): classes,
    }
    names = [n for n in (file.manifest.score_output, *lime.outputs) if n is not None]
    found = dict(zip(names, file.session.run(names, feed), strict=True))
    (row,) = scores.checked(found[file.manifest.score_output], name)
    for output in names:
        if not np.isfinite(found[output]).all():
            raise NonFiniteError(
                f"{name}: its {output} hold NaN or infinity: so do its scores of some perturbed "
                "pictures; check the model's weights"
            )
    weights = np.concatenate(_weights(lime, d))

    explanations = []
    for k, target in enumerate(np.where(classes < 0, row.argmax(), classes)):
        coefficients = found[str(lime.coefficients)][k, :d].astype(np.float64)
        errors: NDArray[np.float64] | None = None
        if lime.standard_errors is not None:
            errors = found[lime.standard_errors][k, :d].astype(np.float64)
        noise = doubts.noise(coefficients, errors)
        seen = picture.prepared
        explanations.append(
            LimeExplanation(
                **scores.class_score(file.manifest, row, int(target)),
                scale=lime.scale,
                value=float(found[str(lime.value)][k]),
                segments=segments,
                coefficients=coefficients,
                standard_errors=errors,
                intercept=float(found[str(lime.intercept)][k]),
                fidelity=float(found[str(lime.fidelity)][k]),
                noise=noise,
                forwards=lime.num_samples,
                effective_sample_size=float(weights.sum() ** 2 / (weights**2).sum()),
                sampling=file_masks.DESIGN,
                adjusted=False,
                seed=lime.seed,
                batch_size=lime.batch_size,
                seconds=clock.seconds,
                draft=None,
                warnings=tuple(doubts.of(coefficients, noise, None, lime.max_segments)),
                image=None if seen is None else seen.image,
                box=None if seen is None else seen.box,
            )
        )
    announce(explanations, name)
    return explanations


def _check(file: File, settings: Settings) -> None:
    """Refuse what the file can't do, rather than do something else."""
    lime, name = file.lime, file.session.name
    if lime.returns != "coefficients":
        raise MethodError(
            f"{name}: takes masks and returns scores, for a fit elsewhere; export it with "
            "returns='coefficients', or explain the plain model"
        )
    usual: dict[str, Any] = {
        "num_samples": None,
        "seed": 0,
        "sampling": file_masks.DESIGN,
        "kernel_width": sampling.WIDTH,
    }
    usual |= {"tol": None, "deadline": None, "batch_size": None, "score": "logit"}
    own: dict[str, Any] = {
        "num_samples": lime.num_samples,
        "seed": lime.seed,
        "kernel_width": lime.kernel_width,
    }
    own |= {"batch_size": lime.batch_size, "score": lime.scale}
    for option, default in usual.items():
        asked = getattr(settings, option)
        if asked not in (default, own.get(option, default)):
            fixed = f", it is {own[option]!r} there" if option in own else ""
            raise MethodError(
                f"{name}: has LIME inside, where {option}={asked!r} can't be had{fixed}; export it "
                "again with other options, or explain the plain model"
            )


def _weights(lime: LimeFile, d: int) -> list[NDArray[np.float64]]:
    """Proximity of the file's masks to a picture of d superpixels, by block."""
    table = sampling.proximity(d, lime.kernel_width)
    drawn = file_masks.blocks(lime.max_segments, lime.num_samples, lime.seed, lime.kernel_width)
    return [table[block.masks[:, :d].sum(1)] for block in drawn]
