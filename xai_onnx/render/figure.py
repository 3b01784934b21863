"""What all figures share: panels of equal size with captions, a colour bar, a file at the end.

panel                 panel                ...
title                 title
text                  text
colour bar, what it measures, and the figure's last words
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from xai_onnx.errors import OutputFileError
from xai_onnx.output_file import replacing

Box = tuple[float, float, float, float]
Color = tuple[int, int, int]
Pixels = NDArray[np.uint8]
Panel = tuple[Pixels, str, str]  # what is drawn, title, text

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

FIGURE_OPACITY = 0.6
UNSEEN_BRIGHTNESS = 0.35
LONGEST, SHORTEST = 512, 336  # limits of a panel's longer side, pixels
NARROWEST = 256  # a column at least, so that captions fit
COLUMNS = 4  # panels in a row at most
MARGIN = 20
PIXELATED_BELOW = 128  # pictures smaller than this are enlarged with visible pixels

PAPER, INK, FAINT, LINE = (255, 255, 255), (24, 24, 27), (106, 106, 115), (255, 255, 255)
TITLE_SIZE, TEXT_SIZE, SMALL_SIZE = 18, 15, 13
CAPTION_HEIGHT, FOOTER_HEIGHT = 54, 48
BAR = (180, 12)  # width, height


def save(image: Pixels, path: str | os.PathLike[str]) -> None:
    """Write a uint8 RGB picture [H, W, 3]; the suffix of `path`, one of `FORMATS`, says how.

    Raises:
        OutputFileError: another suffix, or the file can't be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise OutputFileError(
            f"{os.fspath(path)}: can't write a picture as {suffix or 'a file without suffix'!r}; "
            f"use one of {', '.join(FORMATS)}"
        )
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, FORMATS[suffix], quality=92)


def whole(box: Box, image: Pixels) -> tuple[int, int, int, int]:
    """The box in whole pixels, inside the picture, at least one pixel wide and high."""
    height, width = image.shape[:2]
    left, top = min(round(box[0]), width - 1), min(round(box[1]), height - 1)
    return left, top, max(round(box[2]), left + 1), max(round(box[3]), top + 1)


def dimmed(image: Pixels) -> Pixels:
    """The picture as dark as what the model didn't see is drawn."""
    levels: Pixels = np.rint(np.arange(256) * UNSEEN_BRIGHTNESS).astype(np.uint8)
    return levels[image]


def panel_size(image: Pixels, box: Box) -> tuple[Pixels, Box]:
    """The picture and its box at the size of a panel."""
    height, width = image.shape[:2]
    longer = max(height, width)
    factor = min(max(longer, SHORTEST), LONGEST) / longer
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    smooth = longer >= PIXELATED_BELOW
    kind = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    x, y = size[0] / width, size[1] / height
    scaled = (box[0] * x, box[1] * y, box[2] * x, box[3] * y)
    return np.asarray(Image.fromarray(image).resize(size, kind)), scaled


def photo_panel(image: Pixels, photo: Pixels, box: Box) -> Panel:
    """The first panel: `photo`, which is `image` at the size of a panel, its box framed."""
    outlined = _outlined(photo, box)
    seen = "the model sees all of it" if outlined is photo else "framed: what the model sees"
    return outlined, f"photo, {image.shape[1]} x {image.shape[0]}", seen


def _outlined(photo: Pixels, box: Box) -> Pixels:
    """The photo with its box framed, or the photo itself where the box is all of it."""
    height, width = photo.shape[:2]
    left, top, right, bottom = whole(box, photo)
    if (left, top, right, bottom) == (0, 0, width, height):
        return photo
    canvas = Image.fromarray(photo)
    draw = ImageDraw.Draw(canvas)
    corners = (left, top, right - 1, bottom - 1)
    draw.rectangle(corners, outline=INK, width=3)
    draw.rectangle(corners, outline=LINE, width=2)
    return np.asarray(canvas)


def laid_out(panels: Sequence[Panel], columns: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Panels in rows of `columns`, each over its caption, and room for a footer below.

    Columns are as wide as the widest panel, rows as high as the first.
    """
    height = panels[0][0].shape[0]
    rows = -(-len(panels) // columns)
    widest = max(panel.shape[1] for panel, _, _ in panels)
    column, row = max(widest, NARROWEST) + MARGIN, height + CAPTION_HEIGHT + MARGIN
    size = (columns * column + MARGIN, rows * row + MARGIN + FOOTER_HEIGHT)
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    for i, (panel, title, text) in enumerate(panels):
        x, y = MARGIN + i % columns * column, MARGIN + i // columns * row
        canvas.paste(Image.fromarray(panel), (x, y))
        room = column - MARGIN
        write(draw, (x, y + height + 8), title, TITLE_SIZE, INK, room)
        write(draw, (x, y + height + 32), text, TEXT_SIZE, FAINT, room)
    return canvas, draw


def colour_bar(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    colors: Pixels,
    ticks: Sequence[str],
    label: str,
    footer: str,
) -> None:
    """Bar with its ticks, what it measures, and the figure's last words, on one line.

    Args:
        canvas, draw: of `laid_out`.
        colors: the bar's, [BAR[1], BAR[0], 3].
        ticks: at equal distances, from the left end to the right.
        label: what the bar measures.
        footer: the last words.
    """
    width, height = BAR
    y = canvas.height - FOOTER_HEIGHT
    canvas.paste(Image.fromarray(colors), (MARGIN, y))
    for i, tick in enumerate(ticks):
        x = MARGIN + i / (len(ticks) - 1) * (width - 1)
        draw.line((x, y + height, x, y + height + 3), fill=FAINT)
        draw.text((x, y + height + 5), tick, FAINT, font(SMALL_SIZE), anchor="mt")
    label_x = MARGIN + width + 16
    draw.text((label_x, y - 2), label, FAINT, font(SMALL_SIZE))
    write(draw, (label_x, y + 17), footer, SMALL_SIZE, FAINT, canvas.width - MARGIN - label_x)


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    color: Color,
    room: float,
) -> None:
    """One line of text, shortened with an ellipsis to `room` pixels."""
    face = font(size)
    line = " ".join(text.split())
    if face.getlength(line) > room:
        line = line[: int(room)]  # no letter is narrower than a pixel
        while line and face.getlength(line + "…") > room:
            line = line[:-1]
        line = line.rstrip() + "…"
    draw.text(place, line, color, face)


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that Pillow carries, `size` pixels high."""
    return ImageFont.load_default(size)
