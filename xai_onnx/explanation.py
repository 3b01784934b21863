"""What a model says of a picture, and why: frozen results."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx.errors import ImageError

BRIGHTEST = 99  # percentile of an attribution's pixels that is drawn at full colour


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassScore:
    """One class of one picture.

    Attributes:
        target: index of the class.
        label: its name; ``None`` where the model has none.
        score: the model's own output for the class.
        probability: in [0, 1]; ``None`` where the output doesn't give one.
    """

    target: int
    label: str | None
    score: float
    probability: float | None

    @property
    def title(self) -> str:
        """The class in words: ``espresso (967)``, or ``class 967`` without a label."""
        return f"class {self.target}" if self.label is None else f"{self.label} ({self.target})"


@dataclass(frozen=True, eq=False, kw_only=True)
class Prediction(ClassScore):
    """The class that a model predicts.

    Attributes:
        scores: the model's own output for every class, float32 [N].
    """

    scores: NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanation(ClassScore):
    """Where in a picture a model finds the evidence for one class.

    Attributes:
        method: CAM variant or attribution, e.g. ``"gradcam"``.
        target_layers: ONNX values whose activations are explained; none for an attribution.
        cam: the raw map at the layer's size, float32 [h, w]; ``None`` for an attribution.
        attribution: what each number of the input tensor adds, float32 [C, H, W]; ``None`` for a
            CAM.
        saliency_map: the map at the input tensor's size, float32 [H, W] in [0, 1]: of `cam`, or of
            the absolute attributions summed over the channels; all zero where that is constant.
        image: the whole picture, uint8 RGB [H0, W0, 3]; ``None`` for a ready tensor.
        box: left, top, right, bottom of the part that the model saw, in pixels of `image`.
    """

    method: str
    target_layers: tuple[str, ...]
    cam: NDArray[np.float32] | None
    attribution: NDArray[np.float32] | None
    saliency_map: NDArray[np.float32]
    image: NDArray[np.uint8] | None = None
    box: tuple[float, float, float, float] | None = None

    @property
    def empty(self) -> bool:
        """Whether the map is constant, so that it points nowhere."""
        if self.cam is None:  # an attribution may be the same everywhere, another in each channel
            return not self.saliency_map.any()
        return bool(self.cam.min() == self.cam.max())

    @property
    def peak(self) -> tuple[float, float] | None:
        """x, y of the map's maximum in pixels of `image`, counted from its top left corner.

        ``None`` where the map is empty or the picture isn't known.
        """
        if self.empty or self.box is None:
            return None
        left, top, right, bottom = self.box
        height, width = self.saliency_map.shape
        row, column = divmod(int(self.saliency_map.argmax()), width)
        x = left + (column + 0.5) / width * (right - left)
        y = top + (row + 0.5) / height * (bottom - top)
        return x, y

    def overlay(self, opacity: float = 0.5) -> NDArray[np.uint8]:
        """The picture with the saliency map laid over it; what the model didn't see is dimmed.

        Args:
            opacity: of the colour at saliency 1, in [0, 1]; it falls towards saliency 0.

        Returns:
            uint8 RGB, [H0, W0, 3].

        Raises:
            ImageError: a ready tensor was explained, so the picture isn't known.
            ValueError: `opacity` outside [0, 1].
        """
        from xai_onnx import render

        return render.overlay(*self.drawn(), opacity)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a picture that explains itself: photo, overlay, class, score and colour bar.

        Args:
            path: where to; its suffix (.png, .jpg, .jpeg, .webp) chooses the format.

        Raises:
            ImageError: a ready tensor was explained, so the picture isn't known.
            OutputFileError: another suffix, or the file can't be written.
        """
        from xai_onnx import render

        render.save(render.picture([self]), path)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; of the arrays only `cam`, with 6 digits, as rows."""
        peak, cam = self.peak, self.cam
        return {
            "target": self.target,
            "label": self.label,
            "score": self.score,
            "probability": self.probability,
            "method": self.method,
            "target_layers": list(self.target_layers),
            "empty": self.empty,
            "peak": None if peak is None else [round(position, 1) for position in peak],
            "cam": None if cam is None else [[float(f"{v:.6g}") for v in row] for row in cam],
        }

    def drawn(
        self,
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], tuple[float, float, float, float]]:
        """Picture, saliency map and box: what drawing needs.

        Of an attribution the brightest hundredth of the pixels is drawn alike: single pixels stand
        out so far that nothing else would be seen (as Smilkov et al. 2017 do, section 3.2).

        Raises:
            ImageError: a ready tensor was explained, so the picture isn't known.
        """
        if self.image is None or self.box is None:
            raise ImageError(
                f"the explanation of {self.title} has no picture to draw on, because a ready "
                "tensor was explained; explain a picture, or use saliency_map"
            )
        shown = self.saliency_map
        if self.attribution is not None and not self.empty:
            bright = np.percentile(shown, BRIGHTEST)
            shown = np.minimum(shown / (bright or 1), 1).astype(np.float32)
        return self.image, shown, self.box
