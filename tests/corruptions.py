"""Ways to spoil files: `BYTES` any file, `GRAPHS` an .onnx model, `TEXTS` a piece of JSON.

Each takes a random generator and the content, and gives the spoilt content. They are deterministic.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

Random = np.random.Generator
T = TypeVar("T")


def choose(rng: Random, options: Any) -> Any:
    """One of the options; ``None`` if there are none."""
    options = list(options)
    return options[int(rng.integers(len(options)))] if options else None


# --- Bytes ----------------------------------------------------------------------------------------


def flip(rng: Random, content: bytes) -> bytes:
    """A few bits turned over."""
    spoilt = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        spoilt[int(rng.integers(len(spoilt)))] ^= 1 << int(rng.integers(8))
    return bytes(spoilt)


def flip_head(rng: Random, content: bytes) -> bytes:
    """One of the first bytes is another one: where formats say what follows."""
    spoilt = bytearray(content)
    spoilt[int(rng.integers(min(len(spoilt), 200)))] = int(rng.integers(256))
    return bytes(spoilt)


def cut(rng: Random, content: bytes) -> bytes:
    """The end is missing."""
    return content[: int(rng.integers(len(content)))]


def cut_out(rng: Random, content: bytes) -> bytes:
    """A piece in the middle is missing."""
    start = int(rng.integers(len(content)))
    return content[:start] + content[start + int(rng.integers(1, 100)) :]


def insert(rng: Random, content: bytes) -> bytes:
    """Some bytes too many."""
    start = int(rng.integers(len(content) + 1))
    return content[:start] + rng.bytes(int(rng.integers(1, 100))) + content[start:]


def zeros(rng: Random, content: bytes) -> bytes:
    """A block of the disk that was never written."""
    start, size = int(rng.integers(len(content))), int(rng.integers(1, 4096))
    return content[:start] + bytes(len(content[start : start + size])) + content[start + size :]


def noise(rng: Random, content: bytes) -> bytes:
    """Nothing of it is left."""
    return rng.bytes(int(rng.integers(0, 300)))


BYTES: tuple[Callable[[Random, bytes], bytes], ...] = (
    flip, flip_head, cut, cut_out, insert, zeros, noise,
)  # fmt: skip

# --- Models ---------------------------------------------------------------------------------------


def node_of(rng: Random, model: onnx.ModelProto) -> onnx.NodeProto:
    return choose(rng, model.graph.node)  # type: ignore[no-any-return]


NAMES = (
    "",
    "nowhere",
    "a\nb",
    "\x1b[31m",
    "../../etc/passwd",
    "x" * 10_000,
    "ä€\U0001f600",
    "image",
)
NUMBERS = (-1, 0, 1, 2, 3, 2**31 - 1, 2**31, 2**40, 2**62, -(2**31), -(2**63), 10**6)


def read_elsewhere(rng: Random, model: onnx.ModelProto) -> None:
    """A node reads another value: an unknown one, a later one, or its own output."""
    node = node_of(rng, model)
    values = [name for n in model.graph.node for name in n.output]
    values += [t.name for t in model.graph.initializer]
    if node.input:
        node.input[int(rng.integers(len(node.input)))] = choose(rng, [*values, *NAMES])


def cycle(rng: Random, model: onnx.ModelProto) -> None:
    """The first node waits for the last."""
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]


def shuffled(rng: Random, model: onnx.ModelProto) -> None:
    """The nodes are in another order."""
    nodes = [model.graph.node[int(i)] for i in rng.permutation(len(model.graph.node))]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def drop_input(rng: Random, model: onnx.ModelProto) -> None:
    """A node has an input less, or one that is left out."""
    node = node_of(rng, model)
    if node.input and rng.random() < 0.5:
        del node.input[-1]
    elif node.input:
        node.input[int(rng.integers(len(node.input)))] = ""


def more_inputs(rng: Random, model: onnx.ModelProto) -> None:
    """A node has inputs too many."""
    node = node_of(rng, model)
    node.input.extend(list(node.input)[:1] * int(rng.integers(1, 6)))


def rename_output(rng: Random, model: onnx.ModelProto) -> None:
    """A node's output has the name of another value, or a strange one."""
    node = node_of(rng, model)
    names = [*NAMES, *model.graph.node[0].output, *(t.name for t in model.graph.initializer)]
    node.output[0] = choose(rng, names)


