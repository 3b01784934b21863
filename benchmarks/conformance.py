"""Gradients and maps of many architectures against torch.autograd on the torch modules themselves.

    python benchmarks/conformance.py [PATTERN ...] [--rows FILE] [--output FILE]

For each architecture of `zoo.ZOO` whose name matches a pattern: it is built with random weights,
exported to ONNX and explained; the target layer is the one that the rule finds. In the torch module
the tensor that holds the same numbers is looked for (`torch_layer`), and autograd differentiates
two classes' scores at it and at the image. Errors are relative to the largest entry, picture by
picture. Where no tensor fits, `verify` differentiates the ONNX model in float64 by differences.

Tolerance 1e-4. Where cam or image is beyond it, the module in float64 decides, which ours must be
as near to as three times torch's own float32, the noise: units next to a kink flip by rounding, and
of a map whose terms cancel little more than rounding is left. Which units flip is chance, so the
noise at the image is the largest of ROUNDINGS runs of torch, on pictures moved by one unit in the
last place.

practice: the layer that users of torch take; "same", or how ours lies to it.

--rows keeps what was measured in a file, a JSON object a line: what it holds isn't measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from emitted_gradient import emitted_gradient
from numpy.typing import NDArray
from torch_layer import Forward, Layer
from zoo import UNFIT, ZOO, Architecture

import exporters
from exporters import torch_model
from exporters.classifier import Classifier
from exporters.feature_map import FeatureMap
from exporters.formulas import CAM_FORMULAS
from exporters.verify import verify
from xai_onnx.cli.output import progress, table
from xai_onnx.errors import XaiOnnxError

TOLERANCE = 1e-4
NOISE = 3  # times torch's own distance from float64
ROUNDINGS = 5
BATCH, CLASSES = 2, 2

# Modules that are taken in practice, the likeliest first; of those that match, the last one.
PRACTICE = (
    r"(blocks|layers|layer|encoder)\.\d+\.(norm1|ln_1|layernorm_before|layer_norm1)$",
    r"(^|\.)(layer4|features)$",
    r"(^|\.)(stages|layers|levels|blocks|layer|block)\.\d+$",
)

Array = NDArray[Any]


@dataclass
class Row:
    """What was found out about one architecture; errors are None where nothing was compared."""

    name: str
    parameters: int = 0
    layer: str = ""
    layout: str = ""
    shape: str = ""
    practice: str = ""
    gradient: float | None = None
    cam: float | None = None
    cam_noise: float | None = None
    image: float | None = None
    noise: float | None = None
    oracle: str = ""
    exporter: str = ""
    seconds: float = 0.0
    refused: str = ""

    @property
    def verdict(self) -> str:
        """Whether all errors are tolerated."""
        if self.refused and self.gradient is None:
            return "refused"
        bounds = [(self.gradient, TOLERANCE)]
        for error, noise in ((self.cam, self.cam_noise), (self.image, self.noise)):
            bounds.append((error, max(TOLERANCE, NOISE * (noise or 0))))
        return "ok" if all(e is None or e <= bound for e, bound in bounds) else "FAILED"

    def cells(self) -> list[str]:
        """A row of the table."""
        errors = [_number(self.gradient), _number(self.cam, self.cam_noise)]
        errors.append(_number(self.image, self.noise))
        found = [self.layer, self.layout, self.shape, self.practice]
        ends = [self.oracle, f"{self.seconds:.0f}", self.verdict]
        return [self.name, f"{self.parameters / 1e6:.1f}", *found, *errors, *ends]


HEAD = ["architecture", "M weights", "target layer", "layout", "C h w", "practice"]
HEAD += ["gradient", "cam", "image", "oracle", "s", ""]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="*", default=[""], help="regular expressions of names")
    parser.add_argument("--rows", type=Path, help="keep what was measured in this file")
    parser.add_argument("--output", type=Path, help="write the table to this file, too")
    arguments = parser.parse_args(argv)
    done = _kept(arguments.rows)
    wanted = [n for n in ZOO if any(re.search(pattern, n) for pattern in arguments.pattern)]
    with progress(len(wanted), "architecture") as bar:
        for name in wanted:
            bar.set_postfix_str(name)
            if name not in done:
                done[name] = measured(name, ZOO[name])
                if arguments.rows:
                    with arguments.rows.open("a") as file:
                        file.write(json.dumps(asdict(done[name])) + "\n")
            bar.update()
    rows = [done[name] for name in wanted]
    text = "\n".join(report(rows))
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    return 0 if all(row.verdict != "FAILED" for row in rows) else 1


def measured(name: str, architecture: Architecture) -> Row:
    """Measure one architecture; what is refused, by torch's exporter or by ours, is a result."""
    row, start = Row(name), time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            _measure(row, architecture, Path(folder))
    except XaiOnnxError as error:
        row.refused = f"{type(error).__name__}: {error}"
    except Exception as error:  # a library's own: it must not end the run
        row.refused = f"{type(error).__name__}: {error}".replace("\n", " ")[:500]
        row.gradient = float("inf")
    row.seconds = time.perf_counter() - start
    return row


