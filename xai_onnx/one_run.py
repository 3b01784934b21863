"""One session run: scores, maps, and the explanations made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx import scores
from xai_onnx.batch import ImageInput
from xai_onnx.errors import ManifestError
from xai_onnx.explanation import Explanation
from xai_onnx.manifest import Manifest
from xai_onnx.session import Session

if TYPE_CHECKING:
    from xai_onnx.preprocess import Prepared


def explain(
    session: Session,
    manifest: Manifest,
    image: ImageInput,
    tensor: NDArray[Any],
    wanted: NDArray[Any],
    prepared: Sequence[Prepared | None],
    extra: Mapping[str, NDArray[Any]],
) -> list[list[Explanation]]:
    """Explain the pictures of one batch.

    Args:
        session: of an explained model.
        manifest: of that model.
        image: its input.
        tensor: the batch, [B, 3, H, W] or [B, H, W, 3]; rows beyond `prepared` are padding.
        wanted: the classes to explain, int64 [B, K], or cotangents, float [B, K, N]; without
            meaning where the file chooses the classes.
        prepared: the pictures behind the tensor.
        extra: what else the file takes, by name.

    Returns:
        For each picture the K explanations.

    Raises:
        ManifestError: the maps aren't what the manifest says.
    """
    feed: dict[str, NDArray[Any]] = {manifest.input: tensor, **extra}
    asked = manifest.class_index or manifest.cotangent
    if asked is not None:
        padding = [(0, len(tensor) - len(wanted)), *[(0, 0)] * (wanted.ndim - 1)]
        feed[asked] = np.pad(wanted, padding, mode="edge")
    names = [manifest.score_output, manifest.map]
    if manifest.saliency_map is not None:
        names.append(manifest.saliency_map)
    raw, found, *maps = session.run(names, feed)
    count = wanted.shape[1] if manifest.top_k is None else manifest.top_k
    for array, axes in zip((found, *maps), (4 if manifest.cam else 5, 4), strict=False):
        if array.shape[:2] != (len(tensor), count) or array.ndim != axes or 0 in array.shape[2:]:
            raise ManifestError(
                f"{session.name}: a map has shape {list(array.shape)}, not as its manifest says "
                f"[{len(tensor)}, {count}, ...] with {axes} axes; export the model again"
            )
    size = tensor.shape[2:] if image.layout == "NCHW" else tensor.shape[1:3]
    channels = 1 if image.layout == "NCHW" else 3
    explained = []
    rows = scores.checked(raw, session.name)
    for index, seen in enumerate(prepared):
        of_picture = []
        for k, fields in enumerate(_scored(manifest, rows[index], wanted[index])):
            small = found[index, k]
            if manifest.attribution is not None:
                small = np.moveaxis(small, channels - 1, 0)
            large = maps[0][index, k] if maps else scaled(brightness(manifest, small), *size)
            of_picture.append(
                Explanation(
                    **fields,
                    method=manifest.method,
                    target_layers=manifest.target_layers,
                    cam=small if manifest.cam is not None else None,
                    attribution=small if manifest.attribution is not None else None,
                    saliency_map=large,
                    image=None if seen is None else seen.image,
                    box=None if seen is None else seen.box,
                )
            )
        explained.append(of_picture)
    return explained


def _scored(
    manifest: Manifest, row: NDArray[np.float32], wanted: NDArray[Any]
) -> Iterator[dict[str, Any]]:
    """The fields of each explanation's `ClassScore`, for one picture's scores."""
    if manifest.cotangent is not None:
        for k, weights in enumerate(wanted):
            score = float(weights.astype(np.float64) @ row)
            yield {"target": k, "label": "cotangent", "score": score, "probability": None}
        return
    classes = np.where(wanted < 0, row.argmax(), wanted)
    if manifest.class_index is None:
        classes = np.argsort(-row, kind="stable")[: manifest.top_k]
    for target in classes:
        yield scores.class_score(manifest, row, int(target))


def brightness(manifest: Manifest, found: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a saliency map shows: a CAM itself, an attribution's absolute sum over the channels."""
    if manifest.cam is not None:
        return found
    total: NDArray[np.float32] = np.abs(found).sum(0)
    return total


def scaled(small: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """The saliency map on the host, for files made without it: bilinear, half-pixel, min-max.

    Args:
        small: [h, w].
        height, width: H, W of the input tensor.

    Returns:
        float32 [H, W] in [0, 1]; all zero where `small` is constant.
    """
    import cv2

    large = cv2.resize(small - small.min(), (width, height), interpolation=cv2.INTER_LINEAR)
    low, high = large.min(), large.max()
    result: NDArray[np.float32] = (large - low) / max(high - low, np.finfo(np.float32).tiny)
    return result
