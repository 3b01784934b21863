"""What LIME says of one class of one picture: frozen results, and how far they can be trusted."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx.errors import ImageError
from xai_onnx.explanation import ClassScore

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class DraftAgreement:
    """How the draft model that ran the perturbed forwards agrees with the model itself.

    Attributes:
        model: name of the draft.
        samples: perturbed pictures that both have scored; few, or none, where a deadline is near.
        correlation: of the explained score between them; ``None`` for fewer than three pictures,
            or where one of the two is constant.
        largest_deviation: of the explained score, absolute; ``None`` without pictures.
    """

    model: str
    samples: int
    correlation: float | None
    largest_deviation: float | None


@dataclass(frozen=True, eq=False, kw_only=True)
class LimeExplanation(ClassScore):
    """What each superpixel adds to the score of one class.

    Attributes:
        scale: what the coefficients measure: ``"logit"``, ``"log-odds"``, ``"probability"`` or
            ``"score"`` (`xai_onnx.lime.score_scale`).
        value: the picture's own score on that scale.
        segments: superpixel of each pixel of the input, int32 [H, W], 0..d-1.
        coefficients: of the superpixels, on that scale, float64 [d].
        standard_errors: of the coefficients, by the jackknife over blocks of masks, float64 [d];
            zeros where all masks were run; ``None`` for fewer than two blocks.
        intercept: what the surrogate says with every superpixel off.
        fidelity: weighted R² of the surrogate on the perturbed pictures.
        noise: share of the coefficients' squared length that is sampling error; ``None`` where
            that isn't known.
        forwards: perturbed pictures classified.
        effective_sample_size: how many pictures of equal weight would tell as much.
        sampling: the design that was used, a key of `xai_onnx.lime.sampling.SAMPLING_DESIGNS`.
        adjusted: whether regression adjustment took part (`xai_onnx.lime.adjustment`).
        seed: of the masks.
        batch_size: perturbed pictures in one run, as given or arrived at.
        seconds: the whole took.
        draft: agreement of a `draft_model`; ``None`` without one.
        warnings: what speaks against trusting the answer, in words.
        image: the whole picture, uint8 RGB [H0, W0, 3]; ``None`` for a ready tensor.
        box: left, top, right, bottom of the part that the model saw, in pixels of `image`.
    """

    scale: str
    value: float
    segments: NDArray[np.int32]
    coefficients: NDArray[np.float64]
    standard_errors: NDArray[np.float64] | None
    intercept: float
    fidelity: float
    noise: float | None
    forwards: int
    effective_sample_size: float
    sampling: str
    adjusted: bool
    seed: int
    batch_size: int
    seconds: float
    draft: DraftAgreement | None
    warnings: tuple[str, ...]
    image: NDArray[np.uint8] | None = None
    box: Box | None = None

    @property
    def method(self) -> str:
        """``"lime"``."""
        return "lime"

    @property
    def ranked(self) -> NDArray[np.intp]:
        """Superpixels by the size of their coefficients, largest first, [d]."""
        return np.argsort(-np.abs(self.coefficients), kind="stable")

    @property
    def evidence(self) -> NDArray[np.float32]:
        """Coefficient of each pixel's superpixel, float32 [H, W]: above 0 speaks for the class."""
        return self.coefficients.astype(np.float32)[self.segments]

    @property
    def saliency_map(self) -> NDArray[np.float32]:
        """Evidence for the class, scaled to [0, 1], float32 [H, W]; 0 where there is none."""
        positive = np.maximum(self.evidence, 0)
        highest = positive.max()
        return positive / highest if highest > 0 else positive

    def overlay(self) -> NDArray[np.uint8]:
        """The picture, superpixels outlined, evidence for and against the class in two colours.

        Returns:
            uint8 RGB, [H0, W0, 3].

        Raises:
            ImageError: a ready tensor was explained, so the picture isn't known.
        """
        from xai_onnx.render import evidence

        return evidence.overlay(*self.drawn())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a picture that explains itself: photo, evidence, coefficients with error bars.

        Args:
            path: where to; its suffix (.png, .jpg, .jpeg, .webp) chooses the format.

        Raises:
            ImageError: a ready tensor was explained, so the picture isn't known.
            OutputFileError: another suffix, or the file can't be written.
        """
        from xai_onnx import render

        render.save(render.evidence_picture([self]), path)

    def drawn(self) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.float64], Box]:
        """Picture, segments, coefficients and box: what drawing needs.

        Raises:
            ImageError: a ready tensor was explained, so the picture isn't known.
        """
        if self.image is None or self.box is None:
            raise ImageError(
                f"the explanation of {self.title} has no picture to draw on, because a ready "
                "tensor was explained; explain a picture, or use evidence"
            )
        return self.image, self.segments, self.coefficients, self.box

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; coefficients and errors with 6 digits.

        Segments are runs of pixels, row by row: ``numpy.repeat(labels, lengths).reshape(shape)``.
        """
        flat = self.segments.reshape(-1)
        starts = np.flatnonzero(np.diff(flat, prepend=-1))
        errors = self.standard_errors
        return {
            "target": self.target,
            "label": self.label,
            "score": self.score,
            "probability": self.probability,
            "method": self.method,
            "scale": self.scale,
            "value": self.value,
            "coefficients": _digits(self.coefficients),
            "standard_errors": None if errors is None else _digits(errors),
            "intercept": self.intercept,
            "fidelity": self.fidelity,
            "noise": self.noise,
            "forwards": self.forwards,
            "effective_sample_size": self.effective_sample_size,
            "sampling": self.sampling,
            "adjusted": self.adjusted,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "seconds": round(self.seconds, 4),
            "draft": None if self.draft is None else vars(self.draft).copy(),
            "warnings": list(self.warnings),
            "segments": {
                "shape": list(self.segments.shape),
                "labels": flat[starts].tolist(),
                "lengths": np.diff(starts, append=flat.size).tolist(),
            },
        }


def _digits(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