def drop_node(rng: Random, model: onnx.ModelProto) -> None:
    """A node is missing."""
    model.graph.node.remove(node_of(rng, model))


def double_node(rng: Random, model: onnx.ModelProto) -> None:
    """A node stands there twice."""
    model.graph.node.append(node_of(rng, model))


def other_operator(rng: Random, model: onnx.ModelProto) -> None:
    """A node is another operator."""
    known = sorted({s.name for s in onnx.defs.get_all_schemas() if s.domain == ""})
    node = node_of(rng, model)
    node.op_type = choose(rng, known) if rng.random() < 0.8 else choose(rng, NAMES)


def other_domain(rng: Random, model: onnx.ModelProto) -> None:
    """A node is of a domain that nobody knows, or of one that means something else."""
    node_of(rng, model).domain = choose(rng, ["com.example", "ai.onnx.ml", "com.microsoft", "\n"])
    if rng.random() < 0.5:
        model.opset_import.append(helper.make_opsetid("com.example", 1))


def other_attribute(rng: Random, model: onnx.ModelProto) -> None:
    """An attribute has another value, of the right type."""
    node = choose(rng, [node for node in model.graph.node if node.attribute])
    if node is None:
        return
    attribute = choose(rng, node.attribute)
    if attribute.type == AttributeProto.INT:
        attribute.i = choose(rng, NUMBERS)
    elif attribute.type == AttributeProto.INTS:
        for index in range(len(attribute.ints)):
            if rng.random() < 0.5:
                attribute.ints[index] = choose(rng, NUMBERS)
        if rng.random() < 0.3:
            attribute.ints.append(choose(rng, NUMBERS))
        if rng.random() < 0.2:
            del attribute.ints[:]
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = choose(rng, [float("nan"), float("inf"), -1.0, 0.0])
    elif attribute.type == AttributeProto.STRING:
        attribute.s = choose(rng, [b"", b"\xff\xfe", b"SAME", b"linear"])


def attribute_type(rng: Random, model: onnx.ModelProto) -> None:
    """An attribute is of another type than it says, or than the operator takes."""
    node = choose(rng, [node for node in model.graph.node if node.attribute])
    if node is None:
        return
    attribute = choose(rng, node.attribute)
    if rng.random() < 0.5:
        attribute.type = int(rng.integers(0, 15))
    else:
        given = choose(rng, [1, 1.5, "text", [1, 2], [0.5], ["a"]])
        attribute.CopyFrom(helper.make_attribute(attribute.name, given))


def unknown_attribute(rng: Random, model: onnx.ModelProto) -> None:
    """An attribute that the operator doesn't have, or one twice."""
    node = node_of(rng, model)
    names = ["strange", "axis", "axes", *(attribute.name for attribute in node.attribute)]
    node.attribute.append(helper.make_attribute(choose(rng, names), int(choose(rng, NUMBERS))))


def input_shape(rng: Random, model: onnx.ModelProto) -> None:
    """The image's shape: negative, huge, of other rank."""
    shape = model.graph.input[0].type.tensor_type.shape
    kind = int(rng.integers(5))
    if kind == 0:
        del shape.dim[int(rng.integers(len(shape.dim)))]
    elif kind == 1:
        shape.dim.add().dim_value = choose(rng, NUMBERS)
    elif kind == 2:
        model.graph.input[0].type.tensor_type.ClearField("shape")
    else:
        dim = choose(rng, shape.dim)
        dim.dim_value = choose(rng, NUMBERS)
        if kind == 4:
            dim.dim_param = choose(rng, NAMES)


