"""Class names from a list or a file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from xai_onnx.errors import ManifestError, reason

Labels = Sequence[str] | str | os.PathLike[str] | None


def read_labels(labels: Labels, num_classes: int | None) -> tuple[str, ...]:
    """Class names from a list, or from a file: a JSON list, or one name a line.

    Their number isn't checked where `num_classes` isn't known, ``None``.

    Raises:
        ManifestError: unreadable, or not one name for each of the model's classes.
    """
    if labels is None:
        return ()
    where = "labels"
    if isinstance(labels, str | os.PathLike):
        where = str(labels)
        try:
            text = Path(labels).read_text(encoding="utf-8-sig")
            labels = json.loads(text) if text.lstrip()[:1] in "[{" else text.splitlines()
        except (OSError, ValueError, RecursionError) as error:
            raise ManifestError(
                f"{where}: can't be read as class names: {reason(error)}; give a JSON list, or one "
                "name a line"
            ) from error
    if not isinstance(labels, Sequence) or not all(isinstance(label, str) for label in labels):
        raise ManifestError(f"{where}: must be a list of class names")
    if num_classes is not None and len(labels) != num_classes:
        raise ManifestError(f"{where}: has {len(labels)} names, the model {num_classes} classes")
    return tuple(labels)
