"""The model's image input: which one it is, its layout, and what of its shape is free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from xai_onnx import recipe
from xai_onnx.errors import InputShapeError
from xai_onnx.recipe import Preprocess

CHANNELS = (1, 3, 4)

Feed = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class ImageInput:
    """The input that takes the pictures; ``None`` stands for a size that is free at run time.

    `beside` are the model's other inputs.
    """

    value: ir.Value
    layout: str
    batch: int | None
    channels: int
    height: int | None
    width: int | None
    beside: tuple[ir.Value, ...] = ()

    @property
    def batch_dim(self) -> int | str:
        """The batch dimension as the model calls it."""
        assert self.value.shape is not None
        size = self.value.shape[0]
        return self.batch or (None if isinstance(size, int) else size.value) or "batch"

    def fitting(self, preprocess: Preprocess | str) -> Preprocess:
        """The recipe, or its text form, checked against this input (`xai_onnx.recipe.fitting`)."""
        assert self.value.dtype is not None
        return recipe.fitting(
            preprocess,
            self.layout,
            self.channels,
            self.height,
            self.width,
            whole=self.value.dtype.is_integer(),
        )

    def feed(self, batch: int, size: tuple[int, int], seed: int = 0) -> Feed:
        """A random batch, and random content for the other inputs, by name."""
        pictures = self.noise(batch, size, seed)
        known = dict(zip(_names(self.value), pictures.shape, strict=True))
        others = {str(v.name): _random(v, known, seed) for v in self.beside}
        return {str(self.value.name): pictures, **others}

    def noise(self, batch: int, size: tuple[int, int], seed: int = 0) -> NDArray[np.generic]:
        """A random batch that the model accepts, where its own sizes leave room for `size`."""
        height, width = self.height or size[0], self.width or size[1]
        shape = [self.batch or batch, self.channels, height, width]
        if self.layout == "NHWC":
            shape = [shape[0], height, width, self.channels]
        assert self.value.dtype is not None
        dtype = self.value.dtype.numpy()
        generator = np.random.default_rng(seed)
        if np.issubdtype(dtype, np.integer):
            return generator.integers(0, 256, shape).astype(dtype)
        return generator.standard_normal(shape).astype(dtype)


def find(graph: ir.Graph, name: str, wanted: str | None = None) -> ImageInput:
    """Find the image input of a model, called `name` in messages; the other inputs go beside it.

    Args:
        graph: the model's graph.
        name: how messages call the model.
        wanted: the input's name; ``None``: the only one that is a batch of images.

    Raises:
        InputShapeError: no input, or more than one, is a batch of images.
    """
    inputs = list(graph.inputs)
    if wanted is None and len(inputs) > 1:
        found = [v for v in inputs if _layout(v) is not None]
    else:
        found = [v for v in inputs if wanted in (None, str(v.name))]
    listed = ", ".join(f"{v.name!r} {v.shape}" for v in inputs)
    if wanted is not None and not found:
        raise InputShapeError(f"{name}: has no input {wanted!r}; its inputs are {listed or 'none'}")
    if len(found) != 1:
        raise InputShapeError(
            f"{name}: {len(found) or 'none'} of its inputs ({listed}) can take the picture, a "
            "batch of images [B, 3, H, W] or [B, H, W, 3]; name the one that does with --input"
        )
    (value,) = found
    beside = tuple(v for v in inputs if v is not value)
    if value.shape is None or value.dtype is None or len(value.shape) != 4:
        raise InputShapeError(
            f"{name}: input {value.name!r} has shape {value.shape}; a batch of images has 4 axes, "
            "[B, 3, H, W] or [B, H, W, 3]"
        )
    layout, dims = _layout(value), _sizes(value)
    if layout is None:
        raise InputShapeError(
            f"{name}: input {value.name!r} of shape {value.shape} has neither 1, 3 nor 4 channels "
            "at axis 1 or axis 3; fix its channel dimension before exporting"
        )
    recipe.check_extent(dims, f"{name}: input {value.name!r}")
    batch, *rest = dims
    channels, height, width = rest if layout == "NCHW" else [rest[2], *rest[:2]]
    return ImageInput(value, layout, batch, int(channels or 0), height, width, beside)


def _sizes(value: ir.Value) -> list[int | None]:
    assert value.shape is not None
    return [int(d) if isinstance(d, int) and d > 0 else None for d in value.shape.dims]


def _layout(value: ir.Value) -> str | None:
    if value.shape is None or len(value.shape) != 4:
        return None
    dims = _sizes(value)
    if dims[1] in CHANNELS:
        return "NCHW"
    return "NHWC" if dims[3] in CHANNELS else None


def _names(value: ir.Value) -> list[object]:
    """The names of the sizes that are free; of the others themselves."""
    assert value.shape is not None
    return [d if isinstance(d, int) else d.value for d in value.shape.dims]


def _random(value: ir.Value, known: dict[object, int], seed: int) -> NDArray[np.generic]:
    """Content for an input beside the image; a free size of no known name is taken for 1."""
    assert value.shape is not None
    assert value.dtype is not None
    shape = [d if isinstance(d, int) else known.get(d, 1) for d in _names(value)]
    generator = np.random.default_rng(seed)
    if value.dtype.is_floating_point():
        return generator.random(shape).astype(value.dtype.numpy())
    return generator.integers(0, 2, shape).astype(value.dtype.numpy())
