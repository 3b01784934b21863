"""From pictures to input tensors: what the model takes, and batches of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx import recipe as recipes
from xai_onnx.errors import InputShapeError, NonFiniteError
from xai_onnx.recipe import Preprocess

if TYPE_CHECKING:
    from xai_onnx.preprocess import Prepared

BATCH_SIZE = 16  # pictures in one run; memory stays at the largest batch's high-water mark

Image = str | os.PathLike[str] | NDArray[np.uint8]

_TYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
    "tensor(uint8)": np.dtype(np.uint8),
}


@dataclass(frozen=True)
class ImageInput:
    """What a model takes; ``None`` stands for a size that is free at run time."""

    name: str
    dtype: np.dtype[Any]
    layout: str
    batch: int | None
    channels: int | None
    height: int | None
    width: int | None

    @classmethod
    def of(cls, value: Any, model: str) -> ImageInput:
        """Read an ONNX Runtime input of the model called `model`.

        Raises:
            InputShapeError: it isn't a batch of images.
        """
        if len(value.shape) != 4 or value.type not in _TYPES:
            raise InputShapeError(
                f"{model}: its input {value.name!r} is a {value.type} of shape {value.shape}, not "
                "a batch of images, [B, 3, H, W] or [B, H, W, 3]"
            )
        sizes = [size if isinstance(size, int) else None for size in value.shape]
        recipes.check_extent(sizes, f"{model}: its input {value.name!r}")
        layout = "NCHW" if sizes[1] in (1, 3, 4) else "NHWC"
        batch, *rest = sizes
        channels, height, width = rest if layout == "NCHW" else [rest[2], *rest[:2]]
        return cls(value.name, _TYPES[value.type], layout, batch, channels, height, width)

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The tensor's shape, batch first."""
        if self.layout == "NCHW":
            return self.batch, self.channels, self.height, self.width
        return self.batch, self.height, self.width, self.channels

    def fitting(self, recipe: Preprocess | str) -> Preprocess:
        """The recipe, or its text form, checked against this input (`xai_onnx.recipe.fitting`)."""
        return recipes.fitting(
            recipe,
            self.layout,
            self.channels,
            self.height,
            self.width,
            whole=self.dtype.kind == "u",
        )


@dataclass(frozen=True)
class Batch:
    """Input tensors, and the pictures that they were made of (``None`` for ready tensors)."""

    tensors: Sequence[NDArray[Any]]
    prepared: Sequence[Prepared | None]
    single: bool

    @classmethod
    def of_pictures(
        cls, images: Image | Sequence[Image], recipe: Preprocess, image: ImageInput
    ) -> Batch:
        """Carry out `recipe` on one picture or on several."""
        from xai_onnx.preprocess import prepare

        single = isinstance(images, str | os.PathLike) or (
            isinstance(images, np.ndarray) and images.ndim < 4
        )
        listed: Sequence[Any] = [images] if single else images  # type: ignore[assignment]
        prepared = [prepare(picture, recipe) for picture in listed]
        tensors = [item.tensor.astype(image.dtype, copy=False) for item in prepared]
        return cls(tensors, prepared, single)

    @classmethod
    def of_tensor(cls, tensor: Any, image: ImageInput, model: str) -> Batch:
        """Check a ready tensor.

        Raises:
            InputShapeError: another shape or type than the model called `model` takes.
            NonFiniteError: NaN or infinity in it.
        """
        tensor = np.asarray(tensor)
        fits = tensor.ndim == 4 and all(
            want is None or want == got
            for want, got in zip(image.shape[1:], tensor.shape[1:], strict=True)
        )
        if not fits:
            wanted = ", ".join(str(size or "any") for size in (None, *image.shape[1:]))
            raise InputShapeError(
                f"{model}: takes a tensor of shape [{wanted}], not {list(tensor.shape)}"
            )
        if not np.can_cast(tensor.dtype, image.dtype, "same_kind"):
            raise InputShapeError(
                f"{model}: takes a tensor of {image.dtype}, not of {tensor.dtype}; convert it"
            )
        if not np.isfinite(tensor).all():
            raise NonFiniteError(f"{model}: the input tensor holds NaN or infinity")
        rows = list(tensor.astype(image.dtype, copy=False))
        return cls(rows, [None] * len(rows), single=False)

    def __len__(self) -> int:
        return len(self.tensors)

    def runs(self, fixed: int | None) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Which pictures, and their tensor, run by run.

        A run takes at most `BATCH_SIZE` pictures; for a model of a fixed batch exactly that many,
        the last picture being repeated where there are too few.
        """
        size = fixed or BATCH_SIZE
        for start in range(0, len(self), size):
            rows = list(self.tensors[start : start + size])
            which = slice(start, start + len(rows))
            if fixed is not None:
                rows += [rows[-1]] * (fixed - len(rows))
            yield which, np.stack(rows)
