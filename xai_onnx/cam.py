"""One session run: scores, maps, and the explanations made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx import scores
from xai_onnx.batch import ImageInput
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
    classes: NDArray[np.int64],
    prepared: Sequence[Prepared | None],
) -> list[list[Explanation]]:
    """Explain the pictures of one batch.

    Args:
        session: of an explained model.
        manifest: of that model.
        image: its input.
        tensor: the batch, [B, 3, H, W] or [B, H, W, 3]; rows beyond `prepared` are padding.
        classes: the classes to explain, [B, K]; without meaning where the file chooses them.
        prepared: the pictures behind the tensor.

    Returns:
        For each picture the K explanations.
    """
    feed: dict[str, NDArray[Any]] = {manifest.input: tensor}
    if manifest.class_index is not None:
        padding = len(tensor) - len(classes)
        feed[manifest.class_index] = np.pad(classes, ((0, padding), (0, 0)), mode="edge")
    names = [manifest.score_output, manifest.cam]
    if manifest.saliency_map is not None:
        names.append(manifest.saliency_map)
    raw, cams, *maps = session.run(names, feed)
    rows = scores.checked(raw, session.name)
    size = tensor.shape[2:] if image.layout == "NCHW" else tensor.shape[1:3]
    explained = []
    for index, seen in enumerate(prepared):
        row = rows[index]
        if manifest.class_index is None:
            targets = np.argsort(-row, kind="stable")[: manifest.top_k]
        else:
            targets = np.where(classes[index] < 0, row.argmax(), classes[index])
        explained.append(
            [
                Explanation(
                    **scores.class_score(manifest, row, int(target)),
                    method=manifest.method,
                    target_layer=manifest.target_layer,
                    cam=cams[index, k],
                    saliency_map=maps[0][index, k] if maps else scaled(cams[index, k], *size),
                    image=None if seen is None else seen.image,
                    box=None if seen is None else seen.box,
                )
                for k, target in enumerate(targets)
            ]
        )
    return explained


def scaled(cam: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """The saliency map on the host, for files made without it: bilinear, half-pixel, min-max.

    Args:
        cam: [h, w].
        height, width: H, W of the input tensor.

    Returns:
        float32 [H, W] in [0, 1]; all zero where `cam` is constant.
    """
    import cv2

    large = cv2.resize(cam - cam.min(), (width, height), interpolation=cv2.INTER_LINEAR)
    low, high = large.min(), large.max()
    result: NDArray[np.float32] = (large - low) / max(high - low, np.finfo(np.float32).tiny)
    return result
