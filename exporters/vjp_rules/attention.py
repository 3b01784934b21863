"""Attention as one operator, and the rotary embedding that goes before it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporters.cotangent import ZERO, Cotangent
from exporters.vjp_rules.registry import Cotangents, Gradients, Site, vjp, vjp_of_outputs

_MASK, _PAST_KEY, _PAST_VALUE, _LENGTHS = 3, 4, 5, 6  # inputs
_WINDOWS = ("left_window_size", "right_window_size")


@vjp_of_outputs("Attention")
def attention(site: Site, cotangents: Cotangents) -> Gradients:
    """Y = P V, P = softmax(T), T = cap(S) + mask, S = s Q K^T, cap(S) = c tanh(S / c), over heads.

    dV = P^T G, dP = G V^T, dT = P (dP - rowsum(P dP)), dS = dT (1 - tanh^2), dQ = s dS K,
    dK = s dS^T Q, dmask = dT. Keys and values that serve several heads get the sum of theirs; those
    of the past stand before those of now. Y of a row without any key is 0, and so is its gradient.
    """
    op = site.op
    heads = _heads(site)
    q, k, v, p = heads.q, heads.k, heads.v, heads.p
    g_y, g_key, g_value, g_qk = [*cotangents, None, None, None][:4]
    g = None if g_y is None else _split(site, g_y.value, _count(site, 0), _size(site, 2), 1)
    tapped = {site.attribute("qk_matmul_output_mode", 0): g_qk.value} if g_qk is not None else {}

    d_p = None if g is None else op.MatMul(g, _swapped(site, v, 4))
    d_p = _plus(site, d_p, tapped.get(3))
    d_t: ir.Value | None = None
    if d_p is not None:
        weighted = op.ReduceSum(op.Mul(d_p, p), op.constant([-1]), keepdims=1)
        d_t = op.Mul(p, op.Sub(d_p, weighted))
    d_t = _plus(site, d_t, tapped.get(2))
    d_mask = d_t
    d_s = _plus(site, d_t, tapped.get(1))
    if heads.tanh is not None and d_s is not None:
        d_s = op.Mul(d_s, op.Sub(site.scalar(1.0), op.Mul(heads.tanh, heads.tanh)))
    d_s = _plus(site, d_s, tapped.get(0))

    gradients: list[Cotangent | None] = [None] * 6
    scaled = None if d_s is None else op.scale(d_s, heads.scale)
    if site.on(0) and scaled is not None:
        gradients[0] = Cotangent(heads.joined(op.MatMul(scaled, k), 0), site.shape(site.input(0)))
    if site.on(1) or site.on(_PAST_KEY):
        d_k = None if scaled is None else op.MatMul(_swapped(site, scaled, 5), q)
        heads.give(gradients, 1, _PAST_KEY, d_k, g_key)
    if site.on(2) or site.on(_PAST_VALUE):
        d_v = None if g is None else op.MatMul(_swapped(site, p, 4), g)
        heads.give(gradients, 2, _PAST_VALUE, d_v, g_value)
    if site.on(_MASK) and d_mask is not None:
        gradients[_MASK] = _of_mask(site, d_mask)
    return [ZERO if item is None else item for item in gradients]  # present keys alone, say


@dataclass(frozen=True)
class _Heads:
    """The operands head by head.

    Attributes:
        site: the node.
        q: queries, [B, heads, L, d].
        k: keys of the past and of now, repeated for the heads that share them, [B, heads, M, d].
        v: values, likewise.
        p: attention weights, [B, heads, L, M].
        tanh: tanh(S / c), if there is a cap.
        scale: s.
    """

    site: Site
    q: ir.Value
    k: ir.Value
    v: ir.Value
    p: ir.Value
    tanh: ir.Value | None
    scale: ir.Value

    def joined(self, g: ir.Value, index: int) -> ir.Value:
        """[K, B, heads, L, d] as the cotangent of input `index`."""
        if not _is_flat(self.site):
            return g
        op = self.site.op
        width = _count(self.site, index) * _size(self.site, index)
        apart = op.transpose(g, [0, 1, 3, 2, 4])
        return op.Reshape(apart, op.constant([0, 0, 0, width]))  # type: ignore[no-any-return]

    def give(
        self,
        gradients: list[Cotangent | None],
        now: int,
        past: int,
        g: ir.Value | None,
        present: Cotangent | None,
    ) -> None:
        """Enter the gradients of the keys (or values) of `now` and of the `past`.

        Args:
            gradients: of the node's inputs.
            now: number of an input.
            past: number of an input.
            g: what flows to the repeated keys, [K, B, heads, M, d].
            present: what flows to past and now from the node's own output of them.
        """
        site, op = self.site, self.site.op
        node = site.node
        count, n = _count(site, 0), _count(site, now)
        if g is not None and count > n:
            in_turn = op.transpose(g, [0, 1, 3, 4, 2])
            apart = op.Reshape(in_turn, op.constant([0, 0, 0, 0, n, count // n]))
            g = op.transpose(op.ReduceSum(apart, op.constant([-1]), keepdims=0), [0, 1, 4, 2, 3])
        g = _plus(site, g, None if present is None else present.value)
        if g is None:
            return
        x, before = site.input(now), node.inputs[past] if past < len(node.inputs) else None
        if before is not None:
            size = op.Shape(before, start=2, end=3)
            axis, first = op.constant([3]), op.constant([0])
            if site.on(past):
                gradients[past] = Cotangent(op.Slice(g, first, size, axis), site.shape(before))
            g = op.Slice(g, size, op.constant([_END]), axis)
        if site.on(now):
            gradients[now] = Cotangent(self.joined(g, now), site.shape(x))


_END = 2**62  # of a Slice that goes to the end


def _heads(site: Site) -> _Heads:
    op = site.op
    count, size = _count(site, 0), _size(site, 0)
    q = _split(site, site.input(0), count, size, 0)
    k, v = (_keys(site, now, past) for now, past in ((1, _PAST_KEY), (2, _PAST_VALUE)))
    scale = site.scalar(site.attribute("scale", 0.0) or 1 / math.sqrt(size))
    cap, plain = site.attribute("softcap", 0.0), _is_plain(site)
    scores = tanh = None
    if plain or cap:
        scores = op.MatMul(op.scale(q, scale), _swapped(site, k, 4))
    if cap:
        tanh = op.Tanh(op.Div(scores, site.scalar(cap)))
        scores = op.Mul(tanh, site.scalar(cap))
    if plain:
        scores = op.Add(scores, site.input(_MASK)) if site.has(_MASK) else scores
        return _Heads(site, q, k, v, op.Softmax(scores, axis=-1), tanh, scale)
    return _Heads(site, q, k, v, _weights(site), tanh, scale)


def _keys(site: Site, now: int, past: int) -> ir.Value:
    """Keys or values of past and now, repeated for the heads that share them."""
    size = _size(site, now)
    x = _split(site, site.input(now), _count(site, now), size, 0)
    if site.has(past):
        x = site.op.Concat(site.input(past), x, axis=2)
    count = _count(site, 0)
    return x if count == _count(site, now) else _repeated(site, x, count, size)


def _is_plain(site: Site) -> bool:
    """Whether the weights are a softmax of scores plus a finite mask that is known, no more.

    A row of a mask that is all -inf has no softmax.
    """
    if site.attribute("is_causal", 0) or site.has(_LENGTHS) or site.has(_PAST_KEY):
        return False
    if any(site.attribute(name, -1) >= 0 for name in _WINDOWS):
        return False
    if not site.has(_MASK):
        return True
    known = site.known(_MASK)
    length = site.shape(site.input(1))[-2]
    if known is None or known.dtype == np.bool_ or known.shape[-1] != length:
        return False
    return bool(np.isfinite(known.astype(np.float32)).all())


def _weights(site: Site) -> ir.Value:
    """The weights as the operator itself gives them, with all its masks."""
    node = site.node
    kept = {name: item.value for name, item in node.attributes.items()}
    kept["qk_matmul_output_mode"] = 3
    outputs = site.op.Attention(*node.inputs, _outputs=4, **kept)
    if not site.has(_PAST_KEY):  # without a past none of its outputs may be asked for
        for present in outputs[1:3]:
            present.name = ""
    return outputs[3]  # type: ignore[no-any-return]


def _is_flat(site: Site) -> bool:
    """Whether the operands hold their heads side by side, [B, L, heads d]."""
    return len(site.shape(site.input(0))) == 3


def _count(site: Site, index: int) -> int:
    """The number of heads of input `index`."""
    name = "kv_num_heads" if index else "q_num_heads"
    count = site.attribute(name, 0) if _is_flat(site) else site.shape(site.input(index))[1]
    if not isinstance(count, int):
        raise site.unsupported("with a number of heads that is only known at run time")
    return count


def _size(site: Site, index: int) -> int:
    """The size of a head of input `index`."""
    size = site.shape(site.input(index))[-1]
    if not isinstance(size, int):
        raise site.unsupported("with a size of the heads that is only known at run time")
    return size // _count(site, index) if _is_flat(site) else size


def _split(site: Site, x: ir.Value, count: int, size: int, leading: int) -> ir.Value:
    """[B, L, count size] as [B, count, L, size], behind `leading` axes."""
    if not _is_flat(site):
        return x
    apart = site.op.Reshape(x, site.op.constant([*[0] * (leading + 2), count, size]))
    return site.op.transpose(apart, [*range(leading + 1), leading + 2, leading + 1, leading + 3])


def _repeated(site: Site, x: ir.Value, count: int, size: int) -> ir.Value:
    """[B, n, M, size] as [B, count, M, size], each head several times in turn."""
    op = site.op
    n = _count(site, 1)
    wide = op.Expand(op.unsqueeze(x, [2]), op.constant([1, 1, count // n, 1, 1]))
    return op.Reshape(wide, op.constant([0, count, -1, size]))  # type: ignore[no-any-return]


def _of_mask(site: Site, g: ir.Value) -> Cotangent:
    """The gradient of the mask, which may hold fewer keys than there are."""
    op, mask = site.op, site.input(_MASK)
    length = op.Shape(mask, start=-1)
    g = op.Slice(g, op.constant([0]), length, op.constant([4]))
    shape = site.shape(site.input(0))
    return Cotangent(g, (shape[0], _count(site, 0), shape[-2], site.shape(mask)[-1]))


def _plus(site: Site, a: ir.Value | None, b: ir.Value | None) -> ir.Value | None:
    if a is None or b is None:
        return b if a is None else a
    return site.op.Add(a, b)  # type: ignore[no-any-return]


def _swapped(site: Site, x: ir.Value, rank: int) -> ir.Value:
    """The last two axes of x exchanged."""
    return site.op.transpose(x, [*range(rank - 2), rank - 1, rank - 2])


@vjp("RotaryEmbedding")
def rotary_embedding(site: Site, g: Cotangent) -> list[Cotangent]:
    """(y1, y2) = (x1 c - x2 s, x1 s + x2 c), pairs of x turned; dx = g, turned back.

    Pairs are halves of a head, or neighbours in it (`interleaved`); a rest of the head stays.
    """
    op, x = site.op, site.input(0)
    shape = site.shape(x)
    flat = len(shape) == 3
    count = site.attribute("num_heads", 0) if flat else shape[1]
    size = shape[-1]
    if not isinstance(count, int) or not isinstance(size, int):
        raise site.unsupported("with a size of the heads that is only known at run time")
    size = size // count if flat else size
    turned = site.attribute("rotary_embedding_dim", 0) or size
    value = op.Reshape(g.value, op.constant([0, 0, 0, count, size])) if flat else g.value
    cos, sin = (_turns(site, index, flat) for index in (1, 2))
    part, rest = value, None
    if turned < size:
        part, rest = op.Split(value, op.constant([turned, size - turned]), axis=-1, _outputs=2)
    half = turned // 2
    if site.attribute("interleaved", 0):
        pairs = op.Reshape(part, op.constant([0, 0, 0, 0, half, 2]))
        g1, g2 = (op.Gather(pairs, op.constant(place), axis=-1) for place in (0, 1))
    else:
        g1, g2 = op.Split(part, op.constant([half, half]), axis=-1, _outputs=2)
    d1 = op.Add(op.Mul(g1, cos), op.Mul(g2, sin))
    d2 = op.Sub(op.Mul(g2, cos), op.Mul(g1, sin))
    if site.attribute("interleaved", 0):
        pairs = op.Concat(op.unsqueeze(d1, [5]), op.unsqueeze(d2, [5]), axis=-1)
        back = op.Reshape(pairs, op.constant([0, 0, 0, 0, turned]))
        back = back if rest is None else op.Concat(back, rest, axis=-1)
    else:
        back = op.Concat(d1, d2, *([] if rest is None else [rest]), axis=-1)
    if flat:
        back = op.Reshape(back, op.constant([0, 0, 0, count * size]))
    return [Cotangent(back, shape)]


def _turns(site: Site, index: int, flat: bool) -> ir.Value:
    """Cosines (or sines) for each token, [B, L, half], with an axis of size 1 for the heads."""
    op, cache = site.op, site.input(index)
    if site.has(3):
        cache = op.Gather(cache, site.input(3), axis=0)
    return op.unsqueeze(cache, [2 if flat else 1])
