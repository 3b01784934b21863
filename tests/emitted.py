"""Run what `exporters.builder.Ops` has emitted, in ONNX Runtime as users run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import ArrayLike, NDArray

from exporters.builder import Ops
from exporters.canonical import note_types

OPSET, IR_VERSION = 18, 10


def placeholder(
    name: str, shape: Sequence[int | str], dtype: ir.DataType = ir.DataType.FLOAT
) -> ir.Value:
    """A graph input."""
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def content(value: ir.Value) -> NDArray[Any]:
    """What an initializer holds."""
    assert value.const_value is not None
    return value.const_value.numpy()


def session(model: ir.Model) -> onnxruntime.InferenceSession:
    """The model, optimised by ONNX Runtime as by default."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    proto = ir.serde.serialize_model(model)
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def append(
    op: Ops, model: ir.Model, outputs: Mapping[str, ir.Value], rank: Mapping[str, int] = {}
) -> None:
    """Put what was emitted at the end of the model; `outputs` are all that it gives.

    The ONNX checker wants to know their type, a float if not noted, and `rank`; ONNX Runtime
    doesn't.
    """
    nodes, initializers = op.needed_for(outputs.values())
    for initializer in initializers:
        model.graph.register_initializer(initializer)
    model.graph.extend(nodes)
    model.graph.outputs.clear()
    for name, value in outputs.items():
        copy = ir.Node("", "Identity", [value], name=f"{name}/node")
        copy.outputs[0].name = name
        if name in rank:
            copy.outputs[0].dtype = value.dtype or ir.DataType.FLOAT
            copy.outputs[0].shape = ir.Shape([None] * rank[name])
        model.graph.append(copy)
        model.graph.outputs.append(copy.outputs[0])


def evaluate(
    op: Ops, outputs: ir.Value | Sequence[ir.Value], feed: Mapping[ir.Value, ArrayLike] = {}
) -> Any:
    """What `outputs` come to, one array or a list, when the inputs that they need are fed."""
    wanted = [outputs] if isinstance(outputs, ir.Value) else list(outputs)
    graph = ir.Graph(list(feed), [], nodes=[], opset_imports={"": OPSET}, name="emitted")
    model = ir.Model(graph, ir_version=IR_VERSION)
    append(op, model, {f"result_{index}": value for index, value in enumerate(wanted)})
    arrays = {
        str(value.name): np.asarray(array, value.dtype.numpy() if value.dtype else None)
        for value, array in feed.items()
    }
    results = session(model).run(None, arrays)
    return results[0] if isinstance(outputs, ir.Value) else results


def parsed(text: str, *, opset: int = OPSET, **initializers: NDArray[Any]) -> ir.Model:
    """A model from ONNX's text syntax: ``(float[B,3] x) => (y) { y = Relu(x) }``."""
    graph = onnx.parser.parse_graph(f"g {text}")
    graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in initializers.items()
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    model = ir.serde.deserialize_model(proto)
    note_types(model)
    proto = ir.serde.serialize_model(model)
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def values(model: ir.Model) -> dict[str, ir.Value]:
    """The model's values by name."""
    named = [*model.graph.inputs, *model.graph.initializers.values()]
    named += [value for node in model.graph for value in node.outputs]
    return {str(value.name): value for value in named}
