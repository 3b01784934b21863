"""What to explain: from what a caller asks for to ``class_index`` or ``cotangent``."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx.errors import TargetError
from xai_onnx.manifest import Manifest

PREDICTED = -1


def several(manifest: Manifest, target: Any) -> bool:
    """Whether a list of classes is explained for each picture, rather than one."""
    if manifest.cotangent is not None:
        return True
    if manifest.class_index is None:
        return (manifest.top_k or 1) > 1
    return isinstance(target, Sequence | np.ndarray) and not (
        isinstance(target, str) or np.ndim(target) == 0
    )


def none(manifest: Manifest | None, pictures: int) -> dict[str, NDArray[Any]]:
    """What a file is fed so that it explains nothing, K = 0; or the least that it can."""
    if manifest is None:
        return {}
    if manifest.cotangent is not None:
        return {manifest.cotangent: np.zeros((pictures, 0, manifest.num_classes), np.float32)}
    if manifest.class_index is not None:
        k = 1 if manifest.targets == "one_class" else 0
        return {manifest.class_index: np.full((pictures, k), PREDICTED, np.int64)}
    return {}


def rows(manifest: Manifest, target: Any, pictures: int) -> NDArray[Any]:
    """What each picture's explanations are of: classes [B, K], or cotangents [B, K, N].

    Raises:
        TargetError: classes that don't exist, or weights that aren't one for each class.
    """
    if manifest.cotangent is None:
        return class_rows(manifest, target, pictures)
    try:
        weights: NDArray[Any] = np.asarray(() if target is None else target, np.float32)
    except (ValueError, TypeError) as error:
        raise TargetError(
            f"the file takes cotangents, one weight for each score, not {target!r}"
        ) from error
    if weights.ndim == 2:
        weights = np.broadcast_to(weights, (pictures, *weights.shape))
    if weights.ndim != 3 or weights.shape[::2] != (pictures, manifest.num_classes):
        raise TargetError(
            f"the file takes cotangents, one weight for each score, of shape "
            f"[K, {manifest.num_classes}] or [{pictures}, K, {manifest.num_classes}], not "
            f"{list(weights.shape)}"
        )
    if not np.isfinite(weights).all():
        raise TargetError("the cotangents hold NaN or infinity")
    return weights


def class_rows(manifest: Manifest, target: Any, pictures: int) -> NDArray[np.int64]:
    """The classes to explain, [B, K], with -1 for the predicted class.

    Args:
        manifest: of the model; its labels give names a meaning.
        target: ``None``, an index, a label, a list of those, or an integer array [B, K].
        pictures: B.

    Raises:
        TargetError: a class that doesn't exist, or any class if the file chooses them itself.
    """
    if manifest.class_index is None:
        if target is not None:
            raise TargetError(
                "the file was exported with targets='predicted' and explains no class of your "
                "choice; export it with targets='class_index'"
            )
        return np.zeros((pictures, 0), np.int64)
    if isinstance(target, np.ndarray) and target.ndim == 2:
        rows = target
        if len(rows) != pictures:
            raise TargetError(
                f"targets of shape {list(rows.shape)} don't fit {pictures} pictures; the shape is "
                "[pictures, classes]"
            )
    else:
        asked = list(target) if several(manifest, target) else [target]
        found = [index(item, manifest.num_classes, manifest.labels) for item in asked]
        rows = np.tile(found, (pictures, 1))
    if rows.size and not np.issubdtype(rows.dtype, np.integer):
        raise TargetError(f"a class is a whole number or a label, not {rows.dtype}")
    one_class = manifest.targets == "one_class" and manifest.prototypes is None  # it takes turns
    if one_class and rows.shape[1] != 1:
        raise TargetError(
            f"the file explains one class of each picture, not {rows.shape[1]}; export it with "
            "targets='class_index'"
        )
    wrong = rows[(rows < PREDICTED) | (rows >= manifest.num_classes)]
    if wrong.size:
        raise _no_class(wrong.flat[0], manifest.num_classes)
    return rows.astype(np.int64)


def index(target: Any, num_classes: int, labels: Sequence[str]) -> int:
    """The class that one `target` means: an index, a label, or ``None`` for the predicted one, -1.

    Raises:
        TargetError: there is no such class, or more than one of that label.
    """
    if target is None:
        return PREDICTED
    if isinstance(target, int | np.integer) and not isinstance(target, bool):
        if not PREDICTED <= target < num_classes:
            raise _no_class(target, num_classes)
        return int(target)
    if not isinstance(target, str):
        raise TargetError(f"a class is an index or a label, not {target!r}")
    found = [index for index, label in enumerate(labels) if label == target]
    if len(found) == 1:
        return found[0]
    if found:
        raise TargetError(f"classes {found} are all called {target!r}; give the index")
    if not labels:
        raise TargetError(
            f"the file holds no labels, so there is no class {target!r}; give an index, or export "
            "it with labels"
        )
    close = difflib.get_close_matches(target, labels, n=3)
    hint = f"did you mean {', '.join(map(repr, close))}?" if close else "give an index"
    raise TargetError(f"there is no class {target!r}; {hint}")


def _no_class(index: int | np.integer, num_classes: int) -> TargetError:
    return TargetError(
        f"there is no class {index}; the model has classes 0 to {num_classes - 1}, and -1 "
        "stands for the predicted one"
    )