def _measure(row: Row, architecture: Architecture, folder: Path) -> None:
    net = architecture.build()
    row.parameters = sum(p.numel() for p in net.parameters())
    size, rng = architecture.size, np.random.default_rng(0)
    images = rng.standard_normal((BATCH, 3, size, size), np.float32)
    exported = torch_model.export(net, torch.from_numpy(images))
    row.exporter = exported.exporter
    plain, explained = folder / "plain.onnx", folder / "explained.onnx"
    plain.write_bytes(exported.to_bytes())
    manifest = exporters.export_gradcam(plain, explained)
    (name,) = manifest.target_layers
    found = Classifier(plain).target_layers(name)[0].map
    classes = np.stack([rng.permutation(manifest.num_classes)[:CLASSES] for _ in range(BATCH)])
    row.layer, row.layout = name, found.layout
    row.shape = " ".join(map(str, found.shape[1:])) + (f" +{found.extra}" if found.extra else "")
    forward = Forward(net, torch.from_numpy(images))
    layer = forward.find(value_in_onnx(plain, name, images))
    cam = _run(explained, [manifest.map], images, classes)[0]
    if layer is None:
        checks = {check.name: check for check in verify(explained, plain)}
        row.oracle = "differences"
        row.gradient, row.cam = checks["gradient"].error, checks["cam"].error
    else:
        row.oracle = "autograd"
        row.layer = forward.module_of(layer) or name
        row.practice = _practice(forward, layer)
        _, ours = emitted_gradient(plain, name, images, classes)
        activations, gradients = _at(forward, layer, found, classes)
        row.gradient = _error(ours, gradients)
        theirs = _cams(activations, gradients)
        row.cam = _error(cam, theirs)
        if row.cam > TOLERANCE:
            exact = _in_float64(net, images)
            same = exact.find(value_in_onnx(plain, name, images))
            assert same is not None
            right = _cams(*_at(exact, same, found, classes))
            row.cam, row.cam_noise = _error(cam, right), _error(theirs, right)
    _measure_image(row, net, forward, plain, folder / "saliency.onnx", images, classes)


def _measure_image(
    row: Row,
    net: torch.nn.Module,
    forward: Forward,
    plain: Path,
    saliency: Path,
    images: Array,
    classes: NDArray[np.int64],
) -> None:
    """The gradient at the image, as the attribution "saliency" gives it."""
    try:
        manifest = exporters.export_attribution(
            plain, saliency, method="saliency", saliency_map=False
        )
    except XaiOnnxError as error:
        row.oracle += f"; image refused: {str(error)[:120]}"
        return
    ours = np.moveaxis(_run(saliency, [manifest.attribution], images, classes)[0], 1, 0)
    theirs = np.stack([g.numpy() for (g,) in forward.gradients(classes, forward.images)])
    row.image = _error(ours, theirs)
    if row.image > TOLERANCE:
        exact = _in_float64(net, images)
        right = np.stack([g.numpy() for (g,) in exact.gradients(classes, exact.images)])
        row.image, row.noise = _error(ours, right), _error(theirs, right)
        rng = np.random.default_rng(0)
        for _ in range(1, ROUNDINGS):
            towards = np.copysign(np.float32(np.inf), rng.standard_normal(images.shape))
            moved = Forward(net, torch.from_numpy(np.nextafter(images, towards.astype(np.float32))))
            theirs = np.stack([g.numpy() for (g,) in moved.gradients(classes, moved.images)])
            row.noise = max(row.noise, _error(theirs, right))


def _at(
    forward: Forward, layer: Layer, found: FeatureMap, classes: NDArray[np.int64]
) -> tuple[Array, Array]:
    """Activations [B, C, h, w] and autograd's gradient [K, B, C, h, w]."""
    given = [layer.array(g) for (g,) in forward.gradients(classes, layer.tensor)]
    gradients = np.stack([as_map(found, g) for g in given])
    return as_map(found, layer.array(layer.tensor)), gradients


def _in_float64(net: torch.nn.Module, images: Array) -> Forward:
    return Forward(copy.deepcopy(net).double(), torch.from_numpy(images).double())