def value_type(rng: Random, model: onnx.ModelProto) -> None:
    """An input or output is of another type."""
    value = choose(rng, [*model.graph.input, *model.graph.output])
    kind = int(rng.integers(3))
    if kind == 0:
        value.type.tensor_type.elem_type = int(rng.integers(0, 30))
    elif kind == 1:
        value.ClearField("type")
    else:
        value.type.sequence_type.elem_type.tensor_type.elem_type = 1


def value_name(rng: Random, model: onnx.ModelProto) -> None:
    """An input or output is called otherwise."""
    values = [node.output[0] for node in model.graph.node if node.output]
    choose(rng, [*model.graph.input, *model.graph.output]).name = choose(rng, [*values, *NAMES])


def no_outputs(rng: Random, model: onnx.ModelProto) -> None:
    """Nothing goes in or comes out."""
    del choose(rng, [model.graph.output, model.graph.input])[:]


def double_value(rng: Random, model: onnx.ModelProto) -> None:
    """An input or output stands there twice."""
    values = choose(rng, [model.graph.output, model.graph.input])
    values.extend(list(values)[:1])


def weight_shape(rng: Random, model: onnx.ModelProto) -> None:
    """A weight says that it has other sizes than its content."""
    tensor = choose(rng, model.graph.initializer)
    if tensor is None or not tensor.dims:
        return
    tensor.dims[int(rng.integers(len(tensor.dims)))] = choose(rng, NUMBERS)


def weight_short(rng: Random, model: onnx.ModelProto) -> None:
    """A weight's content is cut."""
    tensor = choose(rng, model.graph.initializer)
    if tensor is not None:
        tensor.raw_data = tensor.raw_data[: int(rng.integers(len(tensor.raw_data) + 1))]


def weight_type(rng: Random, model: onnx.ModelProto) -> None:
    """A weight says that it is of another type, or has its content in another field."""
    tensor = choose(rng, model.graph.initializer)
    if tensor is None:
        return
    if rng.random() < 0.7:
        tensor.data_type = choose(rng, [*range(27), 99, -1])
    else:
        tensor.float_data.extend([1.0] * 3)


def weight_reshaped(rng: Random, model: onnx.ModelProto) -> None:
    """A weight has another shape, or other numbers: a sound tensor in the wrong place."""
    tensor = choose(rng, model.graph.initializer)
    if tensor is None:
        return
    array = numpy_helper.to_array(tensor)
    fill = choose(rng, [0, -1, 2, np.nan if array.dtype.kind == "f" else 10**9])
    arrays = [array.reshape(-1), array[None], np.full_like(array, fill)]
    if array.ndim:
        arrays += [array[:1], array[:0]]
    tensor.CopyFrom(numpy_helper.from_array(choose(rng, arrays), tensor.name))


def weight_name(rng: Random, model: onnx.ModelProto) -> None:
    """A weight has another name, or that of another value."""
    names = [t.name for t in model.graph.initializer] + [model.graph.input[0].name, *NAMES]
    tensor = choose(rng, model.graph.initializer)
    if tensor is not None:
        tensor.name = choose(rng, names)


def weight_outside(rng: Random, model: onnx.ModelProto) -> None:
    """A weight's content lies in another file, which it has no business with."""
    tensor = choose(rng, model.graph.initializer)
    if tensor is None:
        return
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    places = ["../../../../../../etc/passwd", "/etc/passwd", "weights.bin", "", "/dev/zero", "."]
    where = {
        "location": choose(rng, places),
        "offset": str(choose(rng, NUMBERS)),
        "length": str(choose(rng, NUMBERS)),
    }
    for key, value in where.items():
        if key == "location" or rng.random() < 0.5:
            tensor.external_data.add(key=key, value=value)


def versions(rng: Random, model: onnx.ModelProto) -> None:
    """Versions that there aren't."""
    kind = int(rng.integers(4))
    if kind == 0:
        model.ir_version = choose(rng, NUMBERS)
    elif kind == 1:
        model.opset_import[0].version = choose(rng, [*NUMBERS, 5, 17, 40])
    elif kind == 2:
        del model.opset_import[:]
    else:
        model.opset_import.append(helper.make_opsetid("", int(rng.integers(1, 30))))


