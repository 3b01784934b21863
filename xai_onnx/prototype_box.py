"""Where a prototype was found: from its similarity map to rectangles in the picture.

Shared by training (the box of a projected prototype) and run time (that of a match), which must
agree. A rectangle is y0, y1, x0, x1, half open, in pixels of the model's input.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from xai_onnx.prototypes import ReceptiveField

PERCENTILE = 95  # Chen et al. 2019, section 2.5

Rectangle = tuple[int, int, int, int]


def enlarged(similarity_map: NDArray[np.floating], height: int, width: int) -> NDArray[np.float32]:
    """A similarity map at the size of the picture, [h, w] to [height, width].

    OpenCV's INTER_CUBIC, as the original: a = -0.75, half-pixel, the edge repeated; Pillow's
    bicubic differs. What it shows is a place in the latent grid, not pixels that matter.
    """
    cells = np.ascontiguousarray(similarity_map, np.float32)
    return np.asarray(cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def high_box(large: NDArray[np.floating], percentile: float = PERCENTILE) -> Rectangle:
    """The smallest rectangle around all values at or above a percentile of the map, [H, W].

    A constant map gives the whole picture, and several equal maxima one rectangle around all of
    them.
    """
    high = large >= np.percentile(large, percentile)
    rows, columns = np.flatnonzero(high.any(1)), np.flatnonzero(high.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def receptive_box(
    field: ReceptiveField | None,
    location: int,
    grid: tuple[int, int],
    patch: tuple[int, int],
    size: tuple[int, int],
) -> Rectangle:
    """The pixels that can reach a patch of the latent grid, clipped to the picture.

    Args:
        field: of one cell; ``None``: the whole picture.
        location: y * w + x in the similarity map.
        grid: h, w of the similarity map.
        patch: h1, w1 of the prototype, in cells.
        size: height, width of the picture.
    """
    height, width = size
    if field is None:
        return 0, height, 0, width
    sides = []
    for first, cells, limit in zip(divmod(location, grid[1]), patch, size, strict=True):
        low = field.start + first * field.jump - field.size / 2
        high = field.start + (first + cells - 1) * field.jump + field.size / 2
        start = min(max(int(np.floor(low)), 0), limit - 1)
        sides += [start, min(max(int(np.ceil(high)), start + 1), limit)]
    return sides[0], sides[1], sides[2], sides[3]