def value_in_onnx(plain: Path, name: str, images: Array) -> Array:
    """What the value called `name` is in the canonical form of the model."""
    classifier = Classifier(plain)
    main = classifier.model.graph
    value = next(v for node in main for v in node.outputs if v.name == name)
    main.outputs.clear()
    main.outputs.append(value)
    content = ir.serde.serialize_model(classifier.model).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    array: Array = session.run([name], {str(classifier.image.value.name): images})[0]
    return array


def _run(path: Path, names: list[Any], images: Array, classes: NDArray[np.int64]) -> list[Array]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = [value.name for value in session.get_inputs()]
    return list(session.run(names, dict(zip(inputs, (images, classes), strict=True))))


def as_map(found: FeatureMap, value: Array) -> Array:
    """The value, or its gradient, as [B, C, h, w]: the twin of `FeatureMap.activations`."""
    if found.layout == "NLC":
        value = value[:, found.extra :]
    if found.layout in ("NLC", "NHWC"):
        value = np.moveaxis(value, -1, 1)
    return value.reshape(*value.shape[:2], int(found.height), int(found.width))


def _cams(a: Array, gradients: Array) -> Array:
    """Grad-CAM by NumPy in float64, [B, K, h, w]."""
    each = [
        [CAM_FORMULAS["gradcam"](a[b].astype(float), g[b].astype(float)) for g in gradients]
        for b in range(len(a))
    ]
    return np.array(each)


def _error(got: Array, wanted: Array) -> float:
    """The largest difference relative to the picture's and class's largest entry.

    Maps [B, K, h, w] that hold next to nothing beside the others say nothing of their own.
    """
    assert got.shape == wanted.shape
    apart = np.abs(got - wanted).reshape(*wanted.shape[:2], -1).max(-1)
    scale = np.abs(wanted).reshape(*wanted.shape[:2], -1).max(-1)
    return float((apart / np.maximum(scale, 1e-3 * scale.max() or 1e-30)).max())


def _practice(forward: Forward, layer: Layer) -> str:
    """The module that users of torch take, and how the layer lies to it."""
    for pattern in PRACTICE:
        matching = [path for path in forward.outputs if re.search(pattern, path)]
        path = max(matching, key=lambda p: forward.place_of(p) or -1, default=None)
        place = None if path is None else forward.place_of(path)
        if path is None or place is None:
            continue
        given = forward.made[place]
        if given is layer.tensor or _equal(given, layer.tensor):
            return f"{path}: same"
        return f"{path}: {'later' if layer.place > place else 'EARLIER'}"
    return "-"


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.numel() != b.numel():
        return False
    return bool(torch.equal(a.detach().reshape(-1).sort()[0], b.detach().reshape(-1).sort()[0]))


def _kept(rows: Path | None) -> dict[str, Row]:
    if rows is None or not rows.exists():
        return {}
    kept = [Row(**json.loads(line)) for line in rows.read_text().splitlines()]
    return {row.name: row for row in kept}


def report(rows: Sequence[Row]) -> list[str]:
    """The table, the refusals with their reasons, the totals."""
    lines = [f"torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}", ""]
    lines += table([HEAD, *(row.cells() for row in rows)])
    refused = [row for row in rows if row.refused]
    if refused:
        lines += [
            "",
            "refused, or failed by an exception:",
            *(f"  {row.name}: {row.refused}" for row in refused),
        ]
    lines += ["", "left out of transformers:", *(f"  {n}: {why}" for n, why in UNFIT.items())]
    compared = [row for row in rows if not row.refused]
    lines.append("")
    for error in ("gradient", "cam", "image"):
        known = [e for row in compared if (e := getattr(row, error)) is not None]
        within = sum(e <= TOLERANCE for e in known)
        worst = f", largest {max(known):.1e}" if known else ""
        lines.append(f"{error}: {within} of {len(known)} within {TOLERANCE:.0e}{worst}")
    for error, noise in (("cam", "cam_noise"), ("image", "noise")):
        pairs = [(getattr(row, error), getattr(row, noise)) for row in compared]
        beyond = [(e, n) for e, n in pairs if n is not None]
        near = sum(e <= max(TOLERANCE, NOISE * n) for e, n in beyond)
        lines.append(f"{error} beyond it: {near} of {len(beyond)} within {NOISE} x float32's noise")
    for verdict in ("ok", "refused", "FAILED"):
        lines.append(f"{verdict}: {sum(row.verdict == verdict for row in rows)} of {len(rows)}")
    return lines


def _number(error: float | None, noise: float | None = None) -> str:
    beside = "" if noise is None else f" (noise {noise:.0e})"
    return "-" if error is None else f"{error:.0e}{beside}"


if __name__ == "__main__":
    sys.exit(main())
