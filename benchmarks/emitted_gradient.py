"""The gradient of class scores at a layer, as the exporter emits it, made an output to be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from exporters.builder import Ops
from exporters.classifier import Classifier
from exporters.explained import class_gradient

Array = NDArray[np.float32]


def emitted_gradient(
    path: Path, layer: str, images: Array, classes: NDArray[np.int64]
) -> tuple[Array, Array]:
    """Activations [B, C, h, w] at `layer` and the gradient there, [K, B, C, h, w]."""
    classifier = Classifier(path)
    target = classifier.target_layer(layer)
    op = Ops({str(value.name) for node in classifier.model.graph for value in node.outputs})
    index = ir.Value(
        name="class_index", shape=ir.Shape(["batch", "K"]), type=ir.TensorType(ir.DataType.INT64)
    )
    g = class_gradient(op, classifier, target, index)
    main = classifier.model.graph
    nodes, initializers = op.needed_for([g.value])
    for initializer in initializers:
        main.register_initializer(initializer)
    main.extend(nodes)
    main.inputs.append(index)
    main.outputs.clear()
    for value in (target.value, g.value):
        value.shape, value.dtype = None, ir.DataType.FLOAT
        main.outputs.append(value)
    session = onnxruntime.InferenceSession(
        ir.serde.serialize_model(classifier.model).SerializeToString(),
        providers=["CPUExecutionProvider"],
    )
    feed = {str(classifier.image.value.name): images, "class_index": classes}
    activations, gradient = session.run(None, feed)
    return activations, np.broadcast_to(gradient, (classes.shape[1], *activations.shape))
