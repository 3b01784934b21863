"""What is compared: one function for each check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from exporters.float64 import Tail
from exporters.formulas import ATTRIBUTION_FORMULAS, CAM_FORMULAS, DIVIDING
from exporters.target_layer import TargetLayer
from exporters.verify.bench import Bench
from xai_onnx.errors import ModelFileError

DIRECTIONS = 4
STEP = 1e-8  # times the activations: rounding comes to 1e-8, and it seldom crosses a kink
UNDERFLOW = 1e-30

# Why each tolerance: see the check that uses it.
OUTPUTS, GRADIENT, MAP, SALIENCY, ONE_BY_ONE = 1e-6, 1e-4, 1e-4, 1e-5, 1e-5

Array = NDArray[Any]


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


def _outputs(bench: Bench) -> Check:
    """The original outputs: bit-identical, unless ONNX Runtime fused other nodes (1e-6).

    A quantised model rounds otherwise where other nodes are fused, which shifts values by whole
    steps. So its outputs are compared where nothing is fused; how far they are apart as users run
    it is said.
    """
    error = _apart(bench.run(bench.names), bench.original_outputs)
    detail = "bit-identical" if error == 0 else "not bit-identical"
    if bench.rounds and error > 0:
        detail = f"{error:.1e} apart, since ONNX Runtime rounds elsewhere as it fuses other nodes"
        error = _apart(*bench.unfused())
        detail += "; bit-identical" if error == 0 else "; not bit-identical"
        detail += " where nothing is fused"
    if not bench.same_source:
        detail += "; the file was made from other bytes than this original"
    return Check("original outputs", error, bench.tolerance(OUTPUTS), detail)


def _apart(got: Sequence[Array], expected: Sequence[Array]) -> float:
    """0 where all bits are the same, else the largest relative difference."""
    pairs = list(zip(got, expected, strict=True))
    identical = all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
    return 0.0 if identical else max(_relative(a, b) for a, b in pairs)


def _gradient(bench: Bench) -> Check:
    """The gradient G at each target against central differences in float64: <G, d> for some d.

    d is a function of the activations (or pixels), another one in each channel: equal numbers move
    alike, so ties in a MaxPool stay ties and zeros behind a ReLU stay zeros. float32 errs by 1e-6;
    the rest of the tolerance, the noise floor and the median over the pictures are for units so
    close to a kink that float32 and float64 see them on different sides: a wrong gradient is wrong
    for every picture.
    """
    worst, floor, count = 0.0, 0.0, 0
    for index, g in enumerate(bench.gradients):
        base = bench.raw[index].astype(np.float64)
        tail = Tail(bench.plain, bench.targets[index], bench.plain.score.value, bench.pictures)
        d = [_direction(base, bench.channel_axis(index), seed) for seed in range(DIRECTIONS)]
        got = [np.einsum("kbx,bx->kb", g.reshape(*g.shape[:2], -1), _rows(part)) for part in d]
        expected = _derivatives(bench, tail, base, d)
        count += expected.size
        error = _by_picture(np.array(got), expected)
        if error > bench.tolerance(GRADIENT):
            beside = base * (1 + _rounding(bench.raw[index]))
            floor = max(floor, _by_picture(_derivatives(bench, tail, beside, d), expected))
        worst = max(worst, error)
    detail = f"central differences in float64, {count} directional derivatives"
    return _judged("gradient", worst, bench.tolerance(GRADIENT), floor, detail)


def _derivatives(bench: Bench, tail: Tail, base: Array, directions: Sequence[Array]) -> Array:
    """What is explained, [K, B], by central differences along each direction."""
    found = []
    for d in directions:
        difference = (tail(base + STEP * d) - tail(base - STEP * d)) / (2 * STEP)
        found.append(np.einsum("bkn,bn->kb", bench.weights, difference))
    return np.array(found)


def _rounding(x: Array) -> Array:
    """Relative errors of some roundings in the precision of x: several operators stand before."""
    signs = np.random.default_rng(5).choice([-1.0, 1.0], x.shape)
    share: Array = 4 * float(np.finfo(x.dtype).eps) * signs
    return share


def _judged(name: str, error: float, usual: float, floor: float, detail: str) -> Check:
    """A check that tolerates three times the noise floor, where that is higher.

    The floor is how much the reference itself changes when its argument is off by rounding.
    """
    if floor:
        detail += f"; rounding alone makes {floor:.1e}"
    return Check(name, error, max(usual, 3 * floor), detail)


def _by_picture(got: Array, expected: Array) -> float:
    """The largest relative error of each picture, the last axis; the median over these."""
    errors = np.abs(got - expected).max((0, 1))
    return float(np.median(errors / max(float(np.abs(expected).max()), UNDERFLOW)))


def _rows(x: Array) -> Array:
    return x.reshape(len(x), -1)


def _direction(base: Array, channels: int, seed: int) -> Array:
    """A direction of the size of the activations that depends on their values, by channel."""
    generator = np.random.default_rng(seed)
    sizes = [1] * base.ndim
    sizes[channels] = base.shape[channels]
    slope, bend, pace = generator.standard_normal((3, *sizes))
    scale = np.abs(base).max() or 1.0
    direction: Array = base * (slope + bend * np.sin(9 * pace * base / scale))
    return direction


def _map(bench: Bench) -> Check:
    """The map against the method's formula in float64, from the gradient.

    Errors are relative to the formula's sum of absolute terms: its rounding scales with them.
    """
    return _cam(bench) if bench.manifest.cam is not None else _attribution(bench)


def _attribution(bench: Bench) -> Check:
    manifest = bench.manifest
    (got,) = bench.run([manifest.map])
    formula, floor = ATTRIBUTION_FORMULAS[manifest.method], 0.0
    expected = formula(bench.image, bench.extra, bench.gradient_at)
    error = _relative(got, expected.swapaxes(0, 1))
    if error > bench.tolerance(MAP):
        beside = (bench.image * (1 + _rounding(bench.image))).astype(bench.image.dtype)
        floor = _relative(formula(beside, bench.extra, bench.gradient_at), expected)
    detail = f"{manifest.method} in float64"
    return _judged("attribution", error, bench.tolerance(MAP), floor, detail)


def _cam(bench: Bench) -> Check:
    manifest = bench.manifest
    names = list(manifest.activations)
    *activations, cam = bench.run([*names, manifest.map])
    first = activations[0].shape[2:] if len(names) == 1 else bench.size
    _require(bench, manifest.map, cam, (*bench.weights.shape[:2], *first))
    for name, layer, a in zip(names, bench.layers, activations, strict=True):
        _require(bench, name, a, (len(bench.image), layer.shape[1], *a.shape[2:]))
    gradients = [_as_map(layer, g) for layer, g in zip(bench.layers, bench.gradients, strict=True)]
    expected, terms = _by_formula(manifest.method, activations, gradients, cam.shape)
    error, floor = float(np.abs(cam - expected).max() / terms), 0.0
    if error > bench.tolerance(MAP) and manifest.method in DIVIDING:
        beside = [[x * (1 + _rounding(x)) for x in part] for part in (activations, gradients)]
        moved, _ = _by_formula(manifest.method, beside[0], beside[1], cam.shape)
        floor = float(np.abs(moved - expected).max() / terms)
    maps = cam.reshape(len(cam) * cam.shape[1], -1)
    filled = int((maps.max(1) > maps.min(1)).sum())
    detail = f"{manifest.method} in float64; {filled} of {len(maps)} maps aren't empty"
    return _judged("cam", error, bench.tolerance(MAP), floor, detail)


def _by_formula(
    method: str, activations: Sequence[Array], gradients: Sequence[Array], shape: tuple[int, ...]
) -> tuple[Array, float]:
    """The maps in float64, and the largest sum of absolute terms behind a number of them."""
    formula, count = CAM_FORMULAS[method], len(activations)
    expected, terms = np.zeros(shape), np.zeros(shape[:2])
    for a, g in zip(activations, gradients, strict=True):
        for b, k in np.ndindex(shape[:2]):
            a64, g64 = a[b].astype(np.float64), g[k, b].astype(np.float64)
            found = formula(a64, g64)
            absolute = float(formula(np.abs(a64), np.abs(g64)).max())
            if count > 1:
                absolute /= max(found.max() - found.min(), UNDERFLOW)
                found = _scaled(found, shape[2:])
            expected[b, k] += found / count
            terms[b, k] += absolute / count
    return expected, max(float(terms.max()), UNDERFLOW)


def _as_map(layer: TargetLayer, g: Array) -> Array:
    """A gradient [K, *raw] as [K, B, C, h, w]."""
    found = layer.map
    if found.layout == "NHWC":
        return np.moveaxis(g, -1, 2)
    if found.layout == "NLC":
        g = np.moveaxis(g[:, :, found.extra :], -1, 2)
    if found.layout != "NCHW":
        g = g.reshape(*g.shape[:3], int(found.height), int(found.width))
    return g


def _saliency_map(bench: Bench) -> Check:
    """The map at image size against OpenCV's bilinear resize, min-max scaled.

    A span that float32 holds with few digits, near its smallest number, says nothing.
    """
    if bench.manifest.saliency_map is None:
        return Check("saliency_map", 0.0, SALIENCY, "the file was made without it")
    cams, maps = bench.run([bench.manifest.map, bench.manifest.saliency_map])
    _require(bench, bench.manifest.saliency_map, maps, (*bench.weights.shape[:2], *bench.size))
    if bench.manifest.attribution is not None:
        cams = np.abs(cams.astype(np.float64)).sum(bench.channel_axis(0) % 4 + 1)
    worst = 0.0
    for cam, got in zip(
        cams.reshape(-1, *cams.shape[2:]), maps.reshape(-1, *maps.shape[2:]), strict=True
    ):
        if 0 < cam.max() - cam.min() < UNDERFLOW:
            continue
        expected = _scaled(cam, got.shape)
        worst = max(worst, float(np.abs(got - expected).max()))
    return Check("saliency_map", worst, SALIENCY, "against OpenCV in float64")


def _scaled(cam: Array, size: Sequence[int]) -> Array:
    """Resized to (H, W), then min-max scaled; all zero where the map is constant."""
    height, width = size
    if cam.max() == cam.min():
        return np.zeros((height, width))
    spread = (cam - cam.min()).astype(np.float64)
    large = cv2.resize(spread, (width, height), interpolation=cv2.INTER_LINEAR)
    scaled: Array = (large - large.min()) / (large.max() - large.min())
    return scaled


def _one_by_one(bench: Bench) -> Check:
    """Pictures one by one give the maps of the batch; kernels differ by batch, hence no 0.

    Unless the model itself mixes them, as by DynamicQuantizeLinear, whose scale is the batch's.
    """
    if bench.plain.image.batch is not None:
        return Check("one by one", 0.0, ONE_BY_ONE, "the model's batch size is fixed")
    (together,) = bench.run([bench.manifest.map])
    rows = [slice(i, i + 1) for i in range(len(together))]
    both = zip(bench.names, bench.original_outputs, strict=True)
    by_picture = {name: whole for name, whole in both if len(whole) == len(together)}
    apart = [bench.run_original(list(by_picture), row) for row in rows]
    joined = [np.concatenate(parts) for parts in zip(*apart, strict=True)]
    if _apart(joined, list(by_picture.values())) > bench.tolerance(ONE_BY_ONE):
        return Check("one by one", 0.0, ONE_BY_ONE, "the original's outputs depend on the batch")
    alone = [bench.run([bench.manifest.map], row)[0] for row in rows]
    error = _relative(np.concatenate(alone), together)
    tolerance = bench.tolerance(ONE_BY_ONE)
    return Check("one by one", error, tolerance, f"{len(together)} pictures")


CHECKS = (_outputs, _gradient, _map, _saliency_map, _one_by_one)


def _require(bench: Bench, name: str, array: Array, shape: tuple[int | str, ...]) -> None:
    """Check the shape of an output of the explained file, which may be damaged."""
    if array.shape != shape or len(shape) != 4 or 0 in shape:
        raise ModelFileError(
            f"{bench.name}: output {name!r} has shape {list(array.shape)}, where its manifest and "
            f"its other outputs say {list(shape)}; export the model again"
        )


def _relative(a: Array, b: Array) -> float:
    """The largest difference, relative to the largest entry."""
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a - b).max(initial=0) / max(float(np.abs(b).max(initial=0)), 1e-30))
