"""Write a report: a picture, or one self-contained HTML page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from xai_onnx import render
from xai_onnx.output_file import replacing
from xai_onnx.protopnet.explanation import PrototypeExplanation
from xai_onnx.render.prototype_page import page
from xai_onnx.render.prototype_report import report

PAGES = (".html", ".htm")


def save(explanations: Sequence[PrototypeExplanation], path: str | os.PathLike[str]) -> None:
    """Write the report of one picture and the classes explained of it.

    Args:
        explanations: one or more, of one picture.
        path: where to; the suffix chooses a page (`PAGES`) or a picture (`render.FORMATS`).

    Raises:
        ImageError: a ready tensor was explained, so the picture isn't known.
        OutputFileError: another suffix, or the file can't be written.
    """
    if Path(path).suffix.lower() not in PAGES:
        render.save(report(explanations), path)
        return
    text = page(explanations)
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")
