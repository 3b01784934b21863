"""Check an explained file against the model that it was made from.

Nothing here goes through the gradient rules: the reference is the original model, its tail run in
float64 by onnx's reference evaluator and differentiated by central differences.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from exporters import source
from exporters.classifier import Classifier
from exporters.float64 import Tail
from exporters.ort import open_file, run
from xai_onnx.errors import ManifestError, ModelFileError
from xai_onnx.manifest import Manifest

BATCH = 3
POSITIONS = 16
STEP = 1e-8  # times the activations: rounding comes to 1e-8, and it seldom crosses a kink

UNDERFLOW = 1e-30

# Why each tolerance: see the check that uses it.
OUTPUTS, CAM, SALIENCY, ONE_BY_ONE = 1e-6, 1e-4, 1e-5, 1e-5


@dataclass(frozen=True)
class Check:
    """One comparison: the largest error seen, and what is tolerated."""

    name: str
    error: float
    tolerance: float
    detail: str

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (NaN is not)."""
        return self.error <= self.tolerance


def verify(
    explained: str | os.PathLike[str],
    original: str | os.PathLike[str],
    progress: Callable[[], object] = lambda: None,
) -> list[Check]:
    """Compare `explained` with `original` on a random batch.

    Args:
        explained: path of the explained .onnx file.
        original: path of the model that it was made from.
        progress: called after each check.

    Raises:
        ManifestError: `explained` holds no manifest.
        ModelFileError: one of them can't be read, or isn't made for the other.
    """
    bench = _Bench(Path(explained), Path(original))
    checks = []
    for check in CHECKS:
        checks.append(check(bench))
        progress()
    return checks


class _Bench:
    """Both models, opened, and what they say of one random batch."""

    def __init__(self, explained: Path, original: Path) -> None:
        self.plain = Classifier(original)
        proto = source.parse(explained)
        metadata = {entry.key: entry.value for entry in proto.metadata_props}
        manifest = Manifest.from_metadata(metadata, str(explained))
        if manifest is None:
            raise ManifestError(f"{explained}: holds no manifest; it is no explained model")
        inputs, outputs = proto.graph.input, [value.name for value in proto.graph.output]
        manifest.check_names([value.name for value in inputs], outputs, str(explained))
        values = {str(v.name): v for n in self.plain.model.graph for v in n.outputs}
        self.names = [str(value.name) for value in self.plain.outputs]
        has = {
            manifest.target_layer: values,
            manifest.score: values,
            manifest.score_output: self.names,
            manifest.input: [self.plain.image.value.name],
        }
        lacking = [name for name, present in has.items() if name not in present]
        if lacking or not set(self.names) <= set(outputs):
            raise ModelFileError(
                f"{original}: {explained} was made from another model, whose inputs, outputs and "
                f"layers have other names{': ' if lacking else ''}{', '.join(lacking)}"
            )
        self.manifest = manifest
        self.target, self.score = values[manifest.target_layer], values[manifest.score]
        self.tensor = self.plain.image.noise(BATCH, (224, 224))
        batch = len(self.tensor)
        self.classes = np.random.default_rng(1).integers(0, manifest.num_classes, (batch, 2))
        self.classes[:, 0] = -1
        self._name = str(explained)
        self.same_source = self.plain.source.sha256 == manifest.source_sha256
        self._session = open_file(explained, optimise=True)
        self._original = open_file(original, optimise=True)
        feed = {manifest.input: self.tensor}
        self.original_outputs = run(self._original, self.names, feed, str(original))

    def feed(self, tensor: NDArray[Any], rows: slice = slice(None)) -> dict[str, NDArray[Any]]:
        """What the explained model takes, for the pictures `rows`."""
        if self.manifest.class_index is None:
            return {self.manifest.input: tensor}
        return {self.manifest.input: tensor, self.manifest.class_index: self.classes[rows]}

    def run(self, names: list[str], rows: slice = slice(None)) -> list[NDArray[Any]]:
        """Outputs of the explained file, as users run it."""
        return run(self._session, names, self.feed(self.tensor[rows], rows), self._name)

    def chosen(self) -> NDArray[np.int64]:
        """The classes that were explained, [B, K]."""
        position = self.names.index(self.manifest.score_output)
        scores = self.original_outputs[position].reshape(len(self.tensor), -1)
        if self.manifest.top_k is not None:
            return np.argsort(-scores, axis=1, kind="stable")[:, : self.manifest.top_k]
        return np.where(self.classes < 0, scores.argmax(1)[:, None], self.classes)


