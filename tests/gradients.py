"""Read the gradient out of an explained file, where it is a value inside the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from xai_onnx.manifest import Manifest


def run_with_gradient(
    path: Path, manifest: Manifest, images: NDArray[np.float32], classes: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Activations [B, C, h, w], gradient [K, B, C, h, w] and cam [B, K, h, w] of one run."""
    proto = onnx.load(path)
    proto.graph.output.append(onnx.ValueInfoProto(name=manifest.gradient))
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [manifest.activations, manifest.gradient, manifest.cam]
    feed = {manifest.input: images, manifest.class_index: classes}
    activations, gradient, cam = session.run(names, feed)
    full = (classes.shape[1], *activations.shape)
    return activations, np.broadcast_to(gradient, full), cam


def relative_error(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The largest difference, relative to the largest entry."""
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def cam_scale(activations: NDArray[np.float32], gradient: NDArray[np.float32]) -> float:
    """The largest sum of absolute terms behind an entry of a CAM: what its rounding scales with."""
    weights = np.abs(gradient.mean((-2, -1), dtype=np.float64))
    return float(np.einsum("c,chw->hw", weights, np.abs(activations)).max())
