"""What an export starts from: an .onnx file, or the torch module that a factory gives."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from xai_onnx.cli import factory
from xai_onnx.errors import InputShapeError

if TYPE_CHECKING:
    from exporters.torch_export import TorchExport


def add_source(parser: argparse.ArgumentParser) -> None:
    """Give a command MODEL, ``-o`` and what goes with a torch module."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a classifier: an .onnx file, or pkg.module:factory, a function (or class, or object) "
        "of yours that gives a torch module, or a pair of it and its example input",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT")
    parser.add_argument(
        "--input-shape",
        metavar="B,C,H,W",
        help="of a torch module's example input (default: what the factory gives, or the size in "
        "the config of a transformers model)",
    )
    parser.add_argument(
        "--keep-plain",
        type=Path,
        metavar="FILE",
        help="write the torch module as a plain .onnx file too, for verify and inspect",
    )


def exported(arguments: argparse.Namespace) -> TorchExport | None:
    """The plain model of a torch module, kept where that is asked for; None for an .onnx file."""
    if factory.is_factory(arguments.model):
        module = factory.export(arguments.model, arguments.input_shape)
        if arguments.keep_plain is not None:
            module.save(arguments.keep_plain)
        return module
    for option in ("input_shape", "keep_plain"):
        if getattr(arguments, option) is not None:
            raise InputShapeError(
                f"--{option.replace('_', '-')} goes with a torch module, pkg.module:factory; "
                f"{arguments.model} is none"
            )
    return None
