"""Import a ProtoPNet: the original's checkpoints, and CaBRNet's, without torch or unpickling.

The original saves whole modules (``torch.save(model)``), from which everything is read. A state
dict lacks the classes of the prototypes, epsilon, the similarity and the picture's size; what is
assumed instead stands in the `notes` of the result.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.protopnet import backbone, cabrnet, projected
from exporters.protopnet.arrays import ProtoPNetArrays
from exporters.protopnet.pickled import Instance
from exporters.protopnet.torch_file import Tensor, TorchFile
from xai_onnx.errors import PrototypeError
from xai_onnx.prototypes import EPSILON
from xai_onnx.recipe import PRESETS, Preprocess

IMAGE_SIZE = 224
_DEEPEST = 32  # modules within modules


def import_protopnet(
    checkpoint: str | os.PathLike[str],
    *,
    projection: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    force: bool = False,
    with_backbone: bool = True,
) -> ProtoPNetArrays:
    """Read a trained ProtoPNet.

    Args:
        checkpoint: a file of ``torch.save``, zip or legacy, of the original's module or of its
            state dict; or a folder of CaBRNet with ``model_state.pth`` and ``model_arch.yml``.
            Nothing in it is executed.
        projection: the folder ``img/epoch-N`` that the original wrote when it projected the
            prototypes: boxes and pictures of their sources. CaBRNet's own is found.
        image_size: side of the picture where the checkpoint doesn't say, and to check where it
            does; ``None``: as it says, else 224.
        force: import a ``nopush`` checkpoint, whose prototypes are no training patches.
        with_backbone: rebuild the backbone (`exporters.protopnet.backbone`); else it must be given
            to `exporters.export_protopnet`.

    Raises:
        PrototypeError: not such a checkpoint, damaged, dangerous, not projected, or of a backbone
            that can't be rebuilt.
    """
    path = Path(checkpoint)
    if path.is_dir():
        state, found = cabrnet.read(path)
    else:
        _check_projected(path, force)
        state, found = _original(path)
    sources, source_class = found.get("sources"), None
    if projection is not None:
        sources, source_class = projected.read(Path(projection))
    name = str(path)
    vectors = _taken(state, "prototype_vectors", 4, name)
    weights = _taken(state, "last_layer.weight", 2, name)
    side = found.get("image_size") or image_size or IMAGE_SIZE
    if image_size not in (None, side):
        raise PrototypeError(f"{name}: was trained on pictures of {side} pixels, not {image_size}")
    notes = list(found.get("notes", ()))
    if sources is not None and len(sources.image_ids) != len(vectors):
        raise PrototypeError(
            f"{projection}: holds {len(sources.image_ids)} prototypes, {name} {len(vectors)}; give "
            "the folder of the same epoch"
        )
    classes = found.get("prototype_class")
    if classes is None:
        classes, origin = weights.argmax(0), "the largest weight of the last layer"
        if source_class is not None and (source_class >= 0).all():
            classes, origin = source_class, "column 5 of the projection's bb*.npy"
        notes.append(f"classes of the prototypes: {origin}, since a state dict has none")
    arrays = ProtoPNetArrays(
        prototypes=vectors,
        prototype_class=np.asarray(classes, np.int64),
        weights=weights,
        similarity=found.get("similarity", "log"),
        epsilon=found.get("epsilon", EPSILON),
        add_on=_add_on_name(state),
        preprocess=_recipe(side),
        sources=sources,
        notes=tuple(notes),
    )
    if not with_backbone:
        return arrays
    features, add_on = _below(state, "features."), _below(state, "add_on_layers.")
    return replace(arrays, backbone=backbone.rebuild(features, add_on, side, name))


def _check_projected(path: Path, force: bool) -> None:
    if "nopush" in path.name and not force:
        raise PrototypeError(
            f"{path}: is a nopush checkpoint, saved before its prototypes were projected onto "
            "training patches, so they look like nothing; give the push checkpoint, or force it"
        )


def _original(path: Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """The weights of the original's checkpoint, and what else it says."""
    file = TorchFile(path)
    content = file.content
    if isinstance(content, Instance):
        tensors = dict(_parameters(content, "", 0, file.name))
        found = _said(content, file)
    elif isinstance(content, dict):
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
        found = {
            "notes": (
                "similarity log with epsilon 1e-4, as the original's default: a state dict says "
                "neither",
            )
        }
    else:
        raise PrototypeError(
            f"{path}: holds a {type(content).__name__}, neither module nor weights"
        )
    state = {str(name).removeprefix("module."): file.array(t) for name, t in tensors.items()}
    return {name: _float32(array) for name, array in state.items()}, found


