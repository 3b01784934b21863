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


@dataclass(frozen=True)
class ImageInput:
    """The input that takes the pictures; ``None`` stands for a size that is free at run time."""

    value: ir.Value
    layout: str
    batch: int | None
    channels: int
    height: int | None
    width: int | None

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


def find(graph: ir.Graph, name: str) -> ImageInput:
    """Find the image input of a model, called `name` in messages.

    Raises:
        InputShapeError: there is not exactly one input, or it isn't a batch of images.
    """
    inputs = list(graph.inputs)
    if len(inputs) != 1:
        raise InputShapeError(
            f"{name}: has {len(inputs)} inputs ({', '.join(str(v.name) for v in inputs)}); only "
            "models whose one input is a batch of images can be explained"
        )
    value = inputs[0]
    if value.shape is None or value.dtype is None or len(value.shape) != 4:
        raise InputShapeError(
            f"{name}: input {value.name!r} has shape {value.shape}; a batch of images has 4 axes, "
            "[B, 3, H, W] or [B, H, W, 3]"
        )
    dims = [int(d) if isinstance(d, int) and d > 0 else None for d in value.shape.dims]
    if dims[1] in CHANNELS:
        return ImageInput(value, "NCHW", dims[0], int(dims[1] or 0), dims[2], dims[3])
    if dims[3] in CHANNELS:
        return ImageInput(value, "NHWC", dims[0], int(dims[3] or 0), dims[1], dims[2])
    raise InputShapeError(
        f"{name}: input {value.name!r} of shape {value.shape} has neither 1, 3 nor 4 channels at "
        "axis 1 or axis 3; fix its channel dimension before exporting"
    )
