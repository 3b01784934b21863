"""Patches of an image as columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from exporters.cotangent import Cotangent
from exporters.vjp_rules.along_axis import bordered, reshaped_to, size_list
from exporters.vjp_rules.registry import Site, as_array, vjp
from exporters.vjp_rules.windows import Window, window_of


@vjp("Col2Im")
def col2im(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = patches, laid where windows are and summed; dx = the patches of g.

    A tap in the padding reads 0.
    """
    op, x = site.op, site.input(0)
    image, block = as_array(site.given(1), ()), as_array(site.given(2), ())
    shape, count = site.shape(x), int(np.prod(image))
    n, channels = size_list(op, site.output, g.shape)[:2]
    flat = Cotangent(
        reshaped_to(op, g.value, [n, channels, count]), (g.shape[0], g.shape[1], count)
    )
    padded = bordered(site, flat, -1, 0, 1)
    taps = op.constant(_positions(image, window_of(site, block)))
    columns = op.Gather(padded.value, taps, axis=3)  # [K, N, C, taps, windows]
    return [Cotangent(reshaped_to(op, columns, size_list(op, x, shape)), shape)]


def _positions(image: list[int], window: Window) -> NDArray[np.int64]:
    """Where each tap of each window lies in the flat image, [taps, windows], or behind it."""
    places: list[NDArray[np.int64]] = []
    for axis, size in enumerate(image):
        room = size + window.begin[axis] + window.end[axis] - window.extent[axis]
        starts = np.arange(room // window.strides[axis] + 1) * window.strides[axis]
        taps = np.arange(window.kernel[axis]) * window.dilations[axis] - window.begin[axis]
        places.append(taps[:, None] + starts)
    kernel = [place.shape[0] for place in places]
    windows = [place.shape[1] for place in places]
    position = np.zeros((int(np.prod(kernel)), int(np.prod(windows))), np.int64)
    inside = np.ones(position.shape, np.bool_)
    for axis, (place, size) in enumerate(zip(places, image, strict=True)):
        rows = np.indices(kernel)[axis].reshape(-1, 1)
        columns = np.indices(windows)[axis].reshape(1, -1)
        along = place[rows, columns]
        inside &= (along >= 0) & (along < size)
        position = position * size + along
    return np.where(inside, position, int(np.prod(image)))
