"""What a file says of the LIME inside it: that part of the manifest.

Standard library only, as `xai_onnx.manifest`, which holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from xai_onnx.errors import ManifestError


@dataclass(frozen=True)
class LimeFile:
    """The LIME part of a manifest.

    Attributes:
        returns: ``"coefficients"``, or ``"scores"`` of perturbed pictures whose masks are given.
        fill: the input [1, C, H, W] or [1, H, W, C]: what stands where a superpixel is off.
        segments: the int32 input [H, W].
        masks: the bool input [N, D]; ``None`` in a file that has its own.
        perturbed_scores: the output [N, classes]; ``None`` where the file fits.
        coefficients, intercept, fidelity: the outputs [K, D], [K], [K]; ``None`` without a fit.
        value: the output [K], the picture's own scores; ``None`` without a fit.
        standard_errors: the output [K, D]; ``None`` without a fit, or of one block of masks only.
        scale: what is fitted: ``"logit"``, ``"probability"`` or ``"score"``.
        max_segments: D of the file's own masks, else 0.
        num_samples: N of the file's own masks, the picture itself not counted, else 0.
        kernel_width: of the proximity kernel, 0 without a fit.
        alpha: of the ridge, 0 without a fit.
        seed: of the file's own masks.
        batch_size: pictures that are classified at once.
    """

    returns: str
    fill: str
    segments: str
    masks: str | None
    perturbed_scores: str | None
    coefficients: str | None
    standard_errors: str | None
    intercept: str | None
    fidelity: str | None
    value: str | None
    scale: str
    max_segments: int
    num_samples: int
    kernel_width: float
    alpha: float
    seed: int
    batch_size: int

    @property
    def inputs(self) -> tuple[str | None, ...]:
        """What the file takes besides the picture and the classes."""
        return self.fill, self.segments, self.masks

    @property
    def outputs(self) -> tuple[str | None, ...]:
        """What the file gives besides the scores."""
        errors = self.standard_errors
        fitted = (self.coefficients, errors, self.intercept, self.fidelity, self.value)
        return self.perturbed_scores, *fitted

    @classmethod
    def from_dict(cls, data: Any, where: str) -> LimeFile:
        """Read what `asdict` gave, out of the file called `where`.

        Raises:
            ManifestError: malformed.
        """
        types = {f.name: _TYPES[str(f.type)] for f in fields(cls)}
        right = isinstance(data, Mapping) and set(data) == set(types)
        if not right or not all(isinstance(data[name], types[name]) for name in types):
            raise ManifestError(
                f"{where}: the manifest's lime is malformed; export the model again"
            )
        found = cls(**data)
        fitted = (found.coefficients, found.intercept, found.fidelity, found.value)
        fits = found.returns == "coefficients" and None not in fitted and found.max_segments > 0
        scores = found.returns == "scores" and None not in (found.masks, found.perturbed_scores)
        if not fits and not scores:
            raise ManifestError(
                f"{where}: the manifest's lime contradicts itself; export the model again"
            )
        return found


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "int": (int,),
    "float": (int, float),
}
