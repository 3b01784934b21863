"""From a trained ProtoPNet to one ONNX file and its prototype bank."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from exporters import canonical, graph, image_input, source
from exporters.builder import Ops
from exporters.image_input import ImageInput
from exporters.labels import Labels, read_labels
from exporters.probe import Shapes, probe
from exporters.protopnet.arrays import ProtoPNetArrays
from exporters.protopnet.bank import bank_bytes
from exporters.protopnet.head import head
from exporters.protopnet.receptive_field import receptive_field
from exporters.save import save
from exporters.source import ModelLike
from exporters.torch_export import TorchModule, as_onnx
from xai_onnx.errors import MethodError, OutputFileError, PrototypeError
from xai_onnx.manifest import METADATA_KEY, Manifest
from xai_onnx.output_file import replacing
from xai_onnx.prototypes import BANK_SUFFIX, Prototypes
from xai_onnx.recipe import Preprocess
from xai_onnx.version import __version__

TARGETS = ("one_class", "predicted")


def export_protopnet(
    model: ProtoPNetArrays,
    output: str | os.PathLike[str],
    *,
    backbone: ModelLike | TorchModule | None = None,
    example_input: Any = None,
    feature: str | None = None,
    input_name: str | None = None,
    targets: str = "one_class",
    top_count: int = 10,
    precision: str = "float32",
    activation_maps: bool = False,
    redacted: bool = False,
    familiar: float | None = None,
    preprocess: Preprocess | str | None = None,
    labels: Labels = None,
) -> Manifest:
    """Write a ProtoPNet that explains itself to `output`, and its bank beside it.

    The file takes the backbone's image input and, with ``targets="one_class"``, ``class_index``,
    int64 [B, 1], -1 for the predicted class. It gives, for C classes, P prototypes and the K
    prototypes that add most to that class:

    ==================  ====================  ==============================================
    output              type, shape           meaning
    ==================  ====================  ==============================================
    ``logits``          float32 [B, C]        sum of similarity x weight; there is no bias
    ``similarities``    float32 [B, P]        of the closest place
    ``min_distances``   float32 [B, P]        squared, of that place
    ``locations``       int64 [B, P]          y * w + x of that place, the first on ties
    ``top_indices``     int64 [B, K]          prototypes, by what they add to the class
    ``top_maps``        float32 [B, K, h, w]  their similarity at every place
    ``activation_maps`` float32 [B, P, h, w]  of all prototypes, if asked for
    ==================  ====================  ==============================================

    Args:
        model: prototypes, classes, last layer and what is known of their sources; see
            `exporters.import_protopnet` for checkpoints.
        output: where the .onnx file goes; the bank goes beside it, as
            ``NAME.protobank.safetensors``. Both are replaced once they are whole.
        backbone: what gives the latent grid, if `model` has none or another one is wanted: path
            of an .onnx file, `onnx.ModelProto`, `onnx_ir.Model` or ``torch.nn.Module``.
        example_input: what a torch backbone is called with.
        feature: ONNX value that is the latent grid [B, D, h, w]; ``None``: the only output of
            that shape. What lies behind it is left out.
        input_name: the input that takes the picture, where more than one could.
        targets: ``"one_class"``: the class is an input; ``"predicted"``: it is that one.
        top_count: K, at most P.
        precision: of the search for the closest place, `exporters.protopnet.head.PRECISIONS`.
        activation_maps: whether the file gives all P maps.
        redacted: leave the training pictures out of the bank.
        familiar: a largest similarity below this is shown as "no familiar part"; ``None``: as
            `model` says, from the pictures that it was trained on; if it doesn't, that of a cell
            half-way between a prototype and the nearest one of another class (the median over the
            prototypes).
        preprocess: how a picture becomes the input; ``None``: as `model` says.
        labels: C class names, or a file with them; ``None``: as `model` says.

    Returns:
        The manifest that was written into the file.

    Raises:
        XaiOnnxError: one of its leaves says what is wrong, where, and what to do.
    """
    if targets not in TARGETS:
        raise MethodError(f"targets {targets!r} is none of {', '.join(TARGETS)} for prototypes")
    chosen = model.backbone if backbone is None else backbone
    if chosen is None:
        raise PrototypeError(
            "the prototypes come without a backbone; give the network that makes their latent "
            "grid, add-on layers included, as backbone="
        )
    plain, _ = as_onnx(chosen, example_input, None)
    grid = _LatentGrid(plain, model, feature, input_name)
    recipe = model.preprocess if preprocess is None else preprocess
    recipe = None if recipe is None else grid.image.fitting(recipe)
    names = model.labels if labels is None else read_labels(labels, model.num_classes)
    path = Path(output)
    if path.suffix != ".onnx":
        raise OutputFileError(f"{path}: an explained model is an .onnx file; name it so")
    bank = bank_bytes(model, redacted=redacted)
    bank_path = path.with_name(path.stem + BANK_SUFFIX)
    least = model.familiar if familiar is None else familiar
    known = {
        "bank": bank_path.name,
        "bank_sha256": hashlib.sha256(bank).hexdigest(),
        "redacted": redacted,
        "familiar": familiar_similarity(model) if least is None else float(least),
    }
    options = {"precision": precision, "activation_maps": activation_maps}
    manifest = grid.finish(
        targets, min(top_count, len(model.prototypes)), options, known, recipe, names
    )
    with replacing(bank_path) as temporary:
        temporary.write_bytes(bank)
        save(grid.model, path)
    return manifest


def familiar_similarity(model: ProtoPNetArrays) -> float:
    """The similarity below which the best match is "no familiar part", where no pictures tell.

    A cell closer to a prototype than half the way to the nearest prototype of another class is
    closer to it than to any of another class. The threshold is the similarity at that distance,
    for the median prototype; with one class only, at a quarter of the prototypes' mean square.
    """
    flat = model.prototypes.reshape(len(model.prototypes), -1).astype(np.float64)
    squares = (flat**2).sum(1)
    apart = np.maximum(squares[:, None] + squares - 2 * flat @ flat.T, 0)
    other = model.prototype_class[:, None] != model.prototype_class
    if other.any(1).all():
        distance = float(np.median(np.where(other, apart, np.inf).min(1))) / 4
    else:
        distance = float(squares.mean()) / 4
    if model.similarity == "linear":
        return -distance
    return float(np.log((distance + 1) / (distance + model.epsilon)))


class _LatentGrid:
    """A backbone up to its latent grid, to which the head is added."""

    def __init__(
        self,
        backbone: ModelLike,
        arrays: ProtoPNetArrays,
        feature: str | None,
        input_name: str | None,
    ) -> None:
        self.arrays = arrays
        read = source.read(backbone)
        self.name, self.sha256 = read.name, read.sha256
        self.model: ir.Model = canonical.canonicalise(read.model, self.name)
        main = self.model.graph
        self.image: ImageInput = image_input.find(main, self.name, input_name)
        if self.image.beside:
            others = ", ".join(repr(value.name) for value in self.image.beside)
            raise PrototypeError(
                f"{self.name}: takes {others} besides the picture; a backbone takes a batch of "
                "images only"
            )
        values = list(main.outputs) if feature is None else [self._named(feature)]
        self.z, self.size = self._pick(probe(self.model, self.image, values, self.name))

    def _named(self, feature: str) -> ir.Value:
        for node in self.model.graph:
            for value in node.outputs:
                if value.name == feature:
                    return value
        raise PrototypeError(f"{self.name}: has no value {feature!r}; name the latent grid's value")

    def _pick(self, shapes: Shapes) -> tuple[ir.Value, tuple[int, int]]:
        """The value of shape [B, D, h, w], and h, w."""
        channels = self.arrays.prototypes.shape[1]
        fitting = [
            value for value, shape in shapes.items() if len(shape) == 4 and shape[1] == channels
        ]
        if len(fitting) != 1:
            listed = ", ".join(f"{v.name!r} {list(shape)}" for v, shape in shapes.items())
            raise PrototypeError(
                f"{self.name}: {len(fitting) or 'none'} of its values {listed} are a latent grid "
                f"[batch, {channels}, h, w] that fits the prototypes; name it with feature="
            )
        height, width = shapes[fitting[0]][2:]
        if not isinstance(height, int) or not isinstance(width, int):
            raise PrototypeError(
                f"{self.name}: the latent grid {fitting[0].name!r} has no fixed size; export the "
                "backbone for pictures of one size"
            )
        return fitting[0], (height, width)

    def finish(
        self,
        targets: str,
        top_count: int,
        options: dict[str, Any],
        known: dict[str, Any],
        recipe: Preprocess | None,
        labels: tuple[str, ...],
    ) -> Manifest:
        """Put the head and the manifest into the model."""
        main, arrays = self.model.graph, self.arrays
        main.outputs.clear()
        main.outputs.append(self.z)
        common.RemoveUnusedNodesPass()(self.model)  # whose names are free then
        op = Ops(graph.names(main))
        asked = self._class_index(op) if targets == "one_class" else None
        made = head(op, self.z, self.size, arrays, asked=asked, top_count=top_count, **options)
        nodes, initializers = op.needed_for(made.values())
        for initializer in initializers:
            main.register_initializer(initializer)
        main.extend(nodes)
        if asked is not None:
            main.inputs.append(asked)
        main.outputs.clear()
        _, channels, *patch = arrays.prototypes.shape
        places = (self.size[0] - patch[0] + 1, self.size[1] - patch[1] + 1)
        for name, value in made.items():
            value.name = op.unique(name)
            value.dtype = _INTEGERS.get(name, ir.DataType.FLOAT)
            value.shape = ir.Shape([self.image.batch_dim, *self._sizes(name, top_count, places)])
            main.outputs.append(value)
        prototypes = Prototypes(
            count=len(arrays.prototypes),
            size=(channels, patch[0], patch[1]),
            grid=places,
            similarity=arrays.similarity,
            epsilon=arrays.epsilon,
            add_on=arrays.add_on,
            receptive_field=self._receptive_field(),
            similarities=str(made["similarities"].name),
            min_distances=str(made["min_distances"].name),
            locations=str(made["locations"].name),
            top_indices=str(made["top_indices"].name),
            top_maps=str(made["top_maps"].name),
            activation_maps=str(made["activation_maps"].name) if len(made) > 6 else None,
            top_count=top_count,
            **known,
        )
        manifest = Manifest(
            method="protopnet",
            target_layers=(),
            target_modules=(),
            score_at="logits",
            score=str(made["logits"].name),
            score_output=str(made["logits"].name),
            output_activation=None,
            targets=targets,
            top_k=1 if asked is None else None,
            input=str(self.image.value.name),
            class_index=None if asked is None else str(asked.name),
            cotangent=None,
            extra_inputs={},
            activations=(),
            cam=None,
            attribution=None,
            saliency_map=None,
            num_classes=arrays.num_classes,
            labels=labels,
            preprocess=recipe,
            source_sha256=self.sha256,
            exporter_version=__version__,
            prototypes=prototypes,
        )
        self.model.metadata_props[METADATA_KEY] = manifest.to_json()
        return manifest

    def _class_index(self, op: Ops) -> ir.Value:
        return ir.Value(
            name=op.unique("class_index"),
            shape=ir.Shape([self.image.batch_dim, 1]),
            type=ir.TensorType(ir.DataType.INT64),
        )

    def _sizes(self, name: str, top_count: int, places: tuple[int, int]) -> tuple[int, ...]:
        count = len(self.arrays.prototypes)
        return {
            "logits": (self.arrays.num_classes,),
            "top_indices": (top_count,),
            "top_maps": (top_count, *places),
            "activation_maps": (count, *places),
        }.get(name, (count,))

    def _receptive_field(self) -> Any:
        if self.image.layout != "NCHW" or self.size[0] != self.size[1]:
            return None
        return receptive_field(self.image.value, self.z, self.size[0])


_INTEGERS = {"locations": ir.DataType.INT64, "top_indices": ir.DataType.INT64}
