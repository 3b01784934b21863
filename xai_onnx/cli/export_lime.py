"""``xai-onnx export lime``: write an .onnx file that explains a picture by LIME in one run."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from xai_onnx.cli.output import add_json, add_model_options, say
from xai_onnx.cli.source import add_source, exported


def add(kinds: Any) -> None:
    """Add the parser."""
    parser = kinds.add_parser("lime", help="LIME inside the file: perturbed pictures and the fit")
    add_source(parser)
    parser.add_argument(
        "--returns",
        choices=("coefficients", "scores"),
        default="coefficients",
        help="coefficients: masks and fit are in the file; scores: the masks are an input, and the "
        "file gives the scores of the pictures perturbed with them",
    )
    parser.add_argument(
        "--max-segments", type=int, default=127, metavar="D", help="most superpixels (127)"
    )
    parser.add_argument(
        "--num-samples", type=int, metavar="N", help="perturbed pictures (1024, or four blocks)"
    )
    parser.add_argument("--batch-size", type=int, default=8, metavar="B", help="at once (8)")
    parser.add_argument(
        "--kernel-width", type=float, default=0.25, help="of the proximity kernel (0.25)"
    )
    parser.add_argument("--alpha", type=float, default=1.0, help="penalty of the ridge (1)")
    parser.add_argument("--seed", type=int, default=0, help="of the masks (0)")
    add_model_options(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Export, and say what was written."""
    import exporters

    original, module = Path(arguments.model), exported(arguments)
    before = original.stat().st_size if original.is_file() else 0  # OUT may take its place
    manifest = exporters.export_lime(
        module or arguments.model,
        arguments.output,
        returns=arguments.returns,
        score=arguments.score or "logits",
        input_name=arguments.input,
        max_segments=arguments.max_segments,
        num_samples=arguments.num_samples,
        batch_size=arguments.batch_size,
        kernel_width=arguments.kernel_width,
        alpha=arguments.alpha,
        seed=arguments.seed,
        preprocess=arguments.preprocess,
        labels=arguments.labels,
    )
    found = manifest.lime
    assert found is not None
    size = arguments.output.stat().st_size
    grown = f", {size / before - 1:+.2%}" if before else ""
    recipe = manifest.preprocess
    masks = "an input" if found.masks else f"{found.num_samples:,}, seed {found.seed}"
    lines = [
        f"{arguments.output}  {size / 1e6:.2f} MB{grown}",
        *([f"exporter      {module.summary}"] if module else []),
        f"method        LIME, gives {', '.join(name for name in found.outputs if name)}",
        f"superpixels   {f'up to {found.max_segments}' if found.max_segments else 'any number'}",
        f"masks         {masks}",
        f"score         {manifest.score_at}, of {manifest.score}",
        f"preprocess    {recipe.summary if recipe else 'unknown: takes ready tensors only'}",
        f"labels        {len(manifest.labels) or 'none'}",
    ]
    data = dataclasses.asdict(manifest) | ({"torch": module.report()} if module else {})
    say(arguments, data, lines)
    return 0
