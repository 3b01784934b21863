"""The command ``xai-onnx``: one module for each sub-command.

This package stands above both the run time and the exporters, and is the only part of `xai_onnx`
that may import `exporters`. Every command exits with 0, with 1 if a check failed, or with 2 for bad
usage or input, after one line on standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from xai_onnx.cli import bench, demo, explain, export, inspect, nearest, verify, warmup
from xai_onnx.errors import XaiOnnxError
from xai_onnx.version import __version__

COMMANDS = (demo, inspect, export, explain, nearest, verify, bench, warmup)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``xai-onnx`` with `argv`; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except XaiOnnxError as error:
        print(f"xai-onnx {arguments.command}: error: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"xai-onnx {arguments.command}: error: out of memory: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - what Python flushes when it ends
        return 0
    except KeyboardInterrupt:
        print(f"xai-onnx {arguments.command}: interrupted", file=sys.stderr)
        return 130
    return code


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the whole usage is what ``--help`` is for."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="xai-onnx",
        description="Explains image classifiers where they run, out of the ONNX file itself.",
    )
    parser.add_argument("--version", action="version", version=f"xai-onnx {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
