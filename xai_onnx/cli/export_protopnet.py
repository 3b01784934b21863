"""``xai-onnx export protopnet``: a checkpoint in, an explained .onnx file and its bank out."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from xai_onnx.cli import factory
from xai_onnx.cli.output import add_json, progress, say


def add(kinds: Any) -> None:
    """Add the sub-command's parser."""
    parser = kinds.add_parser("protopnet", help="a trained ProtoPNet: its prototypes explain")
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="of the original (whole module or state dict, .pth), or a folder of CaBRNet; nothing "
        "in it is executed",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT")
    parser.add_argument(
        "--projection",
        metavar="FOLDER",
        help="img/epoch-N, written when the prototypes were projected: boxes and training patches",
    )
    parser.add_argument(
        "--backbone",
        metavar="MODEL",
        help="what makes the latent grid, an .onnx file or pkg.module:factory (default: rebuilt "
        "from the checkpoint: VGG, ResNet, DenseNet)",
    )
    parser.add_argument("--feature", metavar="NAME", help="the latent grid in the backbone")
    parser.add_argument("--image-size", type=int, metavar="N", help="side of the pictures, pixels")
    parser.add_argument("--force", action="store_true", help="take a nopush checkpoint, too")
    parser.add_argument(
        "--targets",
        choices=("one_class", "predicted"),
        default="one_class",
        help="whether the class to explain is an input of the file, or the predicted one",
    )
    parser.add_argument(
        "--top-count", type=int, default=10, metavar="K", help="prototypes with a map (10)"
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "float16"),
        default="float32",
        help="of the search for the closest place; its distance is float32 always",
    )
    parser.add_argument(
        "--activation-maps", action="store_true", help="give the maps of all prototypes, too"
    )
    parser.add_argument(
        "--redacted", action="store_true", help="leave the training pictures out of the bank"
    )
    parser.add_argument(
        "--familiar",
        type=float,
        metavar="SIMILARITY",
        help='below it the best match is "no familiar part" (default: from the prototypes)',
    )
    parser.add_argument("--preprocess", metavar="RECIPE", help="default: as the checkpoint says")
    parser.add_argument("--labels", metavar="FILE", help="class names: a JSON list, or one a line")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Import, export, and say what was found and assumed."""
    import exporters

    backbone: Any = arguments.backbone
    with progress(2, "step") as bar:
        arrays = exporters.import_protopnet(
            arguments.checkpoint,
            projection=arguments.projection,
            image_size=arguments.image_size,
            force=arguments.force,
            with_backbone=backbone is None,
        )
        bar.update()
        if backbone is not None and factory.is_factory(backbone):
            backbone = factory.export(backbone, None)
        manifest = exporters.export_protopnet(
            arrays,
            arguments.output,
            backbone=backbone,
            feature=arguments.feature,
            targets=arguments.targets,
            top_count=arguments.top_count,
            precision=arguments.precision,
            activation_maps=arguments.activation_maps,
            redacted=arguments.redacted,
            familiar=arguments.familiar,
            preprocess=arguments.preprocess,
            labels=arguments.labels,
        )
        bar.update()
    known = manifest.prototypes
    assert known is not None
    bank = arguments.output.with_name(known.bank)
    field = known.receptive_field
    shown = "the whole picture" if field is None else f"{field.size:g} pixels a side"
    with_pictures = "without pictures" if known.redacted else "with what pictures there are"
    lines = [
        f"{arguments.output}  {arguments.output.stat().st_size / 1e6:.2f} MB",
        f"{bank}  {bank.stat().st_size / 1e6:.2f} MB, {with_pictures}",
        f"prototypes    {known.count} of {known.size[1]}x{known.size[2]} cells, "
        f"{known.size[0]} channels; {manifest.num_classes} classes",
        f"latent grid   {known.grid[0]}x{known.grid[1]}, receptive field {shown}",
        f"similarity    {known.similarity}, epsilon {known.epsilon:g}; familiar from "
        f"{known.familiar:.3f} on",
        *(f"assumed       {note}" for note in arrays.notes),
    ]
    data = {**dataclasses.asdict(manifest), "notes": list(arrays.notes), "bank_path": str(bank)}
    say(arguments, data, lines)
    return 0
