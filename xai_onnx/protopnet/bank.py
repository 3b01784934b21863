"""The prototype bank beside a model: classes, last layer, and where the prototypes come from.

`exporters.protopnet.bank` writes it and lists its tensors. It is bound to the model by the SHA-256
in the model's manifest; another bank is refused, since its pictures would explain nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xai_onnx.errors import PrototypeError, reason
from xai_onnx.prototypes import BANK_SCHEMA, Prototypes

_LARGEST_THUMBNAIL = 2**22  # pixels
_CHUNK = 2**20  # bytes hashed at a time


class Bank:
    """An open bank, checked against its model; pictures are read when they are asked for.

    Attributes:
        prototype_class: class of each prototype, int64 [P].
        weights: of the last layer, float32 [C, P].
        locations: y * w + x on the source, int64 [P]; -1 where unknown.
        boxes, receptive_boxes: y0, y1, x0, x1 on the source, int64 [P, 4]; -1 where unknown.
    """

    def __init__(
        self, path: str | os.PathLike[str], prototypes: Prototypes, num_classes: int
    ) -> None:
        """Open the bank at `path` of a model with these prototypes.

        Raises:
            PrototypeError: missing, damaged, or another one than the model was exported with.
        """
        self._path = Path(path)
        self._check_hash(prototypes)
        with self._open() as file:
            self._names = frozenset(file.keys())
            if (file.metadata() or {}).get("schema_version") != BANK_SCHEMA:
                raise self._wrong("is of another schema than this xai_onnx reads; upgrade it")
            count = prototypes.count
            shapes = {
                "prototype_class": ("int64", (count,)),
                "weights": ("float32", (num_classes, count)),
                "locations": ("int64", (count,)),
                "boxes": ("int64", (count, 4)),
                "receptive_boxes": ("int64", (count, 4)),
                "image_sha256": ("uint8", (count, 32)),
            }
            read = {name: self._tensor(file, name, *form) for name, form in shapes.items()}
            self._offsets = {
                name: self._tensor(file, f"{name}_offsets", "int64", (count, 2))
                for name in ("image_ids", "patches", "pictures")
                if name in self._names
            }
        classes = read["prototype_class"]
        if classes.min() < 0 or classes.max() >= num_classes:
            raise self._wrong(f"has prototypes of classes beyond the model's {num_classes}")
        self.prototype_class: NDArray[np.int64] = classes
        self.weights: NDArray[np.float32] = read["weights"]
        self.locations: NDArray[np.int64] = read["locations"]
        self.boxes: NDArray[np.int64] = read["boxes"]
        self.receptive_boxes: NDArray[np.int64] = read["receptive_boxes"]
        self._sha256 = read["image_sha256"]

    def image_id(self, prototype: int) -> str:
        """What the training set calls the source picture; ``""`` where unknown."""
        return self._bytes("image_ids", prototype).decode("utf-8", "replace")

    def image_sha256(self, prototype: int) -> str:
        """Of the source picture, hexadecimal; ``""`` where unknown."""
        row = self._sha256[prototype]
        return row.tobytes().hex() if row.any() else ""

    def patch(self, prototype: int) -> NDArray[np.uint8] | None:
        """The training patch, uint8 RGB; ``None`` where the bank has none (redacted, unknown)."""
        return self._picture("patches", prototype)

    def picture(self, prototype: int) -> NDArray[np.uint8] | None:
        """The whole source picture, small, uint8 RGB; ``None`` where the bank has none."""
        return self._picture("pictures", prototype)

    def _check_hash(self, prototypes: Prototypes) -> None:
        digest = hashlib.sha256()
        try:
            with self._path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except OSError as error:
            raise PrototypeError(
                f"{self._path}: the model's prototype bank can't be read: "
                f"{error.strerror or error}; put it beside the model, or say where it is with bank"
            ) from error
        if digest.hexdigest() != prototypes.bank_sha256:
            raise self._wrong(
                "isn't the bank that the model was exported with (its SHA-256 differs); get the "
                "two files of one export"
            )

    @contextmanager
    def _open(self) -> Iterator[Any]:
        import safetensors

        try:
            with safetensors.safe_open(self._path, framework="numpy") as file:
                yield file
        except (safetensors.SafetensorError, OSError) as error:
            raise self._wrong(f"is damaged: {reason(error)}") from error

    def _tensor(self, file: Any, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        if name not in self._names:
            raise self._wrong(f"lacks {name!r}")
        array: NDArray[Any] = file.get_tensor(name)
        if array.dtype != dtype or array.shape != shape:
            raise self._wrong(
                f"has {name} of {array.dtype} {list(array.shape)}, not {dtype} {list(shape)}"
            )
        return array

    def _bytes(self, name: str, prototype: int) -> bytes:
        if name not in self._offsets:
            return b""
        start, end = (int(place) for place in self._offsets[name][prototype])
        with self._open() as file:
            blob = file.get_slice(name)
            if not 0 <= start <= end <= blob.get_shape()[0]:
                raise self._wrong(f"has {name} that reach beyond their end")
            return bytes(blob[start:end].tobytes()) if end > start else b""

    def _picture(self, name: str, prototype: int) -> NDArray[np.uint8] | None:
        content = self._bytes(name, prototype)
        if not content:
            return None
        try:
            with Image.open(BytesIO(content), formats=("JPEG",)) as picture:
                if picture.width * picture.height > _LARGEST_THUMBNAIL:
                    raise self._wrong(f"has a picture of {picture.width}x{picture.height} pixels")
                return np.asarray(picture.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise self._wrong(f"has a damaged picture: {reason(error)}") from error

    def _wrong(self, problem: str) -> PrototypeError:
        return PrototypeError(f"{self._path}: {problem}")
