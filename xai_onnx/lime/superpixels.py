"""From a picture to its superpixels: labels 0..d-1, each at least once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import segmentation
from skimage.color import rgb2lab
from skimage.filters import gaussian
from skimage.util import img_as_float

from xai_onnx.errors import InputShapeError, NonFiniteError, reason
from xai_onnx.lime.kernels import quickshift as kernels

TIE_BREAKER = 1e-5  # standard deviation of the noise on the densities
NEAR = 8  # pixels; how far quickshift looks for a parent pixel by pixel
Segmenter = Callable[..., NDArray[Any]]

SEGMENTERS: dict[str, Segmenter] = {}


def segment(
    image: NDArray[Any], segments: str | NDArray[Any] = "quickshift", **parameters: Any
) -> NDArray[np.int32]:
    """Cut a picture into superpixels.

    Args:
        image: [H, W, 3], RGB.
        segments: a name among `SEGMENTERS`, or labels that you have already (see `numbered`).
        **parameters: of the segmenter, in place of its usual ones.

    Returns:
        int32 [H, W], labels 0..d-1.

    Raises:
        InputShapeError: an unknown segmenter, a parameter that it doesn't take, or labels that
            don't fit the picture.
        NonFiniteError: NaN or infinity in the picture or among the labels.
    """
    if image.ndim != 3 or image.size == 0:
        raise InputShapeError(f"image of shape {list(image.shape)}; must be [H, W, C], not empty")
    if not isinstance(segments, str):
        labels = np.asarray(segments)
        if labels.shape != image.shape[:2]:
            raise InputShapeError(
                f"segments: of shape {list(labels.shape)}; must be {list(image.shape[:2])}, the "
                "picture's height and width"
            )
        return numbered(labels)
    if segments not in SEGMENTERS:
        raise InputShapeError(
            f"segments {segments!r}: unknown; one of {', '.join(SEGMENTERS)}, or an array of labels"
        )
    if not np.isfinite(image).all():
        raise NonFiniteError("image: has NaN or infinity, and can't be segmented")
    try:
        labels = SEGMENTERS[segments](image, **parameters)
    except (TypeError, ValueError) as error:  # of scikit-image, about the parameters
        raise InputShapeError(f"segments {segments!r}: {reason(error)}") from error
    return numbered(labels)


def numbered(labels: NDArray[Any]) -> NDArray[np.int32]:
    """Number superpixels 0..d-1, in the order of their labels.

    Args:
        labels: [H, W], integers, booleans or finite floats: any numbers, with any gaps.

    Raises:
        InputShapeError: of another shape or type.
        NonFiniteError: NaN or infinity among the labels.
    """
    if labels.ndim != 2 or labels.size == 0:
        raise InputShapeError(
            f"segments: of shape {list(labels.shape)}; must be [H, W], a label for each pixel"
        )
    if labels.dtype.kind not in "biuf":
        raise InputShapeError(f"segments: {labels.dtype} is no type of labels; give integers")
    if not np.isfinite(labels).all():
        raise NonFiniteError("segments: NaN or infinity among the labels; give integers")
    _, inverse = np.unique(labels, return_inverse=True)
    return inverse.reshape(labels.shape).astype(np.int32)


def _segmenter(function: Segmenter) -> Segmenter:
    name = function.__name__.strip("_")
    if name in SEGMENTERS:
        raise ValueError(f"there are two segmenters {name}")
    SEGMENTERS[name] = function
    return function


@_segmenter
def _quickshift(image: NDArray[Any], **parameters: Any) -> NDArray[Any]:
    """Quickshift with the parameters that lime takes."""
    return quickshift(image, **{"kernel_size": 4, "max_dist": 200, "ratio": 0.2, **parameters})


@_segmenter
def _slic(image: NDArray[Any], **parameters: Any) -> NDArray[Any]:
    """SLIC (Achanta et al. 2012): compact superpixels, about as many as asked for."""
    labels: NDArray[Any] = segmentation.slic(image, **{"n_segments": 64, **parameters})
    return labels


@_segmenter
def _felzenszwalb(image: NDArray[Any], **parameters: Any) -> NDArray[Any]:
    """Felzenszwalb and Huttenlocher 2004, the smallest superpixel 1/200 of the picture."""
    smallest = max(image.shape[0] * image.shape[1] // 200, 1)
    chosen = {"scale": 100, "min_size": smallest, **parameters}
    labels: NDArray[Any] = segmentation.felzenszwalb(image, **chosen)
    return labels


@_segmenter
def _grid(image: NDArray[Any], rows: int = 8, columns: int = 8) -> NDArray[Any]:
    """Rectangles of equal size, to within a pixel; of a picture with fewer pixels, its pixels."""
    height, width = image.shape[:2]
    if rows < 1 or columns < 1:
        raise InputShapeError(f"a grid of {rows} rows and {columns} columns; must be 1 or more")
    row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
    labels: NDArray[Any] = row[:, None] * columns + column
    return labels


def quickshift(
    image: NDArray[Any],
    ratio: float = 1.0,
    kernel_size: float = 5,
    max_dist: float = 10,
    sigma: float = 0,
    convert2lab: bool = True,
    rng: int = 42,
) -> NDArray[np.int32]:
    """Segment a picture as scikit-image's ``quickshift`` does, label for label, but faster.

    Args:
        image: [H, W, C] or [H, W]; integers count from 0 to their type's maximum, floats as they
            are.
        ratio: weight of the colour against the place.
        kernel_size: width of the Gaussian whose sum is the density; larger: fewer superpixels.
        max_dist: longest link between two pixels; larger: fewer superpixels.
        sigma: width of a Gaussian that smooths the picture first; 0: none.
        convert2lab: RGB goes to Lab first.
        rng: seed of the noise that breaks the ties between densities.

    Returns:
        int32 [H, W], labels 0..d-1 in the order of the segments' densest pixels.

    Raises:
        InputShapeError: `image` is no picture, has not 3 channels for Lab, or a parameter is out
            of its range.
    """
    pixels = np.atleast_3d(image)
    if pixels.ndim != 3 or pixels.size == 0:
        raise InputShapeError(f"quickshift: image of shape {list(image.shape)}; must be [H, W, C]")
    if convert2lab and pixels.shape[2] != 3:
        raise InputShapeError(
            f"quickshift: an image of {pixels.shape[2]} channels can't be converted to Lab, only "
            "RGB; say convert2lab=False"
        )
    if not (kernel_size >= 1 and sigma >= 0 and math.isfinite(kernel_size)):
        raise InputShapeError("quickshift: kernel_size must be 1 or more, and sigma 0 or more")
    pixels = img_as_float(pixels)
    # half floats are calculated in single, extended ones in double precision
    dtype = np.float32 if pixels.dtype in (np.float16, np.float32) else np.float64
    pixels = pixels.astype(dtype)
    if convert2lab:
        pixels = rgb2lab(pixels)
    if sigma:
        pixels = gaussian(pixels, sigma=(sigma, sigma, 0), mode="reflect")
    planes = np.ascontiguousarray(np.moveaxis(pixels * ratio, -1, 0))
    height, width = planes.shape[1:]
    noise = np.random.default_rng(rng).normal(scale=TIE_BREAKER, size=(height, width))
    densities = noise.astype(dtype)
    size = dtype(kernel_size)
    radius = int(np.ceil(dtype(3) * size))
    kernels.add_densities(planes, radius, dtype(-0.5 / float(size * size)), densities)
    parents = np.empty(height * width, np.int32)
    kernels.find_parents(planes, densities, _nearest(radius), radius, dtype(max_dist), parents)
    labels = np.empty(height * width, np.int32)
    kernels.label_roots(parents, labels)
    return labels.reshape(height, width)


def _nearest(radius: int) -> NDArray[np.int32]:
    """Row and column of the places at most `NEAR` from the centre of a square, nearest first."""
    near = min(radius, NEAR)
    side = np.arange(-near, near + 1)
    places = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    squares = (places**2).sum(axis=1)
    order = np.argsort(squares, kind="stable")
    if near < radius:
        order = order[: np.count_nonzero(squares <= near**2)]
    return places[order[1:]].astype(np.int32)
