"""CAMs and attributions of explained files against pytorch-grad-cam and captum.

    python -m venv ../oracles
    ../oracles/bin/pip install -r benchmarks/requirements-oracles.txt
    PYTHONPATH=. ../oracles/bin/python benchmarks/oracles.py FOLDER

For every .onnx classifier in FOLDER: the files that `exporters` writes run in ONNX Runtime, and the
classes of the two packages, as they are, on the same network in torch (`torch_oracle`). Four
pictures (photos and their mirror images; for attributions the photos), of each the predicted class
and another. CAMs are taken at the layer that the exporter finds and at the last one of a larger
map, where the gradient differs from position to position and so the methods from each other.

Rounding decides on which side of ReLU's kink a unit that comes to nearly 0 lies, and a unit on the
other side changes the gradient by far more than rounding. So verdicts are on torch kept on ONNX
Runtime's side of each kink (`torch_oracle.OnTheSameSide`); "plain" is torch by itself.

An error is the largest difference in a map: of raw maps and attributions relative to the map's
largest entry, of saliency maps, in [0, 1], as it is; of all maps the worst is printed.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import by_captum
import cv2
import numpy as np
import torch
from by_pytorch_grad_cam import CAM_CLASSES, WithoutTerm, maps
from check_models import photos
from numpy.typing import NDArray
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from scipy.stats import spearmanr
from torch_oracle import (
    OnTheSameSide,
    TorchClassifier,
    quiet_session,
)

import exporters
from exporters.attributions import ATTRIBUTION_METHODS
from exporters.classifier import Classifier
from exporters.saliency import interpolation
from xai_onnx.cli.output import table

TOLERANCE = 1e-4
STEPS, SAMPLES, NOISE_LEVEL = 16, 8, 0.15
PACKAGES = ("grad-cam", "captum", "torch", "onnxruntime", "numpy", "opencv-python-headless")
# The paper's Grad-CAM++ is in this table, that of the unmodified class in one of its own.
HELD = {**CAM_CLASSES, "gradcam++": WithoutTerm}
RANKS = ["Spearman, median", "least"]

Array = NDArray[Any]
Rows = list[list[str]]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model and what it is asked.

    Attributes:
        net: in torch.
        same_side: in torch, kept on ONNX Runtime's side of each kink.
        images: input tensors [B, C, H, W].
        classes: [B, K].
        layers: ONNX values, the earlier one first.
    """

    path: Path
    net: TorchClassifier
    same_side: OnTheSameSide
    images: NDArray[np.float32]
    classes: NDArray[np.int64]
    layers: tuple[str, str]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)  # it shares the processor with ONNX Runtime
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES))
    subjects = [subject(path) for path in sorted(arguments.folder.glob("*.onnx"))]
    failed = False
    for title, head, rows_of in PARTS:
        rows = [[one.path.stem, *row] for one in subjects for row in rows_of(one)]
        failed |= any(row[-1] == "BEYOND" for row in rows)
        print(f"\n{title}\n")
        print("\n".join(table([["model", *head], *rows])), flush=True)
    print(f"\n{'BEYOND' if failed else 'all within'} the tolerance of {TOLERANCE:.0e}")
    return int(failed)


def subject(path: Path) -> Subject:
    classifier = Classifier(path)
    (found,) = classifier.target_layers()
    larger = [one for one in classifier.candidates() if one.shape[2] > found.shape[2]]
    images = photos(path, str(classifier.score.output.name))
    net = TorchClassifier(path, str(classifier.score.value.name)).eval()
    with torch.no_grad():
        predicted = net(torch.from_numpy(images)).argmax(1).numpy()
    others = np.random.default_rng(0).integers(0, classifier.score.num_classes, len(images))
    layers = (str(larger[-1].value.name), str(found.value.name))
    same_side = OnTheSameSide(path, net.score).eval()
    return Subject(path, net, same_side, images, np.stack([predicted, others], 1), layers)


