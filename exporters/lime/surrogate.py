"""The weighted ridge regression of scores on masks, as nodes, in float64.

Of the D columns of the masks Z those of the d superpixels count that the segments hold; the others
are put to zero. With k ones among those that count, a row weighs (`xai_onnx.lime.sampling`)

    w = exp(-(1 - sqrt(k / d))^2 / (2 width^2))

and with means and sums weighted by w

    (sum (z - mean z)(z - mean z)^T + alpha I) coefficients = sum (z - mean z)(y - mean y)
    intercept = mean y - mean z . coefficients
    fidelity = 1 - sum (y - intercept - z . coefficients)^2 / sum (y - mean y)^2

All of it follows from the sums of w x x^T over the rows x = (z, 1, y), block by block of the
design: leaving one block's sums out gives the standard errors, by the jackknife.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporters.builder import Ops
from exporters.lime.ridge import solve

_DOUBLE = ir.DataType.DOUBLE
_END = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Surrogates:
    """Values of the graph, float32: coefficients and their errors are [K, D], the others [K].

    `value` is the picture's own score; `standard_errors` are ``None`` for a design of one block,
    which tells nothing of its spread.
    """

    coefficients: ir.Value
    standard_errors: ir.Value | None
    intercept: ir.Value
    fidelity: ir.Value
    value: ir.Value


class Regression:
    """Fits one surrogate for each class."""

    def __init__(
        self, op: Ops, columns: int, blocks: Sequence[int], width: float, alpha: float, opset: int
    ) -> None:
        """Start with nothing emitted.

        Args:
            op: records the nodes.
            columns: D.
            blocks: rows in each block of the design, all alike but for the last.
            width: of the proximity kernel.
            alpha: penalty of the ridge.
            opset: of the graph.
        """
        self.op, self.columns, self.blocks = op, columns, blocks
        self.left_out = _left_out(blocks)
        self.width, self.alpha, self.opset = width, alpha, opset

    def fit(
        self, masks: ir.Value, segments: ir.Value, scores: ir.Value, origin: ir.Value
    ) -> Surrogates:
        """Fit K surrogates.

        Args:
            masks: bool [N, D].
            segments: int32 [H, W], from 0 to D - 1.
            scores: [N, K].
            origin: scores of the picture itself, [1, K]; subtracted, so that scores such as 0.9999
                keep their digits.
        """
        op = self.op
        present = self._present(segments)
        z = op.Mul(self._double(masks), present)
        origin = self._double(origin)
        y = op.Sub(self._double(scores), origin)
        sums = self._sums(z, self._weights(z, present), y)

        end = self.columns
        count = self._part(self._part(sums, 1, end, end + 1), 2, end, end + 1)  # [G, 1, 1]
        z_mean = op.Div(self._part(self._part(sums, 1, end, end + 1), 2, 0, end), count)
        y_sum = self._part(self._part(sums, 1, end, end + 1), 2, end + 1)
        y_mean = op.Div(y_sum, count)
        of_masks = self._part(sums, 1, 0, end)
        z_sum = self._part(of_masks, 2, end, end + 1)  # [G, D, 1]
        pairs = op.Sub(self._part(of_masks, 2, 0, end), op.Mul(z_sum, z_mean))
        products = op.Sub(self._part(of_masks, 2, end + 1), op.Mul(z_sum, y_mean))
        ridge = op.constant(self.alpha * np.eye(end), _DOUBLE)
        found = solve(op, op.Add(pairs, ridge), products, end, self.opset)  # [G, D, K]

        whole, pairs, products = (self._part(v, 0, 0, 1) for v in (found, pairs, products))
        z_mean, y_mean, y_sum = (self._part(v, 0, 0, 1) for v in (z_mean, y_mean, y_sum))
        intercept = op.Add(origin, op.squeeze(op.Sub(y_mean, op.MatMul(z_mean, whole)), [0]))
        squares = self._squares(self._part(sums, 0, 0, 1))
        spread = op.Sub(squares, op.squeeze(op.Mul(y_sum, y_mean), [0, 1]))
        missed = op.Sub(op.MatMul(pairs, whole), op.Mul(op.constant(2.0, _DOUBLE), products))
        explained = op.ReduceSum(op.Mul(whole, missed), op.constant([0, 1]), keepdims=0)
        errors = None if len(self.left_out) < 2 else self._jackknife(whole, found)
        return Surrogates(
            self._rows(whole),
            None if errors is None else self._rows(errors),
            self._single(op.squeeze(intercept, [0])),
            self._single(self._fidelity(explained, spread)),
            self._single(op.squeeze(origin, [0])),
        )

    def _present(self, segments: ir.Value) -> ir.Value:
        """[D]: 1 for the superpixels that the segments hold, else 0."""
        op = self.op
        flat = op.Reshape(segments, op.constant([-1]))
        ones = op.Expand(op.constant([1.0], _DOUBLE), op.Shape(flat))
        zeros = op.constant(np.zeros(self.columns), _DOUBLE)
        return op.ScatterElements(zeros, flat, ones, axis=0)  # type: ignore[no-any-return]

    def _weights(self, z: ir.Value, present: ir.Value) -> ir.Value:
        """The proximity of each perturbed picture to the picture itself, [N, 1]."""
        op = self.op
        on = op.ReduceSum(z, op.constant([1]), keepdims=1)
        share = op.Div(on, op.ReduceSum(present, op.constant([0]), keepdims=1))
        distance = op.Sub(op.constant(1.0, _DOUBLE), op.Sqrt(share))
        squared = op.Mul(distance, distance)
        return op.Exp(op.Mul(squared, op.constant(-0.5 / self.width**2, _DOUBLE)))  # type: ignore[no-any-return]

    def _sums(self, z: ir.Value, w: ir.Value, y: ir.Value) -> ir.Value:
        """Sums of w x x^T, [G, P, P]: over all rows, then over all but those of each block."""
        op, size, count = self.op, max(self.blocks), len(self.blocks)
        ones = op.constant(np.ones((sum(self.blocks), 1)), _DOUBLE)
        x = op.Concat(z, ones, y, axis=1)
        weighted = op.Mul(x, w)
        missing = size * count - sum(self.blocks)
        if missing:
            pads = op.constant([0, 0, missing, 0])
            x, weighted = op.Pad(x, pads), op.Pad(weighted, pads)
        shape = op.Concat(op.constant([count, size]), op.Shape(x, start=1, end=2), axis=0)
        x, weighted = op.Reshape(x, shape), op.Reshape(weighted, shape)
        of_blocks = op.MatMul(op.transpose(x, [0, 2, 1]), weighted)
        total = op.ReduceSum(of_blocks, op.constant([0]), keepdims=1)
        if len(self.left_out) < 2:
            return total  # type: ignore[no-any-return]
        if len(self.left_out) < count:
            first, last = op.Split(of_blocks, op.constant([count - 2, 2]), axis=0, _outputs=2)
            last = op.ReduceSum(last, op.constant([0]), keepdims=1)
            of_blocks = op.Concat(first, last, axis=0)
        return op.Concat(total, op.Sub(total, of_blocks), axis=0)  # type: ignore[no-any-return]

    def _squares(self, total: ir.Value) -> ir.Value:
        """Sums of w y^2, [K]: the end of the diagonal of `total`, [1, P, P]."""
        op, start = self.op, self.columns + 1
        of_scores = op.squeeze(self._part(self._part(total, 1, start), 2, start), [0])
        diagonal = op.EyeLike(of_scores)
        return op.ReduceSum(op.Mul(of_scores, diagonal), op.constant([0]), keepdims=0)  # type: ignore[no-any-return]

    def _fidelity(self, explained: ir.Value, spread: ir.Value) -> ir.Value:
        """Weighted R^2, [K]; 1 for scores that never change, as in scikit-learn."""
        op, zero, one = self.op, self.op.constant(0.0, _DOUBLE), self.op.constant(1.0, _DOUBLE)
        varied = op.Greater(spread, zero)
        missed = op.Div(op.Add(spread, explained), op.Where(varied, spread, one))
        return op.Sub(one, op.Where(varied, missed, zero))  # type: ignore[no-any-return]

    def _jackknife(self, whole: ir.Value, found: ir.Value) -> ir.Value:
        """Standard errors [1, D, K]; "delete-m_j" of Busing, Meijer and van der Leeden 1999.

        Args:
            whole: coefficients fitted to all rows, [1, D, K].
            found: those, then the ones fitted without each block.
        """
        op, count = self.op, len(self.left_out)
        left = self._part(found, 0, 1)
        h = (sum(self.blocks) / np.asarray(self.left_out, np.float64))[:, None, None]
        axis = op.constant([0])
        without = op.ReduceSum(op.Mul(left, op.constant(1 - 1 / h, _DOUBLE)), axis, keepdims=1)
        estimate = op.Sub(op.Mul(whole, op.constant(float(count), _DOUBLE)), without)
        pseudo = op.Sub(
            op.Mul(whole, op.constant(h, _DOUBLE)), op.Mul(left, op.constant(h - 1, _DOUBLE))
        )
        off = op.Sub(pseudo, estimate)
        share = op.Mul(op.Mul(off, off), op.constant(1 / (count * (h - 1)), _DOUBLE))
        return op.Sqrt(op.ReduceSum(share, axis, keepdims=1))  # type: ignore[no-any-return]

    def _part(self, x: ir.Value, axis: int, start: int, end: int = _END) -> ir.Value:
        op = self.op
        return op.Slice(x, op.constant([start]), op.constant([end]), op.constant([axis]))  # type: ignore[no-any-return]

    def _rows(self, x: ir.Value) -> ir.Value:
        """[1, D, K] as [K, D]."""
        return self._single(self.op.transpose(self.op.squeeze(x, [0]), [1, 0]))

    def _double(self, x: ir.Value) -> ir.Value:
        return self.op.Cast(x, to=int(_DOUBLE))  # type: ignore[no-any-return]

    def _single(self, x: ir.Value) -> ir.Value:
        return self.op.Cast(x, to=int(ir.DataType.FLOAT))  # type: ignore[no-any-return]


def _left_out(blocks: Sequence[int]) -> list[int]:
    """Sizes of what the jackknife leaves out: a last block that was cut short may join another.

    As on the host, `xai_onnx.lime.surrogate.jackknife`.
    """
    sizes = list(blocks)
    least = sizes[0] / (1 if len(sizes) == 2 else 2)
    if sizes[-1] < least:
        sizes[-2:] = [sizes[-2] + sizes[-1]]
    return sizes
