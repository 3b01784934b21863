"""The gradient of class scores at a layer, as the exporter emits it, made an output to be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from exporters import attributed
from exporters.classifier import Classifier
from exporters.draft import Draft
from exporters.save import to_bytes

Array = NDArray[np.float32]


def emitted_gradient(
    path: Path, layer: str, images: Array, classes: NDArray[np.int64]
) -> tuple[Array, Array]:
    """Activations [B, C, h, w] at `layer` and the gradient there, [K, B, C, h, w]."""
    classifier = Classifier(path)
    (target,) = classifier.target_layers(layer)
    draft = Draft(classifier, "class_index", 1)
    g = target.map.gradient(draft.op, draft.gradients([target.value])[0])
    activations = target.map.activations(draft.op)
    main = classifier.model.graph
    nodes, initializers = draft.op.needed_for([activations, g.value])
    for initializer in initializers:
        main.register_initializer(initializer)
    main.extend(nodes)
    main.inputs.append(draft.targets.input)
    main.outputs.clear()
    for value in (activations, g.value):
        value.shape, value.dtype = None, ir.DataType.FLOAT
        main.outputs.append(value)
    session = onnxruntime.InferenceSession(
        ir.serde.serialize_model(classifier.model).SerializeToString(),
        providers=["CPUExecutionProvider"],
    )
    feed = {str(classifier.image.value.name): images, "class_index": classes}
    a, gradient = session.run(None, feed)
    return a, np.broadcast_to(gradient, (classes.shape[1], *a.shape))


def with_image_gradient(path: Path) -> bytes:
    """The file of `exporters.export_attribution` for one class an image, ``class_index`` [B, 1]."""
    model, _ = attributed.build(path, targets="one_class", with_saliency_map=False)
    return to_bytes(model)
