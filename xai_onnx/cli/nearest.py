"""``xai-onnx nearest``: the pictures of a folder that each prototype finds itself in."""

from __future__ import annotations

import argparse
from typing import Any

from xai_onnx.cli.output import add_json, add_provider, progress, say, table
from xai_onnx.errors import InputShapeError


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "nearest", help="what do a ProtoPNet's prototypes stand for? their most similar pictures"
    )
    parser.add_argument("model", metavar="MODEL", help="a ProtoPNet that was exported")
    parser.add_argument("folder", metavar="FOLDER", help="searched with all folders below it")
    parser.add_argument(
        "--count", type=int, default=5, metavar="N", help="pictures for each prototype (5)"
    )
    parser.add_argument(
        "--prototype",
        action="append",
        type=int,
        metavar="J",
        help="one prototype only; repeat for several (default: all)",
    )
    add_provider(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Search the folder; a line for each prototype and picture, the most similar first."""
    import xai_onnx
    from xai_onnx.protopnet.search import nearest, pictures_below

    if arguments.count < 1:
        raise InputShapeError(f"--count must be 1 or more, not {arguments.count}")
    model = xai_onnx.load(arguments.model, providers=arguments.provider)
    pictures = pictures_below(arguments.folder)
    with progress(len(pictures), "picture") as bar:
        found = nearest(
            model,
            pictures,
            count=arguments.count,
            prototypes=arguments.prototype,
            progress=bar.update,
        )
    names = (model.manifest and model.manifest.labels) or ()
    rows = [["prototype", "of", "similarity", "predicted", "picture"]]
    for prototype, neighbours in found.items():
        rows += [
            [
                str(prototype),
                _label(names, item.prototype_class),
                f"{item.similarity:.3f}",
                _label(names, item.predicted),
                item.image,
            ]
            for item in neighbours
        ]
    everything = [item for neighbours in found.values() for item in neighbours]
    own = sum(item.predicted == item.prototype_class for item in everything)
    data = {
        str(prototype): [item.to_dict() for item in neighbours]
        for prototype, neighbours in found.items()
    }
    share = f"{own / len(everything):.0%} of {len(everything)}"
    say(arguments, data, [*table(rows), f"predicted as the prototype's own class: {share}"])
    return 0


def _label(names: tuple[str, ...], index: int) -> str:
    return names[index] if names else str(index)
