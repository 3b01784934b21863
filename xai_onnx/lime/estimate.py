"""From masks and their targets to coefficients with errors, adjusted where the design allows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
from numpy.typing import NDArray

from xai_onnx.lime import adjustment
from xai_onnx.lime.sampling import FEWEST_BLOCKS
from xai_onnx.lime.surrogate import Fit, Gram, fit, jackknife, with_coefficients

PAIRED = "foldover"  # the design whose rows come in pairs of complements

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scored:
    """A block of masks, and what the model said of them.

    Attributes:
        masks: uint8 [n, d].
        weights: float64 [n].
        targets: float64 [n, L].
        origin: of the sums, [L].
    """

    masks: NDArray[np.uint8]
    weights: Floats
    targets: Floats
    origin: Floats

    @cached_property
    def gram(self) -> Gram:
        """Its sums."""
        return self.sums(self.targets)

    def sums(self, targets: Floats) -> Gram:
        """The sums with other targets for the first rows, [m, L]; rows behind them are left out."""
        gram = Gram(self.masks.shape[1], len(self.origin), self.origin)
        rows = len(targets)
        gram.add(self.masks[:rows], self.weights[:rows], targets)
        return gram


@dataclass(frozen=True, eq=False)
class Estimate:
    """The answer for L labels.

    Attributes:
        fit: coefficients, intercept and fidelity.
        errors: of the coefficients, [L, d]; ``None`` for fewer than two blocks.
        gram: all sums.
        adjusted: whether `xai_onnx.lime.adjustment` took part.
    """

    fit: Fit
    errors: Floats | None
    gram: Gram
    adjusted: bool


def estimate(blocks: Sequence[Scored], adjusted: bool, width: float) -> Estimate:
    """Fit the surrogate.

    Args:
        blocks: at least one.
        adjusted: whether to adjust, for the design `PAIRED`: from `FEWEST_BLOCKS` on, and with
            more superpixels than interactions have.
        width: of the proximity kernel.
    """
    total = reduce(Gram.__add__, (block.gram for block in blocks))
    plain, errors = fit(total), jackknife([block.gram for block in blocks])
    enough = len(blocks) >= FEWEST_BLOCKS and total.d > adjustment.ORDERS
    if not (adjusted and enough):
        return Estimate(plain, errors, total, adjusted=False)
    masks, targets = (
        np.concatenate([getattr(block, name) for block in blocks]) for name in ("masks", "targets")
    )
    rows = len(masks) // 2 * 2  # a deadline may part a pair
    known = adjustment.adjust(masks[:rows], targets[:rows], plain.coefficients, width)
    bounds = np.cumsum([len(block.masks) for block in blocks[:-1]])
    rest = [
        block.sums(residuals)
        for block, residuals in zip(blocks, np.split(known.residuals, bounds), strict=True)
    ]
    chance = fit(reduce(Gram.__add__, rest)).coefficients
    coefficients = known.coefficients + chance
    return Estimate(with_coefficients(total, coefficients), jackknife(rest), total, adjusted=True)
