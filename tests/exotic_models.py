"""Small classifiers as other tools write them, each in its own way; random weights.

`EXOTIC` names them; `test_exotic_models` exports each and checks it with `exporters.verify`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Arrays = dict[str, NDArray[Any]]


def weights() -> Arrays:
    """Two convolutions, 3 to 8 to 16 channels, their BatchNormalizations, and a head."""
    rng = np.random.default_rng(0)

    def normal(*shape: int, fan_in: int = 1) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)

    return {
        "w1": normal(8, 3, 3, 3, fan_in=27),
        "w2": normal(16, 8, 3, 3, fan_in=72),
        "gain": rng.random(8).astype(np.float32) + 0.5,
        "shift": normal(8),
        "mean": normal(8),
        "variance": rng.random(8).astype(np.float32) + 0.5,
        "head": normal(16, 5, fan_in=4),
        "bias": normal(5),
    }


def model(
    text: str, opset: int, arrays: Arrays | None = None, *, ir_version: int = 8
) -> onnx.ModelProto:
    """The graph `text` with the arrays that it reads as initializers."""
    graph = onnx.parser.parse_graph("g " + text)
    given = weights() | (arrays or {})
    read = {name for node in graph.node for name in node.input}
    read |= {n for node in graph.node for a in node.attribute for b in a.g.node for n in b.input}
    graph.initializer.extend(
        numpy_helper.from_array(given[name], name) for name in sorted(read & set(given))
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def keras() -> onnx.ModelProto:
    """tf2onnx: the image in NHWC, transposed around; BatchNormalization as Mul and Add."""
    return model(
        """(float[B,32,32,3] "input_1:0") => (float[B,5] "Identity:0") {
        "model/conv1/Conv2D__6:0" = Transpose<perm=[0,3,1,2]>("input_1:0")
        "model/conv1/Conv2D:0" = Conv<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER">
            ("model/conv1/Conv2D__6:0", w1)
        "model/bn/mul_1:0" = Mul("model/conv1/Conv2D:0", scale)
        "model/bn/add_1:0" = Add("model/bn/mul_1:0", offset)
        "model/re_lu/Relu6:0" = Clip("model/bn/add_1:0", low, high)
        "model/conv2/Conv2D:0" = Conv<kernel_shape=[3,3], auto_pad="SAME_UPPER">
            ("model/re_lu/Relu6:0", w2)
        "model/relu/Relu:0" = Relu("model/conv2/Conv2D:0")
        "model/relu/Relu__12:0" = Transpose<perm=[0,2,3,1]>("model/relu/Relu:0")
        "model/pool/Mean:0" = ReduceMean<axes=[1,2], keepdims=0>("model/relu/Relu__12:0")
        "model/dense/MatMul:0" = MatMul("model/pool/Mean:0", head)
        "model/dense/BiasAdd:0" = Add("model/dense/MatMul:0", bias)
        "Identity:0" = Softmax<axis=-1>("model/dense/BiasAdd:0") }""",
        13,
        {
            "scale": weights()["gain"].reshape(1, 8, 1, 1),
            "offset": weights()["shift"].reshape(1, 8, 1, 1),
            "low": np.float32(0),
            "high": np.float32(6),
        },
    )


def keras_flattened() -> onnx.ModelProto:
    """A head that flattens the map in NHWC order, by a Reshape whose target is computed."""
    head = np.random.default_rng(1).standard_normal((16 * 8 * 8, 5)).astype(np.float32) / 16
    return model(
        """(float[B,16,16,3] x) => (float[B,5] y) {
        t = Transpose<perm=[0,3,1,2]>(x)
        c = Conv<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(t, w1)
        r = Relu(c)
        d = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r, w2)
        s = Relu(d)
        n = Transpose<perm=[0,2,3,1]>(s)
        shape = Shape(n)
        first = Slice(shape, zero, one)
        target = Concat<axis=0>(first, rest)
        f = Reshape(n, target)
        l = MatMul(f, wide)
        y = Sigmoid(l) }""",
        11,
        {
            "zero": np.array([0]),
            "one": np.array([1]),
            "rest": np.array([-1]),
            "wide": head,
        },
    )


def paddle() -> onnx.ModelProto:
    """paddle2onnx: every constant a node, a Reshape target cut from the shape, a head of Mul."""
    return model(
        """(float[B,3,32,32] x) => (float[B,5] "softmax_0.tmp_0") {
        "conv2d_0.tmp_0" = Conv<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x, w1)
        "batch_norm_0.tmp_2" = BatchNormalization<epsilon=1e-5, momentum=0.9>
            ("conv2d_0.tmp_0", gain, shift, mean, variance)
        "p2o.Constant.0" = Constant<value = float {0.0}>()
        "p2o.Constant.1" = Constant<value = float {6.0}>()
        "relu6_0.tmp_0" = Clip("batch_norm_0.tmp_2", "p2o.Constant.0", "p2o.Constant.1")
        "conv2d_1.tmp_0" = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>("relu6_0.tmp_0", w2)
        "p2o.Constant.2" = Constant<value = float {3.0}>()
        "p2o.Add.0" = Add("conv2d_1.tmp_0", "p2o.Constant.2")
        "p2o.Clip.0" = Clip("p2o.Add.0", "p2o.Constant.0", "p2o.Constant.1")
        "p2o.Mul.0" = Mul("conv2d_1.tmp_0", "p2o.Clip.0")
        "hardswish_0.tmp_0" = Div("p2o.Mul.0", "p2o.Constant.1")
        "pool2d_0.tmp_0" = GlobalAveragePool("hardswish_0.tmp_0")
        "Shape_0" = Shape("pool2d_0.tmp_0")
        "p2o.Constant.3" = Constant<value = int64[1] {0}>()
        "p2o.Constant.4" = Constant<value = int64[1] {1}>()
        "p2o.Slice.0" = Slice("Shape_0", "p2o.Constant.3", "p2o.Constant.4", "p2o.Constant.3")
        "p2o.Constant.5" = Constant<value = int64[1] {16}>()
        "p2o.Concat.0" = Concat<axis=0>("p2o.Slice.0", "p2o.Constant.5")
        "reshape2_0.tmp_0" = Reshape("pool2d_0.tmp_0", "p2o.Concat.0")
        "linear_0.tmp_0" = MatMul("reshape2_0.tmp_0", head)
        "linear_0.tmp_1" = Add("linear_0.tmp_0", bias)
        "softmax_0.tmp_0" = Softmax<axis=1>("linear_0.tmp_1") }""",
        11,
    )


PLAIN = """(float[B,3,{size}] x) => (float[B,5] y) {{
    c = Conv<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x, w1)
    r = Relu(c)
    {between}
    d = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>({read}, w2)
    s = Relu(d)
    p = GlobalAveragePool(s)
    f = Flatten(p)
    y = Gemm(f, head, bias) }}"""


def plain(between: str = "", read: str = "r", size: str = "32,32", **options: Any) -> Any:
    opset = options.pop("opset", 18)
    return model(PLAIN.format(between=between, read=read, size=size), opset, **options)


def free_size() -> onnx.ModelProto:
    """Height and width free."""
    return plain(size="H,W")


def with_if() -> onnx.ModelProto:
    """An If before the target layer, whose branches read around them."""
    return plain(
        """m = ReduceMax<keepdims=0>(r)
    t = Greater(m, zero)
    i = If(t) <
        then_branch = then () => (a) { a = Sigmoid(r) },
        else_branch = other () => (b) { b = Identity(r) }
    >""",
        "i",
        arrays={"zero": np.float32(0)},
    )


def with_loop() -> onnx.ModelProto:
    """A Loop before the target layer."""
    return plain(
        """l = Loop(three, yes, r) <
        body = step (int64 n, bool go, float[B,8,16,16] v) => (bool on, float[B,8,16,16] w) {
            on = Identity(go)  w = Tanh(v) }
    >""",
        "l",
        arrays={"three": np.array(3), "yes": np.array(True)},
    )


def unnamed() -> onnx.ModelProto:
    """No node has a name; optional inputs and outputs are left out by empty names."""
    made = plain('k = Clip(r, "", six)', "k", arrays={"six": np.float32(6)})
    for node in made.graph.node:
        node.name = ""
    return made


def names_of_values() -> onnx.ModelProto:
    """Every node has the name of another node's result."""
    made = plain()
    results = [node.output[0] for node in made.graph.node]
    for node, name in zip(made.graph.node, reversed(results), strict=True):
        node.name = name
    return made


