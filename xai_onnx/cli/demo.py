"""``xai-onnx demo``: from the bundled model and photos to explained pictures, without a network."""

from __future__ import annotations

import argparse
from importlib import resources
from pathlib import Path
from typing import Any

from xai_onnx.cli.output import add_json, progress, say
from xai_onnx.errors import OutputFileError

PHOTOS = ("coffee", "astronaut")


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser("demo", help="explain two photos with a bundled model")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("xai-onnx-demo"), metavar="FOLDER"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Export the bundled classifier, explain the bundled photos, say where the results are."""
    import exporters
    import xai_onnx

    folder: Path = arguments.output
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputFileError(f"{folder}: can't be made: {error.strerror}; use -o") from error
    explained = folder / "efficientnet_lite0.gradcam.onnx"
    results = []
    with (
        resources.as_file(resources.files("xai_onnx") / "assets") as assets,
        progress(1 + len(PHOTOS), "step") as bar,
    ):
        manifest = exporters.export_gradcam(
            assets / "efficientnet_lite0.onnx",
            explained,
            preprocess="lite",
            labels=assets / "imagenet_labels.json",
        )
        bar.update()
        model = xai_onnx.load(explained)
        for photo in PHOTOS:
            explanation = model.explain(assets / f"{photo}.jpg")
            picture = folder / f"{photo}.png"
            explanation.save(picture)
            results.append({"picture": str(picture), **explanation.to_dict()})
            bar.update()
    lines = [f"{explained}  EfficientNet-Lite0, explained at {manifest.target_layers[0]}"]
    lines += [
        f"{result['picture']}  {result['label']}, {result['probability']:.1%}" for result in results
    ]
    say(arguments, {"model": str(explained), "explanations": results}, lines)
    return 0
