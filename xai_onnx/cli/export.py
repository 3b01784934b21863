"""``xai-onnx export METHOD``: write an explained .onnx file."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from xai_onnx.cli.output import add_export_options, add_json, say


def add(commands: Any) -> None:
    """Add the command's parser, one sub-command for each kind of export."""
    parser = commands.add_parser("export", help="write an explained .onnx file")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="METHOD")
    gradcam = kinds.add_parser("gradcam", help="Grad-CAM inside the file")
    gradcam.add_argument("model", metavar="MODEL", help="a classifier, .onnx")
    gradcam.add_argument("-o", "--output", required=True, type=Path, metavar="OUT")
    add_export_options(gradcam)
    gradcam.add_argument(
        "--targets",
        choices=("class_index", "predicted"),
        default="class_index",
        help="class_index: the classes are an input of the file; predicted: it explains the "
        "--top-k classes of highest score",
    )
    gradcam.add_argument("--top-k", type=int, default=1, metavar="K", help="with predicted")
    gradcam.add_argument(
        "--no-saliency-map", action="store_true", help="leave out the map at image size"
    )
    add_json(gradcam)
    gradcam.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Export, and say what was chosen."""
    import exporters

    original = Path(arguments.model)
    before = original.stat().st_size if original.is_file() else 0  # OUT may take its place
    manifest = exporters.export_gradcam(
        arguments.model,
        arguments.output,
        target_layer=arguments.target_layer,
        score=arguments.score or "logits",
        targets=arguments.targets,
        top_k=arguments.top_k,
        preprocess=arguments.preprocess,
        labels=arguments.labels,
        saliency_map=not arguments.no_saliency_map,
    )
    size = arguments.output.stat().st_size
    grown = size / before - 1
    score = f"{manifest.score}" + (
        f", before the {manifest.output_activation}"
        if manifest.output_activation and manifest.score != manifest.score_output
        else ""
    )
    recipe = manifest.preprocess
    lines = [
        f"{arguments.output}  {size / 1e6:.2f} MB, {grown:+.2%}",
        f"target layer  {manifest.target_layer}",
        f"score         {score}",
        f"preprocess    {recipe.summary if recipe else 'unknown: takes ready tensors only'}",
        f"labels        {len(manifest.labels) or 'none'}",
    ]
    say(arguments, dataclasses.asdict(manifest), lines)
    return 0
