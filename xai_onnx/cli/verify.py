"""``xai-onnx verify``: check an explained file against the model it was made from."""

from __future__ import annotations

import argparse
from typing import Any

from xai_onnx.cli.output import add_json, progress, say, table


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser("verify", help="check an explained file against its original")
    parser.add_argument("explained", metavar="EXPLAINED")
    parser.add_argument("original", metavar="ORIGINAL")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare, print the largest errors; 1 if one is beyond its tolerance."""
    from exporters.verify import CHECKS, verify

    with progress(len(CHECKS), "check") as bar:
        checks = verify(arguments.explained, arguments.original, bar.update)
    rows = [
        [
            "ok" if check.passed else "FAILED",
            check.name,
            f"{check.error:.1e} <= {check.tolerance:.0e}"
            if check.passed
            else f"{check.error:.1e} > {check.tolerance:.0e}",
            check.detail,
        ]
        for check in checks
    ]
    data = [
        {
            "check": check.name,
            "passed": check.passed,
            "error": check.error,
            "tolerance": check.tolerance,
            "detail": check.detail,
        }
        for check in checks
    ]
    say(arguments, data, table(rows))
    return 0 if all(check.passed for check in checks) else 1
