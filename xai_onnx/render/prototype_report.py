"""The report as a picture: "this part looks like that training patch", and what it adds up to.

picture, numbered     class, score, verdict
                      classes: a bar for each of the highest scores
1  picture  part  looks like  patch  training picture  map   similarity x weight = points
2  ...
the other prototypes, and the sum
what the frames mean
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from xai_onnx.protopnet import wording
from xai_onnx.protopnet.explanation import PrototypeExplanation, PrototypeMatch
from xai_onnx.render import figure
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

ROWS = 5  # matches drawn
CLASSES = 4  # of the highest scores, in the chart

_WIDTH, _MARGIN, _GAP = 1240, 30, 16
_PHOTO, _PANEL, _HEAD, _LINE = 270, 132, 64, 26
_HEADLINE = 28
_LOOKS_LIKE = 78  # room for the words between part and patch
_BAR_HEIGHT, _MARK = 10, 12  # _MARK: radius of a row's number


def report(explanations: Sequence[PrototypeExplanation]) -> NDArray[np.uint8]:
    """Draw the report of one picture and the classes explained of it, one below the other.

    Args:
        explanations: one or more, of one picture.

    Returns:
        uint8 RGB, [height, width, 3].

    Raises:
        ImageError: a ready tensor was explained, so the picture isn't known.
        ValueError: no explanation.
    """
    if not explanations:
        raise ValueError("a report takes one explanation at least")
    return np.concatenate([_of_class(explanation) for explanation in explanations])


def _of_class(explanation: PrototypeExplanation) -> NDArray[np.uint8]:
    matches = wording.rows(explanation)[:ROWS]
    row = _PANEL + _GAP + 8
    notes = wording.notes(explanation)
    height = _MARGIN + _PHOTO + _HEAD + len(matches) * row + 2 * _LINE + len(notes) * 21 + _GAP
    canvas = Image.new("RGB", (_WIDTH, height), figure.PAPER)
    draw = ImageDraw.Draw(canvas)
    _header(canvas, draw, explanation, len(matches))
    y = _MARGIN + _PHOTO + _HEAD
    _column_heads(draw, y - 26)
    most = max(abs(match.evidence) for match in matches)
    for index, match in enumerate(matches):
        _match(canvas, draw, y, index + 1, explanation, match, most)
        y += row
    y = _sum(draw, y + 2, explanation, matches)
    for note in notes:
        figure.write(
            draw, (_MARGIN, y), note, figure.SMALL_SIZE, figure.FAINT, _WIDTH - 2 * _MARGIN
        )
        y += 21
    return np.asarray(canvas)


def _header(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, explanation: PrototypeExplanation, count: int
) -> None:
    photo = Image.fromarray(numbered(explanation, count, _PHOTO))
    canvas.paste(photo, (_MARGIN, _MARGIN))
    x, y = _MARGIN + _PHOTO + 30, _MARGIN - 4
    room = _WIDTH - _MARGIN - x
    figure.write(draw, (x, y), wording.title(explanation), _HEADLINE, figure.INK, room)
    y += 42
    lines = [(text, figure.INK) for text in wording.verdict(explanation)]
    doubt = wording.doubt(explanation)
    for text, colour in [*lines, *([(doubt, UNSURE)] if doubt else [])]:
        figure.write(draw, (x, y), text, figure.TEXT_SIZE, colour, room)
        y += 23
    y += 14
    _chart(draw, (x, y), room, explanation)


def _chart(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    room: int,
    explanation: PrototypeExplanation,
) -> None:
    """The classes of the highest scores, and how probable each is."""
    x, y = corner
    shown = explanation.ranked(CLASSES)
    lengths = bar_lengths(explanation, shown)
    for target, length in zip(shown, lengths, strict=True):
        own = target == explanation.target
        colour = figure.INK if own else figure.FAINT
        figure.write(draw, (x, y), explanation.label_of(target), figure.TEXT_SIZE, colour, 200)
        end = x + 216 + max(length * (room - 400), 2)
        fill = FOR if own else figure.FAINT
        draw.rectangle((x + 216, y + 4, end, y + 4 + _BAR_HEIGHT), fill=fill)
        text = wording.share(explanation, target)
        draw.text((end + 8, y), text, colour, figure.font(figure.TEXT_SIZE))
        y += _LINE


def bar_lengths(explanation: PrototypeExplanation, shown: Sequence[int]) -> list[float]:
    """Lengths of the bars of some classes, in [0, 1]: their probability."""
    probabilities = explanation.probabilities
    return [1.0 if probabilities is None else float(probabilities[target]) for target in shown]


def _columns() -> dict[str, int]:
    """Where each column begins."""
    starts, x = {}, _MARGIN + 34
    for name in ("located", "part", "patch", "source", "similarity"):
        starts[name] = x
        x += _PANEL + (_LOOKS_LIKE if name == "part" else _GAP)
    return {**starts, "sum": x + 8}


def _column_heads(draw: ImageDraw.ImageDraw, y: int) -> None:
    for name, x in _columns().items():
        room = _PANEL + 8 if name != "sum" else _WIDTH - _MARGIN - x
        text = wording.COLUMNS[name]
        figure.write(draw, (x, y), text, figure.SMALL_SIZE, figure.FAINT, room)


def _match(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    y: int,
    rank: int,
    explanation: PrototypeExplanation,
    match: PrototypeMatch,
    most: float,
) -> None:
    """One row of the report, its panels centred in cells of equal size."""
    drawn = panels(explanation, match, _PANEL)
    columns = _columns()
    draw.line((_MARGIN, y - 5, _WIDTH - _MARGIN, y - 5), fill=WASH, width=2)
    middle = (_MARGIN + _MARK, y + _PANEL / 2)
    mark = (middle[0] - _MARK, middle[1] - _MARK, middle[0] + _MARK, middle[1] + _MARK)
    draw.ellipse(mark, fill=FRAME, outline=SHADOW, width=2)
    draw.text(middle, str(rank), figure.INK, figure.font(figure.TEXT_SIZE), anchor="mm")
    for name in ("located", "part", "patch", "source", "similarity"):
        _cell(canvas, draw, (columns[name], y), getattr(drawn, name))
    between = columns["part"] + _PANEL + _LOOKS_LIKE / 2
    for text, shift in (("looks", -9), ("like", 9)):
        place = (between, y + _PANEL / 2 + shift)
        draw.text(place, text, figure.INK, figure.font(figure.TEXT_SIZE), anchor="mm")
    x = columns["sum"]
    room = _WIDTH - _MARGIN - x
    colour = FOR if match.evidence >= 0 else AGAINST
    size = figure.TITLE_SIZE
    figure.write(draw, (x, y + 4), wording.points(match), size, colour, room)
    length = abs(match.evidence) / max(most, 1e-12) * room
    draw.rectangle((x, y + 34, x + max(length, 2), y + 34 + _BAR_HEIGHT), fill=colour)
    for index, text in enumerate(wording.about(explanation, match)):
        unsure = not match.familiar and index == 0
        tint: Any = UNSURE if unsure else figure.FAINT
        figure.write(draw, (x, y + 56 + 20 * index), text, figure.SMALL_SIZE, tint, room)


def _cell(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    picture: NDArray[np.uint8] | None,
) -> None:
    x, y = corner
    if picture is None:
        draw.rectangle((x, y, x + _PANEL - 1, y + _PANEL - 1), fill=WASH)
        for text, shift in zip(wording.WITHHELD, (-18, 0, 18), strict=True):
            place = (x + _PANEL / 2, y + _PANEL / 2 + shift)
            draw.text(place, text, figure.FAINT, figure.font(figure.SMALL_SIZE), anchor="mm")
        return
    height, width = picture.shape[:2]
    left, top = x + (_PANEL - width) // 2, y + (_PANEL - height) // 2
    canvas.paste(Image.fromarray(picture), (left, top))


def _sum(
    draw: ImageDraw.ImageDraw,
    y: int,
    explanation: PrototypeExplanation,
    matches: Sequence[PrototypeMatch],
) -> int:
    """The line that makes the rows add up to the score."""
    draw.line((_MARGIN, y - 7, _WIDTH - _MARGIN, y - 7), fill=figure.INK, width=2)
    text = wording.total(explanation, matches)
    figure.write(draw, (_MARGIN, y), text, figure.TITLE_SIZE, figure.INK, _WIDTH - 2 * _MARGIN)
    return y + 2 * _LINE - 10
