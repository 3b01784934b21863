"""LIME's evidence: superpixels in two colours over the photo, and their coefficients as bars.

A figure has one row for each class:

    photo                 superpixels, the           bars of the largest
                          largest are numbered       coefficients, error bars
    what it is            name, figures              what they measure
    colour bar                                       method, forwards, fidelity
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from xai_onnx.lime.doubts import MOSTLY_NOISE
from xai_onnx.methods import NAMES
from xai_onnx.render import figure
from xai_onnx.render.figure import BAR, FAINT, INK, PAPER, SMALL_SIZE, Box, Color, Pixels

if TYPE_CHECKING:
    from xai_onnx.lime.explanation import LimeExplanation

# Told apart by those who can't tell red from green.
FOR, AGAINST = (230, 97, 0), (0, 98, 190)
OPACITY = 0.85  # of the largest coefficient's colour
MUTED = 0.7  # towards grey, so that only evidence has a colour
EDGE_OPACITY = 0.55
GRID = (228, 228, 231)

POWER = 0.7  # of a coefficient's share in the largest; below 1, so that small ones are seen
MOST_BARS = 16
BAR_ROW = 28  # pixels
AXIS_HEIGHT = 30
CHIP = (22, 17)  # width, height of a superpixel's number

Floats = NDArray[np.float64]
Segments = NDArray[np.int32]


def overlay(
    image: Pixels, segments: Segments, coefficients: Floats, box: Box, numbered: int = 0
) -> Pixels:
    """Colour the superpixels of the part of a picture that the model saw, and dim the rest.

    A colour's opacity is ``OPACITY * (|coefficient| / largest) ** POWER``.

    Args:
        image: uint8 RGB, [H0, W0, 3].
        segments: superpixel of each pixel of the box, [H, W], resized (nearest) to the box.
        coefficients: [d]; above 0 in the one colour, below in the other.
        box: left, top, right, bottom in pixels of `image`, rounded to whole pixels.
        numbered: how many of the largest are numbered, from 1 on.

    Returns:
        uint8 RGB, [H0, W0, 3].
    """
    left, top, right, bottom = figure.whole(box, image)
    size = (right - left, bottom - top)
    inside = np.asarray(cv2.resize(segments, size, interpolation=cv2.INTER_NEAREST), np.int32)
    strength = coefficients / (np.abs(coefficients).max() or 1)
    part = _blend(image[top:bottom, left:right], strength[inside])
    part = _edged(part, inside)
    result = figure.dimmed(image)
    result[top:bottom, left:right] = part
    if not numbered:
        return result
    canvas = Image.fromarray(result)
    draw = ImageDraw.Draw(canvas)
    for rank, j in enumerate(_largest(coefficients)[:numbered], start=1):
        place = _middle(inside == j)
        if place is not None:
            _chip(draw, (left + place[0], top + place[1]), rank, _color(coefficients[j]))
    return np.asarray(canvas)


def picture(explanations: Sequence[LimeExplanation]) -> Pixels:
    """Draw one figure for one picture and the classes explained of it.

    Args:
        explanations: one or more, which share one `image` array and segments.

    Returns:
        uint8 RGB, [height, width, 3].

    Raises:
        ImageError: a ready tensor was explained, so the picture isn't known.
        ValueError: no explanation, or explanations that differ in picture, scale or segments.
    """
    if len({(id(e.image), e.box, id(e.segments), e.scale) for e in explanations}) != 1:
        raise ValueError("a figure takes explanations of one picture, over the same superpixels")
    first = explanations[0]
    image, _, _, box = first.drawn()
    photo, box = figure.panel_size(image, box)
    height, width = photo.shape[:2]
    bars = min(MOST_BARS, max((height - AXIS_HEIGHT) // BAR_ROW, 1), len(first.coefficients))
    panels = []
    for explanation in explanations:
        drawn = overlay(photo, explanation.segments, explanation.coefficients, box, bars)
        chart = _chart(explanation, bars, (height, max(width, figure.NARROWEST)))
        panels += [
            figure.photo_panel(image, photo, box),
            (drawn, explanation.title, _figures(explanation)),
            (chart, f"what they add to the {explanation.scale}", _bars_text(explanation, bars)),
        ]
    canvas, draw = figure.laid_out(panels, 3)
    ramp = np.tile(np.linspace(-1, 1, BAR[0]), (BAR[1], 1))
    colors = _blend(np.full((*ramp.shape, 3), 200, np.uint8), ramp)
    label = "evidence against and for the class (scaled per class)"
    figure.colour_bar(canvas, draw, colors, ("-1", "0", "+1"), label, _footer(first))
    return np.asarray(canvas)


def _color(value: float) -> Color:
    return FOR if value >= 0 else AGAINST


def _largest(coefficients: Floats) -> NDArray[np.intp]:
    return np.argsort(-np.abs(coefficients), kind="stable")


def _blend(image: Pixels, strength: Floats) -> Pixels:
    """Two colours over a muted photo; `strength` in [-1, 1], one for each pixel."""
    photo = image.astype(np.float32)
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[..., None]
    photo += np.float32(MUTED) * (grey - photo)
    colors = np.where(strength[..., None] >= 0, *np.array([FOR, AGAINST], np.float32))
    alpha = np.float32(OPACITY) * (np.abs(strength) ** POWER).astype(np.float32)[..., None]
    shade = 0.7 + 0.3 * grey / np.float32(255)  # the photo's light and shade stay visible
    photo += alpha * (colors * shade - photo)
    return np.clip(np.rint(photo), 0, 255).astype(np.uint8)


def _edged(part: Pixels, labels: Segments) -> Pixels:
    """White lines, one pixel wide, between superpixels."""
    edge = np.zeros(labels.shape, bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    result = part.astype(np.float32)
    result[edge] += np.float32(EDGE_OPACITY) * (255 - result[edge])
    return np.rint(result).astype(np.uint8)


def _middle(mask: NDArray[np.bool_]) -> tuple[int, int] | None:
    """x, y of the point of a superpixel that is farthest from its edge; ``None`` if it is gone."""
    if not mask.any():
        return None
    distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = divmod(int(distance.argmax()), mask.shape[1])
    return x, y


def _chip(draw: ImageDraw.ImageDraw, middle: tuple[float, float], rank: int, color: Color) -> None:
    """A superpixel's number, in white on its colour."""
    x, y = middle
    half, high = CHIP[0] / 2, CHIP[1] / 2
    corners = (x - half, y - high, x + half, y + high)
    draw.rounded_rectangle(corners, 4, fill=color, outline=PAPER)
    draw.text((x, y), str(rank), PAPER, figure.font(SMALL_SIZE), anchor="mm")


