"""The report as one self-contained HTML page: pictures inside, no script, nothing fetched."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xai_onnx.protopnet import wording
from xai_onnx.protopnet.explanation import PrototypeExplanation, PrototypeMatch
from xai_onnx.render.figure import FAINT, INK, PAPER
from xai_onnx.render.prototype_panels import (
    AGAINST,
    FOR,
    FRAME,
    SHADOW,
    UNSURE,
    WASH,
    numbered,
    panels,
)
from xai_onnx.render.prototype_report import bar_lengths

_PHOTO, _PANEL = 560, 300  # pixels; shown at half of it, sharp on dense screens
_CLASSES = 6
_QUALITY = 88


def page(explanations: Sequence[PrototypeExplanation]) -> str:
    """The page of one picture and the classes explained of it.

    Raises:
        ImageError: a ready tensor was explained, so the picture isn't known.
        ValueError: no explanation.
    """
    if not explanations:
        raise ValueError("a report takes one explanation at least")
    sections = "\n".join(_section(explanation) for explanation in explanations)
    heading = escape(wording.title(explanations[0]))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{heading}</title>\n<style>{_style()}</style>\n</head>\n<body>\n{sections}\n"
        f"</body>\n</html>\n"
    )


def _section(explanation: PrototypeExplanation) -> str:
    matches = wording.rows(explanation)
    most = max(abs(match.evidence) for match in matches) or 1.0
    rows = "\n".join(_row(explanation, match, rank + 1, most) for rank, match in enumerate(matches))
    heads = "".join(f"<th>{escape(text)}</th>" for text in wording.COLUMNS.values())
    verdict = "".join(f"<p>{escape(line)}</p>" for line in wording.verdict(explanation))
    if not explanation.familiar:
        verdict += f'<p class="unsure">{escape(wording.doubt(explanation) or "")}</p>'
    notes = "".join(f"<li>{escape(note)}</li>" for note in wording.notes(explanation))
    photo = _image(numbered(explanation, len(matches), _PHOTO), "the picture, matches numbered")
    return (
        f"<section>\n<header>{photo}<div><h1>{escape(wording.title(explanation))}</h1>{verdict}"
        f"{_chart(explanation)}</div></header>\n<table>\n<thead><tr><th></th>{heads}</tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody>\n</table>\n"
        f'<p class="total">{escape(wording.total(explanation, matches))}</p>\n'
        f'<ul class="notes">{notes}</ul>\n</section>'
    )


def _chart(explanation: PrototypeExplanation) -> str:
    """The classes of the highest scores, and how probable each is."""
    shown = explanation.ranked(_CLASSES)
    bars = []
    for target, length in zip(shown, bar_lengths(explanation, shown), strict=True):
        kind = "for" if target == explanation.target else "other"
        bars.append(
            f"<tr><td>{escape(explanation.label_of(target))}</td><td>{_bar(length, kind)}</td>"
            f"<td>{escape(wording.share(explanation, target))}</td></tr>"
        )
    return f'<table class="chart">{"".join(bars)}</table>'


def _row(explanation: PrototypeExplanation, match: PrototypeMatch, rank: int, most: float) -> str:
    drawn = panels(explanation, match, _PANEL)
    cells = []
    for name, text in list(wording.COLUMNS.items())[:-1]:
        picture: NDArray[np.uint8] | None = getattr(drawn, name)
        inner = (
            f'<span class="withheld">{escape(" ".join(wording.WITHHELD))}</span>'
            if picture is None
            else _image(picture, f"{text}, row {rank}")
        )
        cells.append(f'<td class="{name}">{inner}</td>')
    kind = "for" if match.evidence >= 0 else "against"
    lines = wording.about(explanation, match)
    said = "".join(
        f'<p class="{"unsure" if not match.familiar and not index else "about"}">{escape(line)}</p>'
        for index, line in enumerate(lines)
    )
    cells.append(
        f'<td class="sum"><p class="{kind}">{escape(wording.points(match))}</p>'
        f"{_bar(match.evidence / most, kind)}{said}</td>"
    )
    return f'<tr><td><span class="rank">{rank}</span></td>{"".join(cells)}</tr>'


def _bar(share: float, kind: str) -> str:
    return f'<div class="bar {kind}" style="width:{max(abs(share), 0.01) * 100:.1f}%"></div>'


def _image(picture: NDArray[np.uint8], text: str) -> str:
    stream = BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=_QUALITY)
    content = base64.b64encode(stream.getvalue()).decode("ascii")
    return f'<img alt="{escape(text)}" src="data:image/jpeg;base64,{content}">'


def _style() -> str:
    colours = {
        "paper": PAPER,
        "ink": INK,
        "faint": FAINT,
        "wash": WASH,
        "for": FOR,
        "against": AGAINST,
        "unsure": UNSURE,
        "frame": FRAME,
        "shadow": SHADOW,
    }
    variables = ";".join(f"--{name}:#{bytes(value).hex()}" for name, value in colours.items())
    return (
        f":root{{{variables}}}"
        "body{margin:0;background:var(--paper);color:var(--ink);"
        "font:16px/1.45 system-ui,sans-serif}"
        "section{max-width:1180px;margin:32px auto;padding:0 24px;overflow-x:auto}"
        "header{display:flex;flex-wrap:wrap;gap:32px;align-items:flex-start;margin-bottom:28px}"
        f"header>img{{max-width:{_PHOTO // 2}px}}header>div{{flex:1;min-width:320px}}"
        "h1{font-size:30px;line-height:1.2;margin:0 0 10px}p{margin:0 0 6px}"
        "table{border-collapse:collapse;width:100%}"
        "thead th{font-weight:400;font-size:13px;color:var(--faint);text-align:left;"
        "padding:4px 8px}thead th:nth-child(4){padding-left:64px}"
        "tbody tr{border-top:1px solid var(--wash)}td{padding:8px;vertical-align:middle}"
        f"tbody img{{display:block;max-width:{_PANEL // 2}px;max-height:{_PANEL // 2}px}}"
        ".rank{display:block;width:24px;line-height:24px;border-radius:50%;text-align:center;"
        "background:var(--frame);box-shadow:0 0 0 2px var(--shadow)}"
        ".part img,.patch img{margin:auto}.patch{position:relative;padding-left:64px}"
        '.patch::before{content:"looks like";position:absolute;left:8px;top:50%;width:48px;'
        "text-align:center;line-height:1.15;transform:translateY(-50%)}"
        ".withheld{display:flex;align-items:center;justify-content:center;width:130px;height:130px;"
        "background:var(--wash);color:var(--faint);font-size:13px;text-align:center}"
        ".sum{min-width:230px}.sum .for,.sum .against{font-size:18px}"
        ".for{color:var(--for)}.against{color:var(--against)}"
        ".bar{height:10px;margin:4px 0}.bar.for{background:var(--for)}"
        ".bar.against{background:var(--against)}.bar.other{background:var(--faint)}"
        ".about{color:var(--faint);font-size:13px;margin:0}.unsure{color:var(--unsure)}"
        ".sum .unsure{font-size:13px;margin:0}"
        ".chart{margin-top:16px}.chart td{padding:2px 12px 2px 0}.chart td:nth-child(2){width:60%}"
        ".total{font-size:19px;border-top:2px solid var(--ink);padding-top:12px;margin-bottom:18px;"
        "white-space:pre-wrap}.notes{color:var(--faint);font-size:13px;padding-left:18px}"
    )
