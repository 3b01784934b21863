"""The folder ``img/epoch-N`` that the original writes when it projects the prototypes.

``bb{N}.npy`` and ``bb-receptive_field{N}.npy`` are int [P, 6] (or 5): index of the picture in the
training set, y0, y1, x0, x1, half open, and its class; -1 in a row that was never filled. Pictures
lie beside them, one of each kind a prototype.
"""

from __future__ import annotations

import hashlib
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from exporters.protopnet.arrays import PrototypeSources
from xai_onnx.errors import PrototypeError, reason

PATCH_SIDE, PICTURE_SIDE = 64, 128  # longest sides of what the bank keeps, in pixels
JPEG_QUALITY = 85
_LARGEST_PICTURE = 2**24  # pixels
_LARGEST_GRID = 2**16  # cells


def read(folder: Path) -> tuple[PrototypeSources, NDArray[np.int64]]:
    """What the folder says of each prototype's source, and the source's class, -1 if unknown.

    Raises:
        PrototypeError: the tables are missing or damaged, or a picture is.
    """
    boxes, fields = _table(folder, r"bb\d+\.npy"), _table(folder, r"bb-receptive_field\d+\.npy")
    if boxes.shape != fields.shape:
        raise PrototypeError(
            f"{folder}: its two tables have {len(boxes)} and {len(fields)} prototypes; give the "
            "folder of one epoch"
        )
    count = len(boxes)
    filled = boxes[:, 0] >= 0
    originals = [folder / f"prototype-img-original{j}.png" for j in range(count)]
    maps = [_map(folder / f"prototype-self-act{j}.npy") for j in range(count)]
    shapes = {item.shape for item in maps if item is not None}
    similar = None
    locations = np.full(count, -1, np.int64)
    if len(shapes) == 1:
        similar = np.zeros((count, *shapes.pop()), np.float16)
        for j, item in enumerate(maps):
            if item is not None:
                similar[j], locations[j] = item.astype(np.float16), int(item.argmax())
    sources = PrototypeSources(
        image_ids=tuple(f"training picture {index}" if index >= 0 else "" for index in boxes[:, 0]),
        image_sha256=tuple(
            _sha256(path) if known else "" for path, known in _both(originals, filled)
        ),
        boxes=boxes[:, 1:5],
        receptive_boxes=fields[:, 1:5],
        locations=locations,
        self_similarity=similar,
        patches=tuple(
            _jpeg(folder / f"prototype-img{j}.png", PATCH_SIDE) if filled[j] else b""
            for j in range(count)
        ),
        pictures=tuple(
            _jpeg(path, PICTURE_SIDE) if known else b"" for path, known in _both(originals, filled)
        ),
    )
    classes = boxes[:, 5] if boxes.shape[1] == 6 else np.full(count, -1, np.int64)
    return sources, classes


def _both(paths: list[Path], filled: NDArray[np.bool_]) -> list[tuple[Path, bool]]:
    return list(zip(paths, filled.tolist(), strict=True))


def _table(folder: Path, pattern: str) -> NDArray[np.int64]:
    try:
        found = [path for path in folder.iterdir() if re.fullmatch(pattern, path.name)]
    except OSError as error:
        raise PrototypeError(f"{folder}: can't be read: {error.strerror or error}") from error
    if len(found) != 1:
        raise PrototypeError(
            f"{folder}: has {len(found) or 'no'} files like {pattern.replace(chr(92), '')}; give "
            "the folder img/epoch-N that the projection wrote"
        )
    table = _array(found[0])
    if table.ndim != 2 or table.shape[1] not in (5, 6) or not len(table):
        raise PrototypeError(f"{found[0]}: has shape {list(table.shape)}, not [prototypes, 6]")
    if not (np.isfinite(table).all() and (table == np.rint(table)).all() and (table >= -1).all()):
        raise PrototypeError(f"{found[0]}: holds other numbers than boxes have")
    return table.astype(np.int64)


def _map(path: Path) -> NDArray[np.float32] | None:
    if not path.exists():
        return None
    grid = _array(path)
    if grid.ndim != 2 or not 0 < grid.size <= _LARGEST_GRID:
        raise PrototypeError(f"{path}: has shape {list(grid.shape)}, not that of a similarity map")
    return grid.astype(np.float32)


def _array(path: Path) -> NDArray[Any]:
    """An .npy file: never a pickle; mapped, so that its header can't ask for more."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise PrototypeError(f"{path}: can't be read as an array: {reason(error)}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
        raise PrototypeError(f"{path}: holds no numbers")
    return array


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _jpeg(path: Path, side: int) -> bytes:
    """The picture as a thumbnail, nothing where there is none."""
    if not path.exists():
        return b""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            if picture.width * picture.height > _LARGEST_PICTURE:
                raise PrototypeError(f"{path}: is too large: {picture.width}x{picture.height}")
            return thumbnail(picture, side)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PrototypeError(f"{path}: can't be read as a picture: {reason(error)}") from error


def thumbnail(picture: Image.Image, side: int) -> bytes:
    """A picture as JPEG, shrunk until its longer side has `side` pixels; never enlarged."""
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = BytesIO()
    small.save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()
