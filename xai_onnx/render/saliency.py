"""Saliency maps over photos.

A figure is one photo and its classes:

    photo                 overlay, class 1          overlay, class 2     ...
    what it is            name, figures             name, figures
    colour bar                                      method and target layer
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from xai_onnx.explanation import BRIGHTEST
from xai_onnx.methods import NAMES
from xai_onnx.render import figure
from xai_onnx.render.figure import BAR, COLUMNS, FIGURE_OPACITY, Box, Pixels

if TYPE_CHECKING:
    from xai_onnx.explanation import Explanation

COLORS_USED = (20, 228)  # of the 256 in cv2.COLORMAP_TURBO: both of its ends are nearly black


def overlay(image: Pixels, saliency_map: NDArray[np.float32], box: Box, opacity: float) -> Pixels:
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
    left, top, right, bottom = figure.whole(box, image)
    result = figure.dimmed(image)
    size = (right - left, bottom - top)
    resized = np.asarray(cv2.resize(saliency_map, size, interpolation=cv2.INTER_LINEAR), np.float32)
    result[top:bottom, left:right] = _blend(image[top:bottom, left:right], resized, opacity)
    return result


def picture(explanations: Sequence[Explanation]) -> Pixels:
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
    photo, box = figure.panel_size(image, box)
    panels = [figure.photo_panel(image, photo, box)]
    for explanation in explanations:
        drawn = overlay(photo, explanation.drawn()[1], box, FIGURE_OPACITY)
        panels.append((drawn, explanation.title, _figures(explanation)))
    canvas, draw = figure.laid_out(panels, min(len(panels), COLUMNS))
    method, layers = explanations[0].method, explanations[0].target_layers
    where = f" at {', '.join(layers)}" if layers else ""
    if explanations[0].attribution is not None:
        where = f", the brightest {100 - BRIGHTEST} % alike"
    ramp = np.tile(np.linspace(0, 1, BAR[0], dtype=np.float32), (BAR[1], 1))
    grey = np.full((*ramp.shape, 3), 200, np.uint8)
    colors = _blend(grey, ramp, FIGURE_OPACITY)
    footer = f"{NAMES.get(method, method)}{where}"
    label = "saliency (scaled per map)"
    figure.colour_bar(canvas, draw, colors, ("0", "0.5", "1"), label, footer)
    return np.asarray(canvas)


def _blend(image: Pixels, saliency: NDArray[np.float32], opacity: float) -> Pixels:
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
