"""Perturbed pictures, made in the model's input tensor: where a superpixel is off, a fill.

Picture and fill are preprocessed once; composing them afterwards gives what preprocessing each
perturbed picture would, as long as the preprocessing has no value depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from xai_onnx.errors import InputShapeError, NonFiniteError, PreprocessError
from xai_onnx.lime.kernels import compose as kernels
from xai_onnx.lime.kernels import fill as fill_kernels
from xai_onnx.recipe import Preprocess

NUMPY_BUFFER = 8192  # values that NumPy converts at a time while it adds them
BLUR = 1 / 16  # standard deviation of the Gaussian, of the picture's shorter side

Planes = NDArray[Any]  # [C, H, W]
Fill = Callable[[Planes, NDArray[np.int32], Preprocess | None], Planes]

FILLS: dict[str, Fill] = {}


def _fill(name: str) -> Callable[[Fill], Fill]:
    def add(function: Fill) -> Fill:
        if name in FILLS:
            raise ValueError(f"there are two fills {name}")
        FILLS[name] = function
        return function

    return add


@_fill("mean")
def _mean(planes: Planes, segments: NDArray[np.int32], recipe: Preprocess | None) -> Planes:
    """Each superpixel in the mean of its own values, the fill of the original LIME."""
    count = int(segments.max()) + 1
    means = segment_means(planes.reshape(len(planes), -1), segments.reshape(-1), count)
    return means.astype(planes.dtype)[:, segments]


@_fill("blur")
def _blur(planes: Planes, segments: NDArray[np.int32], recipe: Preprocess | None) -> Planes:
    """The picture under a Gaussian whose deviation is 1/16 of the shorter side, edges mirrored."""
    sigma = BLUR * min(planes.shape[1:])
    blurred = [cv2.GaussianBlur(plane.astype(np.float64), (0, 0), sigma) for plane in planes]
    return np.stack(blurred).astype(planes.dtype)


def _level(name: str, pixel: float) -> None:
    @_fill(name)
    def level(planes: Planes, segments: NDArray[np.int32], recipe: Preprocess | None) -> Planes:
        if recipe is None:
            raise PreprocessError(
                f"fill {name!r}: what number is {name} depends on the preprocessing, and this "
                "model has no recipe for it; give the fill as a number for each channel"
            )
        value = (pixel * recipe.scale - np.array(recipe.mean)) / np.array(recipe.std)
        return _constant(planes, value)


_level("black", 0.0)
_level("gray", 127.5)
_level("white", 255.0)


def baseline(
    tensor: NDArray[Any],
    segments: NDArray[np.int32],
    fill: str | float | Sequence[float] | NDArray[Any] = "mean",
    *,
    channels_last: bool = False,
    recipe: Preprocess | None = None,
) -> NDArray[Any]:
    """What stands in the place of a superpixel that is off.

    Args:
        tensor: the picture as the model gets it, [C, H, W], or [H, W, C] with `channels_last`.
        segments: [H, W], superpixels 0..d-1.
        fill: a name among `FILLS`, one number, one for each channel, or a whole tensor of
            `tensor`'s shape; numbers in the tensor's units.
        channels_last: where the channels are.
        recipe: the preprocessing that made `tensor`; only for the names of a colour.

    Returns:
        An array of `tensor`'s shape and type.

    Raises:
        InputShapeError: an unknown name, or numbers that fit neither the channels nor the tensor.
        NonFiniteError: NaN or infinity among the numbers.
        PreprocessError: the name of a colour without a recipe.
    """
    planes = np.moveaxis(tensor, -1, 0) if channels_last else tensor
    if isinstance(fill, str):
        if fill not in FILLS:
            raise InputShapeError(
                f"fill {fill!r}: unknown; one of {', '.join(FILLS)}, or numbers for the channels"
            )
        filled = FILLS[fill](np.ascontiguousarray(planes), segments, recipe)
    else:
        numbers = np.asarray(fill)
        if numbers.dtype.kind not in "buif":
            raise InputShapeError(f"fill: {numbers.dtype} is no type of numbers")
        if not np.isfinite(numbers).all():
            raise NonFiniteError("fill: has NaN or infinity; give finite numbers")
        if numbers.shape == tensor.shape:
            return numbers.astype(tensor.dtype)
        if numbers.shape not in ((), (1,), (len(planes),)):
            raise InputShapeError(
                f"fill of shape {list(numbers.shape)}: must be one number, {len(planes)} numbers, "
                f"one for each channel, or a tensor of shape {list(tensor.shape)}"
            )
        filled = _constant(planes, numbers)
    return np.ascontiguousarray(np.moveaxis(filled, 0, -1) if channels_last else filled)


def _constant(planes: Planes, values: NDArray[Any]) -> Planes:
    filled = np.empty_like(planes)
    filled[:] = np.reshape(values, (-1, 1, 1))
    return filled


def segment_means(
    planes: NDArray[Any], segments: NDArray[np.int32], count: int
) -> NDArray[np.float32] | NDArray[np.float64]:
    """Mean of each plane over each superpixel, to the last bit as ``np.mean``.

    Args:
        planes: [C, P], of a real type.
        segments: [P], 0..count-1.
        count: how many superpixels.

    Returns:
        [C, count]: float32 for float16 and float32 planes, else float64; not yet rounded to the
        planes' type.
    """
    wide = np.result_type(planes.dtype, np.float32) if planes.dtype.kind == "f" else np.float64
    order = np.empty(segments.size, np.int64)
    starts = np.empty(count + 1, np.int64)
    # Copied, as the values below: to Numba a read-only array is another type, to be compiled for.
    fill_kernels.group(segments.astype(np.int32), order, starts)
    out = np.empty((len(planes), count), wide)
    chunk = segments.size if planes.dtype == wide else NUMPY_BUFFER
    values = np.array(planes, wide, order="C")
    fill_kernels.means(values, order, starts, max(chunk, 1), out)
    return out


class Composer:
    """Composes perturbed pictures of one picture into a buffer that is used again and again.

    Not to be shared between threads that compose at the same time; each may have its own.

    Attributes:
        d: number of superpixels.
        shape: of one picture, as the model gets it.
        dtype: of the picture's values.
    """

    def __init__(
        self,
        image: NDArray[Any],
        fill: NDArray[Any],
        segments: NDArray[Any],
        *,
        channels_last: bool = False,
    ) -> None:
        """Take the picture, its fill (see `baseline`) and its superpixels.

        Args:
            image: the picture as the model gets it, [C, H, W], or [H, W, C] with `channels_last`;
                any number of channels, values of 1, 2, 4 or 8 bytes.
            fill: of the same shape and type.
            segments: [H, W], integers 0..d-1, each at least once (see `superpixels.numbered`).
            channels_last: where the channels are.

        Raises:
            InputShapeError: shapes or types that don't fit together, or labels below 0.
        """
        bits = 8 * image.dtype.itemsize
        if image.ndim != 3 or bits not in kernels.WIDTHS or image.dtype.hasobject:
            raise InputShapeError(
                f"image: {image.dtype} {list(image.shape)}; must have 3 axes, channels, height and "
                f"width, and values of {', '.join(str(b // 8) for b in kernels.WIDTHS)} bytes"
            )
        if fill.shape != image.shape or fill.dtype != image.dtype:
            raise InputShapeError(
                f"fill: {fill.dtype} {list(fill.shape)}; must be as the image, {image.dtype} "
                f"{list(image.shape)}"
            )
        size = image.shape[:2] if channels_last else image.shape[1:]
        if segments.shape != size or segments.dtype.kind not in "iu" or segments.size == 0:
            raise InputShapeError(
                f"segments: {segments.dtype} {list(segments.shape)}; must be integers of shape "
                f"{list(size)}, the image's height and width"
            )
        if segments.min() < 0 or segments.max() >= 2**31:
            raise InputShapeError("segments: labels must be 0..d-1; see superpixels.numbered")
        self.d = int(segments.max()) + 1
        self.shape = image.shape
        self.dtype = image.dtype
        self._word = np.dtype(f"uint{bits}")
        labels = segments.reshape(-1).astype(np.int32)
        # With the channels last, a value's place has its own superpixel: one plane of H * W * C.
        self._segments = np.repeat(labels, image.shape[-1]) if channels_last else labels
        planes = (1 if channels_last else image.shape[0], self._segments.size)
        self._image = np.array(image, order="C").view(self._word).reshape(planes)
        self._fill = np.array(fill, order="C").view(self._word).reshape(planes)

    def buffer(self, batch: int) -> NDArray[Any]:
        """An array for `batch` pictures, for `compose`."""
        return np.empty((batch, *self.shape), self.dtype)

    def compose(self, masks: NDArray[np.uint8], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Write the perturbed picture of each mask.

        Args:
            masks: uint8, [n, d]; 0: the superpixel is off, filled.
            out: [N, C, H, W] (or [N, H, W, C]) with N >= n, contiguous, of the image's type; a new
                one if left out.

        Returns:
            ``out[:n]``.

        Raises:
            InputShapeError: masks or `out` of another shape or type.
        """
        if masks.ndim != 2 or masks.shape[1] != self.d or masks.dtype != np.uint8:
            raise InputShapeError(
                f"masks: {masks.dtype} {list(masks.shape)}; must be uint8 [n, {self.d}]"
            )
        if out is None:
            out = self.buffer(len(masks))
        fits = out.shape[1:] == self.shape and len(out) >= len(masks) and out.dtype == self.dtype
        if not fits or not out.flags.c_contiguous or not out.flags.writeable:
            raise InputShapeError(
                f"out: {out.dtype} {list(out.shape)}; must be contiguous {self.dtype} of shape "
                f"[{len(masks)} or more, {', '.join(map(str, self.shape))}]"
            )
        batch = out[: len(masks)]
        words = np.empty((-(-len(masks) // (8 * self._word.itemsize)), self.d), self._word)
        kernels.pack(np.array(masks, order="C"), words)
        flat = batch.view(self._word).reshape(len(masks), *self._image.shape)
        kernels.compose(self._image, self._fill, self._segments, words, flat)
        return batch
