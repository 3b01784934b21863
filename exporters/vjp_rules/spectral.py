"""The Fourier transform along an axis, as a matrix: image models transform few positions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from exporters.cotangent import Cotangent
from exporters.vjp_rules.along_axis import reshaped_to, size_list
from exporters.vjp_rules.registry import Site, as_array, vjp


@vjp("DFT")
def dft(site: Site, g: Cotangent) -> list[Cotangent]:
    """y = F x along an axis; dx = F^T g. Real and imaginary part lie along the last axis.

    F takes both, so it also holds what is left out of real numbers, and cut or filled up.
    """
    op, x = site.op, site.input(0)
    shape, axis = site.shape(x), _axis(site)
    size, parts = shape[axis], shape[-1]
    if not isinstance(size, int) or not isinstance(parts, int):
        raise site.unsupported("along an axis whose size is only known at run time")
    given = as_array(site.given(1), ())
    matrix = _matrix(site, size, parts, given[0] if given else None)
    assert site.output.dtype is not None
    last = [0, *(a + 1 for a in range(g.rank - 1) if a != axis), axis + 1, g.rank]
    sizes = size_list(op, x, shape)
    others = [sizes[a] for a in range(g.rank - 1) if a != axis]
    flat = reshaped_to(op, op.transpose(g.value, last), [*others, matrix.shape[1]])
    value = op.MatMul(flat, op.constant(matrix.T, site.output.dtype))
    value = reshaped_to(op, value, [*others, size, parts])
    return [Cotangent(op.transpose(value, [int(a) for a in np.argsort(last)]), shape)]


def _axis(site: Site) -> int:
    """The transformed axis: an attribute before opset 20, then an input."""
    rank = len(site.shape(site.input(0)))
    assert site.node.graph is not None
    if site.node.graph.opset_imports[""] < 20:
        return int(site.attribute("axis", 1)) % rank
    return as_array(site.given(2), (-2,))[0] % rank


def _matrix(site: Site, size: int, parts: int, length: int | None) -> NDArray[np.float64]:
    """F^T, [size parts, what they become]: the transform of each number 1 and i."""
    inverse, onesided = site.attribute("inverse", 0), site.attribute("onesided", 0)
    units = np.eye(size)[:, None] * np.array([1, 1j])[:parts, None]  # [size, parts, size]
    if inverse and onesided:
        count = 2 * (size - 1) if length is None else length
        return np.fft.irfft(units, count).reshape(size * parts, -1)
    if onesided:
        made = np.fft.rfft(units.real, length)
    else:
        made = (np.fft.ifft if inverse else np.fft.fft)(units, length)
    return np.stack([made.real, made.imag], axis=-1).reshape(size * parts, -1)
