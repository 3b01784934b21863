"""What an explained file takes besides pictures and targets: from a caller, or by default.

| role | shape | by default |
|---|---|---|
| ``steps`` | int64 [1] | 32 pictures on the way from the baseline |
| ``baseline`` | [1, C, H, W] | a black picture, preprocessed; zeros where that is unknown |
| ``noise`` | [n, C, H, W] | 16 draws of standard deviation 0.15, seeded |

C, H, W in the order of the image input. Anything else, a mask for instance, must be given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xai_onnx.batch import ImageInput
from xai_onnx.errors import InputShapeError
from xai_onnx.manifest import Manifest
from xai_onnx.recipe import Preprocess
from xai_onnx.session import Session

STEPS, SAMPLES, NOISE_LEVEL = 32, 16, 0.15


class ExtraInputs:
    """The extra inputs of one call, cut to the pictures of each run."""

    def __init__(
        self,
        session: Session,
        manifest: Manifest | None,
        image: ImageInput,
        preprocess: Preprocess | None,
        given: Mapping[str, ArrayLike] | None,
        *,
        pictures: int,
        explaining: bool,
    ) -> None:
        """Check what is `given`, by role; without `explaining`, no step is taken in vain.

        What has a row for each picture has `pictures` of them, whatever the batch of the file.

        Raises:
            InputShapeError: unknown or missing, or not of the type that the file takes.
        """
        roles = {} if manifest is None else manifest.extra_inputs
        unknown = set(given or {}) - set(roles)
        if unknown:
            raise InputShapeError(
                f"{session.name}: takes no input {sorted(unknown)[0]!r} besides pictures and "
                f"targets; it takes {', '.join(roles) or 'none'}"
            )
        self._session, self._image, self._preprocess = session, image, preprocess
        self._pictures, self._explaining = pictures, explaining
        self._given = {
            role: self._checked(role, name, (given or {}).get(role)) for role, name in roles.items()
        }
        self._names = roles

    def feed(self, which: slice, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """What a run on `tensor`, made of the pictures `which`, takes besides, by input name."""
        feed = {}
        for role, name in self._names.items():
            array = self._given[role]
            if array is None:
                array = self._default(role, tensor)
            elif self._each(name):
                array = array[which]
                array = np.concatenate([array, *[array[-1:]] * (len(tensor) - len(array))])
            feed[name] = array
        return feed

    def _each(self, name: str) -> bool:
        """Whether the input has a row for each picture."""
        pictures = self._session.inputs[self._image.name].shape[0]
        return bool(self._session.inputs[name].shape[:1] == [pictures])

    def _checked(self, role: str, name: str, given: ArrayLike | None) -> NDArray[Any] | None:
        value = self._session.inputs[name]
        if given is None:
            if role in _DEFAULTS:
                return None
            raise InputShapeError(
                f"{self._session.name}: needs {role!r}, {value.type} of shape {value.shape}; give "
                f"it as inputs={{{role!r}: ...}}"
            )
        dtype = _TYPES.get(value.type)
        array = np.asarray(given)
        each = self._each(name)
        sizes = list(zip(value.shape, array.shape, strict=False))[each:]
        fits = len(value.shape) == array.ndim and all(
            not isinstance(want, int) or want == got for want, got in sizes
        )
        if dtype is None or not fits or not np.can_cast(array.dtype, dtype, "same_kind"):
            raise InputShapeError(
                f"{self._session.name}: {role!r} must be {value.type} of shape {value.shape}, not "
                f"{array.dtype} of shape {list(array.shape)}"
            )
        if each and len(array) != self._pictures:
            rows = f"{len(array)} row{'s' if len(array) != 1 else ''}"
            raise InputShapeError(
                f"{self._session.name}: {role!r} has {rows} for {self._pictures} pictures; give "
                "one for each"
            )
        return array.astype(dtype, copy=False)

    def _default(self, role: str, tensor: NDArray[Any]) -> NDArray[Any]:
        dtype, shape = tensor.dtype, tensor.shape[1:]
        if role == "steps":
            return np.array([STEPS if self._explaining else 0], np.int64)
        if role == "noise":
            count = SAMPLES if self._explaining else 0
            draws = np.random.default_rng(0).standard_normal((count, *shape))
            return (NOISE_LEVEL * draws).astype(dtype)
        black = np.zeros((1, *shape), dtype)
        if self._preprocess is None:
            return black
        channels = 1 if self._image.layout == "NCHW" else 3
        per_channel = [1] * 4
        per_channel[channels] = -1
        mean, std = (
            np.asarray(numbers, np.float64).reshape(per_channel)
            for numbers in (self._preprocess.mean, self._preprocess.std)
        )
        return (black - mean / std).astype(dtype)


_DEFAULTS = frozenset({"steps", "baseline", "noise"})

_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