def double_head() -> onnx.ModelProto:
    """Everything behind the convolutions in float64, of which ONNX Runtime has no convolution."""
    made = plain()
    nodes = made.graph.node
    nodes[-1].input[0] = "double"
    nodes[-1].output[0] = "scores"
    nodes.insert(len(nodes) - 1, helper.make_node("Cast", ["f"], ["double"], to=11))
    nodes.append(helper.make_node("Cast", ["scores"], ["y"], to=1))
    for tensor in made.graph.initializer:
        if tensor.name in ("head", "bias"):
            array = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return made


def constants() -> onnx.ModelProto:
    """Constants by every attribute that holds plain numbers."""
    return plain(
        """k = Constant<value_float = 0.5>()
    h = Mul(r, k)
    q = Constant<value_ints = [0, 8, 16, 16]>()
    e = Reshape(h, q)
    n = Constant<value_int = 2>()
    o = Cast<to=1>(n)
    z = Constant<value_floats = [0.5]>()
    u = Div(e, o)
    v = Add(u, z)""",
        "v",
    )


def listed_as_inputs() -> onnx.ModelProto:
    """IR version 3: every initializer is an input as well."""
    made = plain(opset=8, ir_version=3)
    for tensor in made.graph.initializer:
        made.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    return made


def shared() -> onnx.ModelProto:
    """One weight read twice, a subexpression read by three, a score that is read again."""
    return model(
        """(float[B,3,32,32] x) => (float[B,5] y) {
        c = Conv<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x, w1)
        r = Relu(c)
        a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r, w2)
        b = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r, w2)
        s = Sigmoid(a)
        m = Mul(a, s)
        n = Mul(b, s)
        t = Add(m, n)
        u = Add(t, s)
        p = ReduceMean<keepdims=0>(u, last)
        l = MatMul(p, head)
        k = Add(l, bias)
        g = Sigmoid(l)
        y = Mul(k, g) }""",
        18,
        {"last": np.array([2, 3])},
    )


EXOTIC: dict[str, Callable[[], onnx.ModelProto]] = {
    "Keras, NHWC": keras,
    "Keras, flattened NHWC": keras_flattened,
    "Paddle": paddle,
    "height and width free": free_size,
    "If before the target": with_if,
    "Loop before the target": with_loop,
    "no names": unnamed,
    "nodes named as values": names_of_values,
    "a head in float64": double_head,
    "constants as numbers": constants,
    "initializers as inputs": listed_as_inputs,
    "shared values": shared,
}
