"""What commands share: text or JSON on standard output, progress bars, common options."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xai_onnx.providers import EXECUTION_PROVIDERS
from xai_onnx.recipe import PRESETS

if TYPE_CHECKING:
    from tqdm import tqdm

Subparsers = "argparse._SubParsersAction[argparse.ArgumentParser]"


def say(arguments: argparse.Namespace, data: Any, lines: Iterable[str]) -> None:
    """Print `data` with ``--json``, else `lines`."""
    if arguments.json:
        print(json.dumps(data, ensure_ascii=False, indent=2))
    else:
        print("\n".join(lines))


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, columns aligned to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


@contextmanager
def progress(total: int, unit: str) -> Iterator[tqdm[Any]]:
    """A progress bar on standard error, shown only where that is a terminal."""
    from tqdm import tqdm

    with tqdm(total=total, unit=unit, leave=False, disable=not sys.stderr.isatty()) as bar:
        yield bar


def add_json(parser: argparse.ArgumentParser) -> None:
    """Give a command ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def add_provider(parser: argparse.ArgumentParser) -> None:
    """Give a command ``--provider``."""
    parser.add_argument(
        "--provider",
        action="append",
        metavar="NAME",
        help=f"execution provider: {', '.join(EXECUTION_PROVIDERS)}; repeat in order of "
        "preference (default: cpu)",
    )


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Give a command the options that say how a plain classifier is to be explained."""
    parser.add_argument(
        "--target-layer",
        action="append",
        metavar="NAME",
        help="ONNX value or node whose activations are explained; repeat for several, whose maps "
        "are fused (default: found; see inspect)",
    )
    add_model_options(parser)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Give a command the options that say what a plain model takes and gives."""
    parser.add_argument(
        "--preprocess",
        metavar="RECIPE",
        help=f"how a picture becomes the input: PRESET[,key=value...], presets "
        f"{', '.join(PRESETS)}; keys size, resize, interpolation, color, scale, mean, std",
    )
    parser.add_argument("--labels", metavar="FILE", help="class names: a JSON list, or one a line")
    parser.add_argument(
        "--score",
        metavar="KIND|KIND:NAME|NAME",
        help="what is differentiated: the class score before a final softmax or sigmoid (logits, "
        "the default), the output itself (output), or for other models segmentation, region, "
        "detection, embedding; NAME says of which value; with --method lime: logit or probability",
    )
    parser.add_argument(
        "--input", metavar="NAME", help="the input that takes the picture, where several could"
    )
