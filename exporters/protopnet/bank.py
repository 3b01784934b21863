"""Write the prototype bank, ``*.protobank.safetensors``: what the graph has no need of.

`xai_onnx.protopnet.bank` reads it. The format executes nothing and is read by memory mapping.

====================  ====================  =====================================================
tensor                type, shape           meaning
====================  ====================  =====================================================
prototype_class       int64 [P]             class of each prototype
weights               float32 [C, P]        last layer; evidence = similarity x weight
locations             int64 [P]             y * w + x on the source, -1 if unknown
boxes                 int64 [P, 4]          y0, y1, x0, x1, half open, in pixels of the input
receptive_boxes       int64 [P, 4]          the same, of the receptive field
self_similarity       float16 [P, h, w]     similarity map on the source; may be missing
image_sha256          uint8 [P, 32]         of the source picture; zeros if unknown
image_ids             uint8 [n]             texts in UTF-8, one behind the other
patches, pictures     uint8 [n]             JPEG files, one behind the other
image_ids_offsets...  int64 [P, 2]          start and end in the blob of that name; equal
                                            contents are stored once
====================  ====================  =====================================================
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from exporters.protopnet.arrays import ProtoPNetArrays, PrototypeSources
from xai_onnx.prototypes import BANK_SCHEMA


def bank_bytes(arrays: ProtoPNetArrays, *, redacted: bool = False) -> bytes:
    """The bank of a trained model, as the bytes of a .safetensors file.

    Args:
        arrays: the model.
        redacted: leave the pictures out: thumbnails are training data.
    """
    from safetensors.numpy import save

    count = len(arrays.prototypes)
    known = arrays.sources or PrototypeSources.unknown(count)
    tensors = {
        "prototype_class": arrays.prototype_class,
        "weights": arrays.weights,
        "locations": known.locations.astype(np.int64),
        "boxes": known.boxes.astype(np.int64),
        "receptive_boxes": known.receptive_boxes.astype(np.int64),
        "image_sha256": _hashes(known.image_sha256),
    }
    if known.self_similarity is not None:
        tensors["self_similarity"] = known.self_similarity.astype(np.float16)
    blobs = {"image_ids": [name.encode() for name in known.image_ids]}
    if not redacted:
        blobs |= {"patches": list(known.patches), "pictures": list(known.pictures)}
    for name, contents in blobs.items():
        tensors[name], tensors[f"{name}_offsets"] = _blob(contents)
    ordered = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    return bytes(save(ordered, metadata={"schema_version": BANK_SCHEMA}))


def _hashes(texts: Sequence[str]) -> NDArray[np.uint8]:
    rows = [bytes.fromhex(text) if text else bytes(32) for text in texts]
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), 32)


def _blob(contents: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One array of bytes, and where each content starts and ends in it."""
    places: dict[bytes, tuple[int, int]] = {b"": (0, 0)}
    end = 0
    for content in contents:
        if content not in places:
            places[content] = (end, end + len(content))
            end += len(content)
    blob = b"".join(content for content in places)
    offsets = np.array([places[content] for content in contents], np.int64).reshape(-1, 2)
    return np.frombuffer(blob, np.uint8), offsets
