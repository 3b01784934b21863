"""lime's wrapper of scikit-image's segmentations: a name and parameters make a callable."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import segmentation

from xai_onnx.errors import InputShapeError
from xai_onnx.lime import superpixels

ALGORITHMS: dict[str, Callable[..., NDArray[Any]]] = {
    "quickshift": superpixels.quickshift,
    "felzenszwalb": segmentation.felzenszwalb,
    "slic": segmentation.slic,
}


class SegmentationAlgorithm:
    """Segments pictures by one of `ALGORITHMS`.

    As in lime, parameters that the algorithm doesn't have are dropped without a word; among them
    is ``random_seed``, which scikit-image has long called ``rng``.
    """

    def __init__(self, algo_type: str, **target_params: Any) -> None:
        if algo_type not in ALGORITHMS:
            raise InputShapeError(
                f"segmentation {algo_type!r}: unknown; one of {', '.join(ALGORITHMS)}"
            )
        self.algo_type = algo_type
        self.target_fn = ALGORITHMS[algo_type]
        known = inspect.signature(self.target_fn).parameters
        self.target_params = {name: v for name, v in target_params.items() if name in known}

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """Labels of the picture's superpixels, int64 [H, W]."""
        return self.target_fn(image, **self.target_params).astype(np.int64, copy=False)
