"""``xai-onnx export METHOD``: write an explained .onnx file."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xai_onnx.cli import export_int8, export_lime, export_protopnet
from xai_onnx.cli.output import add_export_options, add_json, add_model_options, say
from xai_onnx.cli.source import add_source, exported
from xai_onnx.manifest import Manifest
from xai_onnx.methods import ATTRIBUTIONS, CAMS, NAMES

if TYPE_CHECKING:
    from exporters.torch_export import TorchExport


def add(commands: Any) -> None:
    """Add the command's parser, one sub-command for each kind of export."""
    parser = commands.add_parser("export", help="write an explained .onnx file")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    gradcam = kinds.add_parser("gradcam", help="Grad-CAM, or another CAM, inside the file")
    _add_common(gradcam, CAMS)
    add_export_options(gradcam)
    gradcam.set_defaults(run=run, export=_export_gradcam)
    attribution = kinds.add_parser("attribution", help="an attribution to the pixels in the file")
    _add_common(attribution, ATTRIBUTIONS)
    add_model_options(attribution)
    attribution.set_defaults(run=run, export=_export_attribution)
    export_lime.add(kinds)
    export_int8.add(kinds)
    export_protopnet.add(kinds)


def _add_common(parser: argparse.ArgumentParser, methods: dict[str, str]) -> None:
    add_source(parser)
    parser.add_argument(
        "--method",
        choices=list(methods),
        default=next(iter(methods)),
        help=f"{next(iter(methods))} unless said otherwise",
    )
    parser.add_argument(
        "--targets",
        choices=("class_index", "one_class", "predicted", "cotangent"),
        default="class_index",
        help="class_index: the classes are an input of the file; one_class: one class an image is, "
        "and the gradient to the pixels faster; predicted: it explains the "
        "--top-k classes of highest score; cotangent: weights of the scores are an input",
    )
    parser.add_argument("--top-k", type=int, default=1, metavar="K", help="with predicted")
    parser.add_argument(
        "--no-saliency-map", action="store_true", help="leave out the map at image size"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Export, and say what was chosen."""
    original, module = Path(arguments.model), exported(arguments)
    before = original.stat().st_size if original.is_file() else 0  # OUT may take its place
    common = {
        "method": arguments.method,
        "score": arguments.score or "logits",
        "input_name": arguments.input,
        "targets": arguments.targets,
        "top_k": arguments.top_k,
        "preprocess": arguments.preprocess,
        "labels": arguments.labels,
        "saliency_map": not arguments.no_saliency_map,
    }
    manifest = arguments.export(module or arguments.model, arguments, common)
    size = arguments.output.stat().st_size
    grown = f", {size / before - 1:+.2%}" if before else ""
    score = manifest.score
    if manifest.output_activation and manifest.score != manifest.score_output:
        score += f", before the {manifest.output_activation}"
    if manifest.score_at != "logits":
        score += f" ({manifest.score_at})"
    recipe = manifest.preprocess
    lines = [
        f"{arguments.output}  {size / 1e6:.2f} MB{grown}",
        *([f"exporter      {module.summary}"] if module else []),
        f"method        {NAMES[manifest.method]}",
        f"target layer  {', '.join(manifest.target_layers) or 'none: to the pixels'}",
        f"score         {score}",
        f"preprocess    {recipe.summary if recipe else 'unknown: takes ready tensors only'}",
        f"labels        {len(manifest.labels) or 'none'}",
    ]
    if manifest.extra_inputs:
        lines.append(f"takes also    {', '.join(manifest.extra_inputs.values())}")
    data = dataclasses.asdict(manifest) | ({"torch": module.report()} if module else {})
    say(arguments, data, lines)
    return 0


def _export_gradcam(
    model: str | TorchExport, arguments: argparse.Namespace, common: dict[str, Any]
) -> Manifest:
    import exporters

    return exporters.export_gradcam(
        model, arguments.output, target_layer=arguments.target_layer, **common
    )


def _export_attribution(
    model: str | TorchExport, arguments: argparse.Namespace, common: dict[str, Any]
) -> Manifest:
    import exporters

    return exporters.export_attribution(model, arguments.output, **common)
