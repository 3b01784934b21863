"""One form for every model, so that one gradient rule per operator is enough.

1. Functions local to the model are inlined.
2. Initializers listed as inputs (IR version 3) are inputs no more.
3. Opsets below 18 are lifted to 18: from there on, axes of reductions, Squeeze, Unsqueeze, Split
   and Pad are inputs. A newer opset is kept. Where onnx's converter changes what a model computes
   (Resize, Hardmax) it is mended or refused.
4. Shapes noted inside the graph are dropped: some exporters note wrong ones. They are inferred
   anew here, and measured by `exporters.probe`. Types that onnx doesn't find, behind operators
   of ONNX Runtime's own, are asked of it.

No pass changes arithmetic: the outputs must stay bit-identical.
"""

from __future__ import annotations

import logging

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from exporters import graph
from exporters.ort import open_model
from xai_onnx.errors import ModelFileError, reason

LOWEST_OPSET = 18
LOWEST_IR_VERSION = 8  # what opset 18 came with
_TYPES = {
    f"tensor({name})": dtype
    for name, dtype in {
        **{kind.name.lower(): kind for kind in ir.DataType},
        "string": ir.DataType.STRING,
    }.items()
}  # as ONNX Runtime writes them
# The inference pass tells with a traceback what it can't infer; `exporters.probe` measures it.
logging.getLogger(common.shape_inference.__name__).addHandler(logging.NullHandler())
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
    _ask_types(model, name)
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


def _ask_types(model: ir.Model, name: str) -> None:
    """Note the types that onnx's inference couldn't find, as ONNX Runtime finds them."""
    unknown = [v for node in model.graph for v in node.outputs if v.name and v.dtype is None]
    if not unknown:
        return
    clone = model.clone()
    named = {value.name: value for node in clone.graph for value in node.outputs}
    clone.graph.outputs[:] = [named[value.name] for value in unknown]
    found = {output.name: output.type for output in open_model(clone, name).get_outputs()}
    for value in unknown:
        dtype = _TYPES.get(found[value.name])
        if dtype is not None:
            value.dtype = dtype


def _lift(model: ir.Model, name: str) -> ir.Model:
    """Lift the opset with onnx's converter, which takes less than 2 GB: large weights stay here."""
    weights = {
        value.name: value
        for value in list(model.graph.initializers.values())
        if value.const_value is not None and value.const_value.nbytes > _SMALL
    }
    sampled = _sampled(model, name)
    _refuse_hardmax(model, name)
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
    for node in result.graph:
        if node.op_type == "Resize" and node.outputs[0].name in sampled:
            node.attributes.add(ir.AttrString("coordinate_transformation_mode", "asymmetric"))
            node.attributes.add(ir.AttrString("nearest_mode", sampled[node.outputs[0].name]))
    for value in list(result.graph.inputs)[len(inputs) :]:
        assert value.name is not None
        value.const_value = weights[value.name].const_value
        result.graph.inputs.remove(value)
        result.graph.register_initializer(value)
    return result


def _sampled(model: ir.Model, name: str) -> dict[str | None, str]:
    """Outputs of Upsample and of Resize before opset 11, with the rounding of their positions.

    Position p of the result lies at p / scale in the input; the nearest one is below it where an
    axis grows, above it where it shrinks (so ONNX Runtime's). The converter leaves both to what
    later opsets do by default.
    """
    found: dict[str | None, str] = {}
    for node in model.graph:
        old = node.op_type == "Resize" and model.graph.opset_imports[""] < 11
        if not old and node.op_type != "Upsample":
            continue
        listed = node.attributes.get("scales")
        scales = graph.constant(node.inputs[1]) if listed is None else listed.as_floats()
        rounding = {"floor", "ceil"}
        if scales is not None:
            rounding = {"ceil" if scale < 1 else "floor" for scale in scales if scale != 1}
        mode = node.attributes.get("mode")
        nearest = mode is None or mode.as_string() == "nearest"
        if old and nearest and len(rounding) == 2:
            raise ModelFileError(
                f"{name}: Resize (node {node.name!r}) of opset 10, to the nearest position and not "
                f"known to enlarge or to shrink all axes, can't be converted to opset "
                f"{LOWEST_OPSET}; export it at opset 11 or later"
            )
        found[node.outputs[0].name] = "ceil" if rounding == {"ceil"} else "floor"
    return found


def _refuse_hardmax(model: ir.Model, name: str) -> None:
    """Before opset 13 it runs over all axes from `axis` on, which the converter forgets."""
    opset = model.graph.opset_imports[""]
    for node in model.graph:
        if node.op_type == "Hardmax" and opset < 13:
            raise ModelFileError(
                f"{name}: Hardmax (node {node.name!r}) of opset {opset} can't be converted to "
                f"opset {LOWEST_OPSET}; export it at opset 13 or later"
            )
