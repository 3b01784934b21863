"""Gradient and map of every .onnx classifier in a folder, against torch.autograd.

    python benchmarks/check_models.py FOLDER

For each model: the file is explained, run on four photos with three classes each, and compared
with torch.autograd at the same layer (`torch_oracle`), with NumPy, and with the plain model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import onnxruntime
from emitted_gradient import emitted_gradient
from numpy.typing import NDArray
from torch_oracle import activations_and_gradient

import exporters
from exporters.verify import verify
from xai_onnx.batch import ImageInput
from xai_onnx.cli.output import table
from xai_onnx.cli.suspect import PHOTOS, suspicions
from xai_onnx.preprocess import prepare
from xai_onnx.recipe import parse
from xai_onnx.session import Session

TOLERANCE = 1e-5
ASSETS = Path(str(resources.files("xai_onnx"))) / "assets"
HEAD = ["model", "target layer", "gradient", "cam", "outputs", "verify"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args(argv)
    rows, worst = [HEAD], 0.0
    for path in sorted(arguments.folder.glob("*.onnx")):
        with tempfile.TemporaryDirectory() as folder:
            row, error = check(path, Path(folder) / "explained.onnx")
        rows.append(row)
        worst = max(worst, error)
    print("\n".join(table(rows)))
    print(f"largest error {worst:.1e}, tolerance {TOLERANCE:.0e}")
    return 0 if worst <= TOLERANCE else 1


def check(path: Path, explained: Path) -> tuple[list[str], float]:
    """One model: a row of the table, and the largest of its errors."""
    manifest = exporters.export_gradcam(path, explained)
    (layer,) = manifest.target_layers
    session = onnxruntime.InferenceSession(explained)
    plain = onnxruntime.InferenceSession(path)
    images = photos(path, manifest.score_output)
    classes = np.random.default_rng(0).integers(0, manifest.num_classes, (len(images), 3))
    classes[:, 0] = plain.run([manifest.score_output], {manifest.input: images})[0].argmax(1)
    feed = {manifest.input: images, manifest.class_index: classes}
    scores, cam = session.run([manifest.score_output, manifest.cam], feed)
    (layer,) = manifest.target_layers
    _, gradient = emitted_gradient(path, layer, images, classes)
    identical = np.array_equal(
        scores, plain.run([manifest.score_output], {manifest.input: images})[0]
    )
    errors = {"gradient": 0.0, "cam": 0.0}
    for k in range(classes.shape[1]):
        a, g = activations_and_gradient(path, layer, manifest.score, images, classes[:, k])
        alpha = g.mean((-2, -1), dtype=np.float64)
        twin = np.maximum(np.einsum("bc,bchw->bhw", alpha, a), 0)
        scale = np.einsum("bc,bchw->bhw", np.abs(alpha), np.abs(a)).max()
        errors["gradient"] = max(
            errors["gradient"], np.abs(gradient[k] - g).max() / np.abs(g).max()
        )
        errors["cam"] = max(errors["cam"], np.abs(cam[:, k] - twin).max() / scale)
    checks = verify(explained, path)
    row = [
        path.stem,
        layer,
        *(f"{error:.1e}" for error in errors.values()),
        "bit-identical" if identical else "DIFFER",
        "ok" if all(item.passed for item in checks) else "FAILED",
    ]
    failed = not identical or not all(item.passed for item in checks)
    return row, float("inf") if failed else max(errors.values())


def photos(path: Path, scores: str) -> NDArray[np.float32]:
    """The bundled photos and their mirror images, as the model most likely wants them."""
    session = Session(str(path))
    image = ImageInput.of(next(iter(session.inputs.values())), str(path))
    likely = suspicions(session, image, scores)[0]
    text = f"{likely.preset},color={likely.color},resize=squash"
    recipe = parse(text, image.layout, image.height or 224, image.width or 224)
    tensors = [prepare(ASSETS / f"{name}.jpg", recipe).tensor for name in PHOTOS]
    return np.stack([*tensors, *(tensor[..., ::-1] for tensor in tensors)])


if __name__ == "__main__":
    sys.exit(main())
