"""``xai-onnx demo``: from a bundled model and photos to explained pictures, without a network."""

from __future__ import annotations

import argparse
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from xai_onnx.cli.output import add_json, progress, say
from xai_onnx.errors import OutputFileError
from xai_onnx.output_file import replacing
from xai_onnx.prototypes import BANK_SUFFIX

PHOTOS = ("coffee", "astronaut")
PROTOPNET = "fashion_protopnet.onnx"
CLOTHES = ("ankle_boot", "bag", "dress")  # of Fashion-MNIST's test split


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser("demo", help="explain pictures with a bundled model")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("xai-onnx-demo"), metavar="FOLDER"
    )
    parser.add_argument(
        "--method",
        choices=list(DEMOS),
        default="gradcam",
        help="gradcam: what EfficientNet-Lite0 sees in two photos; protopnet: which training "
        "patches clothes look like",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Explain the bundled pictures, say where the results are."""
    folder: Path = arguments.output
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputFileError(f"{folder}: can't be made: {error.strerror}; use -o") from error
    with resources.as_file(resources.files("xai_onnx") / "assets") as assets:
        model, about, results = DEMOS[arguments.method](assets, folder)
    lines = [f"{model}  {about}"]
    lines += [
        f"{result['picture']}  {result['label']}, {result['probability']:.1%}" for result in results
    ]
    say(arguments, {"model": str(model), "explanations": results}, lines)
    return 0


def _gradcam(assets: Path, folder: Path) -> tuple[Path, str, list[dict[str, Any]]]:
    """Export the bundled classifier with its own Grad-CAM, and explain the photos."""
    import exporters
    import xai_onnx

    explained = folder / "efficientnet_lite0.gradcam.onnx"
    results = []
    with progress(1 + len(PHOTOS), "step") as bar:
        manifest = exporters.export_gradcam(
            assets / "efficientnet_lite0.onnx",
            explained,
            preprocess="lite",
            labels=assets / "imagenet_labels.json",
        )
        bar.update()
        model = xai_onnx.load(explained)
        for photo in PHOTOS:
            results.append(_explained(model, assets / f"{photo}.jpg", folder / f"{photo}.png"))
            bar.update()
    return explained, f"EfficientNet-Lite0, explained at {manifest.target_layers[0]}", results


def _protopnet(assets: Path, folder: Path) -> tuple[Path, str, list[dict[str, Any]]]:
    """Explain clothes by the prototypes of the bundled ProtoPNet."""
    import xai_onnx

    for name in (PROTOPNET, PROTOPNET.removesuffix(".onnx") + BANK_SUFFIX):
        with replacing(folder / name) as temporary:
            shutil.copyfile(assets / name, temporary)
    model = xai_onnx.load(folder / PROTOPNET)
    results = []
    with progress(len(CLOTHES), "picture") as bar:
        for name in CLOTHES:
            report = folder / f"{name}.png"
            results.append(_explained(model, assets / f"fashion_{name}.png", report))
            bar.update()
    assert model.manifest is not None
    assert model.manifest.prototypes is not None
    count = model.manifest.prototypes.count
    about = f"ProtoPNet of {count} prototypes, trained on Fashion-MNIST"
    return folder / PROTOPNET, about, results


def _explained(model: Any, picture: Path, report: Path) -> dict[str, Any]:
    explanation = model.explain(picture)
    explanation.save(report)
    return {"picture": str(report), **explanation.to_dict()}


DEMOS = {"gradcam": _gradcam, "protopnet": _protopnet}
