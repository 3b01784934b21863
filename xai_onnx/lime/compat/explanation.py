"""What lime's explainer of images returns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class ImageExplanation:
    """Coefficients of the superpixels of one picture, by label.

    Attributes:
        image: the picture, [H, W, C].
        segments: [H, W], the superpixel of each pixel.
        intercept: by label.
        local_exp: by label, pairs of superpixel and coefficient, the largest magnitude first.
        score: weighted R² of the surrogate, of the label explained last; by label with the
            explainer's ``per_label``.
        local_pred: what the surrogate says of the picture itself, [1]; the same.
        top_labels: the labels explained, the likeliest first; ``None`` if they were given.
    """

    def __init__(self, image: NDArray[Any], segments: NDArray[Any]) -> None:
        self.image = image
        self.segments = segments
        self.intercept: dict[Any, float] = {}
        self.local_exp: dict[Any, list[tuple[int, float]]] = {}
        self.score: Any = None
        self.local_pred: Any = None
        self.top_labels: list[Any] | None = None

    def get_image_and_mask(
        self,
        label: Any,
        positive_only: bool = True,
        negative_only: bool = False,
        hide_rest: bool = False,
        num_features: int = 5,
        min_weight: float = 0.0,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Show the superpixels that weigh most.

        Args:
            label: one of those explained.
            positive_only: take those that speak for the label. The default, so that it must be
                switched off where `negative_only` is wanted.
            negative_only: take those that speak against it.
            hide_rest: the rest of the picture becomes 0.
            num_features: how many to take, at most.
            min_weight: coefficients of a smaller magnitude are left out; before the cut to
                `num_features` where one sign is asked for, and after it where both are.

        Returns:
            A picture, and a mask for `skimage.segmentation.mark_boundaries`: 1 where a superpixel
            was taken. With both signs the picture's green channel (for) or red channel (against)
            is at its maximum there, and the mask is -1 against the label.

        Raises:
            KeyError: the label wasn't explained.
            ValueError: both signs "only".
        """
        if label not in self.local_exp:
            raise KeyError(f"Label not in explanation: {label}; it has {list(self.local_exp)}")
        if positive_only and negative_only:
            raise ValueError(
                "Positive_only and negative_only cannot be true at the same time; positive_only "
                "is true unless you say positive_only=False"
            )
        evidence = self.local_exp[label]
        shown = np.zeros(self.image.shape) if hide_rest else self.image.copy()
        mask = np.zeros(self.segments.shape, _signed(self.segments.dtype))
        if positive_only or negative_only:
            sign = 1 if positive_only else -1
            passed = [f for f, w in evidence if sign * w > 0 and sign * w > min_weight]
            chosen = np.isin(self.segments, passed[:num_features])
            shown[chosen] = self.image[chosen]
            mask[chosen] = 1
            return shown, mask
        highest = np.max(self.image)
        for feature, weight in evidence[:num_features]:
            if abs(weight) < min_weight:
                continue
            chosen = self.segments == feature
            shown[chosen] = self.image[chosen]
            shown[chosen, 0 if weight < 0 else 1] = highest
            mask[chosen] = -1 if weight < 0 else 1
        return shown, mask


def _signed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type of a mask of these segments, which has -1 in it."""
    return dtype if dtype.kind in "if" else np.result_type(dtype, np.int8)
