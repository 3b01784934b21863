"""CaBRNet's checkpoints: a folder with ``model_state.pth`` and ``model_arch.yml``.

A ``projection_info.csv`` beside them is read, too; ``state.pickle``, of the random generators, is
never opened. The result speaks the original's names, so that `exporters.protopnet.checkpoint` reads
both alike.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.protopnet.arrays import PrototypeSources
from exporters.protopnet.torch_file import Tensor, TorchFile
from xai_onnx.errors import PrototypeError, reason

STATE, ARCHITECTURE, PROJECTION = "model_state.pth", "model_arch.yml", "projection_info.csv"

_LOG = ("LegacyProtoPNetSimilarity", "ProtoPNetSimilarity")
_LARGEST_TEXT = 2**20  # bytes of a .yml; of a .csv 16 times that

State = dict[str, NDArray[np.float32]]


def read(folder: Path) -> tuple[State, dict[str, Any]]:
    """Weights under the original's names, and what else `ProtoPNetArrays` wants to know.

    Raises:
        PrototypeError: files are missing or damaged, or it is no ProtoPNet with a log similarity.
    """
    architecture = _architecture(folder / ARCHITECTURE)
    if _at(architecture, "classifier", "name") != "ProtoPNetClassifier":
        raise PrototypeError(
            f"{folder}: its {ARCHITECTURE} describes no ProtoPNet but a "
            f"{_at(architecture, 'classifier', 'name')}; only ProtoPNet can be imported"
        )
    similarity = _at(architecture, "similarity", "name") or _LOG[0]
    if similarity not in _LOG:
        raise PrototypeError(
            f"{folder}: its similarity is {similarity}; one of {', '.join(_LOG)} can be imported"
        )
    file = TorchFile(folder / STATE)
    if not isinstance(file.content, dict):
        raise PrototypeError(f"{folder / STATE}: holds no state dict; give CaBRNet's own file")
    raw = {
        str(name): file.array(value).astype(np.float32, copy=False)
        for name, value in file.content.items()
        if isinstance(value, Tensor)
    }
    state = _renamed(raw, architecture)
    found: dict[str, Any] = {"similarity": "log"}
    epsilon = _at(architecture, "similarity", "params", "stability_factor")
    if isinstance(epsilon, float):
        found["epsilon"] = epsilon
    classes = raw.get("classifier.proto_class_map")
    if classes is not None and classes.ndim == 2:
        found["prototype_class"] = classes.argmax(1)
    table = folder / PROJECTION
    if table.exists() and "prototype_vectors" in state:
        found["sources"] = _projection(table, len(state["prototype_vectors"]))
    found["notes"] = (
        "size and normalisation of the pictures: the original's, since CaBRNet keeps them in "
        "dataset.yml",
    )
    return state, found


def _architecture(path: Path) -> Any:
    import yaml

    try:
        if path.stat().st_size > _LARGEST_TEXT:
            raise PrototypeError(f"{path}: is too large for a description of an architecture")
        return yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise PrototypeError(f"{path}: can't be read: {reason(error)}") from error


def _at(tree: Any, *names: str) -> Any:
    for name in names:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def _renamed(raw: Mapping[str, NDArray[np.float32]], architecture: Any) -> State:
    names = {
        "classifier.prototypes": "prototype_vectors",
        "classifier.last_layer.weight": "last_layer.weight",
    }
    state = {names[name]: array for name, array in raw.items() if name in names}
    backbone = _at(architecture, "extractor", "backbone")
    plain = _at(backbone, "postprocess") is None
    order = _add_on_order(architecture)
    if not plain or order is None:
        return state  # another network than the original's: its caller must give it
    for name, array in raw.items():
        if name.startswith("extractor.convnet."):
            state["features." + name.removeprefix("extractor.convnet.")] = array
        elif name.startswith("extractor.add_on."):
            layer, _, part = name.removeprefix("extractor.add_on.").partition(".")
            if layer in order:
                state[f"add_on_layers.{order.index(layer)}.{part}"] = array
    return state


def _add_on_order(architecture: Any) -> list[str] | None:
    """Names of the add-on layers where they are the original's: convolutions, ReLUs, sigmoid."""
    extractor = _at(architecture, "extractor")
    parts = [extractor, *(extractor.values() if isinstance(extractor, dict) else ())]
    found = [part["add_on"] for part in parts if isinstance(part, dict) and "add_on" in part]
    if len(found) != 1 or not isinstance(found[0], dict):
        return None
    layers = {name: _at(layer, "type") for name, layer in found[0].items() if name != "init_mode"}
    kinds = list(layers.values())
    inner = ["ReLU"] * (len(kinds) // 2 - 1) + ["Sigmoid"]
    right = kinds and kinds[::2] == ["Conv2d"] * len(inner) and kinds[1::2] == inner
    return list(layers) if right else None


def _projection(path: Path, count: int) -> PrototypeSources:
    """Which picture of the training set, and which cell; CaBRNet keeps no pictures."""
    unknown = PrototypeSources.unknown(count)
    names = list(unknown.image_ids)
    try:
        if path.stat().st_size > 16 * _LARGEST_TEXT:
            raise PrototypeError(f"{path}: is too large for a table of prototypes")
        with path.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                prototype = int(row["proto_idx"])
                if not 0 <= prototype < count:
                    raise ValueError(f"prototype {prototype} of {count}")
                names[prototype] = f"training picture {int(row['img_idx'])}"
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise PrototypeError(f"{path}: can't be read as CaBRNet's: {reason(error)}") from error
    return PrototypeSources(
        image_ids=tuple(names),
        image_sha256=unknown.image_sha256,
        boxes=unknown.boxes,
        receptive_boxes=unknown.receptive_boxes,
        locations=unknown.locations,
        self_similarity=None,
        patches=unknown.patches,
        pictures=unknown.pictures,
    )
