"""Check an explained file against the model that it was made from.

The oracle of the gradient is the original model in float64, by onnx's reference evaluator,
differentiated by central differences: nothing that goes through the gradient rules. The oracle of
the maps are the methods' formulas in NumPy (`exporters.formulas`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from exporters.verify.bench import Bench
from exporters.verify.checks import CHECKS, Check

__all__ = ["CHECKS", "Check", "verify"]


def verify(
    explained: str | os.PathLike[str],
    original: str | os.PathLike[str],
    progress: Callable[[], object] = lambda: None,
) -> list[Check]:
    """Compare `explained` with `original` on a random batch.

    Args:
        explained: path of the explained .onnx file.
        original: path of the model that it was made from.
        progress: called after each check.

    Raises:
        ManifestError: `explained` holds no manifest.
        ModelFileError: one of them can't be read, or isn't made for the other.
    """
    bench = Bench(Path(explained), Path(original))
    checks = []
    for check in CHECKS:
        checks.append(check(bench))
        progress()
    return checks
