"""What speaks against trusting an answer of LIME, in numbers and in words."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from xai_onnx.lime.explanation import DraftAgreement
from xai_onnx.lime.sampling import block_size

MOSTLY_NOISE = 0.5
POOR_CORRELATION = 0.9

Floats = NDArray[np.float64]


def noise(coefficients: Floats, standard_errors: Floats | None) -> float | None:
    """Share of the coefficients' squared length that is sampling error.

    The square of a coefficient is its true square plus its variance, on average.

    Args:
        coefficients: [d].
        standard_errors: [d]; ``None`` where unknown.
    """
    if standard_errors is None:
        return None
    total = float(coefficients @ coefficients)
    return float(standard_errors @ standard_errors) / total if total > 0 else 0.0


def of(
    coefficients: Floats,
    share: float | None,
    draft: DraftAgreement | None,
    columns: int | None = None,
) -> Iterator[str]:
    """Every doubt about the coefficients, [d], of one class.

    Args:
        coefficients: [d].
        share: `noise` of them.
        draft: how a draft model agreed.
        columns: that the masks were drawn for, where that isn't d.
    """
    d = columns or len(coefficients)
    if share is None:
        yield (
            f"no error is known of so few forwards; for {d} superpixels take at least "
            f"{2 * block_size(d)} samples"
        )
    elif not coefficients.any():
        yield "the score is the same whatever is covered, so nothing is explained"
    elif share > MOSTLY_NOISE:
        yield (
            f"the coefficients are mostly noise ({min(share, 1):.0%} of their squared length); "
            "take more samples, fewer superpixels, or score='logit'"
        )
    if draft is not None and draft.samples == 0:
        yield f"the deadline left no time to compare the draft model {draft.model} with the model"
    if draft is not None and draft.correlation is not None and draft.correlation < POOR_CORRELATION:
        yield (
            f"the draft model {draft.model} follows the model poorly (correlation "
            f"{draft.correlation:.2f}); explain without it"
        )
