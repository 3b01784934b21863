"""A small classifier of every operator that onnxruntime.quantization knows, and its int8 forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

SIZE = 32
BODY = """(float[B,3,32,32] image) => (float[B,5] scores) {
    c1 = Conv<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(image, w1, b1)
    r1 = Relu(c1)
    c2 = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r1, w2)
    s2 = Sigmoid(c2)
    m2 = Mul(c2, s2)
    a2 = Add(m2, r1)
    c3 = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(a2, w3)
    l3 = LeakyRelu<alpha=0.1>(c3)
    cc = Concat<axis=1>(l3, a2)
    mp = MaxPool<kernel_shape=[2,2], strides=[2,2]>(cc)
    ap = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(mp)
    gp = GlobalAveragePool(ap)
    flat = Flatten(gp)
    h1 = Gemm<transB=1>(flat, w4, b4)
    h2 = Relu(h1)
    h3 = MatMul(h2, w5)
    logits = Add(h3, b5)
    scores = Softmax(logits)
}"""


def float_net() -> onnx.ModelProto:
    """The classifier in float32."""
    rng = np.random.default_rng(0)
    shapes = {
        "w1": (8, 3, 3, 3),
        "b1": (8,),
        "w2": (8, 8, 3, 3),
        "w3": (8, 8, 3, 3),
        "w4": (12, 16),
        "b4": (12,),
        "w5": (12, 5),
        "b5": (5,),
    }
    graph = onnx.parser.parse_graph("g " + BODY)
    for name, shape in shapes.items():
        fan_in = max(int(np.prod(shape[1:])), 4)
        array = (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(array, name))
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def noise(count: int, seed: int = 1) -> NDArray[np.float32]:
    shape = (count, 3, SIZE, SIZE)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Noise(CalibrationDataReader):
    """Calibrates on noise like that which the tests explain."""

    def __init__(self) -> None:
        self._images = iter(noise(8)[:, None])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        image = next(self._images, None)
        return None if image is None else {"image": image}


def static(
    path: Path,
    form: QuantFormat,
    activations: QuantType,
    *,
    per_channel: bool = True,
    contrib: bool = False,
) -> Path:
    """The classifier in int8, calibrated, saved to `path`."""
    plain = path.with_suffix(".float.onnx")
    onnx.save(float_net(), plain)
    quantize_static(
        plain,
        path,
        Noise(),
        quant_format=form,
        per_channel=per_channel,
        activation_type=activations,
        weight_type=QuantType.QInt8,
        extra_options={"UseQDQContribOps": contrib},
    )
    return path


def dynamic(path: Path) -> Path:
    """The classifier with DynamicQuantizeLinear, MatMulInteger and ConvInteger."""
    plain = path.with_suffix(".float.onnx")
    onnx.save(float_net(), plain)
    quantize_dynamic(plain, path)
    return path


def optimised(model: Path, path: Path, level: str = "ORT_ENABLE_ALL") -> Path:
    """The file that ONNX Runtime writes when it optimises `model`."""
    options = SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path)
    options.graph_optimization_level = getattr(GraphOptimizationLevel, level)
    InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return path
