"""How exact the head is: similarities of every variant against float64, on real features.

    python benchmarks/protopnet_numerics.py [--prototypes 1400] [--pictures 64]

The bundled EfficientNet-Lite0 up to its last map, 7 x 7 cells, and a random add-on to 128 channels
between 0 and 1, as the original's sigmoid makes them. The prototypes are cells of crops of the two
bundled photos, so that some distances are 0; the pictures are those crops and others. Variants: the
original's formula in float32 (naive), the centred search that `activation_maps` show, the file's
own similarities (exact minimum), and those behind a half-precision search.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from classifiers import BUNDLED
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from protopnet_cost import CELLS, CHANNELS, CLASSES, with_naive_head

import exporters
from exporters import canonical, source
from exporters.protopnet.arrays import ProtoPNetArrays
from xai_onnx.cli.output import progress, table
from xai_onnx.measure import environment
from xai_onnx.preprocess import prepare, read_image
from xai_onnx.recipe import parse

FEATURE, WIDTH = "head.relu6", 1280
LIMITS = {"exact minimum": 1e-5, "float16 search": 0.05}
BATCH = 16


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prototypes", type=int, default=1400)
    parser.add_argument("--pictures", type=int, default=64)
    arguments = parser.parse_args(argv)
    print(", ".join(f"{key} {value}" for key, value in environment().items()), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        plain = backbone(Path(folder) / "backbone.onnx")
        pictures = crops(arguments.pictures)
        with progress(5, "variant") as bar:
            z = run(plain, pictures)["z"]
            bar.update()
            arrays = prototypes(z[: len(z) // 2], arguments.prototypes, plain)
            exact = float64(z, arrays)
            files = {name: Path(folder) / f"{name}.onnx" for name in ("float32", "float16")}
            for precision, path in files.items():
                options: dict[str, Any] = {"targets": "predicted", "precision": precision}
                maps = precision == "float32"
                exporters.export_protopnet(arrays, path, activation_maps=maps, **options)
            naive = Path(folder) / "naive.onnx"
            model = canonical.canonicalise(source.read(plain).model, "backbone")
            with_naive_head(model, arrays, naive, full=True)
            found = {}
            for name, path in (*files.items(), ("naive", naive)):
                found[name] = run(path, pictures)
                bar.update()
    found["centred"] = dict(found["float32"])
    found["centred"]["similarities"] = found["float32"]["activation_maps"].max((2, 3))
    print("\n".join(report(found, exact, arrays)))


def backbone(path: Path) -> Path:
    """EfficientNet-Lite0 and a random add-on, from the picture to z, as an .onnx file."""
    model = onnx.load(str(BUNDLED))
    rng = np.random.default_rng(0)
    kernel = (rng.standard_normal((CHANNELS, WIDTH, 1, 1)) / WIDTH**0.5).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(kernel, "add_on"))
    model.graph.node.append(helper.make_node("Conv", [FEATURE, "add_on"], ["add_on_out"]))
    model.graph.node.append(helper.make_node("Sigmoid", ["add_on_out"], ["z"]))
    shape = ["batch", CHANNELS, CELLS, CELLS]
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, shape))
    del model.graph.output[0]
    onnx.save(model, str(path))
    return path


def crops(count: int) -> NDArray[np.float32]:
    """Random crops of the bundled photos, half of them mirrored, as the model takes them."""
    rng = np.random.default_rng(1)
    recipe = parse("lite", "NCHW", 224, 224)
    photos = [read_image(BUNDLED.parent / f"{name}.jpg") for name in ("coffee", "astronaut")]
    tensors = []
    for index in range(count):
        photo = photos[index % len(photos)]
        side = int(min(photo.shape[:2]) * rng.uniform(0.4, 1))
        y, x = (int(rng.integers(0, length - side + 1)) for length in photo.shape[:2])
        crop = photo[y : y + side, x : x + side, :][:, :: rng.choice((1, -1))]
        tensors.append(prepare(np.ascontiguousarray(crop), recipe).tensor)
    return np.stack(tensors)


def prototypes(z: NDArray[np.float32], count: int, plain: Path) -> ProtoPNetArrays:
    """`count` cells of z, drawn at random."""
    rng = np.random.default_rng(2)
    cells = z.transpose(0, 2, 3, 1).reshape(-1, CHANNELS)
    chosen = rng.choice(len(cells), count, replace=count > len(cells))
    classes = min(CLASSES, count)
    owner = np.arange(count) * classes // count
    weights = np.where(owner == np.arange(classes)[:, None], 1.0, -0.5)
    weights += 0.05 * rng.standard_normal(weights.shape)  # or classes with d = 0 would be tied
    return ProtoPNetArrays(
        prototypes=cells[chosen][:, :, None, None],
        prototype_class=owner.astype(np.int64),
        weights=weights.astype(np.float32),
        backbone=plain,
    )


def run(path: Path, pictures: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Every output, by name."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options)
    names = [value.name for value in session.get_outputs()]
    (taken,) = session.get_inputs()
    parts = [
        session.run(names, {taken.name: pictures[start : start + BATCH]})
        for start in range(0, len(pictures), BATCH)
    ]
    return {name: np.concatenate(arrays) for name, *arrays in zip(names, *parts, strict=True)}


def float64(z: NDArray[np.float32], arrays: ProtoPNetArrays) -> dict[str, NDArray[Any]]:
    """Similarities, smallest distances and all distances in float64, picture by picture."""
    vectors = arrays.prototypes[:, :, 0, 0].astype(np.float64)
    everywhere = np.stack(
        [
            ((cells.T[None] - vectors[:, None]) ** 2).sum(2)
            for cells in z.reshape(len(z), CHANNELS, -1).astype(np.float64)
        ]
    )
    smallest = everywhere.min(2)
    similarities = np.log((smallest + 1) / (smallest + arrays.epsilon))
    return {"similarities": similarities, "smallest": smallest, "everywhere": everywhere}


def report(
    found: dict[str, dict[str, NDArray[Any]]],
    exact: dict[str, NDArray[Any]],
    arrays: ProtoPNetArrays,
) -> list[str]:
    """A table of the variants, and what is held against the limits."""
    weights = arrays.weights.astype(np.float64)
    expected = (exact["similarities"] @ weights.T).argmax(1)
    near = exact["smallest"] < 1e-3
    head = ["variant", "max |ds|", "where d < 1e-3", "elsewhere", "same place", "top-1"]
    rows, verdicts = [head], []
    names = {
        "naive": "naive",
        "centred": "centred search",
        "float32": "exact minimum",
        "float16": "float16 search",
    }
    for key, name in names.items():
        outputs = found[key]
        error = np.abs(outputs["similarities"] - exact["similarities"])
        places = np.take_along_axis(exact["everywhere"], outputs["locations"][:, :, None], 2)
        same = (places[..., 0] <= exact["smallest"] * (1 + 1e-9)).mean()
        agreed = (outputs["logits"].argmax(1) == expected).mean()
        largest = [float(part.max()) if part.size else 0.0 for part in (error[near], error[~near])]
        rows.append(
            [
                name,
                f"{error.max():.1e}",
                *(f"{value:.1e}" for value in largest),
                f"{same:.4%}",
                f"{agreed:.1%}",
            ]
        )
        if name in LIMITS:
            within = error.max() <= LIMITS[name] and agreed >= 0.995
            verdicts.append(
                f"{'within' if within else 'BEYOND'} {LIMITS[name]:g} and 99.5 %: {name}"
            )
    single = found["float32"]
    evidence = single["similarities"].astype(np.float64)[:, None] * weights
    off = np.abs(evidence.sum(2) - single["logits"]) / np.abs(evidence).sum(2)
    within = "within" if off.max() <= 1e-4 else "BEYOND"
    verdicts.append(f"{within} 1e-4: sum of the evidence against the logit, {off.max():.1e}")
    count = f"{len(evidence)} pictures, {len(arrays.prototypes)} prototypes, {near.sum()} matches"
    return ["", f"{count} with d < 1e-3", *table(rows), "", *verdicts]


if __name__ == "__main__":
    main()
