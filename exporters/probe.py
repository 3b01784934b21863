"""The shapes that values really have, measured by running the model.

Static inference alone is not enough: exports with a dynamic batch leave shapes unknown, and some
exporters note wrong ones. The model runs at two batch sizes (and at two image sizes, where the
size is free); what changes with them is dynamic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from exporters.image_input import ImageInput
from exporters.ort import open_model
from xai_onnx.errors import ModelFileError, reason

BATCH = "batch"  # a dimension that equals the batch size, free at run time
FREE = "free"  # any other dimension that is only known at run time

Dim = int | str
Shape = tuple[Dim, ...]
Shapes = dict[ir.Value, Shape]

_SIZES = ((224, 224), (288, 256))  # for models that leave height and width free


def probe(model: ir.Model, image: ImageInput, values: Iterable[ir.Value], name: str) -> Shapes:
    """Measure the shapes of `values`.

    Args:
        model: a model with one image input; it is left as it is.
        image: that input.
        values: values of the model's main graph.
        name: how messages call the model.

    Raises:
        ModelFileError: ONNX Runtime can't load the model, or can't run it at two batch sizes.
    """
    wanted, pictures = {str(value.name): value for value in values}, str(image.value.name)
    session = open_model(_measuring(model, wanted), name)
    batches = (2, 3) if image.batch is None else (image.batch,)
    sizes = _SIZES if image.height is None or image.width is None else _SIZES[:1]
    runs: list[list[tuple[int, ...]]] = []
    settings = [(batch, sizes[0]) for batch in batches] + [(batches[0], s) for s in sizes[1:]]
    for batch, size in settings:
        feed = image.feed(batch, size)
        try:
            measured = session.run(None, feed)
        except Exception as error:  # onnxruntime's exceptions have no common base but this
            raise ModelFileError(
                f"{name}: can't run on an input of shape {list(feed[pictures].shape)}, "
                f"which its own input allows: {reason(error)}; export it with a batch and an image "
                "size that are free, or fixed, throughout"
            ) from error
        runs.append([tuple(int(d) for d in shape) for shape in measured])
    return {
        value: tuple(
            _dim(dims, [batch for batch, _ in settings])
            for dims in zip(*(run[index] for run in runs), strict=True)
        )
        for index, value in enumerate(wanted.values())
    }


def _dim(seen: tuple[int, ...], batches: list[int]) -> Dim:
    if len(set(seen)) == 1:
        return seen[0]
    return BATCH if list(seen) == batches else FREE


def _measuring(model: ir.Model, wanted: Mapping[str, ir.Value]) -> ir.Model:
    """The same model with one output per value: its shape, which costs no memory to fetch."""
    clone = model.clone()
    by_name = {value.name: value for node in clone.graph for value in node.outputs}
    by_name.update({value.name: value for value in clone.graph.inputs})
    by_name.update(clone.graph.initializers)
    clone.graph.outputs.clear()
    for index, name in enumerate(wanted):
        node = ir.Node("", "Shape", [by_name[name]], name=f"probe_{index}")
        node.outputs[0].name = f"probe_{index}_shape"
        node.outputs[0].dtype = ir.DataType.INT64
        node.outputs[0].shape = ir.Shape([None])
        clone.graph.append(node)
        clone.graph.outputs.append(node.outputs[0])
    return clone
