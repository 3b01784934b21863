"""Pictures of explanations: the only module that knows colours.

A figure is one photo and its classes, in panels of equal size:

    photo                 overlay, class 1          overlay, class 2     ...
    what it is            name, figures             name, figures
    colour bar                                      method and target layer
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from xai_onnx.errors import OutputFileError
from xai_onnx.explanation import BRIGHTEST
from xai_onnx.methods import NAMES
from xai_onnx.output_file import replacing

if TYPE_CHECKING:
    from xai_onnx.explanation import Explanation

Box = tuple[float, float, float, float]

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

FIGURE_OPACITY = 0.6
UNSEEN_BRIGHTNESS = 0.35
COLORS_USED = (20, 228)  # of the 256 in cv2.COLORMAP_TURBO: both of its ends are nearly black
LONGEST, SHORTEST = 512, 336  # limits of a panel's longer side, pixels
NARROWEST = 256  # a column at least, so that captions fit
COLUMNS = 4  # panels in a row at most
MARGIN = 20
PIXELATED_BELOW = 128  # pictures smaller than this are enlarged with visible pixels

PAPER, INK, FAINT, LINE = (255, 255, 255), (24, 24, 27), (106, 106, 115), (255, 255, 255)
TITLE_SIZE, TEXT_SIZE, SMALL_SIZE = 18, 15, 13
CAPTION_HEIGHT, FOOTER_HEIGHT = 54, 48
BAR = (180, 12)  # width, height


def overlay(
    image: NDArray[np.uint8], saliency_map: NDArray[np.float32], box: Box, opacity: float
) -> NDArray[np.uint8]:
    """Lay a saliency map over the part of a picture that the model saw, and dim the rest.

    The colour's opacity is ``opacity * sqrt(saliency)``, so that the photo stays visible where the
    map is cold. The photo itself is muted towards grey by ``sqrt(opacity)``.

    Args:
        image: uint8 RGB, [H0, W0, 3].
        saliency_map: in [0, 1], [H, W]; resized bilinearly (half-pixel) to the box.
        box: left, top, right, bottom in pixels of `image`, rounded to whole pixels.
        opacity: of the colour at saliency 1, in [0, 1].

    Returns:
        uint8 RGB, [H0, W0, 3].

    Raises:
        ValueError: `opacity` outside [0, 1].
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be between 0 and 1, not {opacity}")
    left, top, right, bottom = _whole(box, image)
    dimmed: NDArray[np.uint8] = np.rint(np.arange(256) * UNSEEN_BRIGHTNESS).astype(np.uint8)
    result = dimmed[image]
    size = (right - left, bottom - top)
    resized = np.asarray(cv2.resize(saliency_map, size, interpolation=cv2.INTER_LINEAR), np.float32)
    result[top:bottom, left:right] = _blend(image[top:bottom, left:right], resized, opacity)
    return result


def picture(explanations: Sequence[Explanation]) -> NDArray[np.uint8]:
    """Draw one figure for one picture and the classes explained of it.

    Args:
        explanations: one or more, which share one `image` array, method and target layer.

    Returns:
        uint8 RGB, [height, width, 3].

    Raises:
        ImageError: a ready tensor was explained, so the picture isn't known.
        ValueError: no explanation, or explanations that differ in picture, method or layer.
    """
    if len({(id(e.image), e.box, e.method, e.target_layers) for e in explanations}) != 1:
        raise ValueError("a figure takes explanations of one picture, by one method, at one layer")
    image, _, box = explanations[0].drawn()
    photo, box = _panel_size(image, box)
    outlined = _outlined(photo, box)
    seen = "the model sees all of it" if outlined is photo else "framed: what the model sees"
    panels = [(outlined, f"photo, {image.shape[1]} x {image.shape[0]}", seen)]
    for explanation in explanations:
        drawn = overlay(photo, explanation.drawn()[1], box, FIGURE_OPACITY)
        panels.append((drawn, explanation.title, _figures(explanation)))
    method, layers = explanations[0].method, explanations[0].target_layers
    where = f" at {', '.join(layers)}" if layers else ""
    if explanations[0].attribution is not None:
        where = f", the brightest {100 - BRIGHTEST} % alike"
    return _figure(panels, f"{NAMES.get(method, method)}{where}")


def save(image: NDArray[np.uint8], path: str | os.PathLike[str]) -> None:
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


