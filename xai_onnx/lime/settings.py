"""How a picture is perturbed: what a caller may choose, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xai_onnx.errors import InputShapeError, SamplingError
from xai_onnx.lime import sampling

LONGER = 16  # times the usual number of samples, where tol or deadline says when to stop

Segments = str | ArrayLike | None
Fill = str | float | Sequence[float] | NDArray[Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class Settings:
    """The arguments of `Model.lime` of the same names.

    Raises:
        SamplingError: a number is out of range.
    """

    num_samples: int | None
    segments: Segments
    seed: int
    batch_size: int | None
    tol: float | None
    deadline: float | None
    score: str
    sampling: str
    kernel_width: float
    adjustment: bool
    fill: Fill

    def __post_init__(self) -> None:
        for name, lowest in (("num_samples", 1), ("batch_size", 1), ("seed", 0)):
            number = getattr(self, name)
            whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
            if (number is not None or name == "seed") and not (whole and number >= lowest):
                raise SamplingError(
                    f"{name} must be a whole number from {lowest} on, not {number!r}"
                )
        for name in ("tol", "deadline"):
            number = getattr(self, name)
            real = isinstance(number, int | float | np.number)
            if number is not None and not (real and math.isfinite(number) and number > 0):
                raise SamplingError(f"{name} must be a positive number, not {number!r}")

    def samples(self, d: int) -> int:
        """Masks of d superpixels to draw at most."""
        if self.num_samples is not None:
            return int(self.num_samples)
        usual = sampling.usual_samples(d)
        return usual if self.tol is None and self.deadline is None else LONGER * usual

    def design(self, d: int) -> str:
        """The sampling design that is used for d superpixels."""
        return sampling.fitting(self.sampling, d, self.samples(d))


def segmenter(text: str) -> tuple[str, dict[str, int | float]]:
    """A segmentation written as ``METHOD[,key=number]...``: its name and its parameters.

    Raises:
        InputShapeError: a key without a number.
    """
    name, *pairs = [part.strip() for part in text.split(",")]
    parameters: dict[str, int | float] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise InputShapeError(
                f"segments {text!r}: {pair!r} is not key=number, as in slic,n_segments=100"
            ) from None
        parameters[key] = int(number) if number.is_integer() and "." not in value else number
    return name, parameters
