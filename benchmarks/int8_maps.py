"""Maps of quantised classifiers against those of the float ones that they were made from.

    python benchmarks/int8_maps.py [MODEL.onnx RECIPE ...] [--crops 54] [--rounds 20] [--seed 0]

Always the bundled EfficientNet-Lite0, then each MODEL, with its preprocessing. onnxruntime's static
quantisation, per channel, in both formats, behind its own preparation, which folds constants;
calibrated on one set of crops of scikit-image's pictures, compared on another one. Both sides
explain the class that the float model predicts; crops whose float map is empty are left out. For
each format: Spearman's rank correlation of the two saliency maps, median and 10th percentile; how
much of the float map's hottest tenth of the pixels is in the other's; how often both predict the
same class; explained over plain quantised model, batch 1, and a twin of the latter.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from classifiers import BUNDLED
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from scipy.stats import spearmanr
from skimage import data

import exporters
import xai_onnx
from xai_onnx.cli.output import table
from xai_onnx.cli.sides import Sides
from xai_onnx.measure import environment
from xai_onnx.preprocess import prepare

PICTURES = ("astronaut", "chelsea", "coffee", "rocket")
FORMATS = (QuantFormat.QDQ, QuantFormat.QOperator)
HOTTEST = 0.1
SMALLEST = 160  # pixels, of the side of a crop
HEAD = ["crops", "Spearman", "10 %", "hottest", "same class", "explained / plain", "twin / plain"]


class Calibration(CalibrationDataReader):
    """Tensors one by one, for the input called `name`."""

    def __init__(self, name: str, tensors: Sequence[NDArray[Any]]) -> None:
        self._rest = iter([{name: tensor} for tensor in tensors])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """One feed, or the end."""
        return next(self._rest, None)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL RECIPE")
    parser.add_argument("--crops", type=int, default=54)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    if len(arguments.models) % 2:
        parser.error("each MODEL needs its RECIPE behind it")
    print(", ".join(f"{key} {value}" for key, value in environment().items()), flush=True)
    given = [str(BUNDLED), "lite", *arguments.models]
    rng = np.random.default_rng(arguments.seed)
    calibration, compared = (list(crops(arguments.crops, rng)) for _ in range(2))
    logging.disable(logging.WARNING)
    for model, recipe in zip(given[::2], given[1::2], strict=True):
        rows = [[Path(model).stem, *HEAD]]
        with tempfile.TemporaryDirectory() as folder:
            plain = explained(Path(model), recipe, Path(folder) / "float.explained.onnx")
            for form in FORMATS:
                path = quantised(model, plain, calibration, form, Path(folder))
                side = explained(path, recipe, Path(folder) / f"{form.name}.explained.onnx")
                timed = Sides(str(path), None, 0).measure(
                    1, arguments.rounds, arguments.seconds, lambda: None
                )
                ratios = [timed[s].ratio(timed["plain"])[0] for s in ("explained", "twin")]
                count, *figures = [*agreement(plain, side, compared), *ratios]
                row = [f"  {form.name}", f"{count} of {len(compared)}"]
                rows.append([*row, *(f"{figure:.3f}" for figure in figures)])
        print("\n".join(["", *table(rows)]), flush=True)


def crops(count: int, rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """Square crops, at random places, of the pictures in turns."""
    pictures = [getattr(data, name)() for name in PICTURES]
    for index in range(count):
        picture = pictures[index % len(pictures)]
        height, width = picture.shape[:2]
        side = int(rng.integers(SMALLEST, min(height, width) + 1))
        top, left = (int(rng.integers(0, size - side + 1)) for size in (height, width))
        yield picture[top : top + side, left : left + side]


def explained(model: Path, recipe: str, path: Path) -> xai_onnx.model.Model:
    """The model with its explanation, written to `path` and opened."""
    exporters.export_gradcam(model, path, preprocess=recipe)
    return xai_onnx.load(path)


def quantised(
    model: str,
    plain: xai_onnx.model.Model,
    calibration: Sequence[NDArray[np.uint8]],
    form: QuantFormat,
    folder: Path,
) -> Path:
    """The model in int8, per channel, in `form`."""
    recipe, manifest = plain.preprocess, plain.manifest
    assert recipe is not None
    assert manifest is not None
    tensors = [prepare(crop, recipe).tensor[None] for crop in calibration]
    path, prepared = folder / f"{form.name}.onnx", folder / "prepared.onnx"
    quant_pre_process(model, prepared)
    quantize_static(
        prepared,
        path,
        Calibration(manifest.input, tensors),
        quant_format=form,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return path


def agreement(
    plain: xai_onnx.model.Model,
    other: xai_onnx.model.Model,
    pictures: Sequence[NDArray[np.uint8]],
) -> tuple[int, float, float, float, float]:
    """Maps compared, rank correlation (median, 10th percentile), overlap, same class."""
    expected = plain.explain(list(pictures))
    classes = [item.target for item in expected]
    got = other.explain(list(pictures), np.array(classes)[:, None])
    predicted = [int(np.argmax(found.scores)) for found in other.predict(list(pictures))]
    correlations, overlaps = [], []
    for a, (b,) in zip(expected, got, strict=True):
        if a.empty:
            continue
        first, second = a.saliency_map.ravel(), b.saliency_map.ravel()
        correlations.append(spearmanr(first, second).statistic if np.ptp(second) else 0.0)
        count = int(HOTTEST * first.size)
        hottest = [set(np.argsort(-m, kind="stable")[:count]) for m in (first, second)]
        overlaps.append(len(hottest[0] & hottest[1]) / count)
    same = float(np.mean([a == b for a, b in zip(classes, predicted, strict=True)]))
    low, middle = np.percentile(correlations, [10, 50])
    return len(correlations), float(middle), float(low), float(np.mean(overlaps)), same


if __name__ == "__main__":
    main()
