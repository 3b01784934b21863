"""The masks that a file with LIME inside holds; the exporters and the host make them here alike.

They are drawn over D columns before anybody knows how many superpixels a picture will have. One
that isn't there takes its column away; what is left of a design of strength 3 is of strength 3.
"""

from __future__ import annotations

from xai_onnx.errors import SamplingError
from xai_onnx.lime.sampling import (
    FEWEST_BLOCKS,
    LARGEST_SEED,
    SAMPLING_DESIGNS,
    USUAL_SAMPLES,
    WIDTH,
    Block,
    block_size,
)

DESIGN = "foldover"


def blocks(
    max_segments: int, num_samples: int | None, seed: int, width: float = WIDTH
) -> list[Block]:
    """Draw the masks; their weights are for a picture of all `max_segments` superpixels.

    Args:
        max_segments: D, 1 or more.
        num_samples: N; ``None``: 1,024, or four blocks where that is more.
        seed: 0 to 2^32 - 1.
        width: of the proximity kernel.

    Raises:
        SamplingError: one of these is out of range.
    """
    for name, number in (("max_segments", max_segments), ("num_samples", num_samples)):
        if number is not None and number < 1:
            raise SamplingError(f"{name}={number}: must be 1 or more")
    if not 0 <= seed <= LARGEST_SEED:
        raise SamplingError(f"a seed is a whole number from 0 to {LARGEST_SEED}, not {seed}")
    if num_samples is None:
        num_samples = max(USUAL_SAMPLES, FEWEST_BLOCKS * block_size(max_segments))
    return list(SAMPLING_DESIGNS[DESIGN](max_segments, num_samples, seed, width))