def _chart(explanation: LimeExplanation, bars: int, size: tuple[int, int]) -> Pixels:
    """Bars of the largest coefficients, each over a line of one standard error to either side."""
    height, width = size
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    chosen = explanation.ranked[:bars]
    values = explanation.coefficients[chosen]
    errors = explanation.standard_errors
    spread = np.zeros(bars) if errors is None else errors[chosen]
    low, high = min(0.0, float((values - spread).min())), max(0.0, float((values + spread).max()))
    left, right = CHIP[0] + 12, width - 66  # of the axis; the figures stand to its right
    reach = (high - low) or 1.0

    def x(value: float) -> float:
        return left + (value - low) / reach * (right - left)

    bottom = bars * BAR_ROW
    for tick in _ticks(low, high):
        draw.line((x(tick), 0, x(tick), bottom + 3), fill=GRID)
        draw.text((x(tick), bottom + 6), f"{tick:g}", FAINT, figure.font(SMALL_SIZE), anchor="mt")
    for i, (value, error) in enumerate(zip(values, spread, strict=True)):
        y = (i + 0.5) * BAR_ROW
        color = _color(value)
        _chip(draw, (CHIP[0] / 2, y), i + 1, color)
        ends = sorted((x(0), x(value)))
        draw.rectangle((ends[0], y - 8, ends[1], y + 8), fill=color)
        if errors is not None:
            start, stop = x(value - error), x(value + error)
            draw.line((start, y, stop, y), fill=INK, width=2)
            for end in (start, stop):
                draw.line((end, y - 4, end, y + 4), fill=INK, width=2)
        text = f"{value:+.3g}"
        draw.text((width, y), text, INK, figure.font(SMALL_SIZE), anchor="rm")
    draw.line((x(0), 0, x(0), bottom + 3), fill=INK)
    return np.asarray(canvas)


def _ticks(low: float, high: float) -> Floats:
    """Three to seven round numbers from `low` to `high`, 0 among them."""
    span = (high - low) or 1.0
    power = 10.0 ** np.floor(np.log10(span / 3))
    step = power * max(factor for factor in (1, 2, 2.5, 5) if factor * power <= span / 3)
    ticks: Floats = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step + 0.0
    return ticks


def _figures(explanation: LimeExplanation) -> str:
    parts = []
    if explanation.probability is not None:
        parts.append(f"{explanation.probability * 100:.1f} %")
    parts.append(f"score {explanation.score:.4g}")
    if explanation.coefficients.any():
        parts.append(f"fidelity {explanation.fidelity:.2f}")
    else:
        parts.append("the same whatever is covered")
    return ", ".join(parts)


def _bars_text(explanation: LimeExplanation, bars: int) -> str:
    d = len(explanation.coefficients)
    which = f"all {d} superpixels" if bars == d else f"the largest {bars} of {d}"
    if explanation.standard_errors is None:
        return f"{which}, errors unknown"
    if not explanation.standard_errors.any():
        return f"{which}, exact"
    doubt = ", mostly noise" if explanation.noise and explanation.noise > MOSTLY_NOISE else ""
    return f"{which}, ± 1 standard error{doubt}"


def _footer(explanation: LimeExplanation) -> str:
    parts = [
        NAMES["lime"],
        f"{explanation.forwards:,} forwards",
        f"{explanation.sampling} sampling",
    ]
    if explanation.draft is not None:
        parts.append(f"run by {explanation.draft.model}")
    return ", ".join(parts)