def ours(it: Subject, method: str, *layers: str) -> tuple[Array, Array]:
    """`cam` [B, K, h, w] and `saliency_map` [B, K, H, W] of an explained file."""
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/explained.onnx"
        manifest = exporters.export_gradcam(it.path, file, target_layer=layers, method=method)
        session = quiet_session(file)
    feed = {manifest.input: it.images, manifest.class_index: it.classes}
    cam, saliency_map = session.run([manifest.cam, manifest.saliency_map], feed)
    return cam, saliency_map


@functools.cache
def theirs(it: Subject, method: type[BaseCAM], *layers: str) -> tuple[list[Array], Array]:
    """Raw maps [B, K, h, w] and result [B, K, H, W] of a class of pytorch-grad-cam."""
    return maps(method, it.same_side, layers, it.images, it.classes)


def single_layers(it: Subject) -> Rows:
    rows = []
    for layer in it.layers:
        for name, cam_class in HELD.items():
            cam, saliency_map = ours(it, name, layer)
            (raw,), result = theirs(it, cam_class, layer)
            filled = sum(bool(m.any()) for m in flat(raw))
            errors = relative(cam, raw), absolute(saliency_map, result)
            (plain,), _ = maps(cam_class, it.net, [layer], it.images, it.classes)
            shown = f"{filled}/{len(flat(raw))}", f"{relative(cam, plain):.1e}"
            rows.append([layer, name, *shown, *judged(*errors)])
    return rows


def plus_plus(it: Subject) -> Rows:
    rows = []
    for layer in it.layers:
        _, g = it.net.activations_and_gradient(layer, it.images, it.classes[:, 0])
        cam, saliency_map = ours(it, "gradcam++", layer)
        (raw,), result = theirs(it, CAM_CLASSES["gradcam++"], layer)
        rows.append(
            [
                layer,
                f"{np.median(g[g > 0] ** 2):.0e}",
                f"{relative(cam, raw):.1e}",
                f"{absolute(saliency_map, result):.1e}",
                *ranks(saliency_map, result),
            ]
        )
    return rows


def fused(it: Subject) -> Rows:
    rows = []
    for name, cam_class in HELD.items():
        _, fused_map = ours(it, name, *it.layers)
        _, listed = theirs(it, cam_class, *it.layers)
        each = [theirs(it, cam_class, layer)[1] for layer in it.layers]
        again = scale_cam_image(flat(np.mean(each, 0))).reshape(fused_map.shape)
        apart = f"{absolute(fused_map, listed):.1e}", *ranks(fused_map, listed)
        rows.append([name, *apart, *judged(absolute(fused_map, again))])
    return rows


def resizing(it: Subject) -> Rows:
    rows = []
    size = it.images.shape[2:]
    for layer in it.layers:
        (raw,), _ = theirs(it, CAM_CLASSES["gradcam"], layer)
        small = np.stack([m for m in scale_cam_image(flat(raw)) if m.any()])
        large = np.stack([cv2.resize(m, size[::-1]) for m in small])
        down, across = (interpolation(n, m) for n, m in zip(size, raw.shape[2:], strict=True))
        spans = np.ptp(large, (1, 2))
        sizes = " to ".join("x".join(map(str, m.shape[1:])) for m in (small, large))
        error = absolute(large, down @ small @ across.T)
        rows.append([sizes, f"{spans.min():.4f}", f"{spans.max():.4f}", *judged(error)])
    return rows


