"""Pictures and their classes, as training takes them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xai_onnx.errors import ImageError, PrototypeError, reason
from xai_onnx.preprocess import prepare, read_image
from xai_onnx.recipe import Preprocess, parse

Picture = str | os.PathLike[str] | NDArray[np.uint8]
Augment = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]


class LabelledPictures:
    """N pictures of C classes, and how they become the model's input.

    Attributes:
        classes: int64 [N].
        labels: C class names.
        ids: what each picture is called in a prototype's record.
        recipe: how a picture becomes the input.
    """

    def __init__(
        self,
        pictures: Sequence[Picture] | NDArray[np.uint8],
        classes: Sequence[int] | NDArray[np.integer],
        *,
        labels: Sequence[str],
        preprocess: Preprocess | str,
        ids: Sequence[str] | None = None,
    ) -> None:
        """Hold the pictures; files are read when they are needed.

        Args:
            pictures: paths, or pixels: uint8 RGB [H, W, 3] or grey [H, W], or one array of all.
            classes: the class of each, 0 to C - 1.
            labels: C class names, at least two.
            preprocess: recipe, or its text form with a size, e.g. ``"torchvision,size=224"``; its
                layout must be NCHW.
            ids: names of the pictures; ``None``: their paths, or their numbers.

        Raises:
            PrototypeError: the counts don't fit, or a class is unknown.
            PreprocessError: the recipe is malformed.
        """
        recipe = preprocess
        self.recipe = parse(recipe, "NCHW", None, None) if isinstance(recipe, str) else recipe
        self.classes = np.asarray(classes, np.int64)
        self.labels = tuple(labels)
        self._pictures = pictures
        if ids is None:
            ids = [str(n) if isinstance(p, np.ndarray) else str(p) for n, p in enumerate(pictures)]
        self.ids = tuple(ids)
        problem = self._problem()
        if problem:
            raise PrototypeError(f"the labelled pictures: {problem}")
        self._table = self._ready_table()

    def __len__(self) -> int:
        return len(self.classes)

    def tensor(
        self,
        indices: Sequence[int] | NDArray[np.integer],
        augment: Augment | None = None,
        rng: np.random.Generator | None = None,
    ) -> NDArray[np.float32]:
        """The model's input for some pictures, float32 [n, channels, H, W].

        Args:
            indices: which.
            augment: changes each picture, uint8 RGB [H, W, 3] or grey [H, W], beforehand.
            rng: what `augment` draws from.

        Raises:
            ImageError: a picture can't be read.
        """
        if augment is None and self._table is not None:
            assert isinstance(self._pictures, np.ndarray)
            return self._looked_up(self._pictures[indices], self._table)
        prepared = []
        for index in indices:
            picture = self._pictures[index]
            if augment is not None:
                assert rng is not None
                pixels = picture if isinstance(picture, np.ndarray) else read_image(picture)
                picture = augment(pixels, rng)
            prepared.append(prepare(picture, self.recipe).tensor)
        return np.stack(prepared)

    def seen(self, index: int) -> NDArray[np.uint8]:
        """What the model sees of a picture, uint8 RGB [H, W, 3], resized and cropped."""
        recipe = self.recipe
        channels = self.tensor([index])[0].astype(np.float64)
        mean, std = (np.array(numbers)[:, None, None] for numbers in (recipe.mean, recipe.std))
        pixels = np.rint((channels * std + mean) / recipe.scale).clip(0, 255).astype(np.uint8)
        if recipe.color == "BGR":
            pixels = pixels[::-1]
        return np.ascontiguousarray(
            np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0)
        )

    def sha256(self, index: int) -> str:
        """Of a picture's file, or of its pixels where it came as an array; hexadecimal."""
        picture = self._pictures[index]
        if isinstance(picture, np.ndarray):
            return hashlib.sha256(np.ascontiguousarray(picture).tobytes()).hexdigest()
        try:
            return hashlib.sha256(Path(picture).read_bytes()).hexdigest()
        except OSError as error:
            raise ImageError(f"{picture}: can't be read: {reason(error)}") from error

    def _problem(self) -> str | None:
        count = len(self._pictures)
        if self.classes.shape != (count,) or len(self.ids) != count:
            return (
                f"{count} pictures, classes of shape {list(self.classes.shape)} and "
                f"{len(self.ids)} ids; give one class and one id for each picture"
            )
        if len(self.labels) < 2:
            return f"{len(self.labels)} label(s); a classifier has two classes or more"
        known = np.unique(self.classes)
        if count and (known[0] < 0 or known[-1] >= len(self.labels)):
            return f"classes {known[0]} to {known[-1]}, but {len(self.labels)} labels"
        if self.recipe.layout != "NCHW":
            return f"layout {self.recipe.layout}; torch modules take NCHW"
        return None

    def _ready_table(self) -> NDArray[np.float32] | None:
        """The input value of each pixel value, [256, channels], if no picture is to be resized."""
        recipe, pictures = self.recipe, self._pictures
        if not isinstance(pictures, np.ndarray) or pictures.dtype != np.uint8:
            return None
        own = (recipe.height, recipe.width, *(() if recipe.color == "GRAY" else (3,)))
        if pictures.shape[1:] != own or recipe.shortest_side not in (None, min(own[:2])):
            return None
        values = np.arange(256, dtype=np.float64)[:, None] * recipe.scale
        return ((values - recipe.mean) / recipe.std).astype(np.float32)

    def _looked_up(
        self, pixels: NDArray[np.uint8], table: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """As `prepare`, which looks the 256 possible values up, for many pictures at once."""
        if pixels.ndim == 3:
            pixels = pixels[..., None]
        if self.recipe.color == "BGR":
            pixels = pixels[..., ::-1]
        return np.stack([table[:, c][pixels[..., c]] for c in range(pixels.shape[3])], axis=1)