def nested(rng: Random, model: onnx.ModelProto) -> None:
    """Graphs within graphs within graphs."""
    graph = onnx.GraphProto(name="inner")
    for _ in range(int(choose(rng, [3, 20, 30]))):
        outer = onnx.GraphProto(name="outer")
        node = outer.node.add(op_type="If", input=["image"], output=["y"])
        for branch in ("then_branch", "else_branch")[:1]:
            node.attribute.append(helper.make_attribute(branch, graph))
        graph = outer
    model.graph.node.append(graph.node[0])


def function(rng: Random, model: onnx.ModelProto) -> None:
    """A function that calls itself, or isn't there."""
    node = node_of(rng, model)
    node.domain = "local"
    model.opset_import.append(helper.make_opsetid("local", 1))
    if rng.random() < 0.7:
        inner = helper.make_node(node.op_type, ["x"], ["y"], domain=choose(rng, ["local", ""]))
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
        made = helper.make_function("local", node.op_type, ["x"], ["y"], [inner], opsets)
        model.functions.append(made)


def metadata(rng: Random, model: onnx.ModelProto) -> None:
    """Metadata twice, or of strange names."""
    for _ in range(2):
        key = choose(rng, ["xai_onnx", *NAMES])
        model.metadata_props.add(key=key, value=choose(rng, ["", "{}", "[]", "null", *NAMES]))


def manifest(rng: Random, model: onnx.ModelProto) -> None:
    """The manifest, where there is one, is spoilt as a text."""
    for entry in model.metadata_props:
        if entry.key == "xai_onnx":
            entry.value = choose(rng, TEXTS)(rng, entry.value)


GRAPHS: tuple[Callable[[Random, onnx.ModelProto], None], ...] = (
    read_elsewhere, cycle, shuffled, drop_input, more_inputs, rename_output, drop_node, double_node,
    other_operator, other_domain, other_attribute, attribute_type, unknown_attribute, input_shape,
    value_type, value_name, no_outputs, double_value, weight_shape, weight_short, weight_type,
    weight_reshaped, weight_name, weight_outside, versions, nested, function, metadata, manifest,
)  # fmt: skip

# --- JSON -----------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 10**30, 1e308, "", "x", "a\nb", [], {}, [1], {"a": 1}, [[]], "224",
    float("nan"), ["a"] * 1000, [None],
)  # fmt: skip


def odd_value(rng: Random, text: str) -> str:
    """Something in it is something else."""
    data = json.loads(text)
    places: list[tuple[Any, Any]] = []

    def walk(part: Any) -> None:
        for key, inner in part.items() if isinstance(part, dict) else enumerate(part):
            places.append((part, key))
            if isinstance(inner, (dict, list)):
                walk(inner)

    walk(data)
    part, key = choose(rng, [(p, k) for p, k in places if not isinstance(k, int) or k < 3])
    part[key] = choose(rng, ODD)
    return json.dumps(data)


def odd_key(rng: Random, text: str) -> str:
    """An entry is missing, or one too many."""
    data = json.loads(text)
    if isinstance(data, list):
        return json.dumps(data[1:])
    parts = [data, *(part for part in data.values() if isinstance(part, dict))]
    part = choose(rng, parts)
    if rng.random() < 0.5:
        del part[choose(rng, sorted(part))]
    else:
        part["more"] = choose(rng, ODD)
    return json.dumps(data)


def whole(rng: Random, text: str) -> str:
    """It is JSON, but of nothing that was asked for."""
    return json.dumps(choose(rng, ODD)) if rng.random() < 0.7 else "[" * 100_000


def letters(rng: Random, text: str) -> str:
    """Its letters are spoilt."""
    return choose(rng, BYTES)(rng, text.encode()).decode("utf-8", "replace")  # type: ignore[no-any-return]


TEXTS: tuple[Callable[[Random, str], str], ...] = (odd_value, odd_value, odd_key, whole, letters)
