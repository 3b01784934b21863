"""One form for every model, so that one gradient rule per operator is enough.

1. Functions local to the model are inlined.
2. Initializers listed as inputs (IR version 3) are inputs no more.
3. Opsets below 18 are lifted to 18: from there on, axes of reductions, Squeeze, Unsqueeze, Split
   and Pad are inputs. A newer opset is kept.
4. Shapes noted inside the graph are dropped: some exporters note wrong ones. They are inferred
   anew here, and measured by `exporters.probe`.

No pass changes arithmetic: the outputs must stay bit-identical.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from xai_onnx.errors import ModelFileError, reason

LOWEST_OPSET = 18
LOWEST_IR_VERSION = 8  # what opset 18 came with
_SMALL = 1024  # bytes; smaller tensors go through the converter, whose adapters read some


def canonicalise(model: ir.Model, name: str) -> ir.Model:
    """Apply the passes above; `name` is what error messages call the model.

    Raises:
        ModelFileError: onnx's version converter can't lift the model.
    """
    common.InlinePass()(model)
    common.RemoveInitializersFromInputsPass()(model)
    model.graph.opset_imports.setdefault("", model.graph.opset_imports.pop("ai.onnx", 1))
    # Before the converter, which in older versions looks for initializers among the inputs.
    model.ir_version = max(model.ir_version, LOWEST_IR_VERSION)
    if model.graph.opset_imports[""] < LOWEST_OPSET:
        model = _lift(model, name)
    common.NameFixPass()(model)
    outputs = set(model.graph.outputs)
    for node in model.graph:
        for value in node.outputs:
            if value not in outputs:
                value.shape = None
    note_types(model)
    common.ShapeInferencePass()(model)
    return model


def note_types(model: ir.Model) -> None:
    """Note the type of every GroupNormalization, for which onnx's inference finds none.

    It is that of its scale; without it nothing behind the node would have a type either.
    """
    for node in model.graph:
        if node.op_type == "GroupNormalization" and node.domain == "":
            scale = node.inputs[1]
            if node.outputs[0].dtype is None and scale is not None and scale.dtype is not None:
                node.outputs[0].dtype = scale.dtype


def _lift(model: ir.Model, name: str) -> ir.Model:
    """Lift the opset with onnx's converter, which takes less than 2 GB: large weights stay here."""
    weights = {
        value.name: value
        for value in list(model.graph.initializers.values())
        if value.const_value is not None and value.const_value.nbytes > _SMALL
    }
    inputs = list(model.graph.inputs)
    for value in weights.values():
        assert value.name is not None
        assert value.const_value is not None
        value.shape, value.dtype = (
            ir.Shape(value.const_value.numpy().shape),
            value.const_value.dtype,
        )
        model.graph.initializers.pop(value.name)
        model.graph.inputs.append(value)
    try:
        lifted = onnx.version_converter.convert_version(
            ir.serde.serialize_model(model), LOWEST_OPSET
        )
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        raise ModelFileError(
            f"{name}: onnx can't convert it from opset {model.graph.opset_imports['']} to "
            f"{LOWEST_OPSET}: {reason(error)}; export it at opset {LOWEST_OPSET} or "
            "later"
        ) from error
    result = ir.serde.deserialize_model(lifted)
    for value in list(result.graph.inputs)[len(inputs) :]:
        assert value.name is not None
        value.const_value = weights[value.name].const_value
        result.graph.inputs.remove(value)
        result.graph.register_initializer(value)
    return result
