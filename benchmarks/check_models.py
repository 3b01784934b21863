"""Gradient and map of every .onnx classifier in a folder, against torch.autograd.

    python benchmarks/check_models.py FOLDER

For each model: the file is explained, run on random images with three classes each, and compared
with torch.autograd at the same layer (`torch_oracle`), with NumPy, and with the plain model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from torch_oracle import activations_and_gradient

import exporters
from exporters.verify import verify
from xai_onnx.cli.output import table

TOLERANCE = 1e-5
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
    proto = onnx.load(explained)
    proto.graph.output.append(onnx.ValueInfoProto(name=manifest.gradient))
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    plain = onnxruntime.InferenceSession(path)
    shape = [size if isinstance(size, int) else 4 for size in plain.get_inputs()[0].shape]
    generator = np.random.default_rng(0)
    images = generator.standard_normal(shape).astype(np.float32)
    classes = generator.integers(0, manifest.num_classes, (shape[0], 3))
    names = [manifest.score_output, manifest.gradient, manifest.cam]
    feed = {manifest.input: images, manifest.class_index: classes}
    scores, gradient, cam = session.run(names, feed)
    identical = np.array_equal(
        scores, plain.run([manifest.score_output], {manifest.input: images})[0]
    )
    errors = {"gradient": 0.0, "cam": 0.0}
    for k in range(classes.shape[1]):
        a, g = activations_and_gradient(
            path, manifest.target_layer, manifest.score, images, classes[:, k]
        )
        ours = np.broadcast_to(gradient, (3, *g.shape))[k]
        alpha = g.mean((-2, -1), dtype=np.float64)
        twin = np.maximum(np.einsum("bc,bchw->bhw", alpha, a), 0)
        scale = np.einsum("bc,bchw->bhw", np.abs(alpha), np.abs(a)).max()
        errors["gradient"] = max(errors["gradient"], np.abs(ours - g).max() / np.abs(g).max())
        errors["cam"] = max(errors["cam"], np.abs(cam[:, k] - twin).max() / scale)
    checks = verify(explained, path)
    row = [
        path.stem,
        manifest.target_layer,
        *(f"{error:.1e}" for error in errors.values()),
        "bit-identical" if identical else "DIFFER",
        "ok" if all(item.passed for item in checks) else "FAILED",
    ]
    failed = not identical or not all(item.passed for item in checks)
    return row, float("inf") if failed else max(errors.values())


if __name__ == "__main__":
    sys.exit(main())
