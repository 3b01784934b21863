"""A classifier small enough to export in milliseconds, made with onnx.helper, without torch.

Convolution, ReLU, convolution, ReLU ("features"), global average, Gemm ("logits"), and an ending.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 32
CLASSES = 5
FEATURES = (16, 8, 8)
LABELS = ("ant", "bee", "cat", "dog", "eel")
PREPROCESS = "unit"

_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
    "float64": TensorProto.DOUBLE,
}


def weights(shape, fan_in, rng, dtype="float32"):
    """Seeded weights that keep the size of what goes through them."""
    return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(dtype)


def tiny_net(
    ending=None,
    *,
    classes=CLASSES,
    batch="batch",
    size=SIZE,
    channels=3,
    layout="NCHW",
    dtype="float32",
    opset=18,
    tail=(),
    gain=1.0,
    extra_outputs=(),
    arrays=(),
    seed=0,
):
    """The classifier as an `onnx.ModelProto`.

    Args:
        ending: ``None`` or the operator that turns "logits" into "scores".
        batch, size: a number, or a name where it is free.
        tail: nodes put between "features" and the pooling; they read "features" and write "tail".
        gain: factor on the weights of the last layer; NaN spoils the scores.
        extra_outputs: value infos of further outputs.
        arrays: further initializers, by name.
    """
    rng = np.random.default_rng(seed)
    inner = "float32" if dtype == "uint8" else dtype
    initializers = {
        **dict(arrays),
        "w1": weights((8, channels, 3, 3), 9 * channels, rng, inner),
        "b1": weights((8,), 8, rng, inner),
        "w2": weights((16, 8, 3, 3), 72, rng, inner),
        "w3": weights((classes, 16), 1, rng, inner) * np.asarray(gain, inner),
        "b3": weights((classes,), 2, rng, inner),
    }
    shape = [batch, channels, size, size] if layout == "NCHW" else [batch, size, size, channels]
    nodes, image = [], "image"
    if dtype == "uint8":
        nodes.append(helper.make_node("Cast", [image], ["wide"], to=TensorProto.FLOAT))
        image = "wide"
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [image], ["planes"], perm=[0, 3, 1, 2]))
        image = "planes"
    window = {"strides": [2, 2], "pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes += [
        helper.make_node("Conv", [image, "w1", "b1"], ["c1"], name="conv1", **window),
        helper.make_node("Relu", ["c1"], ["early"], name="relu1"),
        helper.make_node("Conv", ["early", "w2"], ["c2"], name="conv2", **window),
        helper.make_node("Relu", ["c2"], ["features"], name="relu2"),
        *tail,
        helper.make_node("GlobalAveragePool", ["tail" if tail else "features"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["logits"], name="head", transB=1),
    ]
    scores = "logits"
    if ending is not None:
        nodes.append(helper.make_node(ending, ["logits"], ["scores"], name="ending"))
        scores = "scores"
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", _TYPES[dtype], shape)],
        [
            helper.make_tensor_value_info(scores, _TYPES[inner], [batch, classes]),
            *extra_outputs,
        ],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    return finished(graph, opset)


def finished(graph, opset=18, ir_version=8, domains=(), functions=()):
    """A checked model around `graph`; `domains` are the further ones that it imports."""
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    model = helper.make_model(
        graph, opset_imports=imports, ir_version=ir_version, functions=list(functions)
    )
    onnx.checker.check_model(model)
    return model


def saved(model, path):
    """Write `model` to `path`, which is returned as text."""
    onnx.save(model, path)
    return str(path)


def tensors(count, seed=1, dtype="float32", layout="NCHW", size=SIZE):
    """A random batch in [0, 1), or 0..255 for uint8."""
    shape = (count, 3, size, size) if layout == "NCHW" else (count, size, size, 3)
    values = np.random.default_rng(seed).random(shape)
    return (values * 255).astype(dtype) if dtype == "uint8" else values.astype(dtype)


def photos(count, seed=2, size=48):
    """Random pictures, uint8 RGB."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (size, size + 8, 3), np.uint8) for _ in range(count)]
