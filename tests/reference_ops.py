"""Operators in float64, where onnx's reference has none, a wrong one, or float32 inside."""

from __future__ import annotations

import math

import numpy as np
from onnx.reference.op_run import OpRun


class ConvTranspose(OpRun):
    """onnx's own knows neither several channels a group nor `output_shape` with strides."""

    op_domain = ""

    def _run(
        self,
        x,
        w,
        b=None,
        auto_pad=None,
        dilations=None,
        group=None,
        kernel_shape=None,
        output_padding=None,
        output_shape=None,
        pads=None,
        strides=None,
    ):
        count, group = x.ndim - 2, group or 1
        strides, dilations = strides or [1] * count, dilations or [1] * count
        sizes, kernel = x.shape[2:], w.shape[2:]
        axes = list(zip(sizes, strides, kernel, dilations, strict=True))
        full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in axes]
        more = output_padding or [0] * count
        begin, end = np.split(np.array(pads or [0] * 2 * count), 2)
        if auto_pad in ("SAME_UPPER", "SAME_LOWER") or output_shape:
            wanted = output_shape or [n * s for n, s in zip(sizes, strides, strict=True)]
            total = np.array(full) + more - wanted
            begin, end = total - total // 2, total // 2
            if auto_pad == "SAME_UPPER":
                begin, end = end, begin
        room = [n + m + max(-e, 0) for n, m, e in zip(full, more, end, strict=True)]
        y = np.zeros((len(x), w.shape[1] * group, *room))
        grouped = zip(np.split(x, group, 1), np.split(w, group), strict=True)
        parts = [np.einsum("nc...,cmp->nmp...", a, v.reshape(*v.shape[:2], -1)) for a, v in grouped]
        taps = np.concatenate(parts, axis=1)
        for index, place in enumerate(np.ndindex(*kernel)):
            steps = zip(place, dilations, strides, sizes, strict=True)
            where = tuple(slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, s, n in steps)
            y[(..., *where)] += taps[:, :, index]
        stops = [n + m - e for n, m, e in zip(full, more, end, strict=True)]
        y = y[(..., *(slice(b, e) for b, e in zip(begin, stops, strict=True)))]
        return (y if b is None else y + b.reshape(-1, *[1] * count),)


class Erf(OpRun):
    """In float64 throughout; onnx's own works in float32."""

    op_domain = ""

    def _run(self, x):
        return (np.vectorize(math.erf, otypes=[float])(x),)


class Gelu(OpRun):
    """In float64 throughout; onnx's own works in float32."""

    op_domain = ""

    def _run(self, x, approximate="none"):
        if approximate == "tanh":
            t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
        else:
            t = np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))
        return (x * (1 + t) / 2,)


class GlobalLpPool(OpRun):
    """onnx has none."""

    op_domain = ""

    def _run(self, x, p=2):
        axes = tuple(range(2, x.ndim))
        return ((np.abs(x) ** p).sum(axes, keepdims=True) ** (1 / p),)


class GlobalMaxPool(OpRun):
    """onnx's own drops an axis of a row."""

    op_domain = ""

    def _run(self, x):
        return (x.max(tuple(range(2, x.ndim)), keepdims=True),)


class GroupNormalization(OpRun):
    """In float64 throughout; onnx's own works in float32."""

    op_domain = ""

    def _run(self, x, scale, bias, epsilon=1e-5, num_groups=None, stash_type=1):
        groups = x.reshape(len(x), num_groups, -1)
        centred = groups - groups.mean(-1, keepdims=True)
        u = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        behind = (-1, *[1] * (x.ndim - 2))
        return (u.reshape(x.shape) * scale.reshape(behind) + bias.reshape(behind),)


class LRN(OpRun):
    """With the window that the specification has; onnx's own ends one channel early."""

    op_domain = ""

    def _run(self, x, alpha=None, beta=None, bias=None, size=None):
        before, after, channels = (size - 1) // 2, size // 2, x.shape[1]
        squares = [
            (x[:, max(c - before, 0) : c + after + 1] ** 2).sum(1, keepdims=True)
            for c in range(channels)
        ]
        return (x / (bias + alpha / size * np.concatenate(squares, axis=1)) ** beta,)


MENDED = [ConvTranspose, Erf, Gelu, GlobalLpPool, GlobalMaxPool, GroupNormalization, LRN]