def attributions(it: Subject) -> Rows:
    rows = []
    in64 = TorchClassifier(it.path, it.net.score).double()
    colours = it.images.mean((0, 2, 3), keepdims=True)
    draws = np.random.default_rng(0).standard_normal((SAMPLES, *it.images.shape[1:]))
    given = {
        "steps": np.array([STEPS]),
        "baseline": np.broadcast_to(colours, (1, *it.images.shape[1:])).copy(),
        "noise": (NOISE_LEVEL * draws).astype(np.float32),
    }
    for name, method in ATTRIBUTION_METHODS.items():
        with tempfile.TemporaryDirectory() as folder:
            manifest = exporters.export_attribution(it.path, f"{folder}/x.onnx", method=name)
            session = quiet_session(f"{folder}/x.onnx")
        errors, rounding = [], []
        for image, classes in zip(it.images[:2, None], it.classes, strict=False):
            feed = {manifest.input: image, manifest.class_index: classes[None]}
            feed |= {value: given[role] for role, value in manifest.extra_inputs.items()}
            (found,) = session.run([manifest.attribution], feed)
            for k, target in enumerate(classes.tolist()):
                plain, same = (
                    captum_says(name, net, image, target, given) for net in (it.net, it.same_side)
                )
                errors.append([relative(found[:, k], other, axes=3) for other in (plain, same)])
                if not method.averages:
                    exact = captum_says(name, in64, image, target, given)
                    rounding.append(relative(plain, exact, axes=3))
        plain, same = np.transpose(errors)
        within = f"{(plain <= TOLERANCE).sum()}/{len(plain)}"
        floor = f"{max(rounding):.1e}" if rounding else "-"
        rows.append([name, floor, f"{max(plain):.1e}", within, *judged(max(same))])
    return rows


PARTS: list[tuple[str, list[str], Callable[[Subject], Rows]]] = [
    (
        "One layer, against pytorch-grad-cam (Grad-CAM++: without the 1e-6 in its denominator)",
        [
            "layer",
            "method",
            "maps not empty",
            "raw map, plain",
            "raw map",
            "saliency map",
            "verdict",
        ],
        single_layers,
    ),
    (
        "Grad-CAM++ against the unmodified class; its denominator: of the size of G^2, plus 1e-6",
        ["layer", "median G^2, G > 0", "raw map", "saliency map", *RANKS],
        plus_plus,
    ),
    (
        "Both layers: against pytorch-grad-cam given the list (it scales maps at layer size only), "
        "and\nagainst the mean of what it gives for each layer alone (scaled at the image's size)",
        ["method", "list", *RANKS, "mean", "verdict"],
        fused,
    ),
    (
        "The resize: cv2.resize of maps that are scaled to [0, 1], against the exporter's matrices",
        ["sizes", "least span after", "largest", "resize", "verdict"],
        resizing,
    ),
    (
        f"Attributions against captum, {STEPS} steps, {SAMPLES} noisy pictures; first captum by "
        "itself, float32\nagainst float64, and how many are within the tolerance of plain torch",
        ["method", "plain 32-64", "plain", "within", "attribution", "verdict"],
        attributions,
    ),
]


def captum_says(
    name: str, net: TorchClassifier, image: Array, target: int, given: dict[str, Array]
) -> Array:
    """An attribution [1, C, H, W] by captum, in the network's precision."""
    dtype = next(net.parameters()).dtype
    inputs = {role: torch.from_numpy(array).to(dtype) for role, array in given.items()}
    x = torch.from_numpy(image).to(dtype).requires_grad_()
    return by_captum.ATTRIBUTIONS[name](net, x, target, inputs).detach().numpy()


def flat(maps: Array) -> Array:
    """[B, K, h, w] as [B * K, h, w]."""
    return maps.reshape(-1, *maps.shape[2:])


def absolute(a: Array, b: Array) -> float:
    return float(np.abs(a - b).max())


def relative(a: Array, b: Array, axes: int = 2) -> float:
    """Relative to the largest entry of a map, the last `axes`; an empty one must be empty."""
    last = tuple(range(-axes, 0))
    error, scale = np.abs(a - b).max(last), np.abs(b).max(last)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(error == 0, 0, error / scale).max())


def ranks(a: Array, b: Array) -> tuple[str, str]:
    """Spearman's correlation of maps that aren't empty: the median and the least."""
    pairs = zip(flat(a), flat(b), strict=True)
    found = [spearmanr(*pair, axis=None).statistic for pair in pairs if all(m.any() for m in pair)]
    return f"{np.median(found):.4f}", f"{min(found):.4f}"


def judged(*errors: float) -> list[str]:
    verdict = "ok" if max(errors) <= TOLERANCE else "BEYOND"
    return [*(f"{error:.1e}" for error in errors), verdict]


if __name__ == "__main__":
    sys.exit(main())