def _outputs(bench: _Bench) -> Check:
    """The original outputs: bit-identical, unless ONNX Runtime fused other nodes (1e-6)."""
    got = bench.run(bench.names)
    pairs = list(zip(got, bench.original_outputs, strict=True))
    identical = all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
    error = 0.0 if identical else max(_relative(a, b) for a, b in pairs)
    detail = "bit-identical" if identical else "not bit-identical"
    if not bench.same_source:
        detail += "; the file was made from other bytes than this original"
    return Check("original outputs", error, OUTPUTS, detail)


def _cam(bench: _Bench) -> Check:
    """The map against central differences in float64, position by position.

    The map at position p is sum_c alpha_c A_c[p], alpha_c the mean of the gradient over all n
    positions: 1 / n times the derivative of the score in the direction that adds A_c[p] to the
    whole of channel c. No gradient is needed to check it. Channels move as a whole, so ties in a
    MaxPool stay ties. float32 errs by 1e-6; the rest of the tolerance is for units so close to a
    kink (ReLU) that float32 and float64 see them on different sides.
    """
    activations, cam = bench.run([bench.manifest.activations, bench.manifest.cam])
    base = activations.astype(np.float64)
    tail = Tail(bench.plain, bench.target, bench.score, bench.tensor)
    classes = bench.chosen()
    height, width = base.shape[2:]
    places = np.random.default_rng(2).permutation(height * width)[:POSITIONS]
    expected = np.zeros((*classes.shape, len(places)))
    for index, place in enumerate(places):
        direction = base[:, :, place // width, place % width][:, :, None, None]
        difference = tail(base + STEP * direction) - tail(base - STEP * direction)
        chosen = np.take_along_axis(difference, classes, axis=1)
        expected[:, :, index] = chosen / (2 * STEP * height * width)
    got = cam.reshape(*classes.shape, -1)[:, :, places]
    scale = np.maximum(np.abs(expected).max(), 1e-30)
    error = float(np.abs(got - np.maximum(expected, 0)).max() / scale)
    maps = cam.reshape(-1, height * width)
    filled = int((maps.max(1) > maps.min(1)).sum())
    detail = f"central differences in float64, {expected.size} positions; "
    detail += f"{filled} of {len(maps)} maps aren't empty"
    return Check("cam", error, CAM, detail)


def _saliency_map(bench: _Bench) -> Check:
    """The map at image size against OpenCV's bilinear resize, min-max scaled.

    A span that float32 holds with few digits, near its smallest number, says nothing.
    """
    if bench.manifest.saliency_map is None:
        return Check("saliency_map", 0.0, SALIENCY, "the file was made without it")
    cams, maps = bench.run([bench.manifest.cam, bench.manifest.saliency_map])
    worst = 0.0
    for cam, got in zip(
        cams.reshape(-1, *cams.shape[2:]), maps.reshape(-1, *maps.shape[2:]), strict=True
    ):
        spread = (cam - cam.min()).astype(np.float64)
        large = cv2.resize(spread, got.shape[::-1], interpolation=cv2.INTER_LINEAR)
        span = large.max() - large.min()
        if 0 < span < UNDERFLOW:
            continue
        expected = (large - large.min()) / span if cam.max() > cam.min() else np.zeros_like(large)
        worst = max(worst, float(np.abs(got - expected).max()))
    return Check("saliency_map", worst, SALIENCY, "against OpenCV in float64")


def _one_by_one(bench: _Bench) -> Check:
    """Pictures one by one give the maps of the batch; kernels differ by batch, hence no 0."""
    if bench.plain.image.batch is not None:
        return Check("one by one", 0.0, ONE_BY_ONE, "the model's batch size is fixed")
    (together,) = bench.run([bench.manifest.cam])
    alone = [bench.run([bench.manifest.cam], slice(i, i + 1))[0] for i in range(len(together))]
    error = _relative(np.concatenate(alone), together)
    return Check("one by one", error, ONE_BY_ONE, f"{len(together)} pictures")


CHECKS = (_outputs, _cam, _saliency_map, _one_by_one)


def _relative(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The largest difference, relative to the largest entry."""
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a - b).max(initial=0) / max(float(np.abs(b).max(initial=0)), 1e-30))
