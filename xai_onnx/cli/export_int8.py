"""``xai-onnx export int8``: write a copy of a classifier in int8, a draft for LIME."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import Any

from xai_onnx.cli.output import add_json, progress, say
from xai_onnx.errors import PreprocessError
from xai_onnx.recipe import PRESETS


def add(kinds: Any) -> None:
    """Add the parser."""
    parser = kinds.add_parser(
        "int8", help="a copy in int8, for explain --method lime --draft, and its agreement"
    )
    parser.add_argument("model", metavar="MODEL", help="a plain classifier, .onnx, float32")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT")
    parser.add_argument(
        "--calibrate",
        required=True,
        nargs="+",
        metavar="IMAGE",
        help="pictures of the kind that will be explained, some dozens",
    )
    parser.add_argument(
        "--preprocess",
        metavar="RECIPE",
        help="how a picture becomes the input: PRESET[,key=value...], presets "
        f"{', '.join(PRESETS)}; keys size, resize, interpolation, color, scale, mean, std",
    )
    parser.add_argument("--labels", metavar="FILE", help="class names: a JSON list, or one a line")
    parser.add_argument(
        "--score", metavar="KIND|NAME", help="the score before a final softmax (logits)"
    )
    parser.add_argument(
        "--input", metavar="NAME", help="the input that takes the picture, where several could"
    )
    parser.add_argument(
        "--float-layers",
        type=int,
        default=5,
        metavar="N",
        help="convolutions at the beginning that stay in float (5): fewer are faster, more agree "
        "better",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Calibrate, write the copy, and say how it agrees with the model."""
    import numpy as np

    import exporters
    from exporters.classifier import Classifier
    from xai_onnx.preprocess import prepare

    if arguments.preprocess is None:
        raise PreprocessError(
            f"{arguments.model}: say with --preprocess how a picture becomes its input; presets: "
            f"{', '.join(PRESETS)}"
        )
    recipe = Classifier(arguments.model, input_name=arguments.input).image.fitting(
        arguments.preprocess
    )
    tensors = []
    with progress(len(arguments.calibrate) + 1, "step") as bar:
        for picture in arguments.calibrate:
            tensors.append(prepare(picture, recipe).tensor)
            bar.update()
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)  # what quantisation tells of every run
        try:
            manifest, agreement = exporters.export_int8(
                arguments.model,
                arguments.output,
                np.stack(tensors),
                score=arguments.score or "logits",
                input_name=arguments.input,
                preprocess=recipe,
                labels=arguments.labels,
                float_layers=arguments.float_layers,
            )
        finally:
            logging.disable(level)
        bar.update()
    size, before = arguments.output.stat().st_size, Path(arguments.model).stat().st_size
    lines = [
        f"{arguments.output}  {size / 1e6:.2f} MB, {size / before - 1:+.0%}",
        f"calibrated on  {agreement.pictures} pictures, and perturbed ones of each",
        f"agreement      with the model, on {agreement.forwards} pictures, most of them perturbed:",
        f"  same class   {agreement.top1:.1%}",
        f"  all logits   correlation {agreement.correlation:.4f}",
        f"  explained    correlation {agreement.of_explained:.4f} of the predicted class's logit",
        f"preprocess     {recipe.summary}",
        f"labels         {len(manifest.labels) or 'none'}",
    ]
    data = dataclasses.asdict(manifest) | {"agreement": dataclasses.asdict(agreement)}
    say(arguments, data, lines)
    return 0
