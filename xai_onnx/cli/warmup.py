"""``xai-onnx warmup``: compile LIME's kernels now, not at the first picture."""

from __future__ import annotations

import argparse
from typing import Any

from xai_onnx.cli.output import add_json, progress, say, table


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "warmup", help="compile LIME's kernels ahead of time (kept on disk)"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compile every kernel for its usual types, or find it on disk; say how long each took."""
    from xai_onnx.lime.kernels import jit

    with progress(len(jit.load_all()), "kernel") as bar:
        seconds = jit.warmup(bar.update)
    total = sum(seconds.values())
    rows = [["kernel", "s"], *([name, f"{took:.2f}"] for name, took in seconds.items())]
    lines = [*table([*rows, ["all", f"{total:.2f}"]]), *_kept(jit.cache_folder())]
    data = {"seconds": seconds, "total": total, "cache": jit.cache_folder()}
    say(arguments, data, lines)
    return 0


def _kept(folder: str | None) -> list[str]:
    if folder is None:
        return ["not kept: no folder can be written; set NUMBA_CACHE_DIR to one"]
    return [f"kept in {folder}"]
