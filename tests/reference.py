"""Slow twins of what the exported graphs and the run time compute, in plain NumPy and float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
GradientAt = Callable[[Array], Array]


def gradcam(activations: Array, gradient: Array) -> NDArray[np.float64]:
    """Grad-CAM, Selvaraju et al. 2017, equations 1 and 2, for one picture and one class.

    Args:
        activations: A, [C, h, w].
        gradient: dy/dA, [C, h, w].

    Returns:
        [h, w].
    """
    channels, height, width = activations.shape
    cam = np.zeros((height, width))
    for c in range(channels):
        alpha = sum(float(g) for g in gradient[c].flat) / (height * width)
        cam += alpha * activations[c].astype(np.float64)
    return np.where(cam > 0, cam, 0)


def gradcam_plus_plus(activations: Array, gradient: Array) -> NDArray[np.float64]:
    """Grad-CAM++, Chattopadhay et al. 2018: equation 19 in equations 7 and 3; as `gradcam`.

    The score is exp(y), so that its first three derivatives are exp(y) times G, G^2 and G^3 where
    the network is linear piece by piece; the factor exp(y) > 0 is left out.
    """
    channels, height, width = activations.shape
    cam = np.zeros((height, width))
    for c in range(channels):
        total = sum(float(a) for a in activations[c].flat)
        weight = 0.0
        for g in (float(g) for g in gradient[c].flat):
            if g > 0:
                weight += g**2 / (2 * g**2 + total * g**3) * g
        cam += weight * activations[c].astype(np.float64)
    return np.where(cam > 0, cam, 0)


def xgradcam(activations: Array, gradient: Array) -> NDArray[np.float64]:
    """XGrad-CAM, Fu et al. 2020, equation 8: every position's G by its share of the activations.

    As `gradcam`. A channel without activations in sum has no shares and is left out.
    """
    channels, height, width = activations.shape
    cam = np.zeros((height, width))
    for c in range(channels):
        total = sum(float(a) for a in activations[c].flat)
        if total == 0:
            continue
        alpha = 0.0
        for a, g in zip(activations[c].flat, gradient[c].flat, strict=True):
            alpha += float(a) / total * float(g)
        cam += alpha * activations[c].astype(np.float64)
    return np.where(cam > 0, cam, 0)


def hirescam(activations: Array, gradient: Array) -> NDArray[np.float64]:
    """HiResCAM, Draelos and Carin 2020, equation 3, negative evidence cut off; as `gradcam`."""
    return _by_position(activations, gradient, lambda a, g: a * g)


def layercam(activations: Array, gradient: Array) -> NDArray[np.float64]:
    """LayerCAM, Jiang et al. 2021, equations 4 to 6; as `gradcam`."""
    return _by_position(activations, gradient, lambda a, g: a * max(g, 0.0))


def elementwise(activations: Array, gradient: Array) -> NDArray[np.float64]:
    """The positive part of every product of activation and gradient, summed; as `gradcam`."""
    return _by_position(activations, gradient, lambda a, g: max(a * g, 0.0))


def _by_position(
    activations: Array, gradient: Array, term: Callable[[float, float], float]
) -> NDArray[np.float64]:
    """max(0, sum over the channels of term(A, G)), position by position."""
    channels, height, width = activations.shape
    cam = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            terms = (
                term(float(activations[c, i, j]), float(gradient[c, i, j])) for c in range(channels)
            )
            cam[i, j] = max(sum(terms), 0.0)
    return cam


CAMS: dict[str, Callable[[Array, Array], NDArray[np.float64]]] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "xgradcam": xgradcam,
    "hirescam": hirescam,
    "layercam": layercam,
    "elementwise": elementwise,
}


def saliency(gradient_at: GradientAt, x: Array) -> NDArray[np.float64]:
    """The gradient at the picture x, Simonyan et al. 2013, section 3."""
    return gradient_at(x).astype(np.float64)


def input_x_gradient(gradient_at: GradientAt, x: Array) -> NDArray[np.float64]:
    """The gradient at x times x, Shrikumar et al. 2016."""
    return x.astype(np.float64) * gradient_at(x)


def smoothgrad(gradient_at: GradientAt, x: Array, *, noise: Array) -> NDArray[np.float64]:
    """The mean gradient at x + draw (max(x) - min(x)), Smilkov et al. 2017, section 3.

    Args:
        gradient_at: the gradient [C, H, W] at a picture.
        x: the picture, [C, H, W]; the noisy ones have its precision, too: at another picture a unit
            may be on the other side of its kink.
        noise: the draws, [n, C, H, W].
    """
    result = np.zeros(x.shape)
    for draw in noise:
        result += gradient_at(x + (x.max() - x.min()) * draw)
    return result / len(noise)


def integrated_gradients(
    gradient_at: GradientAt, x: Array, *, baseline: Array, steps: Array
) -> NDArray[np.float64]:
    """Equation 1 of Sundararajan et al. 2017 by the midpoint rule.

    Args:
        gradient_at: the gradient [C, H, W] at a picture.
        x: the picture, [C, H, W]; those on the way have its precision, too.
        baseline: where the way begins, [1, C, H, W].
        steps: how many pictures, [1].
    """
    result = np.zeros(x.shape)
    for i in range(int(steps[0])):
        share = x.dtype.type((i + 0.5) / steps[0])
        result += gradient_at(baseline[0] + share * (x - baseline[0]))
    return (x.astype(np.float64) - baseline[0]) * result / steps[0]


ATTRIBUTIONS: dict[str, Callable[..., NDArray[np.float64]]] = {
    "saliency": saliency,
    "input-x-gradient": input_x_gradient,
    "smoothgrad": smoothgrad,
    "integrated-gradients": integrated_gradients,
}


def resize_bilinear(small: Array, height: int, width: int) -> NDArray[np.float64]:
    """Bilinear, half-pixel centres, edges repeated: [h, w] to [height, width]."""
    h, w = small.shape

    def at(row: int, column: int) -> float:
        return float(small[min(max(row, 0), h - 1), min(max(column, 0), w - 1)])

    large = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y, x = (i + 0.5) * h / height - 0.5, (j + 0.5) * w / width - 0.5
            top, left = math.floor(y), math.floor(x)
            down, right = y - top, x - left
            large[i, j] = (
                at(top, left) * (1 - down) * (1 - right)
                + at(top, left + 1) * (1 - down) * right
                + at(top + 1, left) * down * (1 - right)
                + at(top + 1, left + 1) * down * right
            )
    return large


def min_max(x: Array) -> NDArray[np.float64]:
    """Scaled to [0, 1]; a constant gives zeros."""
    low, high = float(x.min()), float(x.max())
    return np.zeros(x.shape) if low == high else (x.astype(np.float64) - low) / (high - low)


def saliency_map(cam: Array, height: int, width: int) -> NDArray[np.float64]:
    """Min-max scaled after the resize; a constant map is all zero."""
    if cam.min() == cam.max():
        return np.zeros((height, width))
    return min_max(resize_bilinear(cam, height, width))
