"""The record of where each prototype comes from: picture, box, receptive field, similarity map."""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from exporters import canonical, source
from exporters.protopnet.arrays import PrototypeSources
from exporters.protopnet.labelled_pictures import LabelledPictures
from exporters.protopnet.model import ProtoPNet
from exporters.protopnet.passes import Grids
from exporters.protopnet.projection import Places, squared_distances
from exporters.protopnet.receptive_field import receptive_field
from exporters.torch_export import TorchExport
from xai_onnx.prototype_box import enlarged, high_box, receptive_box
from xai_onnx.prototypes import ReceptiveField

JPEG_QUALITY = 90


def record(
    model: ProtoPNet,
    grids: Grids,
    pictures: LabelledPictures,
    places: Places,
    field: ReceptiveField | None,
) -> PrototypeSources:
    """What the bank holds of each projected prototype.

    Args:
        model: whose prototypes lie on patches of training pictures.
        grids: gives the backbone's grids.
        pictures: the training pictures.
        places: where the prototypes lie.
        field: of a cell of the latent grid; ``None``: the whole picture.
    """
    model.eval()
    recipe = pictures.recipe
    size = (recipe.height, recipe.width)
    patch = (model.prototype_vectors.shape[2], model.prototype_vectors.shape[3])
    maps, boxes, fields, patches, whole = [], [], [], [], []
    for j, index in enumerate(places.pictures):
        similarity = _self_similarity(model, grids, int(index), j)
        box = high_box(enlarged(similarity, *size))
        seen = pictures.seen(int(index))
        maps.append(similarity)
        boxes.append(box)
        location = int(places.locations[j])
        fields.append(receptive_box(field, location, similarity.shape, patch, size))
        patches.append(_jpeg(seen[box[0] : box[1], box[2] : box[3]]))
        whole.append(_jpeg(seen))
    hashes = {index: pictures.sha256(index) for index in sorted({*places.pictures.tolist()})}
    return PrototypeSources(
        image_ids=tuple(pictures.ids[index] for index in places.pictures),
        image_sha256=tuple(hashes[index] for index in places.pictures.tolist()),
        boxes=np.array(boxes, np.int64),
        receptive_boxes=np.array(fields, np.int64),
        locations=places.locations,
        self_similarity=np.stack(maps).astype(np.float16),
        patches=tuple(patches),
        pictures=tuple(whole),
    )


def latent_receptive_field(latent: TorchExport) -> ReceptiveField | None:
    """The receptive field of an exported latent grid's cells, read off its graph."""
    with torch.no_grad():
        height, width = latent.module(*latent.inputs).shape[2:]
    if height != width:
        return None
    read = source.read(latent)
    graph = canonical.canonicalise(read.model, read.name).graph
    return receptive_field(graph.inputs[0], graph.outputs[0], height)


def _self_similarity(
    model: ProtoPNet, grids: Grids, picture: int, prototype: int
) -> NDArray[np.float32]:
    """A prototype's similarity map on one picture, [h', w'], from exact distances."""
    with torch.no_grad():
        z = model.add_on_layers(grids(np.array([picture])))
        vectors = model.prototype_vectors[prototype : prototype + 1]
        places = [
            side - cells + 1 for side, cells in zip(z.shape[2:], vectors.shape[2:], strict=True)
        ]
        distances = squared_distances(model.patches(z), vectors.flatten(1))
        return model.similarities(distances).reshape(places).float().cpu().numpy()


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()