def _float32(array: NDArray[Any]) -> NDArray[np.float32]:
    return array.astype(np.float32, copy=False)


def _parameters(
    module: Instance, prefix: str, depth: int, where: str
) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a module and its parts, by their path."""
    if depth > _DEEPEST:
        raise PrototypeError(f"{where}: has modules more than {_DEEPEST} deep; refused")
    state = module.state if isinstance(module.state, dict) else {}
    for kind in ("_parameters", "_buffers"):
        for name, value in _dict(state, kind).items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
    for name, part in _dict(state, "_modules").items():
        if isinstance(part, Instance):
            yield from _parameters(part, f"{prefix}{name}.", depth + 1, where)


def _said(module: Instance, file: TorchFile) -> dict[str, Any]:
    """What the original's module says besides its weights, as `ProtoPNetArrays` calls it."""
    state = module.state if isinstance(module.state, dict) else {}
    inner = _dict(state, "_modules").get("module")
    if isinstance(inner, Instance):  # torch.nn.DataParallel
        return _said(inner, file)
    found: dict[str, Any] = {}
    identity = state.get("prototype_class_identity")
    if isinstance(identity, Tensor):
        array = file.array(identity)
        if array.ndim != 2:
            raise PrototypeError(f"{file.name}: its prototype_class_identity is no matrix")
        found["prototype_class"] = array.argmax(1)
    if isinstance(state.get("epsilon"), float):
        found["epsilon"] = state["epsilon"]
    if type(state.get("img_size")) is int:
        found["image_size"] = state["img_size"]
    activation = state.get("prototype_activation_function", "log")
    if not isinstance(activation, str):
        raise PrototypeError(
            f"{file.name}: its similarity is a function of its own, {activation}, which isn't in "
            "the file; only log and linear can be imported"
        )
    found["similarity"] = activation
    return found


def _dict(state: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = state.get(name)
    return value if isinstance(value, dict) else {}


def _taken(
    state: Mapping[str, NDArray[np.float32]], name: str, axes: int, where: str
) -> NDArray[np.float32]:
    if name not in state or state[name].ndim != axes:
        raise PrototypeError(
            f"{where}: has no {name} of {axes} axes, so it is no checkpoint of a ProtoPNet"
        )
    return state[name]


def _below(state: Mapping[str, NDArray[np.float32]], prefix: str) -> dict[str, NDArray[np.float32]]:
    return {
        name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)
    }


def _add_on_name(state: Mapping[str, NDArray[np.float32]]) -> str:
    """``regular`` has two convolutions of the same width, ``bottleneck`` halves it on the way."""
    widths = [
        array.shape[0] for array in _below(state, "add_on_layers.").values() if array.ndim == 4
    ]
    if not widths:
        return ""
    return "regular" if len(widths) == 2 and widths[0] == widths[1] else "bottleneck"


def _recipe(side: int) -> Preprocess:
    """The original's: stretched to a square, ImageNet's mean and deviation."""
    preset = PRESETS["torchvision"]
    return Preprocess(
        height=side,
        width=side,
        shortest_side=None,
        interpolation="bilinear",
        color="RGB",
        layout="NCHW",
        scale=preset.scale,
        mean=preset.mean,
        std=preset.std,
    )