def _whole(box: Box, image: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """The box in whole pixels, inside the picture, at least one pixel wide and high."""
    height, width = image.shape[:2]
    left, top = min(round(box[0]), width - 1), min(round(box[1]), height - 1)
    return left, top, max(round(box[2]), left + 1), max(round(box[3]), top + 1)


def _blend(
    image: NDArray[np.uint8], saliency: NDArray[np.float32], opacity: float
) -> NDArray[np.uint8]:
    """Colours over a muted photo: left at full colour, a red cup would pass for a hot region."""
    hot = np.clip(saliency, 0, 1)
    coldest, hottest = COLORS_USED
    levels = np.rint(coldest + (hottest - coldest) * hot).astype(np.uint8)
    colors = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    photo = image.astype(np.float32)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    photo += np.float32(np.sqrt(opacity)) * (grey - photo)
    photo += (np.float32(opacity) * np.sqrt(hot))[..., None] * (colors - photo)
    return np.rint(photo).astype(np.uint8)


def _panel_size(image: NDArray[np.uint8], box: Box) -> tuple[NDArray[np.uint8], Box]:
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


def _outlined(photo: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """The photo with its box framed, or the photo itself where the box is all of it."""
    height, width = photo.shape[:2]
    left, top, right, bottom = _whole(box, photo)
    if (left, top, right, bottom) == (0, 0, width, height):
        return photo
    canvas = Image.fromarray(photo)
    draw = ImageDraw.Draw(canvas)
    corners = (left, top, right - 1, bottom - 1)
    draw.rectangle(corners, outline=INK, width=3)
    draw.rectangle(corners, outline=LINE, width=2)
    return np.asarray(canvas)


def _figures(explanation: Explanation) -> str:
    parts = []
    if explanation.probability is not None:
        parts.append(f"{explanation.probability * 100:.1f} %")
    parts.append(f"score {explanation.score:.4g}")
    if explanation.empty:
        cam = explanation.cam
        none_positive = cam is not None and cam.max() <= 0
        parts.append("no positive evidence" if none_positive else "the same everywhere")
    return ", ".join(parts)


def _figure(panels: Sequence[tuple[NDArray[np.uint8], str, str]], footer: str) -> NDArray[np.uint8]:
    height, width = panels[0][0].shape[:2]
    columns = min(len(panels), COLUMNS)
    rows = -(-len(panels) // columns)
    column, row = max(width, NARROWEST) + MARGIN, height + CAPTION_HEIGHT + MARGIN
    canvas = Image.new(
        "RGB", (columns * column + MARGIN, rows * row + MARGIN + FOOTER_HEIGHT), PAPER
    )
    draw = ImageDraw.Draw(canvas)
    for i, (panel, title, text) in enumerate(panels):
        x, y = MARGIN + i % columns * column, MARGIN + i // columns * row
        canvas.paste(Image.fromarray(panel), (x, y))
        room = column - MARGIN
        _write(draw, (x, y + height + 8), title, TITLE_SIZE, INK, room)
        _write(draw, (x, y + height + 32), text, TEXT_SIZE, FAINT, room)
    _colour_bar(canvas, draw, footer, canvas.height - FOOTER_HEIGHT)
    return np.asarray(canvas)


def _colour_bar(canvas: Image.Image, draw: ImageDraw.ImageDraw, footer: str, y: int) -> None:
    """Bar with its ticks, what it measures, and the figure's last words, on one line."""
    width, height = BAR
    ramp = np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))
    grey = np.full((height, width, 3), 200, np.uint8)
    canvas.paste(Image.fromarray(_blend(grey, ramp, FIGURE_OPACITY)), (MARGIN, y))
    for tick in (0, 0.5, 1):
        x = MARGIN + tick * (width - 1)
        draw.line((x, y + height, x, y + height + 3), fill=FAINT)
        draw.text((x, y + height + 5), f"{tick:g}", FAINT, _font(SMALL_SIZE), anchor="mt")
    label_x = MARGIN + width + 16
    label = "saliency (scaled per map)"
    draw.text((label_x, y - 2), label, FAINT, _font(SMALL_SIZE))
    _write(draw, (label_x, y + 17), footer, SMALL_SIZE, FAINT, canvas.width - MARGIN - label_x)


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    color: tuple[int, int, int],
    room: float,
) -> None:
    """One line of text, shortened with an ellipsis to `room` pixels."""
    font = _font(size)
    line = " ".join(text.split())
    if font.getlength(line) > room:
        line = line[: int(room)]  # no letter is narrower than a pixel
        while line and font.getlength(line + "…") > room:
            line = line[:-1]
        line = line.rstrip() + "…"
    draw.text(place, line, color, font)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
