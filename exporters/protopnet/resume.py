"""The state of a training on disk: written atomically, read without unpickling code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from exporters.protopnet.labelled_pictures import LabelledPictures
from xai_onnx.errors import OutputFileError, PrototypeError, reason
from xai_onnx.output_file import replacing


def save(file: Path, told: dict[str, Any], state: dict[str, Any]) -> None:
    """Replace `file` by the state of a training; `told` says which one it is."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputFileError(f"{file.parent}: can't be made: {reason(error)}") from error
    with replacing(file) as temporary:
        torch.save({"told": json.dumps(told), "state": state}, temporary)


def load(file: Path, told: dict[str, Any]) -> dict[str, Any]:
    """The state in `file`.

    Raises:
        PrototypeError: damaged, or of a training with other settings or pictures.
    """
    try:
        content = torch.load(file, weights_only=True, map_location="cpu")
        before, state = json.loads(content["told"]), content["state"]
    except Exception as error:  # torch raises whatever its reader meets
        raise PrototypeError(
            f"{file}: is no state of a training: {reason(error)}; delete it to start anew"
        ) from error
    wanted = json.loads(json.dumps(told))
    other = sorted(key for key in {*before, *wanted} if before.get(key) != wanted.get(key))
    if other:
        raise PrototypeError(
            f"{file}: is the state of another training, with other {', '.join(other)}; give "
            "another folder, or delete it to start anew"
        )
    found: dict[str, Any] = state
    return found


def fingerprint(pictures: LabelledPictures) -> str:
    """SHA-256 of what the pictures are called, their classes and how they are prepared."""
    told = [pictures.ids, pictures.labels, pictures.classes.tolist(), str(pictures.recipe)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
