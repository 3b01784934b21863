"""The pictures of one match: where it lies, what is there, what it looks like, how similar where.

What the model saw of the picture is shown, and nothing else. The yellow frame is the box of a
match; the dashed one is the receptive field: every pixel inside it may have had a part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from xai_onnx.protopnet.explanation import Box, PrototypeExplanation, PrototypeMatch
from xai_onnx.prototype_box import enlarged
from xai_onnx.render import figure, saliency

FRAME, SHADOW, WASH = (255, 196, 0), (24, 24, 27), (244, 244, 245)
FOR, AGAINST, UNSURE = (13, 118, 110), (190, 60, 40), (166, 96, 0)
MAP_OPACITY = 0.7
_SMOOTH_FROM = 48  # pixels; what has fewer is enlarged with visible pixels
_DASH = 5

Picture = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Panels:
    """Pictures of one match, each at most as large as asked for; ``None`` where the bank has none.

    Attributes:
        located: the picture, with box and receptive field.
        part: what lies in the box.
        patch: the training patch.
        source: the training picture, with box and receptive field.
        similarity: the similarity map over the picture, scaled by itself.
    """

    located: Picture
    part: Picture
    patch: Picture | None
    source: Picture | None
    similarity: Picture


def panels(explanation: PrototypeExplanation, match: PrototypeMatch, side: int) -> Panels:
    """Draw the pictures of a match of an explanation, `side` pixels along the longer side.

    Raises:
        ImageError: a ready tensor was explained, so the picture isn't known.
    """
    seen, (left, top) = seen_part(explanation)
    box, field = (_moved(b, left, top) for b in (match.box, match.receptive_box))
    height, width = explanation.input_size
    grid = match.similarity_map
    large = enlarged(grid - grid.min(), height, width)
    scaled = np.clip(large / max(float(large.max()), 1e-12), 0, 1).astype(np.float32)
    whole = (0.0, 0.0, float(seen.shape[1]), float(seen.shape[0]))
    source = match.source
    return Panels(
        located=_framed(seen, box, field, side),
        part=fitted(_cut(seen, box), side),
        patch=None if source.patch is None else fitted(source.patch, side),
        source=None
        if source.picture is None
        else _framed(
            source.picture,
            _scaled(source.box, source.picture),
            _scaled(source.receptive_box, source.picture),
            side,
        ),
        similarity=fitted(saliency.overlay(seen, scaled, whole, MAP_OPACITY), side),
    )


def seen_part(explanation: PrototypeExplanation) -> tuple[Picture, tuple[int, int]]:
    """What the model saw of the picture, and its left top corner."""
    image, (left, top, right, bottom) = explanation.seen()
    x, y = max(round(left), 0), max(round(top), 0)
    return image[y : max(round(bottom), y + 1), x : max(round(right), x + 1)], (x, y)


def numbered(explanation: PrototypeExplanation, count: int, side: int) -> Picture:
    """The picture with the places of the first `count` matches, numbered from 1."""
    seen, _ = seen_part(explanation)
    canvas = Image.fromarray(fitted(seen, side))
    draw = ImageDraw.Draw(canvas)
    radius, font = max(side // 25, 9), figure.font(max(side // 18, 12))
    taken: list[tuple[float, float]] = []
    for match in explanation.matches[:count]:
        rows, columns = match.similarity_map.shape
        x = (match.location[1] + 0.5) / columns * canvas.width
        y = (match.location[0] + 0.5) / rows * canvas.height
        while any(abs(x - a) + abs(y - b) < 2 * radius for a, b in taken):
            x += 2 * radius if x + 3 * radius < canvas.width else -x + radius
            y += 0 if x > radius else 2 * radius
        taken.append((x, y))
    for index, (x, y) in reversed(list(enumerate(taken))):
        circle = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(circle, fill=FRAME, outline=SHADOW, width=2)
        draw.text((x, y), str(index + 1), figure.INK, font, anchor="mm")
    return np.asarray(canvas)


def fitted(picture: Picture, side: int) -> Picture:
    """The picture with its longer side at `side` pixels."""
    height, width = picture.shape[:2]
    factor = side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    smooth = max(height, width) >= _SMOOTH_FROM
    kind = Image.Resampling.LANCZOS if smooth else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture).resize(size, kind))


def _cut(picture: Picture, box: Box) -> Picture:
    left, top = max(int(box[0]), 0), max(int(box[1]), 0)
    right, bottom = max(round(box[2]), left + 1), max(round(box[3]), top + 1)
    return picture[top:bottom, left:right]


def _moved(box: Box, left: float, top: float) -> Box:
    return box[0] - left, box[1] - top, box[2] - left, box[3] - top


def _scaled(shares: Box | None, picture: Picture) -> Box | None:
    if shares is None:
        return None
    height, width = picture.shape[:2]
    return shares[0] * width, shares[1] * height, shares[2] * width, shares[3] * height


def _framed(picture: Picture, box: Box | None, field: Box | None, side: int) -> Picture:
    """The picture, enlarged, with box and receptive field drawn into it."""
    canvas = Image.fromarray(fitted(picture, side))
    x, y = canvas.width / picture.shape[1], canvas.height / picture.shape[0]
    draw = ImageDraw.Draw(canvas)
    if field is not None:
        scaled = (field[0] * x, field[1] * y, field[2] * x, field[3] * y)
        _dashed(draw, _corners(scaled, canvas))
    if box is not None:
        _frame(draw, _corners((box[0] * x, box[1] * y, box[2] * x, box[3] * y), canvas))
    return np.asarray(canvas)


def _corners(box: Box, canvas: Image.Image) -> tuple[int, int, int, int]:
    """Whole pixels inside the canvas, at least 3 wide and high."""
    left = min(max(round(box[0]), 0), canvas.width - 3)
    top = min(max(round(box[1]), 0), canvas.height - 3)
    right = max(min(round(box[2]) - 1, canvas.width - 1), left + 2)
    return left, top, right, max(min(round(box[3]) - 1, canvas.height - 1), top + 2)


def _frame(draw: ImageDraw.ImageDraw, corners: tuple[int, int, int, int]) -> None:
    draw.rectangle(corners, outline=SHADOW, width=4)
    draw.rectangle(corners, outline=FRAME, width=3)


def _dashed(draw: ImageDraw.ImageDraw, corners: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = corners
    for colour, shift in ((SHADOW, 0), (figure.PAPER, _DASH)):
        for x in range(left + shift, right, 2 * _DASH):
            end = min(x + _DASH - 1, right)
            for y in (top, bottom):
                draw.line((x, y, end, y), fill=colour, width=2)
        for y in range(top + shift, bottom, 2 * _DASH):
            end = min(y + _DASH - 1, bottom)
            for x in (left, right):
                draw.line((x, y, x, end), fill=colour, width=2)
